"""The application of these tests: what calls, pages and sockets they have."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tornado.web import RequestHandler

from sstream import Actions, RPCError, RPCHandler, SessionMixin, load_session, rpc
from sstream.session import cookie
from sstream.testing import Browser, Closed, Site, Socket, StoreProbe

ROOT = Path(__file__).parents[2]
CERTIFICATE = ROOT / "tests/testing/localhost.pem"
SECRET = "a test's own secret"
SID = "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
ENDED = Closed(4401, "session ended")
ServeLive = Callable[..., Awaitable[Site]]


class Put(SessionMixin, RequestHandler):
    """Sets each field of the query."""

    def get(self) -> None:
        for key in self.request.query_arguments:
            self.session[key] = self.get_argument(key)
        self.write("put")


class AddTea(SessionMixin, RequestHandler):
    """Puts one tea into the cart, as the socket's ``cart.add`` does."""

    def get(self) -> None:
        cart = self.session.setdefault("cart", {})
        cart["tea"] = cart.get("tea", 0) + 1
        self.write(cart)


class Look(SessionMixin, RequestHandler):
    """Shows the session, and changes nothing."""

    def get(self) -> None:
        self.write(dict(self.session))


class Login(SessionMixin, RequestHandler):
    """Logs the visitor in as the query says."""

    async def get(self) -> None:
        await self.session.set_user_id(self.get_argument("name"))


class Logout(SessionMixin, RequestHandler):
    """Ends the session."""

    async def get(self) -> None:
        await self.session.destroy()


PAGES = [("/put", Put), ("/tea", AddTea), ("/look", Look), ("/login", Login), ("/logout", Logout)]


class Cart(Actions):
    """What a shop does with a session."""

    middleware = [load_session]

    @rpc
    async def add(self, item: str, count: int = 1) -> dict[str, int]:
        cart = self.session.setdefault("cart", {})
        cart[item] = cart.get(item, 0) + count
        return dict(cart)

    @rpc
    def add_now(self, item: str, count: int = 1) -> dict[str, int]:
        cart = self.session.setdefault("cart", {})
        cart[item] = cart.get(item, 0) + count
        return dict(cart)

    @rpc
    async def show(self) -> dict[str, Any]:
        return dict(self.session)

    @rpc
    def show_now(self) -> dict[str, Any]:
        return dict(self.session)


class Account(Actions):
    """Logging in and out."""

    middleware = [load_session]

    @rpc
    async def login(self, name: str) -> str:
        self.session["greeted"] = True
        await self.session.set_user_id(name)
        return f"hello {name}"

    @rpc
    async def renew(self) -> None:
        await self.session.renew_id()

    @rpc
    async def logout(self) -> str:
        await self.session.destroy()
        return "bye"


class Live(RPCHandler):
    """The usual handler; it keeps in ``heard`` what its hooks were told."""

    actions = {"cart": Cart, "account": Account}

    def initialize(self) -> None:
        self.heard: list[Any] = []

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    async def add_async(self, a: int, b: int) -> int:
        return a + b

    @rpc
    async def me(self) -> str:
        return self.id

    @rpc
    def what_was_heard(self) -> list[Any]:
        return self.heard

    async def on_session_change(self, keys: frozenset[str]) -> None:
        self.heard.append(sorted(keys))
        await self.publish.socket(self.id, "changed", sorted(keys))

    def on_session_end(self, reason: str) -> None:
        # Straight to this socket: the event must leave before the close frame.
        self._tell("ended", reason)


async def stored(store: StoreProbe, sid: str | None) -> dict[str, Any] | None:
    """What the store has of a session, its ``cookie`` left out, not counted as asked."""
    assert sid is not None
    text = await store.store.get(f"sess:{sid}")
    if text is None:
        return None
    return {key: value for key, value in json.loads(text).items() if key not in {"cookie", "_sstream"}}


def signed(sid: str, secret: str = SECRET) -> str:
    """A cookie's value, made by hand."""
    return quote("s:" + cookie.sign(sid, secret), safe="")


async def refused(call: Awaitable[Any]) -> RPCError:
    """The error that a call was answered with."""
    with pytest.raises(RPCError) as told:
        await call
    return told.value


async def nothing_else(*sockets: Socket) -> list[list[Any]]:
    """What came by each socket and was not taken, after everything that was on its way has arrived."""
    for socket in sockets:
        # A reply leaves behind all that was sent to this socket before.
        await socket.call("add", 0, 0)
    return [socket.events for socket in sockets]


class WithView(Live):
    """Shows the browser the number of teas."""

    def session_view(self) -> dict[str, Any] | None:
        cart = self.session.get("cart")
        return {"teas": cart["tea"]} if cart else None


class Spoiling(Live):
    """Changes the session, and then something goes wrong."""

    @rpc(use=[load_session])
    async def refuse(self) -> None:
        self.session["dropped"] = 1
        self.session["cart"]["tea"] = 99
        raise RPCError(4009, "no", {"why": "on purpose"})

    @rpc(use=[load_session])
    def refuse_now(self) -> None:
        self.session["dropped"] = 1
        self.session["cart"]["tea"] = 99
        raise RPCError(4009, "no", {"why": "on purpose"})

    @rpc(use=[load_session])
    async def fail(self) -> None:
        self.session["dropped"] = 1
        raise ZeroDivisionError("on purpose")

    @rpc(use=[load_session])
    def fail_now(self) -> None:
        self.session["dropped"] = 1
        raise ZeroDivisionError("on purpose")

    @rpc(use=[load_session])
    async def spoil(self, how: str) -> str:
        self.session["dropped"] = 1
        _spoil(self.session, how)
        return "a false success"

    @rpc(use=[load_session])
    def spoil_now(self, how: str) -> str:
        self.session["dropped"] = 1
        _spoil(self.session, how)
        return "a false success"

    @rpc(use=[load_session])
    async def half(self) -> None:
        self.session["saved"] = 1
        await self.session.save()
        self.session["dropped"] = 1
        raise RPCError(4009, "no")


def _spoil(session: Any, how: str) -> None:
    match how:
        case "nan":
            session["number"] = float("nan")
        case "nested nan":
            session["cart"]["tea"] = float("nan")
        case "integer":
            session["number"] = 2**53 + 1
        case "reserved":
            session["toString"] = 1
        case "object":
            session["thing"] = object()
        case "big":
            session["blob"] = "x" * 70_000
        case "nested big":
            session["cart"]["note"] = "x" * 70_000


async def login_ticket(site: Site, browser: Browser) -> tuple[Socket, str]:
    """A ticket for a new id of this browser's session, not yet traded."""
    await browser.get("/tea")
    socket = await browser.connect(trades=False)
    await socket.call("account.login", "fred")
    ticket, _ = await socket.receive("sstream:ticket")
    return socket, ticket


async def three(site: Site) -> tuple[Socket, Socket, Socket]:
    """Two sockets of Fred's, in two browsers, and one of Anna's."""
    sockets = []
    for name in ("fred", "fred", "anna"):
        browser = site.browser()
        await browser.get(f"/login?name={name}")
        sockets.append(await browser.connect())
    return sockets[0], sockets[1], sockets[2]


async def heard(site: Site, *sockets: Socket) -> list[list[str]]:
    """The names of the events that each socket got, up to a marker that all get."""
    await site.app.publish.all("marker")
    names = []
    for socket in sockets:
        await socket.receive("marker")
        names.append([str(event[0]) for event in socket.events])
        socket.events.clear()
    return names
