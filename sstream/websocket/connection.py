"""A websocket connection behind Tornado's ``WebSocketHandler``, whatever wire carries it."""

import asyncio
import contextvars
import math
import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import tornado.escape
from tornado import gen, httputil
from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol

from sstream.limits import Limits
from sstream.websocket.core import CLOSING, READ_SIZE, STUCK
from sstream.websocket.deflate import Deflate, Deflater
from sstream.websocket.engine import Engine, Pulse
from sstream.websocket.frames import (
    BINARY,
    CLOSE,
    EVENTS_PER_PASS,
    PING,
    PONG,
    TEXT,
    Close,
    Event,
    Failure,
    Parser,
    Ping,
    Pong,
    close_payload,
    frame,
)
from sstream.websocket.handshake import agree, end_answer, is_handshake, set_answer, write_answer
from sstream.websocket.registration import Registration
from sstream.websocket.release import release
from sstream.websocket.speedups import Core, parser_class

__all__ = ["READ_SIZE", "Connection", "SharedFrame"]

# Messages that came while the handler was not ready for them; beyond it the socket is not read.
_BACKLOG: Final = 65536
_BACKLOG_OVERHEAD: Final = 64  # what an empty message costs in memory

# Seconds a peer has to answer our Close frame, and to read it when we failed it.
_CLOSE_TIMEOUT: Final = 5.0

# Why messages are not handed to the handler at the moment, beside STUCK and CLOSING.
_OPENING: Final = 1  # ``open`` has not returned
_HANDLING: Final = 2  # what ``on_message`` returned is awaited
_PAUSED: Final = 4  # the handler asked for it

# The stream ended without a Close frame.
_LOST = Failure(1006, "")

# Fewer bytes than this do not get fewer by compressing.
_WORTH_DEFLATING: Final = 16

# What a writer costs that waits, or does not, for a peer that does not read.
_FUTURE_SIZE: Final = 256

# How much of what a peer still sends is dropped until it has read our Close frame.
_LINGER: Final = 16 * 1024 * 1024


class SharedFrame:
    """Messages for many sockets, one or some: framed once, and compressed once for all that agreed on the same."""

    __slots__ = ("_deflated", "_messages", "plain")

    def __init__(self, *payloads: bytes | str) -> None:
        self._messages = [
            (TEXT, payload.encode()) if isinstance(payload, str) else (BINARY, payload) for payload in payloads
        ]
        self.plain = b"".join([frame(opcode, payload) for opcode, payload in self._messages])
        self._deflated: dict[tuple[int, int, int], bytes] = {}

    def deflated(self, deflate: Deflate) -> bytes:
        """Give the frames for sockets that agreed on ``deflate``; they refer to no earlier message."""
        data = self._deflated.get(deflate.shape)
        if data is None:
            data = b"".join(
                [
                    frame(opcode, Deflater(deflate).compress(payload), compressed=True)
                    if len(payload) >= _WORTH_DEFLATING
                    else frame(opcode, payload)
                    for opcode, payload in self._messages
                ]
            )
            self._deflated[deflate.shape] = data
        return data


