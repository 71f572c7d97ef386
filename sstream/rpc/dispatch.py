"""Answer the calls of one socket: payload in, exactly one reply out for each call.

A ``def`` method is answered inside of ``receive``. An ``async def`` method takes its first step there as well, and
becomes a task only if it waits. In flight is what waits: it has a deadline, can be cancelled, ends with its
socket unless it is detached, and is bounded.
"""

import asyncio
import contextvars
import inspect
import logging
import math
import sys
import time
from collections.abc import AsyncGenerator, Callable
from time import perf_counter
from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw

from sstream.counters import CallCounts, MethodCounts
from sstream.errors import (
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    SESSION_GONE,
    TIMEOUT,
    TOO_MANY,
    UNAVAILABLE,
    BrokerError,
    RPCError,
    SessionGone,
    StoreError,
)
from sstream.limits import Limits
from sstream.rpc.codec import (
    DECODE_ERRORS,
    ENCODE_ERRORS,
    SMALL,
    BadMessage,
    Bounds,
    CallMessage,
    CancelMessage,
    Codec,
    CreditMessage,
    Meta,
    Notification,
    ReplyMessage,
)
from sstream.rpc.group import Group, SharedTurn
from sstream.rpc.middleware import Request
from sstream.rpc.registry import CHAIN, COROUTINE, PLAIN, SESSION, Entry, Registry
from sstream.rpc.runner import Deadlines, Pool, Runner
from sstream.rpc.trace import is_traceparent, trace_suffix, traceparent

__all__ = ["Calls", "Handler", "Reader", "drain_detached", "traceparent"]

_log = logging.getLogger("sstream.rpc")

# Items of a stream that a client may ask for ahead.
_MOST_CREDIT: Final = 65536

# What a call may end with that is no mistake of its method's.
_EXPECTED: Final = (asyncio.CancelledError, RPCError, SessionGone, StoreError, BrokerError)

# What most sockets have in flight; a socket's own are made when its first call waits.
_NONE_IN_FLIGHT: Final[dict["_Call", None]] = {}
_NONE_BY_ID: Final[dict[int | str, "_Call"]] = {}

# Calls that outlived their sockets: nobody else holds them.
_detached: set["_Call"] = set()


class Handler(Protocol):
    """What the dispatcher needs of a socket's handler."""

    @property
    def id(self) -> str:
        """The socket's id, for the log."""

    def session_now(self) -> Any:
        """Get the session if it may be used at once, else None.

        As long as its ``touched`` is False, nothing in it has to be stored.
        """

    def session_busy(self) -> bool:
        """Tell whether a call has its turn: whoever asks for one now has to wait."""

    def session_settled(self) -> bool:
        """Tell whether the call that used ``session_now`` left nothing to be stored."""

    async def session_commit(self) -> None:
        """Store what that call changed."""

    def session_drop(self) -> None:
        """Forget what that call changed: it raised."""

    def session_turn(self) -> SharedTurn:
        """Wait for the turn, load the session, commit at the end, or drop the changes on an exception."""


class Reader(Protocol):
    """What the dispatcher needs of a socket's wire; both may be called when that is how things are already."""

    def pause_reading(self) -> object:
        """Read no more; what was read already may still be handed to ``receive``."""

    def resume_reading(self) -> object:
        """Read on."""


class _Call(msgspec.Struct, eq=False, weakref=True):
    """One call that has to wait; it hears from its runner how it went."""

    calls: "Calls"
    entry: Entry
    id: int | str | None
    timeout: float | None
    began: float = 0.0
    answered: bool = False
    credit: int = 0
    wanted: asyncio.Future[None] | None = None  # there while the stream waits for credit
    task: asyncio.Task[None] | None = None
    group: Group | None = None  # whose task it is
    deadlines: Deadlines | None = None
    timer: asyncio.TimerHandle | None = None

    def returned(self, result: Any) -> None:
        try:
            if not self.answered and self.calls._reply(self.id, self.entry, result):
                self.entry.later += 1
        finally:
            self.calls._ended(self)

    def raised(self, error: BaseException) -> None:
        try:
            if not self.answered:
                self.calls._failed(self.id, self.entry, error)
            elif not isinstance(error, _EXPECTED):
                # Answered at its deadline, or its socket is gone: what went wrong since then is only for the log.
                self.calls._log_failure(self.entry, error)
        finally:
            self.calls._ended(self)

    def expire(self) -> None:
        self.calls._cut(self, TIMEOUT, "timeout")

    def cancel(self) -> None:
        if self.group is not None:
            self.group.cancel(self)
        else:
            assert self.task is not None
            self.task.cancel()

    async def stream(self, items: AsyncGenerator[Any, Any]) -> None:
        """Send the items, each when it was asked for; at most one is made ahead."""
        calls = self.calls
        try:
            async for item in items:
                if not self.credit:
                    await calls._credit(self)
                self.credit -= 1
                if not self.answered:
                    calls._send(calls._encode((4, self.id, item)))
        finally:
            await items.aclose()


