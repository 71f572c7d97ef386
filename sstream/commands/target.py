"""What ``module:name`` on a command line means."""

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tornado.web import Application

from sstream.errors import ConfigurationError, SStreamError

__all__ = ["load", "their_code"]


def load(target: str) -> Any:
    """Get the object that ``module:name`` means; a function is called to make it.

    Raises:
        ConfigurationError: There is no such object.
        SStreamError: Its own code has failed.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise ConfigurationError(f"{target!r} is not of the form module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    with their_code(target):
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
        with their_code(target):
            found = found()
    return found


@contextmanager
def their_code(target: str) -> Iterator[None]:
    """What the code of ``target`` raises inside is told with its own traceback, without the frames that led to it.

    Raises:
        SStreamError: It did.
    """
    try:
        yield
    except SStreamError:
        raise
    except Exception as error:
        trace = "".join(traceback.format_exception(error.with_traceback(_theirs(error.__traceback__))))
        raise SStreamError(f"{target!r} cannot be loaded:\n\n{trace.rstrip()}") from error


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in (
        "sstream",
        "importlib",
    ):
        trace = trace.tb_next
    return trace
