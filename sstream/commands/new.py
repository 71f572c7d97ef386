"""Writes a small, complete application to begin with: a shop with a page, a live cart, a login and a test."""

import argparse
import keyword
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sstream.errors import ConfigurationError
from sstream.version import __version__

__all__ = ["add_command"]

_TEMPLATE: Final = Path(__file__).parent / "template"
_SUFFIX: Final = "-tpl"  # so that no tool takes them for files of sstream's own
_PACKAGE: Final = "package"  # the folder that bears the name of the application
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


def add_command(commands: Any) -> None:
    """Add ``new``."""
    parser = commands.add_parser(
        "new",
        help="write a small, complete application to begin with",
        description="Write a shop with a page, a live cart, a login, a test, a Makefile and a Dockerfile. "
        "Nothing that is there is overwritten.",
    )
    parser.add_argument(
        "folder", type=Path, help="where, a folder that is not there yet; its name is the application's"
    )
    parser.set_defaults(run=new)


def new(options: argparse.Namespace) -> int:
    """Write the application."""
    folder: Path = options.folder
    name = folder.resolve().name
    words = {"@NAME@": name, "@PACKAGE@": package_name(name), "@VERSION@": __version__}
    try:
        folder.mkdir()
    except FileExistsError:
        raise ConfigurationError(f"{folder} is there already, and nothing is overwritten; give another name") from None
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be made: {error.strerror}") from error
    for file, text in files(words):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    python = "" if sys.prefix == sys.base_prefix else f" PYTHON={shlex.quote(sys.executable)}"
    print(  # noqa: T201, this is a program
        f"{folder} is there. Go on with\n\n"
        f"    cd {shlex.quote(str(folder))}\n"
        f"    make test{python}\n"
        f"    make run{python}    # then open http://localhost:8888/"
    )
    return 0


def package_name(name: str) -> str:
    """The name of the Python package of an application.

    Raises:
        ConfigurationError: There can be none of this name.
    """
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name for it; legal are small letters, digits, - and _, a letter first"
        )
    if keyword.iskeyword(package) or package in {*sys.stdlib_module_names, "sstream", "tornado", "redis", "tests"}:
        raise ConfigurationError(f"{name!r} is the name of something else in Python; give another one")
    return package


def files(words: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """What is written: each file's place in the folder, and its text."""
    for source in sorted(_TEMPLATE.rglob(f"*{_SUFFIX}")):
        text = source.read_text(encoding="utf-8")
        for mark, word in words.items():
            text = text.replace(mark, word)
        first, *rest = source.relative_to(_TEMPLATE).with_name(source.name.removesuffix(_SUFFIX)).parts
        yield Path(words["@PACKAGE@"] if first == _PACKAGE else first, *rest), text
