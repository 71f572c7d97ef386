"""Writes down what an application offers to browsers: JSON, a page to read, or TypeScript."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tornado.routing import RuleRouter
from tornado.web import Application

from sstream.commands.target import load
from sstream.errors import ConfigurationError
from sstream.handlers import RPCHandler
from sstream.inspector.feed import Own
from sstream.rpc.description import Description

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
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
        elif isinstance(rule.target, type) and issubclass(rule.target, RPCHandler) and not issubclass(rule.target, Own):
            pattern = getattr(rule.matcher, "regex", None)
            yield pattern.pattern.removesuffix("$") if pattern is not None else str(rule.matcher), rule.target


def write_json(description: Description) -> str:
    """Write a description as JSON."""
    return msgspec.json.format(msgspec.json.encode(description.json()), indent=2).decode() + "\n"
