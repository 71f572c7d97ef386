"""The other end: ``sstream.js`` for browsers, ``connect`` for Python."""

from sstream.client.channel import Channel
from sstream.client.connect import Socket, Status, connect
from sstream.client.events import ClosedError

__all__ = ["Channel", "ClosedError", "Socket", "Status", "connect"]
