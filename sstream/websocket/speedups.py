"""The part in C where it was built, else the same in Python; ``SSTREAM_PURE_PYTHON=1`` leaves the one in C out."""

from typing import TYPE_CHECKING, Final

import tornado.util

from sstream.compiled import load
from sstream.websocket.frames import Parser, message_cutter, unmask

__all__ = ["INTERFACE", "Core", "TornadoParser", "parser_class"]


# What `Connection` needs of the one in C.
INTERFACE: Final = (
    "_blocked",
    "_burst",
    "_charged",
    "_deflates",
    "_dispatch",
    "_fd",
    "_idle",
    "_limit",
    "_more",
    "_on_readable",
    "_put",
    "_rate",
    "_scheduled",
    "_take",
    "_tokens",
    "flush",
    "heard",
    "send",
    "send_frame",
    "server_terminated",
)

_speedups = load("sstream.websocket._speedups", "cut", "unmask", *(f"Core.{name}" for name in INTERFACE))

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
