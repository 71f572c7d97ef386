"""Where a connection gathers what it sends, until all of it leaves at once."""

from typing import Final

from sstream.websocket.frames import BINARY, TEXT, frame

__all__ = ["Outbox"]

# Of one pass or turn, so many bytes leave without waiting for its end.
_CORK: Final = 65536

# Nearly every message that leaves is short: 0.2 µs less than building the header each time.
_BINARY_HEADERS = tuple(bytes((0x82, length)) for length in range(126))
_TEXT_HEADERS = tuple(bytes((0x81, length)) for length in range(126))


class Outbox:
    """Frames messages and keeps them.

    The base of `Connection`, which sees to it that they leave: ``_flush_later`` is called with the first,
    ``_flush_early`` when there are many bytes, and ``_send_deflated`` in place of `send` where ``_deflates`` is set.
    """

    __slots__ = ("_deflates", "_out", "_scheduled", "_size", "server_terminated")

    def __init__(self) -> None:
        self.server_terminated = False  # the Close frame is the last
        self._scheduled = False  # `_flush_later` was called, or the one who wrote will flush
        self._deflates = False
        self._out: list[bytes] = []
        self._size = 0

    def send(self, payload: bytes | str) -> None:
        """Send ``bytes`` as a binary, ``str`` as a text message; nothing happens if the connection is closing."""
        if self.server_terminated:
            return
        if self._deflates:
            self._send_deflated(payload)
            return
        if isinstance(payload, bytes):
            length = len(payload)
            self._out.append(_BINARY_HEADERS[length] + payload if length < 126 else frame(BINARY, payload))
        elif isinstance(payload, str):
            payload = payload.encode()
            length = len(payload)
            self._out.append(_TEXT_HEADERS[length] + payload if length < 126 else frame(TEXT, payload))
        else:
            raise TypeError(f"a message is bytes or str, not {type(payload).__name__}")
        self._size += length
        if not self._scheduled:
            self._scheduled = True
            self._flush_later()
        if self._size > _CORK:
            self._flush_early()

    def _put(self, frame: bytes) -> None:
        """Add a frame."""
        self._out.append(frame)
        self._size += len(frame)
        if not self._scheduled:
            self._scheduled = True
            self._flush_later()
        if self._size > _CORK:
            self._flush_early()

    def _take(self) -> bytes:
        """Give all that was added, and forget it."""
        out = self._out
        if not out:
            return b""
        self._out = []
        self._size = 0
        return out[0] if len(out) == 1 else b"".join(out)

    def _flush_later(self) -> None:
        raise NotImplementedError

    def _flush_early(self) -> None:
        raise NotImplementedError

    def _send_deflated(self, payload: bytes | str) -> None:
        raise NotImplementedError
