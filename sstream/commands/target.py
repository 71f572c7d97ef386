"""What ``module:name`` on a command line means."""

import importlib
import sys
from typing import Any

from tornado.web import Application

from sstream.errors import ConfigurationError

__all__ = ["load"]


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
