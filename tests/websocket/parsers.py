"""All parsers, which must do the same."""

from sstream.websocket import speedups
from sstream.websocket.frames import Parser
from sstream.websocket.speedups import TornadoParser

__all__ = ["PARSERS"]

PARSERS: list[type[Parser]] = [Parser, TornadoParser]
if hasattr(speedups, "FastParser"):
    PARSERS.append(speedups.FastParser)
