"""Connect to a server from Python: calls, events and channels over one websocket that comes back by itself."""

import asyncio
import contextlib
import inspect
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, WebSocketError, websocket_connect

from sstream.client.channel import GAP, Channel, Event
from sstream.client.events import ClosedError, Emitter, Inbox
from sstream.errors import INTERNAL_ERROR, METHOD_NOT_FOUND, TIMEOUT, TOO_MANY, RPCError
from sstream.rpc.codec import CODECS

__all__ = ["Socket", "Status", "connect"]

_log = logging.getLogger("sstream.client")

_CALL: Final = 0
_REPLY: Final = 1
_NOTIFICATION: Final = 2
_CANCEL: Final = 3
_MORE: Final = 5

_TIMEOUT: Final = 30.0  # seconds, of a call that says nothing else
_SILENCE: Final = 30.0  # after so many seconds the server is asked for a sign of life
_ANSWER: Final = 10.0  # seconds that this may take, or a handshake
_STABLE: Final = 10.0  # a connection that lasts so long sets the backoff back
_FIRST: Final = 64  # calls that waited are sent when connected,
_NEXT: Final = 6  # and these many every tenth of a second: a server closes whoever sends much more
_DEFAULT: Final = -1.0  # a timeout that was not given

# Close codes that blame what was sent: it is not sent again.
_BLAMING: Final = frozenset({1002, 1003, 1007, 1008, 1009})
# Names of our own events: those of the server with such a name are seen by "*" alone.
_OWN: Final = frozenset({"*", "state", "connecting", "connected", "waiting", "closed", "gap", "cookies"})


@dataclass(frozen=True, slots=True)
class Status:
    """How the connection is; there is a new one for each change.

    Attributes:
        state: ``connecting``, ``connected``, ``waiting`` (for the next attempt) or ``closed``.
        code: The close code that led here; None while connecting and connected.
        reason: Why, in words.
        retry_in: Seconds until the next attempt, while waiting.
    """

    state: str
    code: int | None = None
    reason: str = ""
    retry_in: float | None = None


@dataclass(slots=True, eq=False)
class _Pending:
    """A call without reply so far."""

    id: int
    payload: bytes | str
    done: asyncio.Future[Any]
    queue: bool = False
    inbox: Inbox | None = None
    credit: int = 0
    is_sent: bool = False


def connect(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = _DEFAULT,
    backoff: tuple[float, float] = (0.1, 30.0),
    max_queue: int = 1000,
    max_message_size: int = 16 * 1024 * 1024,
    subprotocol: str = "sstream.v1.msgpack",
) -> "Socket":
    """Get a socket that comes back by itself until it is closed, or the server says that there is no use.

        async with connect("ws://localhost:8888/ws", cookies={"connect.sid": ...}) as s:
            cart = await s.call("cart.add", "tea", 1)

    ``s = await connect(url)`` is the same without the end. Close codes 4400 to 4499 are final, but for 4408 and 4429;
    so is a handshake that is answered by 4xx, but for 408 and 429.

    Args:
        url: Where the server's ``RPCHandler`` is: ``ws://`` or ``wss://``.
        cookies: Sent with the handshake, as they stand in the Cookie header; new ones that the session gets are kept.
        headers: Further headers of the handshake.
        timeout: Seconds that a call may take, waiting for the connection included; None for no end. Without it 30
            here, and what the method has there; if given, here or with a call, the server is told.
        backoff: Attempt n, from 0, comes after ``random() * min(most, least * 2 ** n)`` seconds: ``(least, most)``.
        max_queue: How many calls may wait for the connection, and how many events for an iterator of a channel.
        max_message_size: Bytes that the server may send in one message.
        subprotocol: ``sstream.v1.msgpack`` or ``sstream.v1.json``.
    """
    if urlsplit(url).scheme not in {"ws", "wss"}:
        raise ValueError(f"{url!r} is no ws:// or wss:// URL")
    options = _Options(timeout, backoff, max_queue, max_message_size, subprotocol, dict(headers or {}))
    return Socket(url, dict(cookies or {}), options)


@dataclass(frozen=True, slots=True)
class _Options:
    timeout: float | None
    backoff: tuple[float, float]
    max_queue: int
    max_message_size: int
    subprotocol: str
    headers: dict[str, str] = field(repr=False)


