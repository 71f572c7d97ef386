"""An application on a free port, and browsers that visit it: one cookie jar for their pages and their websockets.

    async with serve(Application([("/", Home), ("/ws", Live)])) as site:
        browser = site.browser()
        page = await browser.get("/")
        socket = await browser.open("/ws")
        assert await socket.call("add", 2, 3) == 5
        assert await socket.event("cart") == [{"tea": 1}]

Every wait has an end: after ``PATIENCE`` seconds it raises an error that says what was waited for, and what came
instead.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import unquote, urlencode

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from sstream import Application, RPCError, SessionStore, StoreError

__all__ = [
    "JSON",
    "MSGPACK",
    "PATIENCE",
    "Browser",
    "Closed",
    "CookieJar",
    "Hold",
    "Page",
    "Site",
    "Socket",
    "SocketClosed",
    "StoreProbe",
    "eventually",
    "serve",
    "within",
]

T = TypeVar("T")

PATIENCE = 10.0  # seconds; only a failure meets it

MSGPACK = "sstream.v1.msgpack"
JSON = "sstream.v1.json"


# --- waiting ----------------------------------------------------------------------------------------------------------


async def within(awaitable: Awaitable[T], what: str | Callable[[], str], seconds: float | None = None) -> T:
    """Wait for something, but not for ever: the error says ``what`` did not come."""
    seconds = PATIENCE if seconds is None else seconds
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await awaitable
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise AssertionError(f"{what if isinstance(what, str) else what()}: waited {seconds:g} s") from error


async def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of ``condition``, a function or a coroutine function, asked again until it has one."""

    async def ask() -> Any:
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.002)

    return await within(ask(), what)


# --- the application --------------------------------------------------------------------------------------------------


