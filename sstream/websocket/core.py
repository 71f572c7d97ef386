"""What runs for every message of a connection: reading, handing out, framing, sending."""

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sstream.websocket.frames import BINARY, EVENTS_PER_PASS, TEXT, Event, frame

if TYPE_CHECKING:
    from tornado.websocket import WebSocketHandler

    from sstream.websocket.frames import Parser

__all__ = ["CLOSING", "READ_SIZE", "STUCK", "Core"]

READ_SIZE: Final = 65536

# Bits of `_blocked`, of which `connection` has more.
STUCK: Final = 8  # the peer does not read what it was sent
CLOSING: Final = 16  # our Close frame is on its way: messages are dropped

# Of one pass or turn, so many bytes leave without waiting for its end.
_CORK: Final = 65536

# Nearly every message that leaves is short: 0.2 µs less than building the header each time.
_BINARY_HEADERS = tuple(bytes((0x82, length)) for length in range(126))
_TEXT_HEADERS = tuple(bytes((0x81, length)) for length in range(126))


class Core:
    """The base of `Connection`, which has the rest: all that does not happen with every message.

    ``_speedups.Core`` is the same in C: 0.2 µs for a message of 20 bytes and its reply, among 16, where it is 0.9 here.
    docs/performance.md has what becomes of it.

    Attributes:
        heard: Whether anything came since this was last set to False.
        server_terminated: The Close frame is written, nothing more can be.
        _blocked: Why messages are not handed out, as bits; 0: they are.
        _deflates: Messages go by ``_send_deflated``.
        _fd: The socket; -1: there is none, or it is not ours.
        _idle: The parser is between two messages, so that nothing is amiss if it is left out.
        _limit: Bytes of the largest message.
        _more: Something waits to be handed out first; do not read.
        _scheduled: Somebody is about to flush.
        _rate: Messages a second; 0: any.
        _burst: Messages at once.
        _tokens: Messages left, at the time ``_charged``.
    """

    __slots__ = (
        "_blocked",
        "_burst",
        "_charged",
        "_deflates",
        "_fd",
        "_idle",
        "_limit",
        "_more",
        "_out",
        "_rate",
        "_scheduled",
        "_size",
        "_tokens",
        "heard",
        "server_terminated",
    )

    if TYPE_CHECKING:
        # What the inner loops need of `Connection`.
        _parser: Parser
        _socket: socket.socket
        handler: WebSocketHandler
        receiver: Callable[[bytes | str], Any] | None

        def _control(self, event: Event) -> None: ...
        def _crash(self, error: BaseException) -> None: ...
        def _flush_later(self) -> None: ...
        def _hold(self, events: list[Event]) -> None: ...
        def _lose(self) -> None: ...
        def _on_eof(self) -> None: ...
        def _receive(self, data: bytes) -> None: ...
        def _send_deflated(self, payload: bytes | str) -> None: ...
        def _start_handling(self, handling: Any) -> None: ...
        def _stick(self, rest: bytes | memoryview) -> None: ...
        def _transmit(self, data: bytes) -> None: ...

    def __init__(self) -> None:
        self.heard = True
        self.server_terminated = False
        self._blocked = 0
        self._deflates = False
        self._fd = -1
        self._idle = False
        self._limit = 0
        self._more = False
        self._scheduled = False
        self._rate = 0.0
        self._burst = 0.0
        self._tokens = 0.0
        self._charged = 0.0
        self._out: list[bytes] = []
        self._size = 0

    # Reading

    def _on_readable(self) -> None:
        """Run one pass: read what is there, hand it out, send the replies."""
        if self._more or self._fd < 0:
            return
        try:
            data = self._socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._on_eof()
            return
        self.heard = True
        if self._idle and not self._blocked and not self._rate:
            # Common case first: all that came are plain messages. It saves 0.4 of 1.8 µs at depth 1.
            events: list[Event] = []
            if self._parser.cut(data, 0, EVENTS_PER_PASS, self._limit, events) == len(data):
                self._dispatch(events)
                return
        self._receive(data)

    def _dispatch(self, events: list[Event]) -> None:
        """Hand out events, until one of them blocks; then send what was written."""
        self._scheduled = True  # all replies leave together
        receiver = self.receiver or self.handler.on_message
        for index, event in enumerate(events, 1):
            if isinstance(event, (bytes, str)):
                try:
                    handling = receiver(event)
                except (Exception, asyncio.CancelledError) as error:
                    self._crash(error)
                else:
                    if handling is not None:
                        self._start_handling(handling)
            else:
                self._control(event)
            if self._blocked:
                self._hold(events[index:])
                break
        self.flush()

    # Writing

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
        if not self._scheduled or self._size > _CORK:
            self._see_to_it()

    def send_frame(self, frame: bytes) -> None:
        """Send what `frames.frame` gave; nothing happens if the connection is closing."""
        if not self.server_terminated:
            self._put(frame)

    def _put(self, frame: bytes) -> None:
        """Write a frame."""
        self._out.append(frame)
        self._size += len(frame)
        self._see_to_it()

    def _see_to_it(self) -> None:
        """After something was written: see to it that it leaves, and now if it is much."""
        if not self._scheduled:
            self._scheduled = True
            self._flush_later()
        if self._size > _CORK:
            self._flush_out()

    def flush(self) -> None:
        """Send what was written."""
        self._scheduled = False
        self._flush_out()

    def _flush_out(self) -> None:
        out = self._out
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        self._size = 0
        if self._fd < 0 or self._blocked & STUCK:
            self._transmit(data)
            return
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._lose()
            return
        if sent < len(data):
            self._stick(memoryview(data)[sent:])

    def _take(self) -> bytes:
        """Give all that was written, and forget it."""
        data = b"".join(self._out)
        self._out = []
        self._size = 0
        return data
