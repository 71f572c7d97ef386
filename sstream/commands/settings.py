"""Writes down every setting: how it is called in code and in the environment, and what is legal there."""

import argparse
import sys
from pathlib import Path
from typing import Any

from sstream.application import Application
from sstream.settings import markdown

__all__ = ["add_command"]

_PAGE = """\
# Settings

Written by `python -m sstream settings`; do not edit it by hand.

What code does not give is taken from the environment, then from `tornado.options`; else the default holds.
[How to](how-to.md#set-it-up-from-outside) tells the rest.

{table}"""


def add_command(commands: Any) -> None:
    """Add ``settings``."""
    parser = commands.add_parser(
        "settings",
        help="write down every setting",
        description="Write down every setting as a page in Markdown: its keyword, its variable, what is legal.",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    parser.set_defaults(run=write_settings)


def write_settings(options: argparse.Namespace) -> int:
    """Write down every setting."""
    text = _PAGE.format(table=markdown(Application))
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 0
