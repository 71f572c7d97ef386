"""The command line: ``python -m sstream describe module:app``."""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tornado.routing import RuleRouter
from tornado.web import Application

from sstream.errors import ConfigurationError
from sstream.handlers import RPCHandler
from sstream.rpc.description import Description
from sstream.version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sstream", description=__doc__)
    parser.add_argument("--version", action="version", version=f"sstream {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    for add_command in COMMANDS:
        add_command(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except ConfigurationError as error:
        print(f"sstream: {error}", file=sys.stderr)  # noqa: T201, this is a program
        return 2
    return status


def load(target: str) -> Any:
    """Get the object that ``module:name`` means; a function is called to make it.

    Raises:
        ConfigurationError: There is no such object.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise ConfigurationError(f"{target!r} is not of the form module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f"there is no module {module_name!r}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"{target!r}: there is no {name!r} in {module_name}")
        found = getattr(found, name)
    if callable(found) and not isinstance(found, type | Application):
        found = found()
    return found


# describe


def add_describe(commands: Any) -> None:
    """Add ``describe``."""
    parser = commands.add_parser(
        "describe",
        help="write down what an application offers to browsers",
        description="Write down every method, event and type of an application. Nothing is started.",
    )
    parser.add_argument("app", metavar="module:app", help="an Application, an RPCHandler, or a function giving one")
    forms = parser.add_mutually_exclusive_group()
    for name, form, text in (
        ("--json", write_json, "JSON with JSON Schema (the default)"),
        ("--markdown", Description.markdown, "a page to read"),
        ("--typescript", Description.typescript, "declarations for connect<Api>()"),
    ):
        forms.add_argument(name, dest="form", action="store_const", const=form, help=text)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    parser.set_defaults(run=describe, form=write_json)


def describe(options: argparse.Namespace) -> int:
    """Write down what an application offers."""
    text = options.form(Description(dict(find_sockets(load(options.app)))))
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 0


def find_sockets(app: Any) -> Iterator[tuple[str, type]]:
    """Get the RPCHandler classes in an application's routes, by their paths; or the one that ``app`` is itself.

    Raises:
        ConfigurationError: There are none.
    """
    if isinstance(app, type) and issubclass(app, RPCHandler):
        yield "", app
        return
    if not isinstance(app, Application):
        raise ConfigurationError(f"{app!r} is neither an Application nor an RPCHandler class")
    found = dict(_routes(app.default_router))
    if not found:
        raise ConfigurationError("the application has no route to an RPCHandler")
    yield from found.items()


def _routes(router: RuleRouter) -> Iterator[tuple[str, type]]:
    for rule in router.rules:
        if isinstance(rule.target, RuleRouter):
            yield from _routes(rule.target)
        elif isinstance(rule.target, type) and issubclass(rule.target, RPCHandler):
            pattern = getattr(rule.matcher, "regex", None)
            yield pattern.pattern.removesuffix("$") if pattern is not None else str(rule.matcher), rule.target


def write_json(description: Description) -> str:
    """Write a description as JSON."""
    return msgspec.json.format(msgspec.json.encode(description.json()), indent=2).decode() + "\n"


COMMANDS: tuple[Callable[[Any], None], ...] = (add_describe,)

if __name__ == "__main__":
    sys.exit(main())