class Connection(Core, WebSocketProtocol):
    """One upgraded connection; `SocketConnection` and `StreamConnection` bring the wire.

    It is what ``WebSocketHandler.ws_connection`` is, and does what Tornado's does there. Besides that it offers `send`,
    `send_shared`, `send_frame`, `pause_reading` and `resume_reading`.

    Attributes:
        receiver: Takes the messages, if it is set; else the handler's ``on_message`` does.
    """

    # In slots, for there may be many thousands of these.
    __slots__ = (
        "_backlog",
        "_backlog_size",
        "_close_timer",
        "_context",
        "_deflate",
        "_deflater",
        "_drained",
        "_ended",
        "_engine",
        "_eof",
        "_handling",
        "_limits",
        "_notified",
        "_parser",
        "_progress",
        "_pulse",
        "_queue",
        "_queued",
        "_reading",
        "_registration",
        "_stall_timer",
        "_subprotocol",
        "client_terminated",
        "close_code",
        "close_reason",
        "handler",
        "receiver",
        "stream",
    )

    handler: WebSocketHandler
    _engine: Engine
    _context: contextvars.Context
    _parser: Parser

    def __init__(self, handler: WebSocketHandler, limits: Limits) -> None:
        # Not WebSocketProtocol's: it would set what is set here.
        Core.__init__(self)
        self._blocked = _OPENING
        self.handler = handler
        self.receiver = None
        self.stream = None
        self.client_terminated = False
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self._limits = limits
        self._subprotocol: str | None = None
        self._deflate: Deflate | None = None
        self._deflater: Deflater | None = None
        self._pulse: Pulse | None = None
        self._registration: Registration | None = None

        # Reading. What the handler cannot take yet waits in the backlog, in order, the end of the stream included.
        self._reading = False
        self._eof = False  # nothing more will come
        self._handling: asyncio.Task[None] | None = None  # kept, for the loop does not
        self._backlog: deque[Event] | None = None
        self._backlog_size = 0
        self._limit = sys.maxsize if limits.message_size is None else limits.message_size
        if limits.message_rate is not None and limits.message_burst is not None:
            self._rate = limits.message_rate
            self._burst = self._tokens = float(limits.message_burst)
            self._charged = time.monotonic()

        # Writing. Frames of one pass or turn gather in the outbox; what the kernel does not take waits in `_queue`.
        self._queue: deque[bytes | memoryview] | None = None
        self._queued = 0
        self._drained: list[asyncio.Future[None]] | None = None
        self._progress = 0.0
        self._stall_timer: asyncio.TimerHandle | None = None

        # Closing.
        self._close_timer: asyncio.TimerHandle | None = None
        self._notified = False
        self._ended = False

    # The wire

    @abstractmethod
    def _attach(self, stream: IOStream) -> bytes:
        """Take over the connection; give the bytes that were read from it already."""

    def _may_answer(self, handler: WebSocketHandler) -> bool:
        """Tell whether the wire may send the answer of the handshake itself, by `_send_answer`."""
        return False

    def _send_answer(self, answer: bytes) -> bool:
        """Send it, first of all; False if the peer is gone."""
        raise NotImplementedError("where `_may_answer` says so")

    @abstractmethod
    def _start_reading(self) -> None: ...

    @abstractmethod
    def _stop_reading(self) -> None: ...

    @abstractmethod
    def _await_writable(self) -> None:
        """See to it that `_on_writable` runs when the wire takes more."""

    @abstractmethod
    def _on_writable(self) -> None: ...

    @abstractmethod
    def _linger(self, wait: bool) -> None:
        """All is sent: tell the peer so, and drop what still comes; if not ``wait``, only what is there already."""

    @abstractmethod
    def _drop(self) -> None:
        """Close the wire."""

    @abstractmethod
    def has_input(self) -> bool:
        """Tell whether there is something unread, the end included."""

    @abstractmethod
    def set_nodelay(self, x: bool) -> None: ...

    # Tornado's interface

    async def accept_connection(self, handler: WebSocketHandler) -> None:
        """Answer the handshake, take the connection and open it."""
        if not is_handshake(handler.request.headers):
            handler.set_status(400)
            handler.finish("Missing/Invalid WebSocket headers")
            return
        self._subprotocol, self._deflate, headers = agree(handler, handler.get_compression_options())
        if self._deflate is not None:
            self._deflater = Deflater(self._deflate)
            self._deflates = True
        self._parser = parser_class(self._limits.message_size, self._limits.inflated_size, self._deflate)

        answer = write_answer(handler, headers) if self._may_answer(handler) else None
        if answer is None:
            set_answer(handler, headers)
            handler.finish()
        stream = handler._detach_stream()
        try:
            if stream.writing():
                await stream.write(b"")
        except StreamClosedError:
            return
        if stream.closed():
            return
        self._engine = Engine.of(stream.io_loop)
        self._context = contextvars.copy_context()
        data = self._attach(stream)
        if answer is not None and not self._send_answer(answer):
            end_answer(handler)
            return
        self._registration = Registration.of(self, handler.request)
        self.start_pinging()
        self._update_reading()
        if data:
            self._receive(data)

        try:
            if answer is not None:
                end_answer(handler)
            opened = handler.open(*handler.open_args, **handler.open_kwargs)
            if opened is not None:
                await opened
        except asyncio.CancelledError:
            self._abort()
            raise
        except Exception as error:
            self._crash(error)
        release(handler)
        self._idle = self._parser.idle
        self._unblock(_OPENING)

    @property
    def selected_subprotocol(self) -> str | None:
        return self._subprotocol

    def start_pinging(self) -> None:
        interval = self._limits.ping_interval
        if interval and self._pulse is None:
            self._pulse = self._engine.pulse(interval, self._limits.ping_timeout or 0.0)
            self._pulse.add(self)

    def write_message(self, message: str | bytes | dict[str, Any], binary: bool = False) -> "asyncio.Future[None]":
        """Send a message.

        The future is finished already, unless the peer does not read: then it is finished when all that waits was sent,
        so that awaiting it keeps a writer from running ahead.
        """
        if self.server_terminated:
            raise WebSocketClosedError
        if isinstance(message, dict):
            message = tornado.escape.json_encode(message)
        self._put(self.frame(tornado.escape.utf8(message), binary))
        if self._queue is None:
            return self._engine.done
        drained: asyncio.Future[None] = self._engine.loop.create_future()
        # Nobody has to await it.
        drained.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._queued += _FUTURE_SIZE
        if self._drained is None:
            self._drained = []
        self._drained.append(drained)
        return drained

    def write_ping(self, data: bytes) -> None:
        if len(data) > 125:
            raise ValueError(f"ping of {len(data)} bytes; legal are 125 at most")
        if not self.server_terminated:
            self._put(frame(PING, data))

    def is_closing(self) -> bool:
        return self.server_terminated or self.client_terminated

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Say goodbye, drop the messages that still come, and end the connection when the peer has answered, or in 5 s.

        Raises:
            ValueError: The code may not be sent, or the reason is too long.
        """
        payload = close_payload(code, reason)
        if self.server_terminated:
            return
        self._say_goodbye(payload)
        backlog, self._backlog, self._backlog_size = self._backlog, None, 0
        self._hold(backlog or ())
        self._close_timer = self._close_timer or self._engine.loop.call_later(_CLOSE_TIMEOUT, self._abort)
        self._update_reading()

    def on_connection_close(self) -> None:
        # Tornado's handler calls this when it was told the end by us, too.
        if not self._notified:
            self._abort()

    def _abort(self) -> None:
        self._lose()

    def _process_server_headers(self, key: str | bytes, headers: httputil.HTTPHeaders) -> None:
        raise NotImplementedError("a client's business")

    async def _receive_frame_loop(self) -> None:
        raise NotImplementedError("frames are received as they come")

    # What it offers beyond Tornado's

    def frame(self, payload: bytes, binary: bool = True) -> bytes:
        """Give a message as this connection would send it."""
        opcode = BINARY if binary else TEXT
        if self._deflater is not None and len(payload) >= _WORTH_DEFLATING:
            return frame(opcode, self._deflater.compress(payload), compressed=True)
        return frame(opcode, payload)

    def send_shared(self, shared: SharedFrame) -> None:
        """Send a message that goes to many; nothing happens if the connection is closing."""
        if self._deflater is None:
            self.send_frame(shared.plain)
        elif self._deflate is not None:
            # The peer's window moves on by a message that our stream has not seen.
            self._deflater.restart()
            self.send_frame(shared.deflated(self._deflate))

    def pause_reading(self) -> None:
        """Give no more messages to the handler; what comes is read until 64 KiB wait.

        Pings are still answered, and the end of the connection does not wait for its turn: it drops what was put off.
        """
        self._blocked |= _PAUSED

    def resume_reading(self) -> None:
        """Give messages to the handler again, from the next turn of the loop on."""
        if self._blocked & _PAUSED:
            self._unblock(_PAUSED)

    # Reading

    def _receive(self, data: bytes) -> None:
        """Hand out all that ``data`` brings, up to what is fair."""
        parser = self._parser
        events = parser.receive(data)
        if self._rate:
            self._charge(events, parser.cost)
        if self._notified:
            self._backlog_size += len(data)
            if self._backlog_size > _LINGER:
                self._lose()
        if events:
            if self._blocked or self._backlog:
                self._hold(events)
            else:
                self._dispatch(events)
        self._idle = parser.idle
        if parser.pending:
            self._continue_later()

    def _hold(self, events: Iterable[Event]) -> None:
        """Put messages off, but not the answers to pings, nor an end that has nothing to wait for."""
        for event in events:
            closing = self._blocked & CLOSING
            if isinstance(event, (Ping, Pong)):
                self._control(event)
            elif isinstance(event, (bytes, str)):
                if not closing:
                    self._put_off(event)
                    self._backlog_size += len(event) + _BACKLOG_OVERHEAD
            else:
                self._eof = True
                if closing or (self._may_end() and (event is _LOST or self._blocked & _PAUSED)):
                    self._control(event)
                else:
                    self._put_off(event)
        self._update_reading()

    def _may_end(self) -> bool:
        """Tell whether the handler is not in the midst of something that Tornado would let it end first."""
        return not self._blocked & (_OPENING | _HANDLING)

    def _put_off(self, event: Event) -> None:
        if self._backlog is None:
            self._backlog = deque()
        self._backlog.append(event)

    def _control(self, event: Event) -> None:
        if isinstance(event, Ping):
            # RFC 6455, 5.5.1: nothing after a Close frame; 5.5.2: else a pong as soon as possible.
            if not self.server_terminated:
                self._put(frame(PONG, event.payload))
            self._run_hook(self.handler.on_ping, event.payload)
        elif isinstance(event, Pong):
            self._run_hook(self.handler.on_pong, event.payload)
        elif isinstance(event, Close):
            self._eof = self.client_terminated = True
            if not self._notified:
                self.close_code = event.code
                self.close_reason = event.reason or None
            if not self.server_terminated:
                # 5.5.1: the answer typically echoes the code.
                self._say_goodbye(close_payload(event.code, None))
            self._notify()
            self._finish()
        elif event is _LOST:
            self._lose()
        elif isinstance(event, Failure) and not self._notified:
            self._engine.complain(event.code, event.reason)
            self._fail(event.code, event.reason)

    def _run_hook(self, hook: Callable[[bytes], Any], payload: bytes) -> None:
        try:
            handling = hook(payload)
            if handling is not None:
                gen.convert_yielded(handling).add_done_callback(self._on_hook_done)
        except (Exception, asyncio.CancelledError) as error:
            self._crash(error)

    def _on_hook_done(self, future: "asyncio.Future[Any]") -> None:
        try:
            future.result()
        except (Exception, asyncio.CancelledError) as error:
            self._crash(error)

    def _start_handling(self, handling: Any) -> None:
        """Hand out the next message when this one is handled, as Tornado does."""
        self._blocked |= _HANDLING
        coroutine = self._handle(handling)
        if sys.version_info >= (3, 12):
            # Runs up to its first wait at once; most need no other turn.
            task = asyncio.Task(coroutine, loop=self._engine.loop, eager_start=True)
        else:
            task = self._engine.loop.create_task(coroutine)
        if not task.done():
            self._handling = task

    async def _handle(self, handling: Any) -> None:
        # One task for all messages that wait, not one for each: those that need not wait cost 1 µs, not 10.
        try:
            handled = 0
            while handling is not None:
                await (handling if isinstance(handling, Awaitable) else gen.convert_yielded(handling))
                handled += 1
                handling = self._hand_out() if handled < EVENTS_PER_PASS else None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._lose()
                raise
            self._crash(error)
        except Exception as error:
            self._crash(error)
        finally:
            self._handling = None
            self._unblock(_HANDLING)

    def _hand_out(self) -> Any:
        """Hand out the messages that wait, up to one that has to be awaited."""
        handling = None
        while handling is None and self._blocked == _HANDLING and self._backlog:
            event = self._backlog[0]
            if not isinstance(event, (bytes, str)):
                break
            self._backlog.popleft()
            self._backlog_size -= len(event) + _BACKLOG_OVERHEAD
            handling = (self.receiver or self.handler.on_message)(event)
        return handling

    def _charge(self, events: list[Event], cost: int) -> None:
        """Count messages against the rate; those beyond it give place to the failure."""
        count = len(events) + cost
        if not count or self._blocked & CLOSING:
            return
        now = time.monotonic()
        tokens = min(self._burst, self._tokens + (now - self._charged) * self._rate) - count
        self._charged = now
        self._tokens = tokens
        if tokens < 0:
            # Whole tokens: half a message is none.
            del events[max(0, len(events) + math.floor(tokens)) :]
            events.append(Failure(4429, "too many messages"))

    def _unblock(self, reason: int) -> None:
        self._blocked &= ~reason
        if self._backlog and (not self._blocked or self._eof):
            self._continue_later()
        self._update_reading()

    def _continue_later(self) -> None:
        if not self._more:
            self._more = True
            self._engine.loop.call_soon(self._continue, context=self._context)

    def _continue(self) -> None:
        self._more = False
        if self._backlog and (not self._blocked or self._eof):
            backlog, self._backlog, self._backlog_size = self._backlog, None, 0
            if self._blocked:
                self._hold(backlog)  # there is an end in it, whose time may have come
            else:
                self._dispatch(list(backlog))
        if self._parser.pending and self._may_read():
            self._receive(b"")
        self._update_reading()

    def _may_read(self) -> bool:
        if self._ended or self._eof or self._blocked & STUCK:
            return False
        return bool(self._blocked & CLOSING) or self._backlog_size <= _BACKLOG

    def _update_reading(self) -> None:
        wanted = self._may_read()
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._start_reading()
                if self._parser.pending:
                    self._continue_later()
            else:
                self._stop_reading()

    def _on_eof(self) -> None:
        """Nothing more comes, and no Close frame came: the end, once the handler has had what came before."""
        if self._eof:
            return
        self._eof = True
        if self._blocked or self._backlog:
            self._hold([_LOST])
        else:
            self._lose()

    # Writing

    @property
    def queued(self) -> int:
        """Bytes that wait because the peer does not read."""
        return self._queued

    def _flush_later(self) -> None:
        self._engine.flush_later(self)

    def _send_deflated(self, payload: bytes | str) -> None:
        binary = isinstance(payload, bytes)
        self._put(self.frame(tornado.escape.utf8(payload), binary))

    def _transmit(self, data: bytes) -> None:
        """Let wait what the wire cannot take now."""
        if self._queue is None:
            return  # the end of the connection
        if self._limits.send_queue is None or self._queued + len(data) <= self._limits.send_queue or self._notified:
            self._queue.append(data)
            self._queued += len(data)
        else:
            self._fail_slow("the send queue is full")

    def _stick(self, rest: bytes | memoryview) -> None:
        """The kernel is full: wait for it, and read nothing that might want another reply."""
        self._queue = deque([rest])
        self._queued = len(rest)
        self._blocked |= STUCK
        self._update_reading()
        self._await_writable()
        if self._limits.send_stall is not None and not self._notified:
            self._progress = self._engine.loop.time()
            self._stall_timer = self._engine.loop.call_later(self._limits.send_stall, self._check_stall)

    def _unstick(self) -> None:
        self._queue = None
        self._queued = 0
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        drained, self._drained = self._drained, None
        for future in drained or ():
            if not future.done():
                future.set_result(None)
        self._unblock(STUCK)
        if self._notified:
            self._finish()

    def _check_stall(self) -> None:
        self._stall_timer = None
        # The loop may have been busy while the kernel took more.
        self._on_writable()
        if self._queue is None or self._ended or self._notified or self._limits.send_stall is None:
            return
        left = self._progress + self._limits.send_stall - self._engine.loop.time()
        if left > 0:
            self._stall_timer = self._engine.loop.call_later(left, self._check_stall)
        else:
            self._fail_slow("no progress in sending")

    def _fail_slow(self, reason: str) -> None:
        # What was begun has to be ended, or the Close frame would be taken for a part of it.
        assert self._queue is not None
        while len(self._queue) > 1:
            self._queued -= len(self._queue.pop())
        self._engine.complain(4408, reason)
        self._fail(4408, "slow consumer")

    # Closing

    def _say_goodbye(self, payload: bytes) -> None:
        self._put(frame(CLOSE, payload))
        self.server_terminated = True
        self._blocked |= CLOSING

    def _crash(self, error: BaseException) -> None:
        """Something of the handler raised."""
        self.handler.log_exception(type(error), error, error.__traceback__)
        self._fail(1011, "internal error")

    def _fail(self, code: int, reason: str) -> None:
        """End the connection for a reason of ours; the peer may read which."""
        if self._notified:
            return
        self.client_terminated = True
        self.close_code = code
        self.close_reason = reason
        self._notify()
        if not self.server_terminated:
            self._say_goodbye(close_payload(code, reason))
        self._finish()

    def hang_up(self, code: int, reason: str) -> None:
        """Say goodbye and close the wire without waiting for an answer."""
        self.close(code, reason)
        self.flush()
        self._lose()

    def end_silently(self) -> None:
        """End the connection of a peer that gave no sign of life."""
        if not self._notified:
            self.close_reason = "ping timed out"
            self._lose()

    def _finish(self) -> None:
        """All is said: let the rest out, then close the wire."""
        self._backlog = None
        self._backlog_size = 0
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        self.flush()
        if self._ended:
            return
        # Who neither reads nor closes has had his time.
        self._close_timer = self._close_timer or self._engine.loop.call_later(_CLOSE_TIMEOUT, self._lose)
        if self._queue is None:
            self._update_reading()
            self._linger(wait=not self._eof)

    def _lose(self) -> None:
        """Close the wire, whatever is still to be said."""
        if self._ended:
            return
        self._ended = self._eof = True
        self.client_terminated = self.server_terminated = True
        self._blocked |= CLOSING
        for timer in (self._close_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._close_timer = self._stall_timer = None
        self._take()
        self._queue = self._backlog = None
        self._deflater = None
        drained, self._drained = self._drained, None
        for future in drained or ():
            if not future.done():
                future.set_exception(WebSocketClosedError())
        self._update_reading()
        self._drop()
        if self._registration is not None:
            self._registration.forget()
            self._registration = None
        self._notify()

    def _notify(self) -> None:
        """Tell the handler the end, once, and not from inside something it does."""
        if not self._notified:
            self._notified = True
            if self._pulse is not None:
                self._pulse.discard(self)
                self._pulse = None
            self._engine.loop.call_soon(self._tell_handler, context=self._context)

    def _tell_handler(self) -> None:
        try:
            self.handler.on_ws_connection_close(self.close_code, self.close_reason)
        except (Exception, asyncio.CancelledError) as error:
            self.handler.log_exception(type(error), error, error.__traceback__)