class Site:
    """An application that listens on a port of 127.0.0.1."""

    def __init__(self, url: str, application: Application | None = None, certificate: Path | None = None) -> None:
        self.url = url
        self._application = application
        self._certificate = certificate
        self._browsers: list[Browser] = []

    @property
    def app(self) -> Application:
        """The application, where it runs in this process."""
        assert self._application is not None, f"{self.url} is served by another process"
        return self._application

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, for a plain socket."""
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return host, int(port)

    def browser(self, **cookies: str) -> "Browser":
        """A new visitor; its websockets are closed when the site is."""
        browser = Browser(self.url, cookies, certificate=self._certificate)
        self._browsers.append(browser)
        return browser

    async def close(self) -> None:
        """Close every browser; the application is left as it is."""
        for browser in self._browsers:
            await browser.close()


@asynccontextmanager
async def serve(application: Application, certificate: Path | None = None, **options: Any) -> AsyncIterator[Site]:
    """Let ``application`` listen on a free port, and close it in the end.

    Args:
        certificate: A file with a certificate for 127.0.0.1 and its key: serve by https, and let browsers trust it.
        options: Those of Tornado's ``HTTPServer``.
    """
    if certificate is not None:
        options["ssl_options"] = {"certfile": str(certificate)}
    server = application.listen(0, "127.0.0.1", **options)
    (listening,) = server._sockets.values()
    scheme = "http" if certificate is None else "https"
    site = Site(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}", application, certificate)
    try:
        await application.start()
        yield site
    finally:
        await site.close()
        await application.close()


# --- the browser ------------------------------------------------------------------------------------------------------


class CookieJar:
    """The cookies of one host, as a browser keeps them (RFC 6265, 5.3 and 5.4): by name and path, until they expire."""

    def __init__(self, cookies: Mapping[str, str] | None = None) -> None:
        self._cookies: dict[tuple[str, str], tuple[str, bool]] = {}  # (name, path) -> value, https alone
        for name, value in (cookies or {}).items():
            self[name] = value

    def __getitem__(self, name: str) -> str:
        for (known, _), (value, _) in self._cookies.items():
            if known == name:
                return value
        raise KeyError(name)

    def __setitem__(self, name: str, value: str) -> None:
        self._cookies[name, "/"] = (value, False)

    def __delitem__(self, name: str) -> None:
        for key in [key for key in self._cookies if key[0] == name]:
            del self._cookies[key]

    def __contains__(self, name: str) -> bool:
        return any(known == name for known, _ in self._cookies)

    def take(self, headers: HTTPHeaders) -> None:
        """Keep, replace and remove cookies as the Set-Cookie headers of a reply say."""
        for line in headers.get_list("Set-Cookie"):
            pair, *attributes = line.split(";")
            name, _, value = pair.strip().partition("=")
            fields = {}
            for attribute in attributes:
                key, _, text = attribute.strip().partition("=")
                fields[key.lower()] = text
            scope = fields.get("path") or "/"
            if "expires" in fields and parsedate_to_datetime(fields["expires"]) <= datetime.now(UTC):
                self._cookies.pop((name, scope), None)
            else:
                self._cookies[name, scope] = (value, "secure" in fields)

    def header(self, path: str, *, is_https: bool = False) -> str:
        """The Cookie header of a request, empty if there is none to send."""
        pairs = []
        for (name, scope), (value, secure) in self._cookies.items():
            inside = path == scope or path.startswith(scope.removesuffix("/") + "/")
            if inside and (is_https or not secure):
                pairs.append(f"{name}={value}")
        return "; ".join(pairs)


class Page(NamedTuple):
    """A reply over HTTP."""

    status: int
    headers: HTTPHeaders
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> list[str]:
        """Its Set-Cookie headers, whole."""
        return self.headers.get_list("Set-Cookie")


class Browser:
    """One visitor, who keeps cookies between pages and shows them when a websocket is opened.

    Args:
        url: The site's, ``http://127.0.0.1:8888``.
        cookies: What the visitor has already.
        certificate: Trusted beside those of the system.
    """

    def __init__(self, url: str, cookies: Mapping[str, str] | None = None, *, certificate: Path | None = None) -> None:
        self.url = url
        self.jar = CookieJar(cookies)
        self._ca_certs = str(certificate) if certificate is not None else None
        self.sockets: list[Socket] = []

    @property
    def sid(self) -> str | None:
        """The session id in its cookie, ``None`` if it has none."""
        if "connect.sid" not in self.jar:
            return None
        return unquote(self.jar["connect.sid"]).removeprefix("s:").rpartition(".")[0]

    def another_tab(self) -> "Browser":
        """Another browser with the cookies of this one, each with its own jar from now on."""
        twin = Browser(self.url)
        twin._ca_certs = self._ca_certs
        twin.jar._cookies.update(self.jar._cookies)
        twin.sockets = self.sockets
        return twin

    async def get(self, path: str = "/", **headers: str | None) -> Page:
        """Fetch a page; a keyword ``if_none_match="..."`` is the header ``If-None-Match``."""
        return await self.fetch("GET", path, headers=_header_names(headers))

    async def post(self, path: str = "/", json: Any = None, **form: Any) -> Page:
        """Send a form, or ``json`` if it is given, as a page of this very site does."""
        if json is not None:
            return await self.fetch(
                "POST", path, body=msgspec.json.encode(json), headers={"Content-Type": "application/json"}
            )
        return await self.fetch("POST", path, body=urlencode(form))

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        body: str | bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Page:
        """Send a request, redirects not followed, with the headers that a browser would send.

        Args:
            headers: More of them; ``None`` leaves one out.

        Raises:
            OSError: The connection was refused, or cut before the reply was whole.
        """
        reply = await self._request(method, path, body, headers or {})
        self.jar.take(reply.headers)
        return Page(reply.code, reply.headers, reply.body or b"")

    async def _request(
        self, method: str, path: str, body: str | bytes | None, headers: Mapping[str, str | None]
    ) -> HTTPResponse:
        origin = {} if method in {"GET", "HEAD"} else {"Origin": self.url, "Sec-Fetch-Site": "same-origin"}
        request = HTTPRequest(
            self.url + path,
            method,
            headers=self._headers(path, {**origin, **headers}),
            body=body,
            follow_redirects=False,
            allow_nonstandard_methods=True,
            request_timeout=PATIENCE,
            decompress_response=False,
            ca_certs=self._ca_certs,
        )
        client = AsyncHTTPClient(force_instance=True)
        try:
            return await client.fetch(request, raise_error=False)
        except HTTPClientError as error:
            # Tornado's own number for "no reply, or half of one".
            raise ConnectionError(f"{method} {path}: {error.message}") from error
        finally:
            client.close()

    async def open(
        self,
        path: str = "/ws",
        *,
        subprotocol: str | None = MSGPACK,
        trades: bool = True,
        headers: Mapping[str, str | None] | None = None,
    ) -> "Socket":
        """Open a websocket.

        Args:
            path: Where.
            subprotocol: What is offered; ``None`` offers nothing.
            trades: Trade tickets for cookies by itself, as the JavaScript client does.
            headers: More of them; ``None`` leaves one out.

        Raises:
            HTTPClientError: The handshake was refused; ``error.code`` is the status.
        """
        socket = Socket(self, binary=subprotocol != JSON, trades=trades)
        request = HTTPRequest(
            self.url.replace("http", "ws", 1) + path,
            headers=self._headers(path, {"Origin": self.url, **(headers or {})}),
            connect_timeout=PATIENCE,
            request_timeout=PATIENCE,
            ca_certs=self._ca_certs,
        )
        await socket._connect(request, [subprotocol] if subprotocol is not None else None)
        self.sockets.append(socket)
        return socket

    async def trade(self, ticket: Any, path: str = "/_sstream/session", **headers: str | None) -> Page:
        """Trade a ticket for its cookie, as the JavaScript client does, at the path that came with it."""
        return await self.fetch(
            "POST",
            path,
            body=msgspec.json.encode({"ticket": ticket}),
            headers={"Content-Type": "application/json", **_header_names(headers)},
        )

    async def close(self) -> None:
        """Close its websockets, and wait until they are."""
        for socket in self.sockets:
            await socket.close()

    def _headers(self, path: str, headers: Mapping[str, str | None]) -> HTTPHeaders:
        path = path.partition("?")[0]
        cookie = self.jar.header(path, is_https=self.url.startswith("https"))
        wanted = {"Cookie": cookie or None, **headers}
        return HTTPHeaders({name: value for name, value in wanted.items() if value is not None})


def _header_names(keywords: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-").title(): value for name, value in keywords.items()}


# --- the websocket ----------------------------------------------------------------------------------------------------


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
    """One websocket, speaking the wire of sstream.

    ``events`` has what came and was not yet taken by `event`: ``[name, args]`` or ``[name, args, meta]``; a message
    that is nothing of the wire stands there whole.
    """

    def __init__(self, browser: Browser, *, binary: bool = True, trades: bool = True) -> None:
        self.browser = browser
        self.events: list[list[Any]] = []
        self._binary = binary
        self._trades = trades
        self._calls = 0
        self._replies: dict[Any, asyncio.Future[Any]] = {}
        self._exposed: dict[str, Callable[..., Any]] = {}
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
    def headers(self) -> HTTPHeaders:
        """Those of the handshake's reply."""
        assert self._connection is not None
        assert self._connection.headers is not None
        return self._connection.headers

    # --- calls

    async def call(self, method: str, *params: Any) -> Any:
        """Call a method and get its result.

        Raises:
            RPCError: What the server answered.
            SocketClosed: The websocket was closed before it answered.
        """
        return await self.reply(self.ask(method, *params), f"a reply to {method}")

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

    async def reply(self, reply: "asyncio.Future[T]", what: str = "a reply") -> T:
        """Wait for what `ask` gave."""
        return await within(asyncio.shield(reply), lambda: f"no {what.removeprefix('a ')}; {self._seen()}")

    def cancel(self, reply: "asyncio.Future[Any]") -> None:
        """Cancel the call that this is the reply of."""
        for call_id, known in self._replies.items():
            if known is reply:
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
        self.send_raw(msgspec.msgpack.encode(message) if self._binary else msgspec.json.encode(message).decode())

    def send_raw(self, payload: bytes | str) -> None:
        """Send bytes or a text as they are."""
        assert self._connection is not None
        try:
            written = self._connection.write_message(payload, binary=isinstance(payload, bytes))
        except WebSocketClosedError:
            raise SocketClosed(self._now_closed(), "this message was sent") from None
        self._keep(written)

    async def event(self, name: str) -> list[Any]:
        """The arguments of the next event of this name, taken out of ``events``."""
        return list((await self.event_whole(name))[1])

    async def event_whole(self, name: str) -> list[Any]:
        """The next event of this name as ``[name, args]`` or ``[name, args, meta]``, taken out of ``events``."""
        return await self._next(lambda event: event[0] == name, f"event {name!r}")

    async def message(self) -> Any:
        """The next message that is no event and no reply to a call of ours, taken out of ``events``."""
        return await self._next(lambda event: not isinstance(event[0], str), "message")

    async def _next(self, wanted: Callable[[list[Any]], bool], what: str) -> list[Any]:
        async def look() -> list[Any]:
            while True:
                for position, event in enumerate(self.events):
                    if wanted(event):
                        return self.events.pop(position)
                if self._closed.done():
                    raise SocketClosed(self._closed.result(), f"{what} came")
                self._came.clear()
                await self._came.wait()

        return await within(look(), lambda: f"no {what}; {self._seen()}")

    async def traded(self) -> Page:
        """What the server answered to the next ticket that was traded, each one once."""
        return await within(self._traded.get(), lambda: f"no ticket was traded; {self._seen()}")

    # --- the end

    async def closed(self) -> Closed:
        """How it was closed, waited for."""
        return await within(asyncio.shield(self._closed), lambda: f"it was not closed; {self._seen()}")

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

    # --- what comes

    def _on_message(self, payload: str | bytes | None) -> None:
        if payload is None:
            self._on_close()
            return
        match msgspec.msgpack.decode(payload) if isinstance(payload, bytes) else msgspec.json.decode(payload):
            case [1, call_id, error, result] if isinstance(call_id, int | str) and call_id in self._replies:
                reply = self._replies.pop(call_id)
                if not reply.done():
                    if error is None:
                        reply.set_result(result)
                    else:
                        reply.set_exception(RPCError(*error))
            case [0, call_id, str(method), params] if method in self._exposed:
                self._keep(asyncio.ensure_future(self._answer(call_id, method, params)))
            case [2, "sstream:ticket", [ticket, path]] if self._trades:
                self._keep(asyncio.ensure_future(self._trade(ticket, path)))
            case [2, *event]:
                self.events.append(event)
            case message:
                self.events.append(message if isinstance(message, list) else [message])
        self._came.set()

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
        self._traded.put_nowait(await self.browser.trade(ticket, path))

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
        state = f"closed with {self._closed.result()}" if self._closed.done() else "it is open"
        return f"{state}, events not taken: {self.events}"


