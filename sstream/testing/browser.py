"""A visitor: cookies kept between pages, and shown when a websocket is opened."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import unquote, urlencode, urljoin, urlsplit

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders

from sstream.testing.jar import CookieJar
from sstream.testing.socket import Socket
from sstream.testing.waiting import within

if TYPE_CHECKING:
    from sstream.testing.site import Site

__all__ = ["Browser", "Page"]

Headers = Mapping[str, str | None]

_REDIRECTS: Final = 10
_UNANSWERED: Final = 60.0  # seconds; the wait around a request ends before
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Page(NamedTuple):
    """A reply over HTTP; ``url`` is where it came from, after redirects."""

    status: int
    headers: HTTPHeaders
    body: bytes
    url: str = ""

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
    """One visitor of one site: `get` and `post` for its pages, `connect` for its websockets, one cookie jar for all.

    Made by `Site.browser`. One that is made by itself, for a server that runs elsewhere, is to be closed:
    ``async with Browser("http://127.0.0.1:8888") as browser``.

    Args:
        url: The site's, ``http://127.0.0.1:8888``.
        cookies: What the visitor has already.
        site: Where it runs, if in this process.
        session_cookie: The name of the session's cookie.
        certificate: Trusted beside those of the system.
        clock: What cookies expire by, Unix time in seconds.

    Attributes:
        jar: The cookies.
        sockets: The websockets that it has opened.
    """

    def __init__(
        self,
        url: str,
        cookies: Mapping[str, str] | None = None,
        *,
        site: "Site | None" = None,
        session_cookie: str = "connect.sid",
        certificate: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url = url.rstrip("/")
        self.site = site
        self.jar = CookieJar(cookies, clock=clock)
        self.sockets: list[Socket] = []
        self._session_cookie = session_cookie
        self._certificate = certificate
        self._clock = clock
        self._trading = asyncio.Lock()  # a ticket needs the cookie that the one before it has brought
        self._trades: set[asyncio.Future[Any]] = set()

    @property
    def sid(self) -> str | None:
        """The session id in its cookie, ``None`` if it has none."""
        value = self.jar.get(self._session_cookie)
        return None if value is None else unquote(value).removeprefix("s:").rpartition(".")[0]

    def copy(self) -> "Browser":
        """Another browser with the cookies of this one, each with its own jar from now on."""
        twin = Browser(
            self.url,
            site=self.site,
            session_cookie=self._session_cookie,
            certificate=self._certificate,
            clock=self._clock,
        )
        twin.jar = self.jar.copy()
        twin.sockets = self.sockets  # whoever closes this one closes those too
        return twin

    # --- pages

    async def get(self, path: str = "/", *, headers: Headers | None = None, follow_redirects: bool = True) -> Page:
        """Fetch a page, after the tickets that came by a websocket have been traded."""
        await self.settle()
        return await self._follow("GET", path, None, headers or {}, follow_redirects=follow_redirects)

    async def post(
        self,
        path: str = "/",
        form: Mapping[str, Any] | None = None,
        *,
        json: Any = None,
        headers: Headers | None = None,
        follow_redirects: bool = True,
    ) -> Page:
        """Send a form, or ``json`` if that is given, as a page of this very site does.

        Where the site has given an ``_xsrf`` cookie, Tornado's, its token goes along.
        """
        await self.settle()
        if json is None:
            body, kind = urlencode(form or {}, doseq=True).encode(), "application/x-www-form-urlencoded"
        else:
            body, kind = msgspec.json.encode(json), "application/json"
        sent = {"Content-Type": kind, "X-Xsrftoken": self.jar.get("_xsrf"), **(headers or {})}
        return await self._follow("POST", path, body, sent, follow_redirects=follow_redirects)

    async def _follow(
        self, method: str, path: str, body: bytes | None, headers: Headers, *, follow_redirects: bool
    ) -> Page:
        page = await self.fetch(method, path, body=body, headers=headers)
        for _ in range(_REDIRECTS):
            target = urljoin(page.url, page.headers.get("Location", ""))
            is_ours = target.startswith(self.url + "/")
            if not follow_redirects or page.status not in {301, 302, 303, 307, 308} or not is_ours:
                return page
            if page.status not in {307, 308}:  # RFC 9110, 15.4: a POST becomes a GET, as browsers do it
                method, body, headers = "GET", None, {}
            page = await self.fetch(method, target.removeprefix(self.url).partition("#")[0], body=body, headers=headers)
        raise AssertionError(f"{path} redirects more than {_REDIRECTS} times, in the end to {page.url}")

    async def fetch(
        self, method: str, path: str, *, body: str | bytes | None = None, headers: Headers | None = None
    ) -> Page:
        """Send one request as it is, with the headers that a browser would send, and follow nothing.

        Args:
            headers: More of them; ``None`` leaves one out.

        Raises:
            OSError: The connection was refused, or cut before the reply was whole.
        """
        origin = {} if method in _SAFE else {"Origin": self.url, "Sec-Fetch-Site": "same-origin"}
        request = HTTPRequest(
            self.url + path,
            method,
            headers=self._headers(path, {**origin, **(headers or {})}),
            body=body,
            follow_redirects=False,
            allow_nonstandard_methods=True,
            request_timeout=_UNANSWERED,
            decompress_response=False,
            ca_certs=self._ca_certs,
        )
        client = AsyncHTTPClient(force_instance=True)
        try:
            reply = await within(client.fetch(request, raise_error=False), f"no answer to {method} {path}")
        except HTTPClientError as error:
            # Tornado's own number for "no reply, or half of one".
            raise ConnectionError(f"{method} {path}: {error.message}") from error
        finally:
            client.close()
        self.jar.take(reply.headers, urlsplit(path).path)
        return Page(reply.code, reply.headers, reply.body or b"", self.url + path)

    # --- websockets

    async def connect(
        self,
        path: str = "/ws",
        *,
        subprotocol: str | None = "sstream.v1.msgpack",
        trades: bool = True,
        headers: Headers | None = None,
    ) -> Socket:
        """Open a websocket, after the tickets that came by another one have been traded.

        Args:
            path: Where.
            subprotocol: What is offered, ``"sstream.v1.msgpack"`` or ``"sstream.v1.json"``; ``None`` offers nothing.
            trades: Trade tickets for cookies by itself, as the JavaScript client does.
            headers: More of them; ``None`` leaves one out.

        Raises:
            HTTPClientError: The handshake was refused; ``error.code`` is the status.
        """
        await self.settle()
        socket = Socket(self, is_binary=subprotocol != "sstream.v1.json", trades=trades)
        request = HTTPRequest(
            self.url.replace("http", "ws", 1) + path,
            headers=self._headers(path, {"Origin": self.url, **socket.mark, **(headers or {})}),
            connect_timeout=_UNANSWERED,
            request_timeout=_UNANSWERED,
            ca_certs=self._ca_certs,
        )
        opening = socket._connect(request, [subprotocol] if subprotocol is not None else None)
        await within(opening, f"no answer to the handshake at {path}")
        self.sockets.append(socket)
        return socket

    async def trade(self, ticket: Any, path: str = "/_sstream/session", *, headers: Headers | None = None) -> Page:
        """Trade a ticket for its cookie, as the JavaScript client does, at the path that came with it."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        return await self.fetch("POST", path, body=msgspec.json.encode({"ticket": ticket}), headers=sent)

    async def settle(self) -> None:
        """Wait until every ticket that came by a websocket is traded, so that the jar has the newest cookie."""
        while self._trades:
            await within(asyncio.wait(self._trades), "a ticket is not answered")

    async def _trade_in_turn(self, ticket: Any, path: str) -> Page:
        async with self._trading:
            return await self.trade(ticket, path)

    # --- the end

    async def close(self) -> None:
        """Close its websockets, and wait until they are."""
        for socket in self.sockets:
            await socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # --- what both need

    @property
    def _ca_certs(self) -> str | None:
        return None if self._certificate is None else str(self._certificate)

    def _headers(self, path: str, headers: Headers) -> HTTPHeaders:
        cookie = self.jar.header(path.partition("?")[0], is_https=self.url.startswith("https"))
        wanted = {"Cookie": cookie or None, **headers}
        return HTTPHeaders({name: value for name, value in wanted.items() if value is not None})
