"""The two wires: the plain socket, taken from Tornado after the handshake, and Tornado's own stream."""

import asyncio
import contextlib
import socket
import ssl
import weakref
from collections import deque
from typing import Any

from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketHandler

from sstream.websocket.connection import Connection
from sstream.websocket.core import READ_SIZE

__all__ = ["SocketConnection", "StreamConnection", "may_take"]

# One system call for what waits, but not a megabyte copied for the few bytes that a slow reader takes.
_WRITE_SIZE = 256 * 1024

# A TLS record; a slow reader's progress is seen in steps of it.
_PIECE = 16 * 1024


def may_take(stream: IOStream) -> bool:
    """Tell whether the stream is what `SocketConnection` knows how to take a socket from.

    Read in Tornado 6.5 and 6.6.1.
    """
    return (
        type(stream) is IOStream
        and isinstance(getattr(stream, "socket", None), socket.socket)
        and isinstance(getattr(stream, "_read_buffer", None), bytearray)
        and getattr(stream, "_read_buffer_size", None) == len(stream._read_buffer)
        and all(hasattr(stream, name) for name in ("_closed", "_read_future", "_state", "_user_read_buffer"))
        and not stream._user_read_buffer
        and callable(getattr(stream.io_loop, "remove_handler", None))
    )


def _take_some(queue: deque[bytes | memoryview]) -> bytes | memoryview:
    """Take from the front of a queue what is worth one system call."""
    data = queue.popleft()
    if not queue or len(data) >= _WRITE_SIZE:
        return data
    pieces = [data]
    size = len(data)
    while queue and size < _WRITE_SIZE:
        pieces.append(queue.popleft())
        size += len(pieces[-1])
    return b"".join(pieces)