# --- the store --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Hold:
    """An operation that waits until the test lets it go."""

    operation: str
    key: str
    after: bool
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait until the operation was asked for, and stands."""
        await within(self.reached.wait(), f"{self.operation} was not asked for")

    def release(self) -> None:
        """Let it go on: to the store, or from there back to who asked."""
        self._gate.set()


class StoreProbe:
    """Stands before a store: notes what is asked of it, and lets operations fail or wait where a test wants it.

    ``asked`` has every operation in order, as ``(name, key)``.
    """

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.asked: list[tuple[str, str]] = []
        self._failing: set[str] = set()
        self._failing_after: set[str] = set()
        self._holds: list[Hold] = []

    def fail(self, *operations: str, after: bool = False) -> None:
        """From now on let these raise `StoreError`; with ``after`` the store has done them nevertheless."""
        (self._failing_after if after else self._failing).update(operations)

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._failing.clear()
        self._failing_after.clear()

    def hold(self, operation: str, key: str = "", *, after: bool = False) -> Hold:
        """Let the next such operation, on a key that starts with ``key``, wait until it is released.

        It waits before the store has heard of it, or with ``after`` when the store has done it.
        """
        hold = Hold(operation, key, after)
        self._holds.append(hold)
        return hold

    async def _ask(self, operation: str, key: str, call: Callable[[], Awaitable[T]]) -> T:
        self.asked.append((operation, key))
        await self._wait(operation, key, after=False)
        if operation in self._failing:
            raise StoreError(f"{operation} fails, as the test wants it")
        result = await call()
        await self._wait(operation, key, after=True)
        if operation in self._failing_after:
            raise StoreError(f"{operation} fails afterwards, as the test wants it")
        return result

    async def _wait(self, operation: str, key: str, *, after: bool) -> None:
        for hold in self._holds:
            if hold.operation == operation and key.startswith(hold.key) and hold.after == after:
                self._holds.remove(hold)
                hold.reached.set()
                await hold._gate.wait()
                return

    @property
    def coherent(self) -> bool:
        return self.store.coherent

    async def get(self, key: str) -> bytes | None:
        return await self._ask("get", key, lambda: self.store.get(key))

    async def swap(self, key: str, expected: bytes | None, text: bytes | None, ttl: int) -> tuple[bool, bytes | None]:
        return await self._ask("swap", key, lambda: self.store.swap(key, expected, text, ttl))

    async def delete(self, key: str) -> bool:
        return await self._ask("delete", key, lambda: self.store.delete(key))

    async def touch(self, key: str, ttl: int) -> None:
        await self._ask("touch", key, lambda: self.store.touch(key, ttl))

    async def ttl(self, key: str) -> int | None:
        return await self._ask("ttl", key, lambda: self.store.ttl(key))

    def watch(self, listener: Callable[[str | None], None]) -> None:
        self.store.watch(listener)

    async def start(self) -> None:
        await self.store.start()

    async def close(self) -> None:
        await self.store.close()
