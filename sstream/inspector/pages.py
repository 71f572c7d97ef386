"""The inspector's page, its files, and the websocket behind it; none of it is there for who may not look."""

import ipaddress
import os
import socket
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tornado.web import HTTPError, RequestHandler

from sstream.errors import FORBIDDEN, RPCError
from sstream.handlers import RPCHandler, SessionMixin, is_origin, is_same_origin
from sstream.inspector.feed import OWN, Feed, Own
from sstream.logs import session_name
from sstream.rpc.middleware import Next, Request
from sstream.rpc.registry import rpc
from sstream.session.session import BOOKKEEPING
from sstream.version import __version__
from sstream.watch import Access, Guard, access_of

__all__ = ["Inspector"]

_FILES: Final = Path(__file__).parent / "static"
_NAMES: Final = frozenset(file.name for file in _FILES.iterdir())
_KINDS: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_KICKED: Final = 1008
_STARTED: Final = time.time()
_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-Ip")


class Inspector:
    """The inspector of one application.

    Args:
        guard: Who may look; without one it is for this very machine, and only the keys of sessions are shown.
    """

    def __init__(self, application: Any, guard: Guard | None) -> None:
        self._guard = guard if guard is not None else _is_from_here
        self.feed = Feed(application)

    async def access(self, handler: RequestHandler) -> Access | None:
        """What the visitor of a handler may do; ``None`` for nothing."""
        return await access_of(self._guard, handler)

    def routes(self) -> list[Any]:
        """The page, its files and its websocket."""
        arguments = {"inspector": self}
        return [
            (r"/_sstream/inspector", _Page, arguments),
            (r"/_sstream/inspector/(inspector\.css|\w+\.js|icon\.svg)", _Page, arguments),
            (r"/_sstream/inspector/ws", _Socket, arguments),
        ]


def _is_from_here(handler: Any) -> bool:
    """Is the visitor on this machine, by the connection and by the name that he called it?

    Behind a proxy everybody comes from here: a request that was forwarded does not. A name that merely leads here may
    be anybody's page that has its name point to 127.0.0.1.
    """
    headers = handler.request.headers
    host = f"//{handler.request.host}"
    name = (urlsplit(host).hostname or "") if is_origin(host) else ""
    is_named = name == "localhost" or name.endswith(".localhost") or _is_loopback(name)
    return is_named and _is_loopback(handler.request.remote_ip) and not any(name in headers for name in _FORWARDED)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class _Page(SessionMixin, RequestHandler):
    """The page and its files."""

    def initialize(self, inspector: Inspector) -> None:
        self._inspector = inspector

    async def prepare(self) -> None:
        try:
            await super().prepare()
        except HTTPError:
            # While the store is away, a guard that does not ask for the session may still let somebody look.
            if self._load_error is None:
                raise
        if await self._inspector.access(self) is None:
            raise HTTPError(404)

    def get(self, name: str = "index.html") -> None:
        file = _FILES / name
        if name not in _NAMES:
            raise HTTPError(404)
        self.set_header("Content-Type", f"{_KINDS[file.suffix]}; charset=utf-8")
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(file.read_bytes())


async def _guarded(request: Request, call_next: Next) -> Any:
    """Ask the guard before each call: who may look now may not for ever."""
    handler: _Socket = request.handler
    await handler.renew_access()
    return await call_next(request)