class Socket(Emitter):
    """One end of a socket; made by ``connect``.

    Its own events: ``state`` (with the new ``Status``; also by the name of the state), ``gap`` (with the name of a
    channel whose events were lost for good, or None), ``cookies`` (all of them, when the session got a new one) and
    ``*`` (name, arguments and meta of every event).

    Attributes:
        url: Where the server is.
        status: The newest ``Status``.
        session: What the server shows of the session; None if there is nothing. Event: ``session``.
        rpc: ``await s.rpc.cart.add("tea", 1)`` is ``await s.call("cart.add", "tea", 1)``.
    """

    def __init__(self, url: str, cookies: dict[str, str], options: _Options) -> None:
        super().__init__()
        self.url = url
        self.status = Status("closed")
        self.session: Any = None
        self.rpc = _Methods(self, "")
        self._cookies = cookies
        self._trading = asyncio.Lock()
        self._options = options
        self._codec = CODECS[options.subprotocol]
        self._read = (msgspec.msgpack if self._codec.binary else msgspec.json).Decoder().decode
        self._connection: WebSocketClientConnection | None = None
        self._lost: asyncio.Future[tuple[int, str]] | None = None
        self._flow: asyncio.TimerHandle | None = None  # while calls that waited are still to be sent
        self._life: asyncio.Task[None] | None = None
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._exposed: dict[str, Callable[..., Any]] = {}
        self._serving: dict[Any, asyncio.Task[Any]] = {}
        self._channels: dict[str, Channel] = {}

    @property
    def state(self) -> str:
        """``status.state``."""
        return self.status.state

    # Its life

    async def __aenter__(self) -> "Socket":
        self.open()
        try:
            return await self.ready()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, Any, "Socket"]:
        return self.__aenter__().__await__()

    def open(self) -> None:
        """Begin to connect; also again after the end. Subscriptions do not survive the end."""
        if self._life is None or self._life.done():
            self.status = Status("connecting")
            self._life = asyncio.get_running_loop().create_task(self._live())

    async def ready(self) -> "Socket":
        """Wait until it is connected.

        Raises:
            ClosedError: It is closed for good.
        """
        changed = asyncio.Event()
        off = self.on("state", lambda _: changed.set())
        try:
            while self.state != "connected":
                if self.state == "closed":
                    raise self._closed_error()
                changed.clear()
                await changed.wait()
        finally:
            off()
        return self

    async def close(self, code: int = 1000, reason: str = "closed by the client") -> None:
        """The end: calls under way fail, and nothing comes back by itself. Safe to call twice."""
        life, self._life = self._life, None
        if life is None:
            return
        if self._connection is not None and self._lost is not None:
            self._connection.close(code, reason)
            # The server's own close frame, or the end of its patience.
            await asyncio.wait([self._lost], timeout=_ANSWER)
        life.cancel()
        await asyncio.wait([life])
        self._finish(code, reason)
        for emitter in (self, *self._channels.values()):
            await emitter._end_tasks()

    async def _live(self) -> None:
        attempts = 0
        loop = asyncio.get_running_loop()
        while True:
            self._enter(Status("connecting"))
            opened_at = None
            try:
                connection = await self._dial()
            except HTTPClientError as error:
                code, reason = 1006, f"the handshake was answered by {error.code}"
                if 400 <= error.code < 500 and error.code not in {408, 429}:
                    self._finish(code, reason)
                    return
            except (OSError, WebSocketError) as error:
                code, reason = 1006, f"could not connect: {error}"
            else:
                opened_at = loop.time()
                code, reason = await self._stay(connection)
            if self._life is not asyncio.current_task():
                return  # it is being closed
            if 4400 <= code < 4500 and code not in {4408, 4429}:
                self._finish(code, reason)
                return
            if opened_at is not None and loop.time() - opened_at >= _STABLE:
                attempts = 0
            least, most = self._options.backoff
            retry_in = random.random() * min(most, least * 2**attempts)
            attempts += 1
            self._drop(code, reason, may_wait=code not in _BLAMING)
            self._enter(Status("waiting", code, reason, retry_in))
            await asyncio.sleep(retry_in)

    async def _dial(self) -> WebSocketClientConnection:
        headers = dict(self._options.headers)
        if self._cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        request = HTTPRequest(self.url, headers=headers, connect_timeout=_ANSWER, request_timeout=_ANSWER)
        lost: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._lost = lost
        connection: WebSocketClientConnection | None = None

        def receive(payload: str | bytes | None) -> None:
            if payload is not None:
                if self._lost is lost and not lost.done():
                    self._receive(payload)
            elif not lost.done():
                code = connection.close_code if connection is not None else None
                reason = connection.close_reason if connection is not None else None
                lost.set_result((code or 1006, reason or "connection lost"))

        dialling = asyncio.ensure_future(
            websocket_connect(
                request,
                on_message_callback=receive,
                ping_interval=_SILENCE,
                ping_timeout=_ANSWER,
                max_message_size=self._options.max_message_size,
                subprotocols=[self._options.subprotocol],
            )
        )
        try:
            connection = await asyncio.shield(dialling)
        except asyncio.CancelledError:
            dialling.add_done_callback(_close_late)
            raise
        return connection

    async def _stay(self, connection: WebSocketClientConnection) -> tuple[int, str]:
        """Be connected, until it is over; gives why."""
        assert self._lost is not None
        self._connection = connection
        try:
            self._enter(Status("connected"))
            self._flush(_FIRST)
            for channel in self._channels.values():
                channel._synchronize()
            return await self._lost
        finally:
            self._connection = None
            if self._flow is not None:
                self._flow.cancel()
                self._flow = None
            connection.close()

    def _enter(self, status: Status) -> None:
        self.status = status
        self._emit(status.state, status)
        self._emit("state", status)

    def _drop(self, code: int, reason: str, *, may_wait: bool) -> None:
        for pending in list(self._pending.values()):
            if pending.queue and (may_wait or not pending.is_sent):
                pending.is_sent = False
            else:
                self._settle(pending, ClosedError(code, reason))
        for task in self._serving.values():
            task.cancel()

    def _finish(self, code: int, reason: str) -> None:
        if self.state == "closed":
            return
        self._drop(code, reason, may_wait=False)
        for pending in list(self._pending.values()):
            self._settle(pending, ClosedError(code, reason))
        self._enter(Status("closed", code, reason))
        for channel in self._channels.values():
            channel._end(self._closed_error())
        if code == 4401:
            self.session = None
            self._emit("session", None)

    def _closed_error(self) -> ClosedError:
        return ClosedError(self.status.code, self.status.reason or "not connected")

    # Calls

    async def call(
        self,
        name: str,
        /,
        *params: Any,
        timeout: float | None = _DEFAULT,
        traceparent: str | None = None,
        queue: bool = False,
    ) -> Any:
        """Call a method of the server and get its result. Cancelling the task cancels the call.

        Made while the socket is connecting, the call waits for that; while it waits for the next attempt, the call is
        refused at once.

        Args:
            timeout: Seconds; see ``connect``.
            traceparent: A W3C trace context for the server.
            queue: Wait for the next connection if there is none, and *send the call again* if the connection is lost
                before the reply: it may then run twice. Without it a call is sent at most once. Of those that wait, 64
                are sent at once and then 60 a second: a server closes whoever sends much more (4429).

        Raises:
            RPCError: The server refused it; 4000, it took too long, by our clock or the server's.
            ClosedError: There is no connection (any more).
        """
        pending, seconds = self._start(name, params, timeout, traceparent, queue=queue)
        try:
            async with asyncio.timeout(seconds):
                return await pending.done
        except TimeoutError:
            raise RPCError(TIMEOUT, "timeout") from None
        finally:
            self._give_up(pending)

    def notify(self, name: str, /, *params: Any) -> bool:
        """Call without a reply. Tells whether it left: without a connection it is dropped."""
        if self._connection is None:
            return False
        self._send((_NOTIFICATION, name, params))
        return True

    async def stream(
        self,
        name: str,
        /,
        *params: Any,
        credit: int = 16,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> AsyncIterator[Any]:
        """Call a method that streams, and get its items; the call is made when the iteration begins.

        Leaving the loop cancels it as soon as Python lets go of the iterator; ``contextlib.aclosing`` does so at once.

        Args:
            credit: How many items the server may send ahead.
            timeout: Seconds for the whole stream; None for no end.
        """
        inbox = Inbox()
        pending, seconds = self._start(name, params, timeout, traceparent, inbox=inbox, credit=credit)
        pending.done.add_done_callback(lambda done: inbox.end(None if done.cancelled() else done.exception()))
        timer = None
        if seconds is not None:
            error = RPCError(TIMEOUT, "timeout")
            timer = asyncio.get_running_loop().call_later(seconds, inbox.end, error)
        taken = 0
        try:
            async for item in inbox:
                yield item
                taken += 1
                if taken * 2 >= credit and pending.id in self._pending:
                    self._send((_MORE, pending.id, taken))
                    taken = 0
        finally:
            if timer is not None:
                timer.cancel()
            self._give_up(pending)

    def expose(self, name: str, function: Callable[..., Any]) -> Callable[[], None]:
        """Let the server call ``function``, which may be ``async``; gives what takes it back.

        Raise ``RPCError`` in it to refuse; any other exception is logged here and told as "internal error".
        """
        self._exposed[name] = function

        def take_back() -> None:
            if self._exposed.get(name) is function:
                del self._exposed[name]

        return take_back

    def channel(self, name: str) -> Channel:
        """Get the channel of this name, always the same object."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(self, name, self._deliver, self._options.max_queue)
        return channel

    def _start(
        self,
        name: str,
        params: tuple[Any, ...],
        timeout: float | None,
        traceparent: str | None,
        *,
        queue: bool = False,
        inbox: Inbox | None = None,
        credit: int = 0,
    ) -> tuple[_Pending, float | None]:
        if self.state == "closed" or (self.state == "waiting" and not queue):
            raise self._closed_error()
        if self._connection is None and len(self._pending) >= self._options.max_queue:
            raise RPCError(TOO_MANY, "too many calls wait for the connection")
        if timeout == _DEFAULT:
            timeout = self._options.timeout
        told = None if timeout == _DEFAULT else timeout
        meta = {key: value for key, value in (("timeout", told), ("traceparent", traceparent)) if value is not None}
        call_id = next(self._ids)
        message = (_CALL, call_id, name, params, meta) if meta else (_CALL, call_id, name, params)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        pending = _Pending(call_id, self._codec.encode(message), done, queue, inbox, credit)
        self._pending[call_id] = pending
        if self._connection is not None and not (queue and self._flow is not None):
            self._transmit(pending)
        return pending, _TIMEOUT if timeout == _DEFAULT else timeout

    def _flush(self, count: int) -> None:
        """Send so many of the calls that waited for a connection, the others later."""
        waiting = [pending for pending in self._pending.values() if not pending.is_sent]
        for pending in waiting[:count]:
            self._transmit(pending)
        self._flow = None
        if len(waiting) > count:
            self._flow = asyncio.get_running_loop().call_later(0.1, self._flush, _NEXT)

    def _transmit(self, pending: _Pending) -> None:
        pending.is_sent = True
        self._write(pending.payload)
        if pending.inbox is not None:
            self._send((_MORE, pending.id, pending.credit))

    def _settle(self, pending: _Pending, outcome: Any) -> None:
        self._pending.pop(pending.id, None)
        if pending.done.done():
            return
        if isinstance(outcome, ClosedError | RPCError):
            pending.done.set_exception(outcome)
        else:
            pending.done.set_result(outcome)

    def _give_up(self, pending: _Pending) -> None:
        """Nobody waits for this call any more."""
        if self._pending.pop(pending.id, None) is not None and pending.is_sent and self._connection is not None:
            self._send((_CANCEL, pending.id))
        if not pending.done.done():
            pending.done.cancel()
        elif not pending.done.cancelled():
            pending.done.exception()  # a stream was left before it was heard of

    # Messages

    def _send(self, message: tuple[Any, ...]) -> None:
        self._write(self._codec.encode(message))

    def _write(self, payload: bytes | str) -> None:
        if self._connection is None or self._connection.protocol is None:
            return  # it is being closed
        # A connection that breaks tells so by its end, which may not have come yet.
        try:
            written = self._connection.write_message(payload, binary=self._codec.binary)
        except WebSocketClosedError:
            return
        written.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _receive(self, payload: bytes | str) -> None:
        try:
            message = self._read(payload)
            kind, first, *rest = message
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, TypeError, ValueError):
            assert self._lost is not None
            self._lost.set_result((1007, "the server sent what is no message"))
            return
        match kind, first, rest:
            case 1, call_id, [error, result] if call_id in self._pending:
                self._settle(self._pending[call_id], result if error is None else _error(error))
            case 4, call_id, [item]:
                pending = self._pending.get(call_id)
                if pending is not None and pending.inbox is not None:
                    pending.inbox.push(item)
            case 2, str(name), [args, *meta]:
                self._receive_event((name, args, (meta[0] if meta else None) or {}))
            case 0, call_id, [str(name), params, *_]:
                self._serving[call_id] = self._spawn(self._serve(call_id, name, params))
            case 3, call_id, _ if call_id in self._serving:
                self._serving[call_id].cancel()
            case _:
                pass  # a late reply, or a message of a newer server

    def _receive_event(self, event: Event) -> None:
        name, args, meta = event
        channel_name = meta.get("channel") or (args[0] if name == GAP and args else None)
        channel = self._channels.get(channel_name) if channel_name is not None else None
        if channel is not None:
            channel._receive(event)
        elif name == GAP:
            self._emit("gap", channel_name)
        elif name == "sstream:ticket" and channel_name is None:
            # Whoever may publish in a channel may name an event as the server does.
            self._spawn(self._trade(*args))
        else:
            if name == "session" and channel_name is None:
                self.session = args[0]
            self._deliver(event)

    def _deliver(self, event: Event) -> None:
        name, args, meta = event
        if name not in _OWN and (name != "session" or "channel" not in meta):
            self._emit(name, *args)
        self._emit("*", name, args, meta)

    async def _serve(self, call_id: Any, name: str, params: list[Any]) -> None:
        """Answer a call by the server."""
        connection = self._connection
        error: list[Any] | None = None
        result = None
        try:
            function = self._exposed.get(name)
            if function is None:
                error = [METHOD_NOT_FOUND, f"method not found: {name}", None]
            else:
                result = function(*params)
                if inspect.isawaitable(result):
                    result = await result
        except RPCError as refusal:
            error = [refusal.code, refusal.message, refusal.data]
        except Exception:
            _log.exception("%s raised", name)
            error = [INTERNAL_ERROR, "internal error", None]
        finally:
            self._serving.pop(call_id, None)
        if self._connection is connection:
            self._send((_REPLY, call_id, error, result if error is None else None))

    async def _trade(self, ticket: str, path: str = "/_sstream/session") -> None:
        """Get the cookie that belongs to a ticket: a websocket cannot set one."""
        # A ticket needs the cookie that the one before it has brought.
        async with self._trading:
            await self._fetch_cookie(ticket, path)

    async def _fetch_cookie(self, ticket: str, path: str) -> None:
        parts = urlsplit(self.url)
        origin = f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
        headers = {"Content-Type": "application/json", "Origin": origin}
        if self._cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        body = msgspec.json.encode({"ticket": ticket})
        with contextlib.closing(AsyncHTTPClient(force_instance=True)) as client:
            for attempt in range(5):
                try:
                    response = await client.fetch(
                        origin + path, method="POST", headers=headers, body=body, request_timeout=_ANSWER
                    )
                except HTTPClientError as error:
                    if error.code < 500:
                        _log.warning("a ticket was answered by %s", error.code)
                        return
                except OSError:
                    pass
                else:
                    for value in response.headers.get_list("Set-Cookie"):
                        for name, morsel in SimpleCookie(value).items():
                            self._cookies[name] = morsel.coded_value
                    self._emit("cookies", dict(self._cookies))
                    return
                await asyncio.sleep(random.random() * 2**attempt)
        _log.warning("a ticket could not be traded for its cookie")


class _Methods:
    """``s.rpc``: attribute by attribute to the name of a method."""

    __slots__ = ("_name", "_socket")

    def __init__(self, socket: Socket, name: str) -> None:
        self._socket = socket
        self._name = name

    def __getattr__(self, part: str) -> "_Methods":
        if part.startswith("_"):
            raise AttributeError(part)
        return _Methods(self._socket, f"{self._name}.{part}" if self._name else part)

    async def __call__(self, *params: Any) -> Any:
        return await self._socket.call(self._name, *params)


def _error(error: Any) -> RPCError:
    match error:
        case [int(code), str(message), *data]:
            return RPCError(code, message, data[0] if data else None)
        case _:
            return RPCError(INTERNAL_ERROR, "the server answered with an error", error)


def _close_late(dialling: "asyncio.Future[WebSocketClientConnection]") -> None:
    if not dialling.cancelled() and dialling.exception() is None:
        dialling.result().close()
