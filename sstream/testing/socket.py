"""One websocket of a visitor, speaking the wire of sstream."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

import msgspec
from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from sstream.errors import RPCError
from sstream.handlers import RPCHandler
from sstream.pubsub.message import encode_event
from sstream.testing.waiting import within

if TYPE_CHECKING:
    from sstream.testing.browser import Browser, Page

__all__ = ["MARK", "Closed", "Socket", "SocketClosed"]

T = TypeVar("T")

MARK: Final = "X-Sstream-Testing"  # the header by which a socket's handler is found
_MARKER: Final = "sstream:marker"  # the event that tells: what was published before me has come
_CREDIT: Final = 16  # items of a stream that may be sent ahead


class Closed(NamedTuple):
    """How a websocket was closed: ``code`` is ``None`` where the connection just broke."""

    code: int | None
    reason: str | None


class SocketClosed(ConnectionError):
    """The websocket was closed before what was waited for came."""

    def __init__(self, closed: Closed, what: str) -> None:
        super().__init__(f"closed with {closed.code} ({closed.reason or 'no reason'}) before {what}")
        self.closed = closed


class Socket:
    """One websocket; made by `Browser.connect`.

    Every wait ends with an ``AssertionError`` that says what was waited for and what came instead, or, as soon as
    nothing can come any more, with `SocketClosed`. The server's tickets are no events here: the browser trades them.

    Attributes:
        browser: Whose it is.
        events: What came and was not yet taken by `receive`: ``[name, args]`` or ``[name, args, meta]``. A message that
            is nothing of the wire stands there whole.
    """

    def __init__(self, browser: "Browser", *, is_binary: bool = True, trades: bool = True) -> None:
        self.browser = browser
        self.events: list[list[Any]] = []
        self._is_binary = is_binary
        self._trades = trades
        self._token = secrets.token_hex(8)
        self._calls = 0
        self._replies: dict[Any, asyncio.Future[Any]] = {}
        self._streams: dict[Any, asyncio.Queue[Any]] = {}
        self._exposed: dict[str, Callable[..., Any]] = {}
        self._markers = 0  # of ours that have come
        self._came = asyncio.Event()  # set and forgotten at each arrival: look again
        self._closed: asyncio.Future[Closed] = asyncio.get_running_loop().create_future()
        self._traded: asyncio.Queue[Page] = asyncio.Queue()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._connection: WebSocketClientConnection | None = None

    async def _connect(self, request: HTTPRequest, subprotocols: list[str] | None) -> None:
        self._connection = await websocket_connect(
            request, subprotocols=subprotocols, on_message_callback=self._on_message
        )
        self.browser.jar.take(self.headers)

    @property
    def mark(self) -> dict[str, str]:
        """The header by which `handler` is found."""
        return {MARK: self._token}

    @property
    def headers(self) -> HTTPHeaders:
        """Those of the handshake's reply."""
        assert self._connection is not None
        assert self._connection.headers is not None
        return self._connection.headers

    @property
    def handler(self) -> RPCHandler:
        """The other end, where the application runs in this process: ``ws.handler.id``, ``ws.handler.session``.

        Raises:
            SocketClosed: It is gone.
            LookupError: The application runs elsewhere, or this is no `RPCHandler`.
        """
        site = self.browser.site
        for handler in site.app.sockets.values() if site is not None else ():
            if handler.request.headers.get(MARK) == self._token:
                return handler
        if self._closed.done():
            raise SocketClosed(self._closed.result(), "its handler was looked at")
        raise LookupError("no RPCHandler in this process is at the other end of this websocket")

    # --- calls

    async def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Call a method and get its result.

        Raises:
            RPCError: What the server answered.
            SocketClosed: The websocket was closed before it answered.
        """
        __tracebackhide__ = True
        return await self.reply(self.ask(method, *params), f"a reply to {method}", timeout=timeout)

    def ask(self, method: str, *params: Any, meta: Mapping[str, Any] | None = None) -> "asyncio.Future[Any]":
        """Send a call at once; the future is its `reply`. Calls leave in the order in which they are asked."""
        self._calls += 1
        extra = [] if meta is None else [dict(meta)]
        return self.send_call([0, self._calls, method, params, *extra])

    def send_call(self, message: list[Any]) -> "asyncio.Future[Any]":
        """Send a call as it stands, whose second element is the id; the future is its reply."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Whoever does not wait for a reply need not hear that it was an error.
        reply.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._replies[message[1]] = reply
        self.send(message)
        return reply

    async def reply(self, reply: "asyncio.Future[T]", what: str = "a reply", *, timeout: float | None = None) -> T:
        """Wait for what `ask` gave."""
        __tracebackhide__ = True
        return await within(asyncio.shield(reply), lambda: f"no {what.removeprefix('a ')}; {self._seen()}", timeout)

    def cancel(self, reply: "asyncio.Future[Any]") -> None:
        """Cancel the call that this is the reply of."""
        for call_id, known in self._replies.items():
            if known is reply:
                self.send([3, call_id])

    async def stream(
        self, method: str, *params: Any, credit: int = _CREDIT, timeout: float | None = None
    ) -> AsyncIterator[Any]:
        """Call a method that streams, and get its items; who leaves the loop cancels it.

        Args:
            credit: How many items the server may send ahead.
            timeout: Seconds that each item may take.
        """
        done = self.ask(method, *params)
        call_id = self._calls
        items = self._streams[call_id] = asyncio.Queue()
        ended = object()
        done.add_done_callback(lambda _: items.put_nowait(ended))
        self.send([5, call_id, credit])
        try:
            while True:
                item = await within(items.get(), lambda: f"no item of {method}; {self._seen()}", timeout)
                if item is ended:
                    await done
                    return
                yield item
                if not done.done():
                    self.send([5, call_id, 1])
        finally:
            del self._streams[call_id]
            if not done.done() and not self.is_closed:
                self.send([3, call_id])

    def notify(self, method: str, *params: Any) -> None:
        """Call a method without wanting a reply."""
        self.send([2, method, params])

    def expose(self, name: str, function: Callable[..., Any]) -> None:
        """Let the server call ``function`` under ``name``; it may be a coroutine function."""
        self._exposed[name] = function

    # --- messages

    def send(self, message: Any) -> None:
        """Send one message of the wire."""
        self.send_raw(msgspec.msgpack.encode(message) if self._is_binary else msgspec.json.encode(message).decode())

    def send_raw(self, payload: bytes | str) -> None:
        """Send bytes or a text as they are."""
        assert self._connection is not None
        try:
            written = self._connection.write_message(payload, binary=isinstance(payload, bytes))
        except WebSocketClosedError:
            raise SocketClosed(self._now_closed(), "this message was sent") from None
        self._keep(written)

    async def receive(self, name: str, *, timeout: float | None = None) -> list[Any]:
        """The arguments of the next event of this name, taken out of ``events``; others stay there.

        Raises:
            AssertionError: It did not come in time; the message tells what did.
            SocketClosed: The websocket was closed before it came.
        """
        __tracebackhide__ = True
        return list((await self.receive_event(name, timeout=timeout))[1])

    async def receive_event(self, name: str, *, timeout: float | None = None) -> list[Any]:
        """The next event of this name as ``[name, args]`` or ``[name, args, meta]``, taken out of ``events``."""
        __tracebackhide__ = True
        return await self._next(lambda event: _is_event(event) and event[0] == name, f"event {name!r}", timeout)

    async def receive_message(self, *, timeout: float | None = None) -> Any:
        """The next message that is no event and no reply to a call of ours, taken out of ``events``."""
        return await self._next(lambda event: not _is_event(event), "message", timeout)

    async def _next(self, wanted: Callable[[list[Any]], bool], what: str, timeout: float | None) -> list[Any]:
        __tracebackhide__ = True

        async def look() -> list[Any]:
            __tracebackhide__ = True
            while True:
                for position, event in enumerate(self.events):
                    if wanted(event):
                        return self.events.pop(position)
                if self._closed.done():
                    raise SocketClosed(self._closed.result(), f"{what} came; {self._seen()}")
                await self._arrival()

        return await within(look(), lambda: f"no {what}; {self._seen()}", timeout)

    async def assert_silent(self, *names: str) -> None:
        """See that nothing is there that was not received: no event of these ``names``, or none at all without one.

        Nobody waits for something not to come: a marker is published to every topic that this socket listens to, and
        when they have come, so has whatever this application published before. It says nothing of what another process
        published, nor of what is only about to be published.

        Raises:
            AssertionError: Something is there; the message tells it.
            SocketClosed: It is closed, so that silence says nothing.
            LookupError: The application runs in another process.
        """
        __tracebackhide__ = True
        handler = self.handler
        topics = handler.application.hub.topics_of(handler)
        payload = encode_event(_MARKER, [self._token])
        wanted = self._markers + len(topics)
        for topic in topics:
            await handler.application.broker.publish(topic, payload)

        async def look() -> None:
            __tracebackhide__ = True
            while self._markers < wanted:
                if self._closed.done():
                    raise SocketClosed(self._closed.result(), f"its silence was sure; {self._seen()}")
                await self._arrival()

        await within(look(), lambda: f"not all of its own markers came back; {self._seen()}")
        unwanted = [event for event in self.events if not names or event[0] in names]
        if unwanted:
            raise AssertionError(f"not silent; there came:{_lines(unwanted)}")

    async def traded(self, *, timeout: float | None = None) -> "Page":
        """What the server answered to the next ticket that was traded, each one once."""
        __tracebackhide__ = True
        return await within(self._traded.get(), lambda: f"no ticket was traded; {self._seen()}", timeout)

    # --- the end

    async def closed(self, *, timeout: float | None = None) -> Closed:
        """How it was closed, waited for: ``assert (await ws.closed()).code == 4401``."""
        __tracebackhide__ = True
        return await within(asyncio.shield(self._closed), lambda: f"it was not closed; {self._seen()}", timeout)

    @property
    def is_closed(self) -> bool:
        return self._closed.done()

    async def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Close it, and wait until it is; safe to call twice."""
        if self._connection is not None:
            self._connection.close(code, reason)
            await self.closed()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        url = "unconnected" if self._connection is None else self._connection.request.url.replace("http", "ws", 1)
        return f"<Socket {url} {self._closed.result() if self._closed.done() else 'open'}>"

    # --- what comes

    def _on_message(self, payload: str | bytes | None) -> None:
        if payload is None:
            self._on_close()
            return
        match _decode(payload):
            case [1, call_id, error, result] if isinstance(call_id, int | str) and call_id in self._replies:
                reply = self._replies.pop(call_id)
                if not reply.done():
                    if error is None:
                        reply.set_result(result)
                    else:
                        reply.set_exception(RPCError(*error))
            case [4, call_id, item] if isinstance(call_id, int | str) and call_id in self._streams:
                self._streams[call_id].put_nowait(item)
            case [0, call_id, str(method), params] if method in self._exposed:
                self._keep(asyncio.ensure_future(self._answer(call_id, method, params)))
            case [2, "sstream:ticket", [ticket, path]] if self._trades:
                self._keep(asyncio.ensure_future(self._trade(ticket, path)))
            case [2, name, [token]] if name == _MARKER:
                self._markers += token == self._token
            case [2, *event]:
                self.events.append(event)
            case message:
                self.events.append(message if isinstance(message, list) else [message])
        self._came.set()

    async def _arrival(self) -> None:
        self._came.clear()
        await self._came.wait()

    async def _answer(self, call_id: Any, method: str, params: list[Any]) -> None:
        try:
            result = self._exposed[method](*params)
            if asyncio.iscoroutine(result):
                result = await result
        except RPCError as error:
            self.send([1, call_id, [error.code, error.message, error.data], None])
        else:
            self.send([1, call_id, None, result])

    async def _trade(self, ticket: str, path: str) -> None:
        trading = asyncio.ensure_future(self.browser._trade_in_turn(ticket, path))
        self.browser._trades.add(trading)
        trading.add_done_callback(self.browser._trades.discard)
        self._traded.put_nowait(await trading)

    def _on_close(self) -> None:
        if self._closed.done() or self._connection is None:
            return
        self._closed.set_result(self._now_closed())
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(SocketClosed(self._closed.result(), "the reply came"))
        self._replies.clear()
        self._came.set()
        self._connection.close()

    def _now_closed(self) -> Closed:
        assert self._connection is not None
        return Closed(self._connection.close_code, self._connection.close_reason)

    def _keep(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        # What could not be written any more shows in `closed`.
        if not task.cancelled() and not isinstance(task.exception(), WebSocketClosedError | None):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the test's websocket failed", "exception": task.exception()}
            )

    def _seen(self) -> str:
        state = f"it was closed with {self._closed.result()}" if self._closed.done() else "it is open"
        return f"{state}; not received:{_lines(self.events)}"


def _is_event(message: list[Any]) -> bool:
    return isinstance(message[0], str) and len(message) > 1


def _decode(payload: str | bytes) -> Any:
    try:
        return msgspec.msgpack.decode(payload) if isinstance(payload, bytes) else msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return payload  # no handler of ours is at the other end


def _lines(events: list[list[Any]]) -> str:
    return "".join(f"\n    {event!r}" for event in events) or " nothing"
