"""The part in C where it was built, else the same in Python; ``SSTREAM_PURE_PYTHON=1`` leaves the one in C out."""

import importlib
import os
from typing import TYPE_CHECKING, Any

import tornado.util

from sstream.websocket.frames import Parser, message_cutter, unmask

__all__ = ["Core", "TornadoParser", "parser_class"]


def _load() -> Any:  # a module without types, or None
    if os.environ.get("SSTREAM_PURE_PYTHON") == "1":
        return None
    try:
        return importlib.import_module("sstream.websocket._speedups")
    except ImportError:
        return None


_speedups = _load()

if TYPE_CHECKING or _speedups is None:
    from sstream.websocket.core import Core
else:
    Core = _speedups.Core

# Read in Tornado 6.5 and 6.6.1: in C where it was built so, else in Python.
_tornado_unmask = getattr(tornado.util, "_websocket_mask", unmask)


class TornadoParser(Parser):
    """The parser in Python, with Tornado's own loop over masks: 0.3 µs where Python needs 1, or 4 for 0.9 KB."""

    __slots__ = ()

    _unmask = staticmethod(_tornado_unmask)
    cut = staticmethod(message_cutter(_tornado_unmask))


parser_class: type[Parser] = TornadoParser

if _speedups is not None:

    class FastParser(Parser):
        """The parser with its inner loops in C: 0.1 µs for a plain message where `TornadoParser` takes 0.6."""

        __slots__ = ()

        _unmask = staticmethod(_speedups.unmask)
        cut = staticmethod(_speedups.cut)

    parser_class = FastParser