class Calls:
    """The calls of one socket, both ways.

    Args:
        handler: The socket's handler; methods are called on it.
        registry: The methods of its class.
        codec: The subprotocol that was agreed on.
        limits: ``depth``, ``message_size``, ``calls_in_flight`` and ``call_timeout`` are kept here.
        send: Queues one payload; it must not block, and may be called within ``receive``.
        reader: Stops reading, if given, when too many calls are in flight.
        counts: Where the calls are counted.

    Without ``reader`` calls past the bound are refused with 4029.
    """

    __slots__ = (
        "_asked",
        "_bounds",
        "_by_id",
        "_call_timeout",
        "_codec",
        "_decode",
        "_encode",
        "_entries",
        "_flight",
        "_group",
        "_handler",
        "_held",
        "_is_closed",
        "_is_deaf",
        "_is_full",
        "_is_letting_go",
        "_is_winding_down",
        "_last_id",
        "_most",
        "_on_client",
        "_pool",
        "_reader",
        "_send",
        "_session_now",
        "_targets",
        "_unknown",
    )

    def __init__(
        self,
        handler: Any,
        registry: Registry,
        codec: Codec,
        limits: Limits,
        send: Callable[[bytes | str], object],
        *,
        reader: Reader | None = None,
        counts: CallCounts | None = None,
    ) -> None:
        self._handler = handler
        self._session_now: Any = getattr(handler, "session_now", None)  # who has no session needs none of its methods
        self._codec = codec
        self._bounds = Bounds.of(limits.depth, limits.message_size)
        counts = registry.counts if counts is None else counts
        self._unknown = counts.unknown
        table = registry.table(codec, self._bounds, limits.call_timeout, counts)
        self._entries = table.entries
        self._decode = table.decode_call
        self._encode = codec.encode
        self._send = send
        self._call_timeout = limits.call_timeout
        self._most = sys.maxsize if limits.calls_in_flight is None else limits.calls_in_flight
        self._is_winding_down = False
        self._reader = reader
        self._pool = Pool.enter()
        self._is_closed = False
        # Deaf is who is closed, or has too many calls in flight; the latter holds what it hears.
        self._is_deaf = False
        self._held: list[bytes | str] | None = None
        self._is_letting_go = False
        self._targets: dict[type, Any] | None = None  # there once a group of `Actions` was called
        # Invariant: a call is in _flight from the moment that it first waits until its coroutine has ended, and
        # in _by_id for as long as, moreover, it has not been answered.
        self._flight: dict[_Call, None] = _NONE_IN_FLIGHT
        self._is_full = not self._most  # no more calls may be in flight
        self._group: Group | None = None  # the last one
        self._by_id: dict[int | str, _Call] = _NONE_BY_ID
        # How many calls in flight wait for the client itself: for an answer, or for credit.
        self._on_client = 0
        self._last_id = 0
        self._asked: dict[int | str, asyncio.Future[Any]] | None = None  # there once the browser was called

    # From the socket

    def receive(self, payload: bytes | str) -> None:
        """Take one message. Replies leave by ``send``, at once or later; hostile input gets an error reply."""
        if self._is_deaf:
            if self._held is not None:
                self._held.append(payload)
            return
        # Common case first: a call without meta of a method without middleware. What is called is taken out of its
        # slot first: `self._decode(payload)` looks for a method, and CPython 3.11 is 30 ns slower with that.
        decode = self._decode
        try:
            _, call_id, name, params = decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, TypeError):
            self._receive_other(payload)
            return
        entry = self._entries[name]
        if len(payload) > SMALL or self._is_full or call_id in self._by_id:
            self._call(payload, entry, call_id, name, params, None)
            return
        # What there is to know of the method comes out of what counts its calls. That takes 10 to 20 ns of a call's
        # 760; a number of the entry, compared and lessened, took 30 (CPython 3.11, by turns in one process).
        try:
            kind, owner, decode_params, invoke = next(entry.untimed)
        except StopIteration:
            if entry.kind == CHAIN:
                self._call(payload, entry, call_id, name, params, None)
            else:
                self._time(payload, entry)
            return
        try:
            arguments = decode_params(params)
        except DECODE_ERRORS as error:
            entry.undone += 1
            self._refuse(entry, call_id, INVALID_PARAMS, entry.method.explain(error))
            return
        try:
            target = self._handler if owner is None else self._target(owner)
            if not kind:
                result = invoke(target, arguments)
            elif kind == COROUTINE:
                result = self._pool.run(invoke(target, arguments))
            else:
                session_now = self._session_now
                session = session_now()
                if session is None:
                    if self._handler.session_busy():
                        entry.undone += 1
                        self._join_group(_Call(self, entry, call_id, entry.timeout), target, arguments)
                        return
                    result = self._pool.run(entry.chain(self._request(entry, call_id, target, arguments, None)))
                else:
                    # The session is at hand and nobody waits for it: no turn, and no task unless there is something to
                    # be stored.
                    try:
                        result = invoke(target, arguments)
                    except BaseException:
                        self._handler.session_drop()
                        raise
                    if session.touched and not self._handler.session_settled():
                        result = self._pool.run(_commit(self._handler, result))
        except (Exception, asyncio.CancelledError) as error:
            # Anything at all: the method is the user's.
            entry.undone += 1
            self._failed(call_id, entry, error)
            return
        if type(result) is Runner:
            entry.undone += 1
            result.job = call = _Call(self, entry, call_id, entry.timeout)
            self._keep(call, result.task)
            return
        encode, send = self._encode, self._send
        try:
            reply = encode((1, call_id, None, result))
        except ENCODE_ERRORS as error:
            entry.undone += 1
            self._cannot_encode(call_id, entry, result, error)
            return
        send(reply)

    def close(self) -> None:
        """The socket is gone: calls in flight are cancelled, but for the detached ones; nothing is sent any more."""
        if self._is_closed:
            return
        self._is_closed = self._is_deaf = True
        self._held = None
        self._send = _nowhere
        if self._asked is not None:
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(RPCError(UNAVAILABLE, "the socket is closed"))
            self._asked.clear()
        self._by_id.clear()
        for call in list(self._flight):
            self._cut_off(call)
        if not self._flight:
            self._pool.leave()

    def release(self) -> None:
        """Hold the handler no longer, after `close`; not from within a call."""
        if not self._flight:
            self._handler = self._session_now = self._reader = self._targets = None

    def wind_down(self) -> None:
        """The process is going down: begin nothing more that waits, and end the streams; replies are still read.

        A plain method is still answered, because that is done at once; what would wait is refused with 4050.
        """
        self._is_winding_down = True
        self._most = 0
        self._is_full = True
        for call in list(self._flight):
            if call.entry.is_stream:
                self._cut(call, UNAVAILABLE, "going away")

    async def drain(self) -> None:
        """Wait for the calls in flight, and those that waited for them; the caller bounds the time."""
        while self._flight:
            await asyncio.wait({call.task for call in self._flight if call.task is not None})
            # Held messages go on in a callback that was queued before this.
            await asyncio.sleep(0)

    @property
    def in_flight(self) -> int:
        """How many calls are waiting for something."""
        return len(self._flight)

    # To the browser

    async def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Call a function that the browser exposes, and get its result.

        Args:
            timeout: Seconds to wait, if not the application's ``call_timeout``.

        Raises:
            RPCError: What the browser answered; 4000, it did not in time; 4050, the socket is closed.
        """
        if self._is_closed:
            raise RPCError(UNAVAILABLE, "the socket is closed")
        self._last_id = call_id = self._last_id + 1
        if (asked := self._asked) is None:
            asked = self._asked = {}
        trace = traceparent.get()
        meta = () if trace is None else ({"traceparent": trace},)
        payload = self._encode((0, call_id, method, params, *meta))
        answer = asked[call_id] = self._pool.loop.create_future()
        self._send(payload)
        if timeout is None:
            timeout = self._call_timeout
        self._client_is_asked()
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise RPCError(TIMEOUT, f"the browser did not answer {method!r} in time") from None
        finally:
            self._on_client -= 1
            if asked.pop(call_id, None) is not None:
                self._send(self._encode((3, call_id)))

    # One message

    def _time(self, payload: bytes | str, entry: Entry) -> None:
        # By the same way as all others: another one, out of the processor's caches, takes 10 to 40 us.
        began = perf_counter()
        undone = entry.undone
        entry.begin()
        self.receive(payload)
        if entry.undone == undone:
            entry.timed(began, self._handler.id)
        else:
            entry.time_next()  # that one failed, or waits

    def _receive_other(self, payload: bytes | str) -> None:
        try:
            message = self._codec.decode(payload)
        except BadMessage as error:
            self._unknown.fail(error.code, self._handler.id)
            self._send(self._encode((1, error.id, (error.code, error.message, None), None)))
            return
        match message:
            case CallMessage(id=call_id, method=name, params=params, meta=meta):
                self._call(payload, self._entries.get(name), call_id, name, params, meta)
            case Notification(method=name, params=params, meta=meta):
                self._call(payload, self._entries.get(name), None, name, params, meta)
            case CancelMessage(id=call_id):
                if call := self._by_id.get(call_id):
                    self._cut(call, CANCELLED, "cancelled")
            case CreditMessage(id=call_id, n=n):
                if call := self._by_id.get(call_id):
                    call.credit = min(call.credit + n, _MOST_CREDIT)
                    if call.wanted is not None and not call.wanted.done():
                        call.wanted.set_result(None)
            case ReplyMessage(id=call_id):
                # A reply that nobody waits for is late: the call has timed out.
                answer = self._asked.pop(call_id, None) if self._asked is not None else None
                if answer is not None and not answer.done():
                    self._answer(answer, message)

    def _answer(self, answer: asyncio.Future[Any], message: ReplyMessage) -> None:
        try:
            error = self._codec.decode_value(message.error, self._bounds, 1)
            result = self._codec.decode_value(message.result, self._bounds, 1)
        except DECODE_ERRORS:
            answer.set_exception(RPCError(INVALID_REQUEST, "the browser's answer cannot be read"))
            return
        match error:
            case None:
                answer.set_result(result)
            case [int(code), str(text), *data]:
                answer.set_exception(RPCError(code, text, data[0] if data else None))
            case _:
                answer.set_exception(RPCError(INTERNAL_ERROR, "the browser answered with an error", error))

    def _call(
        self,
        payload: bytes | str,
        entry: Entry | None,
        call_id: int | str | None,
        name: str,
        params: Raw,
        meta: Meta | None,
    ) -> None:
        if entry is None:
            self._refuse(self._unknown, call_id, METHOD_NOT_FOUND, f"method not found: {name[:100]}")
            return
        if call_id is None and entry.is_stream:
            return  # nobody could ask for its items
        if call_id in self._by_id:
            self._refuse(entry, call_id, INVALID_REQUEST, "invalid request: a call with this id is in flight")
            return
        if entry.kind and self._is_full:
            self._hold(payload, entry, call_id)
            return
        timeout = entry.timeout
        if meta is not None and meta.timeout is not None:
            if not 0 < meta.timeout < math.inf:
                self._refuse(entry, call_id, INVALID_REQUEST, "invalid request: timeout must be more than 0 seconds")
                return
            timeout = meta.timeout if timeout is None else min(timeout, meta.timeout)
        try:
            if len(payload) > SMALL:
                self._codec.check_count(bytes(params), self._bounds)
            arguments = entry.decode(params)
        except DECODE_ERRORS as error:
            self._refuse(entry, call_id, INVALID_PARAMS, entry.method.explain(error))
            return
        trace = meta.traceparent if meta is not None else None
        if trace is None or not is_traceparent(trace):
            self._start(entry, call_id, arguments, timeout, meta)
            return
        token = traceparent.set(trace)
        try:
            self._start(entry, call_id, arguments, timeout, meta)
        finally:
            traceparent.reset(token)

    def _start(
        self, entry: Entry, call_id: int | str | None, arguments: Any, timeout: float | None, meta: Meta | None
    ) -> None:
        call = _Call(self, entry, call_id, timeout)
        is_timed = entry.is_due
        if is_timed:
            call.began = perf_counter()
        try:
            target = self._handler if entry.owner is None else self._target(entry.owner)
            if entry.kind == PLAIN:
                result = entry.invoke(target, arguments)
            elif entry.kind == COROUTINE:
                result = self._pool.run(entry.invoke(target, arguments))
            elif entry.kind == SESSION:
                if self._session_now() is None and self._handler.session_busy():
                    self._join_group(call, target, arguments)
                    return
                result = self._run_with_session(entry, call_id, target, arguments, meta)
            else:
                request = self._request(entry, call_id, target, arguments, meta)
                request.stream = call.stream
                result = self._pool.run(entry.chain(request))
        except (Exception, asyncio.CancelledError) as error:
            self._failed(call_id, entry, error)
            return
        if type(result) is Runner:
            result.job = call
            self._keep(call, result.task)
        elif self._reply(call_id, entry, result):
            entry.answer()
            if is_timed:
                entry.begin()
                entry.timed(call.began, self._handler.id)

    def _run_with_session(
        self, entry: Entry, call_id: int | str | None, target: Any, arguments: Any, meta: Meta | None
    ) -> Any:
        """As `receive` does it; there the common case is spelled out, which saves 80 ns."""
        handler = self._handler
        session = self._session_now()
        if session is None:
            return self._pool.run(entry.chain(self._request(entry, call_id, target, arguments, meta)))
        try:
            result = entry.invoke(target, arguments)
        except BaseException:
            handler.session_drop()
            raise
        if session.touched and not handler.session_settled():
            return self._pool.run(_commit(handler, result))
        return result

    def _request(
        self, entry: Entry, call_id: int | str | None, target: Any, arguments: Any, meta: Meta | None
    ) -> Request:
        return Request(entry.name, list(arguments), self._handler, call_id, meta, time.time(), target)

    # Calls in flight

    def _join_group(self, call: "_Call", target: Any, arguments: Any) -> None:
        """Let a plain call wait for its turn, together with the plain calls that wait right before it."""
        group = self._group
        if group is None or not group.is_open:
            group = self._group = Group(self._handler.session_turn(), self._encode)
            runner = self._pool.run(group.run())
            runner.job = group
            group.task = runner.task
        group.add(call, target, arguments)
        call.group = group
        self._keep(call, group.task)

    def _keep(self, call: "_Call", task: "asyncio.Task[None]") -> None:
        call.task = task
        if not call.began:
            call.began = perf_counter()
        if self._flight is _NONE_IN_FLIGHT:
            self._flight, self._by_id = {}, {}
        self._flight[call] = None
        self._is_full = len(self._flight) >= self._most
        if self._is_closed:
            # By its own first step.
            if len(self._flight) == 1:
                self._pool = Pool.enter()
            self._cut_off(call)
            return
        if call.id is not None:
            self._by_id[call.id] = call
        if call.timeout is None:
            return
        if call.timeout == call.entry.timeout:
            call.deadlines = self._pool.deadlines(call.timeout)
            call.deadlines.add(call)
        else:
            call.timer = self._pool.loop.call_later(call.timeout, call.expire)

    def _ended(self, call: "_Call") -> None:
        del self._flight[call]
        self._is_full = len(self._flight) >= self._most
        if not self._flight:
            self._group = None
        self._forget(call)
        call.entry.waited(call.began, self._handler.id)
        if call.deadlines is not None:
            call.deadlines.discard(call)
        if call.timer is not None:
            call.timer.cancel()
        if self._held is not None:
            self._let_go()
        if self._is_closed:
            _detached.discard(call)
            if not self._flight:
                self._pool.leave()

    def _forget(self, call: "_Call") -> None:
        # The id may be in use again, by a call that came after this one was answered.
        if call.id is not None and self._by_id.get(call.id) is call:
            del self._by_id[call.id]

    def _cut(self, call: "_Call", code: int, message: str) -> None:
        """Answer a call before its end, and cancel it: how long it takes to notice is its own affair."""
        if not call.answered:
            self._refuse(call.entry, call.id, code, message)
            call.answered = True
            self._forget(call)
        call.cancel()

    def _cut_off(self, call: "_Call") -> None:
        if not call.answered:
            call.entry.fail(CANCELLED, self._handler.id)
            call.answered = True
        if call.entry.detached:
            _detached.add(call)
        else:
            call.cancel()

    def _hold(self, payload: bytes | str, entry: Entry, call_id: int | str | None) -> None:
        if self._is_winding_down:
            self._refuse(entry, call_id, UNAVAILABLE, "going away")
            return
        # A call that waits for the client would wait for ever if what the client says remained unread.
        if self._reader is None or self._on_client:
            self._refuse(entry, call_id, TOO_MANY, f"too many calls in flight: at most {self._most}")
            return
        self._held = [payload]
        self._is_deaf = True
        self._reader.pause_reading()

    def _client_is_asked(self) -> None:
        self._on_client += 1
        if self._held is not None:
            self._let_go()

    def _let_go(self) -> None:
        # Not in the stack, nor in the context, of the call that made room.
        if not self._is_letting_go:
            self._is_letting_go = True
            self._pool.loop.call_soon(self._take_held, context=contextvars.Context())

    def _take_held(self) -> None:
        self._is_letting_go = False
        held, self._held = self._held or [], None
        self._is_deaf = self._is_closed
        for position, payload in enumerate(held):
            self.receive(payload)
            if self._hold_further(held[position + 1 :]):
                return
        if self._reader is not None:
            self._reader.resume_reading()

    def _hold_further(self, payloads: list[bytes | str]) -> bool:
        if self._held is not None:
            self._held += payloads
        return self._is_deaf

    # Streams

    async def _credit(self, call: "_Call") -> None:
        call.wanted = self._pool.loop.create_future()
        self._client_is_asked()
        try:
            await call.wanted
        finally:
            self._on_client -= 1
            call.wanted = None

    # Replies

    def _target(self, owner: type[Any]) -> Any:
        if self._targets is None:
            self._targets = {}
        target = self._targets.get(owner)
        if target is None:
            target = self._targets[owner] = owner(self._handler)
        return target

    def _reply(self, call_id: int | str | None, entry: Entry, result: Any) -> bool:
        """Send a result, if anybody wants it; false if it could not be sent, and the caller has heard so."""
        if call_id is None:
            return True
        try:
            reply = self._encode((1, call_id, None, result))
        except ENCODE_ERRORS as error:
            self._cannot_encode(call_id, entry, result, error)
            return False
        self._send(reply)
        return True

    def _refuse(
        self, counts: MethodCounts, call_id: int | str | None, code: int, message: str, data: Any = None
    ) -> None:
        reply = None if call_id is None else self._encode((1, call_id, (code, message, data), None))
        counts.fail(code, self._handler.id)
        if reply is not None:
            self._send(reply)

    def _cannot_encode(self, call_id: int | str | None, entry: Entry, result: Any, error: Exception) -> None:
        if inspect.iscoroutine(result):
            result.close()
        _log.error(
            "%s gave a %s, which cannot be sent: %s (socket %s%s)",
            entry.name,
            type(result).__name__,
            error,
            self._handler.id,
            trace_suffix(),
        )
        self._refuse(entry, call_id, INTERNAL_ERROR, "internal error")

    def _failed(self, call_id: int | str | None, entry: Entry, error: BaseException) -> None:
        match error:
            case RPCError(code=code, message=message, data=data):
                try:
                    self._refuse(entry, call_id, code, message, data)
                except ENCODE_ERRORS as unknown:
                    self._cannot_encode(call_id, entry, data, unknown)
            case SessionGone():
                self._refuse(entry, call_id, SESSION_GONE, "session gone")
            case StoreError() | BrokerError():
                self._refuse(entry, call_id, UNAVAILABLE, "unavailable")
            case asyncio.CancelledError():
                self._refuse(entry, call_id, CANCELLED, "cancelled")
            case _:
                self._log_failure(entry, error)
                self._refuse(entry, call_id, INTERNAL_ERROR, "internal error")

    def _log_failure(self, entry: Entry, error: BaseException) -> None:
        # Detail stays in the log; the caller may be hostile.
        _log.error("%s raised on socket %s%s", entry.name, self._handler.id, trace_suffix(), exc_info=error)


async def drain_detached() -> None:
    """Wait for the detached calls whose sockets are gone; the caller bounds the time."""
    while _detached:
        await asyncio.wait({call.task for call in _detached if call.task is not None})


async def _commit(handler: Any, result: Any) -> Any:
    await handler.session_commit()
    return result


def _nowhere(_: bytes | str) -> None:
    """Where replies go when the socket is gone."""
