"""Finds the parts in C, where they were built and fit; who asks for one has the same in Python."""

import importlib
import logging
import os
from operator import attrgetter
from types import ModuleType
from typing import Any, Final

__all__ = ["amiss", "load"]

_log = logging.getLogger("sstream")

# Why a part that is there is not at work, by module.
amiss: Final[dict[str, str]] = {}


def load(module: str, *names: str) -> Any:  # a module without types
    """Get a part in C, which must have these names; ``None``: take the one in Python.

    That it was not built, or is left out as ``SSTREAM_PURE_PYTHON=1`` asks, is in order; that it is there and does not
    fit is logged, and told by ``amiss``.
    """
    if os.environ.get("SSTREAM_PURE_PYTHON") == "1":
        return None
    try:
        part = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return None
        why = f"cannot be loaded: {error}"
    except ImportError as error:
        why = f"cannot be loaded: {error}"
    else:
        missing = [name for name in names if not _has(part, name)]
        if not missing:
            return part
        why = f"was built from other code than this, without {', '.join(missing)}"
    amiss[module] = why
    _log.warning("%s %s; Python does its work: install sstream anew", module, why)
    return None


def _has(part: ModuleType, name: str) -> bool:
    try:
        attrgetter(name)(part)
    except AttributeError:
        return False
    return True