class _Socket(Own, RPCHandler):
    """What the page calls."""

    middleware = [_guarded]

    def initialize(self, inspector: Inspector) -> None:
        self._inspector = inspector

    async def prepare(self) -> None:
        # Who may open the application's sockets, `trusted_origins`, is not let in to everybody's for that.
        is_from_page = "Origin" in self.request.headers or "Sec-Websocket-Origin" in self.request.headers
        if is_from_page and not is_same_origin(self._is_https(), self.request.host, self.request.headers):
            raise HTTPError(403, reason="Cross-origin websocket refused")
        await super().prepare()
        access = await self._inspector.access(self)
        if access is None:
            raise HTTPError(404)
        self._access = access
        connection: Any = self.request.connection  # not its own any more once the handshake is done
        self._address = connection.stream.socket.getsockname()

    async def renew_access(self) -> None:
        """Look again what this visitor may do; raises if that is nothing any more."""
        access = await self._inspector.access(self)
        if access is None:
            self.close(_KICKED, "the guard does not let you look any more")
            raise RPCError(FORBIDDEN, "forbidden")
        self._access = access

    @rpc(name=f"{OWN}about")
    def about(self) -> dict[str, Any]:
        """Which process this is, and what the visitor may do."""
        return {
            "host": socket.gethostname(),
            "port": self._address[1] if isinstance(self._address, tuple) else None,  # none of a Unix socket
            "pid": os.getpid(),
            "started": _STARTED,
            "version": __version__,
            "python": ".".join(map(str, sys.version_info[:3])),
            "act": self._access.act,
            "values": self._access.values,
        }

    @rpc(name=f"{OWN}watch")
    async def watch(self) -> AsyncGenerator[dict[str, Any], None]:
        """What goes on, every second."""
        feed = self._inspector.feed.watch()
        try:
            async for snapshot in feed:
                await self.renew_access()
                yield snapshot
        finally:
            await feed.aclose()

    @rpc(name=f"{OWN}who")
    async def who(self, names: str = "") -> dict[str, Any]:
        """Sockets, channels and users; those that are named before all others."""
        return self._inspector.feed.who(names)

    @rpc(name=f"{OWN}calls")
    async def calls(self) -> dict[str, Any]:
        """The slowest calls, and those that failed."""
        return self._inspector.feed.calls()

    @rpc(name=f"{OWN}changes")
    async def changes(self, session: str | None = None) -> list[dict[str, Any]]:
        """Who changed which keys of a session, or of any."""
        return self._inspector.feed.changes(session)

    @rpc(name=f"{OWN}session")
    async def look(self, name: str) -> dict[str, Any]:
        """One session, by its short name: its keys, and their values for who may see them."""
        handler = self._holder(name)
        session = handler.stored_session
        if session is None:
            raise RPCError(FORBIDDEN, "no socket of this process has this session open any more")
        keys = sorted(key for key in session if key != BOOKKEEPING)
        shown = {key: session[key] for key in keys} if self._access.values else dict.fromkeys(keys)
        return {
            "name": name,
            "user": session.user_id,
            "keys": [(key, _kind(session[key])) for key in keys],
            "values": shown if self._access.values else None,
            "sockets": [other.id for other in self._others() if session_name(other) == name],
        }

    @rpc(name=f"{OWN}kick")
    async def kick(self, socket: str) -> bool:
        """Close a socket; was it there?"""
        self._check_act()
        found = self.application.sockets.get(socket)
        if found is None:
            return False
        found.close(_KICKED, "closed from the inspector")
        return True

    @rpc(name=f"{OWN}end")
    async def end(self, name: str) -> bool:
        """End a session, everywhere; was it there?"""
        self._check_act()
        session = self._holder(name).stored_session
        return session is not None and await self.application.sessions.end(session.id, "ended from the inspector")

    def _check_act(self) -> None:
        if not self._access.act:
            raise RPCError(FORBIDDEN, "you may look, and not touch")

    def _others(self) -> list[RPCHandler]:
        return list(self.application.sockets.values())

    def _holder(self, name: str) -> RPCHandler:
        """A socket of the session of this short name."""
        for handler in self._others():
            if session_name(handler) == name:
                return handler
        raise RPCError(FORBIDDEN, "no socket of this process has this session open any more")


def _kind(value: Any) -> str:
    """What a value is, without saying anything of it."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case dict():
            return "map"
        case list():
            return "list"
        case str():
            return "text"
        case _:
            return "number"