class SocketConnection(Connection):
    """On the plain socket: the loop calls straight into the parser, and replies go straight to the kernel.

    A call of 20 bytes takes a fifth of the time that it takes on the stream, and two fifths at depth 16.
    """

    __slots__ = ("_loop", "_reader", "_socket")

    def _attach(self, stream: IOStream) -> bytes:
        # As IOStream.start_tls does it, in Tornado 6.5 and 6.6.1: the handler is removed, the stream left empty.
        taken = stream.socket
        stream.io_loop.remove_handler(taken)
        data = bytes(stream._read_buffer)
        stream.socket = None  # type: ignore[assignment]  # as start_tls does
        stream._state = None
        stream._closed = True
        self._socket = taken
        # The loop is told this number: asyncio formats what it does not know, and for a socket that takes 10 µs.
        self._fd = taken.fileno()
        self._loop = self._engine.loop
        self._reader: weakref.ref[Any] | None = None
        self.set_nodelay(True)
        return data

    def _may_answer(self, handler: WebSocketHandler) -> bool:
        # What may_take looked at: answers to earlier requests, or the news of the end, may wait in it.
        stream: Any = getattr(handler.request.connection, "stream", None)
        return stream is not None and not stream.writing() and not stream.closed()

    def _send_answer(self, answer: bytes) -> bool:
        try:
            sent = self._socket.send(answer)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._fd = -1
            self._socket.close()
            return False
        if sent < len(answer):
            self._stick(memoryview(answer)[sent:])
        return True

    def _start_reading(self) -> None:
        reader = self._on_readable
        # In the handler's context: what its `prepare` set in context variables is there in `on_message`.
        self._context.copy().run(self._loop.add_reader, self._fd, reader)
        if self._engine.may_drop_readers:
            self._reader = weakref.ref(reader, self._on_reader_dropped)

    def _stop_reading(self) -> None:
        self._reader = None
        self._loop.remove_reader(self._fd)

    def _on_reader_dropped(self, reader: "weakref.ref[Any]") -> None:
        # Where a peer reset the connection right behind its last bytes, libuv says POLLERR and stops, and uvloop calls
        # its reader once more and forgets it (0.23, handles/poll.pyx): what the reader has not come to is told to
        # nobody, and the socket would stay for ever. Not from here: the loop is not done with it.
        if not self._loop.is_closed():
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._reader is not None and self._reader() is None:
            self._stop_reading()  # a socket that it gave up it does not take again otherwise
            self._start_reading()

    def _await_writable(self) -> None:
        self._loop.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        queue = self._queue
        if queue is None:
            return
        data = _take_some(queue)
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._lose()
            return
        if sent < len(data):
            queue.appendleft(memoryview(data)[sent:])
        if sent:
            self._queued -= sent
            self._progress = self._loop.time()
        if not queue:
            self._loop.remove_writer(self._fd)
            self._unstick()

    def _linger(self, wait: bool) -> None:
        # Closing a socket with something unread resets it, and our Close frame may be lost with that.
        if not wait:
            try:
                wait = bool(self._socket.recv(READ_SIZE))
            except OSError:
                wait = False
        if not wait:
            self._lose()
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose()

    def _drop(self) -> None:
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._fd = -1
        self._socket.close()

    def has_input(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return False
        return True

    def set_nodelay(self, x: bool) -> None:
        # A Unix socket has no such option; that the peer has closed, the next read tells.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, int(x))


class StreamConnection(Connection):
    """On Tornado's stream, by its public face: for TLS, and wherever the socket cannot be taken."""

    __slots__ = ("_pending", "_unread", "_writing")

    stream: IOStream

    def _attach(self, stream: IOStream) -> bytes:
        self.stream = stream
        self._pending: asyncio.Future[bytes] | None = None
        self._unread = b""
        self._writing: asyncio.Future[None] | None = None
        stream.set_close_callback(self._on_stream_closed)
        self.set_nodelay(True)
        return b""

    def _on_stream_closed(self) -> None:
        # A read that waits is told by itself.
        if self._pending is None and not self._unread:
            self._on_eof()

    def _start_reading(self) -> None:
        if self._unread:
            self._engine.loop.call_soon(self._take_unread, context=self._context)
        else:
            self._read()

    def _stop_reading(self) -> None:
        # A read cannot be taken back without losing bytes: what it brings waits in `_unread`.
        pass

    def _read(self) -> None:
        """Start the next read, if it is time for one."""
        if self._reading and self._pending is None and not self._unread and not self._more:
            try:
                self._pending = asyncio.ensure_future(self.stream.read_bytes(READ_SIZE, partial=True))
            except StreamClosedError:
                self._on_eof()
            else:
                self._pending.add_done_callback(self._on_read, context=self._context)

    def _on_read(self, future: "asyncio.Future[bytes]") -> None:
        self._pending = None
        try:
            data = future.result()
        except StreamClosedError:
            self._on_eof()
            return
        self.heard = True
        if self._reading and not self._more:
            self._receive(data)
            self._read()
        else:
            self._unread = data

    def _take_unread(self) -> None:
        if self._reading and not self._more:
            data, self._unread = self._unread, b""
            self._receive(data)
            self._read()

    def _continue(self) -> None:
        super()._continue()
        if self._unread:
            self._take_unread()
        else:
            self._read()

    def _transmit(self, data: bytes) -> None:
        if self._queue is not None:
            super()._transmit(data)
        elif not self._ended:
            rest = self._push(data)
            if rest is not None:
                self._stick(rest)

    def _push(self, data: bytes) -> bytes | memoryview | None:
        """Send; give what has to wait, or None if nothing has to. A broken wire ends the connection."""
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            try:
                writing = self.stream.write(view[start : start + _PIECE])
            except StreamClosedError:
                self._lose()
                return None
            if self.stream.writing():
                self._writing = writing
                return view[start + _PIECE :]
        return None

    def _await_writable(self) -> None:
        assert self._writing is not None
        self._writing.add_done_callback(self._on_written)

    def _on_written(self, future: "asyncio.Future[None]") -> None:
        try:
            future.result()
        except StreamClosedError:
            self._lose()
        else:
            self._on_writable()

    def _on_writable(self) -> None:
        queue = self._queue
        if queue is None or self._writing is None or not self._writing.done():
            return
        self._writing = None
        self._progress = self._engine.loop.time()
        while queue:
            data = _take_some(queue)
            rest = self._push(bytes(data))
            if self._ended:
                return
            if rest is not None:
                self._queued -= len(data) - len(rest)
                queue.appendleft(rest)
                self._await_writable()
                return
            self._queued -= len(data)
        self._unstick()

    def _linger(self, wait: bool) -> None:
        if not wait or self.stream.closed():
            self._lose()
            return
        try:
            if isinstance(self.stream.socket, ssl.SSLSocket):
                # Says close_notify, and would wait for the peer's.
                with contextlib.suppress(ssl.SSLError):
                    self.stream.socket.unwrap()
            # From here on an SSLSocket reads what comes as it is, encrypted; it is only dropped.
            self.stream.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose()

    def _drop(self) -> None:
        self.stream.set_close_callback(None)
        self.stream.close()

    def has_input(self) -> bool:
        if self._unread:
            return True
        try:
            # An SSLSocket's own `recv` knows no flags.
            socket.socket.recv(self.stream.socket, 1, socket.MSG_PEEK)
        except OSError:
            return False
        return True

    def set_nodelay(self, x: bool) -> None:
        self.stream.set_nodelay(x)
