"""The command line: ``python -m sstream describe module:app``, and the other commands."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sstream.commands import describe, doctor, new, publish, run, sessions, settings
from sstream.errors import ConfigurationError, SStreamError
from sstream.version import __version__

__all__ = ["main"]

COMMANDS: tuple[Callable[[Any], None], ...] = (
    new.add_command,
    run.add_command,
    publish.add_command,
    describe.add_command,
    settings.add_command,
    sessions.add_command,
    doctor.add_command,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status."""
    try:
        try:
            return _run(arguments)
        finally:
            print(end="", flush=True)  # noqa: T201, here, where it can be answered for, and not at the program's end
    except BrokenPipeError:
        # Who read has seen enough, as `head` has. Python writes once more as it ends: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: Sequence[str] | None) -> int:
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
    except SStreamError as error:
        print(f"sstream: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
