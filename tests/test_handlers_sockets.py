"""The session of a websocket, its calls and its events, through real sockets, beside the pages of the same visitor."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgpack
import pytest
import redis.asyncio as aioredis
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from sstream import (
    Actions,
    Application,
    Limits,
    MemoryStore,
    RedisStore,
    RPCError,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    load_session,
    rpc,
)
from sstream.pubsub import ChannelOptions
from sstream.session import cookie
from sstream.testing import (
    Browser,
    Closed,
    FaultProxy,
    Process,
    Site,
    Socket,
    SocketClosed,
    StoreProbe,
    eventually,
    serve,
    within,
)

ROOT = Path(__file__).parents[1]
CERTIFICATE = ROOT / "tests/testing/localhost.pem"
SECRET = "a test's own secret"
SID = "AbCdEfGhIjKlMnOpQrStUvWxYz012345"

ENDED = Closed(4401, "session ended")

ServeLive = Callable[..., Awaitable[Site]]


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> StoreProbe:
    """A store of each kind."""
    if request.param == "memory":
        return StoreProbe(MemoryStore())
    return StoreProbe(RedisStore(request.getfixturevalue("redis_url")))


@pytest.fixture
def memory() -> StoreProbe:
    """A store in memory, where it does not matter which."""
    return StoreProbe(MemoryStore())


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[FaultProxy]:
    """A Redis that may be away; it stands before ``serve_live`` in a test, so that it is closed behind it."""
    async with FaultProxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy


@pytest.fixture
async def serve_live() -> AsyncIterator[ServeLive]:
    """``await serve_live(store, Handler, renew_grace=1)``: it is at /ws, a few pages beside it."""
    async with AsyncExitStack() as stack:

        async def serve_live(
            store: StoreProbe, *handlers: Any, limits: Limits | None = None, broker: Any = None, **options: Any
        ) -> Site:
            routes = [handler if isinstance(handler, tuple) else ("/ws", handler) for handler in handlers or (Live,)]
            session = SessionOptions(**{"secret": SECRET, **options})
            application = Application([*routes, *PAGES], store=store, broker=broker, session=session, limits=limits)
            return await stack.enter_async_context(serve(application))

        yield serve_live


# --- the house of these tests -----------------------------------------------------------------------------------------


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


# --- what a call costs ------------------------------------------------------------------------------------------------


async def test_a_socket_without_a_cookie_and_its_plain_calls_ask_the_store_nothing(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)

    socket = await site.browser().connect()
    results = [await socket.call("add", 2, 3), await socket.call("add_async", 4, 5)]
    await socket.close()

    assert results == [5, 9]
    assert socket.headers.get_list("Set-Cookie") == []
    assert store.asked == []


async def test_a_socket_with_a_cookie_reads_once_at_open_and_plain_calls_ask_nothing(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    store.asked.clear()

    socket = await browser.connect()
    await asyncio.gather(*(socket.call("add", 1, 1) for _ in range(10)))
    await asyncio.gather(*(socket.call("add_async", 1, 1) for _ in range(10)))
    await socket.close()
    await eventually(lambda: not site.app.sockets, "the server did not notice the close")

    assert store.asked == [("get", f"sess:{browser.sid}")]


async def test_calls_that_only_read_the_session_are_served_from_the_sockets_copy(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("cart.show")
    store.asked.clear()

    looks = [await socket.call(method) for method in ("cart.show", "cart.show_now") * 5]

    assert looks == [{"a": "1"}] * 10
    assert [operation for operation in store.asked if operation[0] != "touch"] == []


@pytest.mark.parametrize("method", ["cart.add", "cart.add_now"])
async def test_a_call_that_changes_the_session_costs_one_swap(
    method: str, store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("cart.show")
    store.asked.clear()

    for _ in range(3):
        await socket.call(method, "tea")

    assert store.asked == [("swap", f"sess:{browser.sid}")] * 3
    assert await stored(store, browser.sid) == {"a": "1", "cart": {"tea": 3}}


async def test_a_socket_with_a_forged_cookie_is_anonymous_and_asks_the_store_nothing(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)

    socket = await site.browser(**{"connect.sid": signed(SID, "another secret")}).connect()

    assert await socket.call("cart.show") == {}
    assert memory.asked == []


# --- stored before the reply ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cart.add", "cart.add_now"])
async def test_the_reply_of_a_call_leaves_after_the_store_has_its_change(
    method: str, store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("cart.show")
    hold = store.hold("swap", "sess:")

    change = socket.ask(method, "tea")
    await hold.wait()
    other = await socket.call("add", 2, 3)  # asked for later, answered before

    assert (other, change.done()) == (5, False)
    hold.release()
    assert await socket.reply(change) == {"tea": 1}
    assert await stored(store, browser.sid) == {"a": "1", "cart": {"tea": 1}}


async def test_a_page_and_a_socket_share_one_cart(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()

    carts = [
        await socket.call("cart.add", "tea"),
        (await browser.get("/tea")).json,
        await socket.call("cart.add_now", "tea"),
        (await browser.get("/tea")).json,
        (await browser.get("/look")).json["cart"],
        (await socket.call("cart.show"))["cart"],
    ]

    assert [cart["tea"] for cart in carts] == [2, 3, 4, 5, 5, 5]
    assert await stored(store, browser.sid) == {"cart": {"tea": 5}}


async def test_calls_of_one_socket_that_load_the_session_run_in_order_and_others_beside_them(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    class Counter(Live):
        @rpc(use=[load_session])
        async def slow(self) -> int:
            count = self.session.get("n", 0)
            running.set()
            await go_on.wait()
            self.session["n"] = count + 1
            return self.session["n"]

        @rpc(use=[load_session])
        def plain(self) -> int:
            self.session["n"] = self.session.get("n", 0) + 1
            return self.session["n"]

        @rpc(use=[load_session])
        async def waiting(self) -> int:
            count = self.session.get("n", 0)
            await asyncio.sleep(0)
            self.session["n"] = count + 1
            return self.session["n"]

    site = await serve_live(store, Counter)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()

    calls = [socket.ask(method) for method in ("slow", "plain", "waiting", "plain", "plain", "waiting")]
    await within(running.wait(), "the first call did not begin")
    beside = await socket.call("add", 2, 3)
    done_before = [call.done() for call in calls]
    go_on.set()

    assert beside == 5
    assert not any(done_before)
    assert [await socket.reply(call) for call in calls] == [1, 2, 3, 4, 5, 6]
    assert await stored(store, browser.sid) == {"a": "1", "n": 6}


async def test_many_counts_of_several_tabs_and_pages_at_once_are_all_kept_by_transact(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    def count(session: Any) -> int:
        session["n"] = session.get("n", 0) + 1
        return int(session["n"])

    class Counter(Live):
        @rpc(use=[load_session])
        async def count(self) -> int:
            return await self.session.transact(count)

    class CountPage(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.write(str(await self.session.transact(count)))

    site = await serve_live(store, Counter, ("/count", CountPage))
    browser = site.browser()
    await browser.get("/put?a=1")
    tabs = [await browser.connect() for _ in range(3)]

    by_calls = [tab.call("count") for tab in tabs for _ in range(10)]
    by_pages = [browser.get("/count") for _ in range(10)]
    results = await asyncio.gather(*by_calls, *by_pages)

    counts = [result if isinstance(result, int) else int(result.text) for result in results]
    assert sorted(counts) == list(range(1, 41))
    assert await stored(store, browser.sid) == {"a": "1", "n": 40}


async def test_different_keys_written_by_sockets_and_pages_at_once_all_survive(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    class Keys(Live):
        @rpc(use=[load_session])
        async def put(self, key: str) -> None:
            self.session[key] = "x"

        @rpc(use=[load_session])
        def put_now(self, key: str) -> None:
            self.session[key] = "x"

    site = await serve_live(store, Keys)
    browser = site.browser()
    await browser.get("/put?a=x")
    tabs = [await browser.connect() for _ in range(3)]

    await asyncio.gather(
        *(tab.call("put", f"async-{number}-{turn}") for number, tab in enumerate(tabs) for turn in range(5)),
        *(tab.call("put_now", f"plain-{number}-{turn}") for number, tab in enumerate(tabs) for turn in range(5)),
        *(browser.get(f"/put?page-{number}=x") for number in range(10)),
    )

    data = await stored(store, browser.sid)
    assert data is not None
    assert len(data) == 1 + 15 + 15 + 10


# --- changes by others ------------------------------------------------------------------------------------------------


async def test_a_change_on_a_page_is_seen_by_the_next_call_and_told_to_the_hook_with_its_keys(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1&b=1")
    socket = await browser.connect()
    await socket.call("cart.show")

    await browser.get("/put?b=2&c=2")

    assert await socket.call("cart.show_now") == {"a": "1", "b": "2", "c": "2"}
    assert await socket.receive("changed") == [["b", "c"]]
    assert await nothing_else(socket) == [[]]


async def test_a_sockets_own_change_is_told_to_the_other_sockets_of_the_session_alone(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    mine, other, stranger = await browser.connect(), await browser.connect(), await site.browser().connect()

    await mine.call("cart.add", "tea")

    assert await other.receive("changed") == [["cart"]]
    assert await other.call("cart.show") == {"a": "1", "cart": {"tea": 1}}
    assert await nothing_else(mine, other, stranger) == [[], [], []]


async def test_a_page_that_only_reads_is_no_change(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()

    await browser.get("/look")
    await browser.get("/put?a=1")
    await browser.get("/put?marker=1")

    assert await socket.receive("changed") == [["marker"]]
    assert await nothing_else(socket) == [[]]


async def test_a_change_by_any_program_reaches_the_open_sockets(redis_url: str, serve_live: ServeLive) -> None:
    store = StoreProbe(RedisStore(redis_url))
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    key = f"sess:{browser.sid}"

    async with aioredis.Redis.from_url(redis_url) as client:
        for number in range(3):
            text = json.loads(await client.get(key))
            text["express"] = number
            await client.set(key, json.dumps(text), ex=100)
            assert await socket.receive("changed") == [["express"]]
            assert await socket.call("cart.show_now") == {"a": "1", "express": number}


async def test_a_hook_that_raises_is_logged_and_hurts_nobody(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Broken(Live):
        def on_session_change(self, keys: frozenset[str]) -> None:  # type: ignore[override]  # plain here
            raise ZeroDivisionError("on purpose")

    class BrokenLater(Live):
        async def on_session_change(self, keys: frozenset[str]) -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError("on purpose")

    site = await serve_live(memory, ("/ws", Broken), ("/later", BrokenLater))
    browser = site.browser()
    await browser.get("/put?a=1")
    sockets = [await browser.connect("/ws"), await browser.connect("/later")]
    told = expect_log("on_session_change failed", count=2)

    await browser.get("/put?a=2")
    await eventually(lambda: len(told.records) == 2, "both are logged")

    assert [await socket.call("cart.show") for socket in sockets] == [{"a": "2"}] * 2


# --- the session's view -----------------------------------------------------------------------------------------------


class WithView(Live):
    """Shows the browser the number of teas."""

    def session_view(self) -> dict[str, Any] | None:
        cart = self.session.get("cart")
        return {"teas": cart["tea"]} if cart else None


async def test_the_view_is_pushed_on_open_and_on_each_change_of_it(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, WithView)
    browser = site.browser()
    await browser.get("/tea")

    socket = await browser.connect()
    at_open = await socket.receive("session")
    await browser.get("/tea")
    by_page = await socket.receive("session")
    await socket.call("cart.add", "tea")
    by_call = await socket.receive("session")
    await browser.get("/put?unrelated=1")
    await socket.receive("changed")

    assert [at_open, by_page, by_call] == [[{"teas": 1}], [{"teas": 2}], [{"teas": 3}]]
    await socket.receive("changed")
    assert await nothing_else(socket) == [[]]


async def test_a_view_of_the_id_is_pushed_anew_when_the_session_has_moved(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    class ShowsId(Live):
        def session_view(self) -> dict[str, Any] | None:
            return {"id": self.session.id}

    site = await serve_live(store, ShowsId)
    browser = site.browser()
    await browser.get("/tea")
    mine, other = await browser.open(), await browser.open()
    at_open = [await socket.event("session") for socket in (mine, other)]
    old = browser.sid

    await mine.call("account.renew")
    await mine.traded()
    moved = [await socket.event("session") for socket in (mine, other)]

    assert at_open == [[{"id": old}]] * 2
    assert moved == [[{"id": browser.sid}]] * 2


async def test_a_handler_without_a_view_pushes_none(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")

    socket = await browser.connect()
    await browser.get("/tea")
    await socket.receive("changed")

    assert await nothing_else(socket) == [[]]


async def test_a_view_never_shows_what_a_call_has_not_stored(store: StoreProbe, serve_live: ServeLive) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    class Wavering(WithView):
        @rpc(use=[load_session])
        async def waver(self) -> None:
            self.session["cart"]["tea"] = 99
            began.set()
            await go_on.wait()
            raise RPCError(4009, "changed my mind")

    site = await serve_live(store, Wavering)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    assert await socket.receive("session") == [{"teas": 1}]
    wavering = socket.ask("waver")
    await within(began.wait(), "the call did not begin")

    await browser.get("/put?unrelated=1")
    assert await socket.receive("changed") == [["unrelated"]]
    go_on.set()
    assert (await refused(socket.reply(wavering))).code == 4009

    assert await nothing_else(socket) == [[]]
    assert await socket.call("cart.show") == {"cart": {"tea": 1}, "unrelated": "1"}


async def test_a_change_by_others_during_a_call_that_is_refused_is_seen_afterwards(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    class Wavering(WithView):
        @rpc(use=[load_session])
        async def waver(self) -> None:
            self.session["cart"]["tea"] = 99
            began.set()
            await go_on.wait()
            raise RPCError(4009, "changed my mind")

    site = await serve_live(store, Wavering)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    assert await socket.receive("session") == [{"teas": 1}]
    wavering = socket.ask("waver")
    await within(began.wait(), "the call did not begin")

    await browser.get("/tea")
    await socket.receive("changed")
    go_on.set()
    assert (await refused(socket.reply(wavering))).code == 4009

    assert await socket.receive("session") == [{"teas": 2}]
    assert await socket.call("cart.show_now") == {"cart": {"tea": 2}}
    assert await nothing_else(socket) == [[]]


async def test_the_hook_sees_the_new_values(store: StoreProbe, serve_live: ServeLive) -> None:
    class Reading(Live):
        async def on_session_change(self, keys: frozenset[str]) -> None:
            await self.publish.socket(self.id, "now", dict(self.session))

    site = await serve_live(store, Reading)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()

    await browser.get("/put?a=2")

    assert await socket.receive("now") == [{"a": "2"}]


async def test_a_view_that_raises_is_logged_and_the_socket_lives(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Broken(Live):
        def session_view(self) -> dict[str, Any] | None:
            return {"price": self.session["price"]}

    site = await serve_live(memory, Broken)
    browser = site.browser()
    await browser.get("/put?a=1")
    told = expect_log("_push_view failed|session_view", count=2)

    socket = await browser.connect()
    await browser.get("/put?a=2")
    await socket.receive("changed")

    assert await socket.call("add", 2, 3) == 5
    assert all(record.exc_info for record in told.records)


async def test_a_view_that_becomes_none_is_pushed_too(store: StoreProbe, serve_live: ServeLive) -> None:
    class Emptying(WithView):
        @rpc(use=[load_session])
        async def empty(self) -> None:
            del self.session["cart"]

    site = await serve_live(store, Emptying)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    await socket.receive("session")

    await socket.call("empty")

    assert await socket.receive("session") == [None]


# --- refusals ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("method", ["refuse", "refuse_now"])
async def test_a_method_that_refuses_drops_its_changes_and_its_words_reach_the_caller(
    method: str, store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, Spoiling)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()

    error = await refused(socket.call(method))

    assert (error.code, error.message, error.data) == (4009, "no", {"why": "on purpose"})
    assert await socket.call("cart.show") == {"cart": {"tea": 1}}
    assert await socket.call("cart.show_now") == {"cart": {"tea": 1}}
    assert await stored(store, browser.sid) == {"cart": {"tea": 1}}


@pytest.mark.parametrize("method", ["fail", "fail_now"])
async def test_an_unexpected_exception_is_logged_once_told_as_internal_error_and_drops_the_changes(
    method: str, store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(store, Spoiling)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    told = expect_log(f"{method} raised on socket", logger="sstream.rpc", count=1)

    error = await refused(socket.call(method))

    assert (error.code, error.message, error.data) == (-32603, "internal error", None)
    assert told.records[0].exc_info is not None
    assert await socket.call("cart.show") == {"cart": {"tea": 1}}
    assert await stored(store, browser.sid) == {"cart": {"tea": 1}}


@pytest.mark.parametrize("method", ["spoil", "spoil_now"])
@pytest.mark.parametrize(
    ("how", "key"),
    [
        ("nan", "number"),
        ("nested nan", "cart.tea"),
        ("integer", "number"),
        ("reserved", "toString"),
        ("object", "thing"),
        ("big", "blob"),
        ("nested big", "cart"),
    ],
)
async def test_a_value_that_cannot_be_kept_is_an_error_that_names_its_key_and_changes_nothing(
    method: str, how: str, key: str, store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(store, Spoiling)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    told = expect_log(f"{method} raised on socket", logger="sstream.rpc", count=1)

    error = await refused(socket.call(method, how))

    assert error.code == -32603
    (record,) = told.records
    assert record.exc_info is not None
    assert f"session key {key!r}" in str(record.exc_info[1])
    assert await socket.call("cart.show") == {"cart": {"tea": 1}}
    assert await socket.call("cart.show_now") == {"cart": {"tea": 1}}
    assert await stored(store, browser.sid) == {"cart": {"tea": 1}}


async def test_what_a_method_saved_itself_stays_and_what_came_after_is_dropped(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, Spoiling)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()

    error = await refused(socket.call("half"))

    assert error.code == 4009
    assert await stored(store, browser.sid) == {"cart": {"tea": 1}, "saved": 1}
    assert await socket.call("cart.show") == {"cart": {"tea": 1}, "saved": 1}


async def test_a_store_that_fails_at_the_commit_is_unavailable_and_never_a_false_success(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    await socket.call("cart.show")
    store.fail("swap")

    errors = [await refused(socket.call(method, "tea")) for method in ("cart.add", "cart.add_now")]
    store.heal()

    assert [(error.code, error.message) for error in errors] == [(4050, "unavailable")] * 2
    assert await socket.call("cart.show") == {"cart": {"tea": 1}}
    assert await socket.call("cart.add", "tea") == {"tea": 2}


async def test_a_write_whose_acknowledgement_was_lost_is_never_forgotten_nor_done_twice_unseen(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    store.fail("swap", after=True)

    error = await refused(socket.call("cart.add", "tea"))
    store.heal()

    assert error.code == 4050
    assert await socket.call("cart.add_now", "tea") == {"tea": 3}
    assert await stored(store, browser.sid) == {"cart": {"tea": 3}}


async def test_a_call_that_is_cut_off_while_the_store_has_its_change_is_seen_by_the_next(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    await socket.call("cart.show")
    hold = store.hold("swap", "sess:", after=True)

    cut = socket.ask("cart.add", "tea")
    await hold.wait()
    socket.cancel(cut)
    error = await refused(socket.reply(cut))
    hold.release()

    assert error.code == 4001
    assert await socket.call("cart.show_now") == {"cart": {"tea": 2}}
    assert await socket.call("cart.add_now", "tea") == {"tea": 3}
    assert await stored(store, browser.sid) == {"cart": {"tea": 3}}


async def test_a_call_that_is_cancelled_while_it_waits_for_its_turn_leaves_the_others_their_order(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    await socket.call("cart.show")
    hold = store.hold("swap", "sess:")

    first = socket.ask("cart.add", "tea")
    await hold.wait()
    second, third, fourth = (socket.ask(method, "tea") for method in ("cart.add", "cart.add_now", "cart.add"))
    socket.cancel(second)
    error = await refused(socket.reply(second))
    hold.release()

    assert error.code == 4001
    assert [await socket.reply(call) for call in (first, third, fourth)] == [{"tea": 2}, {"tea": 3}, {"tea": 4}]
    assert await stored(store, browser.sid) == {"cart": {"tea": 4}}


@pytest.mark.parametrize("waits", [False, True])
async def test_a_call_that_asks_for_the_turn_it_has_is_told_so_instead_of_waiting_for_itself(
    waits: bool, store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Nested(Live):
        @rpc(use=[load_session])
        async def nested(self) -> None:
            if waits:
                await asyncio.sleep(0)
            async with self.session_turn() as session:
                session["never"] = 1

    site = await serve_live(store, Nested)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    told = expect_log("nested raised on socket", logger="sstream.rpc", count=1)

    error = await refused(socket.call("nested"))

    assert error.code == -32603
    assert told.records[0].exc_info is not None
    assert "has its turn already" in str(told.records[0].exc_info[1])
    assert await socket.call("cart.add", "tea") == {"tea": 2}


async def test_a_call_that_takes_too_long_gives_its_turn_back(store: StoreProbe, serve_live: ServeLive) -> None:
    class Endless(Live):
        @rpc(use=[load_session], timeout=0.05)
        async def endless(self) -> None:
            self.session["dropped"] = 1
            await asyncio.Event().wait()

    site = await serve_live(store, Endless)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()

    endless, next_one = socket.ask("endless"), socket.ask("cart.add", "tea")

    assert (await refused(socket.reply(endless))).code == 4000
    assert await socket.reply(next_one) == {"tea": 2}
    assert await stored(store, browser.sid) == {"cart": {"tea": 2}}


# --- the first write on a socket --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cart.add", "cart.add_now"])
async def test_the_first_write_on_a_socket_without_a_cookie_reaches_the_browsers_cookie_by_a_ticket(
    method: str, store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect()

    reply = await socket.call(method, "tea")
    traded = await socket.traded()

    assert reply == {"tea": 1}
    assert (traded.status, traded.body) == (204, b"")
    assert traded.cookies == [f"connect.sid={signed(browser.sid or '')}; Path=/; HttpOnly; SameSite=Lax"]
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}}
    assert await socket.call(method, "tea") == {"tea": 2}
    assert (await browser.get("/tea")).json == {"tea": 3}
    assert await socket.call("cart.show") == {"cart": {"tea": 3}}
    assert await nothing_else(socket) == [[["changed", [["cart"]]]]]


async def test_a_socket_that_only_reads_without_a_cookie_stores_nothing_and_gets_no_ticket(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    socket = await site.browser().connect(trades=False)

    assert await socket.call("cart.show") == {}
    assert await socket.call("cart.show_now") == {}

    assert await nothing_else(socket) == [[]]
    assert store.asked == []


async def test_logging_out_on_a_socket_without_a_session_ends_nothing_and_the_next_call_begins_one(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect()

    assert await socket.call("account.logout") == "bye"
    first_cart = await socket.call("cart.add", "tea")

    assert first_cart == {"tea": 1}
    assert (await socket.traded()).status == 204
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}}


async def test_two_first_calls_at_once_make_one_session(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect()

    first, second = socket.ask("cart.add", "tea"), socket.ask("cart.add_now", "tea")

    assert [await socket.reply(first), await socket.reply(second)] == [{"tea": 1}, {"tea": 2}]
    assert (await socket.traded()).status == 204
    assert (await browser.get("/look")).json == {"cart": {"tea": 2}}
    assert await nothing_else(socket) == [[]]


async def test_logging_in_on_a_socket_without_a_cookie_gives_the_browser_a_session_of_that_user(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect()

    assert await socket.call("account.login", "fred") == "hello fred"

    assert (await socket.traded()).status == 204
    assert (await browser.get("/look")).json == {"greeted": True, "userId": "fred"}
    assert await socket.call("cart.show") == {"greeted": True, "userId": "fred"}


async def test_a_client_that_trades_no_tickets_keeps_its_session_for_the_sockets_life(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect(trades=False)

    await socket.call("cart.add", "tea")
    await socket.call("cart.add", "tea")

    assert await socket.call("cart.show") == {"cart": {"tea": 2}}
    assert browser.sid is None


# --- a new id at login ------------------------------------------------------------------------------------------------


async def test_logging_in_by_socket_renews_the_id_and_the_old_cookie_is_dead_after_the_trade(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    thief, old = browser.copy(), browser.sid
    socket = await browser.connect()

    reply = await socket.call("account.login", "fred")
    traded = await socket.traded()

    assert (reply, traded.status) == ("hello fred", 204)
    assert browser.sid != old
    assert await stored(store, old) is None
    expected = {"cart": {"tea": 1}, "greeted": True, "userId": "fred"}
    assert await stored(store, browser.sid) == expected
    assert (await browser.get("/look")).json == expected
    assert (await thief.get("/look")).json == {}
    assert await (await thief.connect()).call("cart.show") == {}


async def test_the_other_sockets_of_the_session_follow_to_the_new_id_and_share_it(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    mine, other = await browser.connect(), await browser.connect()

    await mine.call("account.login", "fred")
    await mine.traded()
    by_other = await other.call("cart.add", "tea")
    by_page = (await browser.get("/tea")).json
    by_mine = await mine.call("cart.add_now", "tea")

    assert [by_other, by_page, by_mine] == [{"tea": 2}, {"tea": 3}, {"tea": 4}]
    await eventually(lambda: site.app.sessions.count_sockets(browser.sid or "") == 2, "both follow")
    assert not mine.is_closed
    assert not other.is_closed


async def test_calls_between_the_login_and_the_trade_lose_nothing(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    mine, other = await browser.connect(trades=False), await browser.connect()

    await mine.call("account.login", "fred")
    ticket = await mine.receive("sstream:ticket")
    by_mine = await mine.call("cart.add", "tea")
    by_other = await other.call("cart.add_now", "tea")
    by_page = (await browser.get("/tea")).json
    traded = await browser.trade(*ticket)
    after = await mine.call("cart.add", "tea")

    assert [by_mine, by_other, by_page, traded.status, after] == [{"tea": 2}, {"tea": 3}, {"tea": 4}, 204, {"tea": 5}]
    data = await stored(store, browser.sid)
    assert data is not None
    assert (data["cart"], data["userId"]) == ({"tea": 5}, "fred")


async def test_without_a_trade_the_old_id_keeps_working_for_the_grace_time_and_then_ends(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, renew_grace=1)
    browser = site.browser()
    await browser.get("/tea")
    old = browser.sid
    socket = await browser.connect(trades=False)

    await socket.call("account.login", "fred")
    in_time = (await browser.get("/look")).json
    await eventually(lambda: _is_gone(store, old), "the old id did not end")

    assert in_time["userId"] == "fred"
    assert (await browser.get("/look")).json == {}
    assert (await socket.call("cart.show"))["userId"] == "fred"


async def _is_gone(store: StoreProbe, sid: str | None) -> bool:
    return await stored(store, sid) is None


async def test_logging_in_twice_before_the_trade_ends_with_the_last_user(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    old = browser.sid
    socket = await browser.connect(trades=False)

    await socket.call("account.login", "fred")
    first = await socket.receive("sstream:ticket")
    await socket.call("account.login", "anna")
    second = await socket.receive("sstream:ticket")
    statuses = [(await browser.trade(*ticket)).status for ticket in (first, second)]

    assert statuses == [403, 204]
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json["userId"] == "anna"
    assert (await socket.call("cart.show"))["userId"] == "anna"


async def test_logging_out_before_the_trade_makes_the_ticket_worthless(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket, ticket = await login_ticket(site, browser)
    old = browser.sid

    await browser.get("/logout")
    traded = await browser.trade(ticket)

    assert await socket.closed() == ENDED
    assert (traded.status, traded.cookies) == (403, [])
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json == {}


async def test_logging_in_by_page_before_the_trade_wins_and_the_socket_follows(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket, ticket = await login_ticket(site, browser)
    old = browser.sid

    await browser.get("/login?name=anna")
    traded = await browser.trade(ticket)

    assert traded.status == 403
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json["userId"] == "anna"
    assert await socket.call("cart.add", "tea") == {"tea": 2}
    assert (await browser.get("/look")).json["cart"] == {"tea": 2}


async def test_regenerating_by_socket_gives_a_new_id_and_no_data(store: StoreProbe, serve_live: ServeLive) -> None:
    class Forgetting(Live):
        @rpc(use=[load_session])
        async def forget(self) -> None:
            await self.session.regenerate()
            self.session["fresh"] = True

    site = await serve_live(store, Forgetting)
    browser = site.browser()
    await browser.get("/login?name=fred")
    await browser.get("/tea")
    old = browser.sid
    socket = await browser.connect()

    await socket.call("forget")
    traded = await socket.traded()

    assert traded.status == 204
    assert browser.sid != old
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json == {"fresh": True}
    assert await socket.call("cart.show") == {"fresh": True}


async def test_logging_in_by_page_takes_the_open_sockets_along(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()

    await browser.get("/login?name=fred")

    assert await socket.receive("changed") == [["userId"]]
    assert await socket.call("cart.add", "tea") == {"tea": 2}
    assert (await browser.get("/look")).json == {"cart": {"tea": 2}, "userId": "fred"}
    await site.app.publish.user("fred", "hello")
    assert await socket.receive("hello") == []


# --- tickets ----------------------------------------------------------------------------------------------------------


async def login_ticket(site: Site, browser: Browser) -> tuple[Socket, str]:
    """A ticket for a new id of this browser's session, not yet traded."""
    await browser.get("/tea")
    socket = await browser.connect(trades=False)
    await socket.call("account.login", "fred")
    ticket, _ = await socket.receive("sstream:ticket")
    return socket, ticket


async def test_a_ticket_is_good_once(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    thief = browser.copy()

    first, second = await browser.trade(ticket), await thief.trade(ticket)
    third = await browser.trade(ticket)

    assert [first.status, second.status, third.status] == [204, 403, 403]
    assert second.cookies == third.cookies == []
    assert second.body == third.body == b""
    assert (await browser.get("/look")).json["userId"] == "fred"


async def test_of_many_trades_of_one_ticket_at_once_one_succeeds(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    tabs = [browser.copy() for _ in range(8)]

    pages = await asyncio.gather(*(tab.trade(ticket) for tab in tabs))

    assert sorted(page.status for page in pages) == [204] + [403] * 7
    assert sum(len(page.cookies) for page in pages) == 1


async def test_a_ticket_is_bound_to_its_session(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser, stranger, nobody = site.browser(), site.browser(), site.browser()
    socket, ticket = await login_ticket(site, browser)
    await stranger.get("/put?name=stranger")
    before = await stored(store, browser.sid)

    foreign, bare = await stranger.trade(ticket), await nobody.trade(ticket)

    assert [(page.status, page.cookies) for page in (foreign, bare)] == [(403, [])] * 2
    assert await stored(store, browser.sid) == before
    assert (await stranger.get("/look")).json == {"name": "stranger"}
    assert (await browser.trade(ticket)).status == 204
    assert (await socket.call("cart.show"))["userId"] == "fred"


async def test_a_ticket_of_a_new_session_cannot_replace_the_session_of_another_visitor(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    attacker, victim = site.browser(), site.browser()
    socket = await attacker.connect(trades=False)
    await socket.call("cart.add", "tea")
    ticket, _ = await socket.receive("sstream:ticket")
    await victim.get("/put?name=victim")

    page = await victim.trade(ticket)

    assert (page.status, page.cookies) == (403, [])
    assert (await victim.get("/look")).json == {"name": "victim"}


@pytest.mark.parametrize(
    "ticket",
    [
        "",
        "forged",
        "x" * 32,
        "x" * 900,
        "x" * 5000,
        "*",
        "a\r\nb\0",
        "\U0001f600",
        "naïve",
        7,
        None,
        ["x"],
        {"a": 1},
        True,
    ],
    ids=repr,
)
async def test_a_forged_ticket_is_refused_and_changes_nothing(
    ticket: Any, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, good = await login_ticket(site, browser)
    before = await stored(memory, browser.sid)

    page = await browser.trade(ticket)

    assert (page.status, page.body, page.cookies) == (403, b"", [])
    assert await stored(memory, browser.sid) == before
    assert (await browser.trade(good)).status == 204


async def test_an_expired_ticket_is_refused_and_changes_nothing(serve_live: ServeLive) -> None:
    now = 1_000_000.0
    store = StoreProbe(MemoryStore(clock=lambda: now))
    site = await serve_live(store, max_age=10**9)
    browser = site.browser()
    socket = await browser.connect(trades=False)
    await socket.call("cart.add", "tea")
    ticket, _ = await socket.receive("sstream:ticket")

    now += 31
    page = await browser.trade(ticket)

    assert (page.status, page.cookies, browser.sid) == (403, [], None)
    assert await socket.call("cart.show") == {"cart": {"tea": 1}}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": "https://evil.example", "Sec-Fetch-Site": None}, id="another origin"),
        pytest.param({"Origin": "null", "Sec-Fetch-Site": None}, id="an opaque origin"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="cross-site by the browser's word"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, id="a neighbouring host"),
        pytest.param({"Content-Type": "text/plain"}, id="a body that needs no preflight"),
        pytest.param({"Content-Type": None}, id="no content type"),
    ],
)
async def test_a_trade_from_another_origin_is_refused_and_the_ticket_stays_good(
    headers: dict[str, str | None], memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    old = browser.sid

    refused = await browser.fetch(
        "POST",
        "/_sstream/session",
        body=json.dumps({"ticket": ticket}),
        headers={"Content-Type": "application/json", **headers},
    )

    assert (refused.status, refused.cookies, browser.sid) == (403, [], old)
    assert (await browser.trade(ticket)).status == 204


async def test_another_scheme_or_port_is_another_origin(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    host, port = site.address
    origins = [f"https://{host}:{port}", f"http://{host}:{port + 1}", f"http://{host}", f"http://localhost:{port}"]

    statuses = [
        (await browser.trade(ticket, headers={"Origin": origin, "Sec-Fetch-Site": None})).status for origin in origins
    ]

    assert statuses == [403] * 4
    assert (await browser.trade(ticket, headers={"Sec-Fetch-Site": None})).status == 204


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff", b"7", b'{"ticket"}', b"[" * 1000, b"{" * 5000])
async def test_a_trade_whose_body_is_garbage_is_refused(body: bytes, memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)

    page = await site.browser().fetch(
        "POST", "/_sstream/session", body=body, headers={"Content-Type": "application/json"}
    )

    assert (page.status, page.cookies) == (403, [])


async def test_only_post_trades(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)

    page = await browser.get(f"/_sstream/session?ticket={ticket}")

    assert (page.status, page.cookies) == (405, [])


async def test_a_trade_needs_no_xsrf_token(memory: StoreProbe) -> None:
    session = SessionOptions(secret=SECRET)
    application = Application([("/ws", Live), *PAGES], store=memory, session=session, xsrf_cookies=True)
    async with serve(application) as site:
        browser = site.browser()
        socket = await browser.connect()

        await socket.call("cart.add", "tea")

        assert (await socket.traded()).status == 204
        assert (await browser.get("/look")).json == {"cart": {"tea": 1}}


async def test_logging_in_works_where_the_cookie_has_a_path_of_its_own(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory, ("/shop/ws", Live), ("/shop/look", Look), ("/shop/put", Put), path="/shop")
    browser = site.browser()
    await browser.get("/shop/put?a=1")
    socket = await browser.connect("/shop/ws")

    await socket.call("account.login", "fred")

    assert (await socket.traded()).status == 204
    assert (await browser.get("/shop/look")).json["userId"] == "fred"


async def test_a_trade_while_the_store_is_down_is_503_and_may_be_tried_again(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    expect_log("503 POST /_sstream/session", logger="tornado.access", count=1)
    expect_log("503 POST /_sstream/session", logger="tornado.general", required=False)
    memory.fail("get")

    page = await browser.trade(ticket)
    memory.heal()

    assert (page.status, page.cookies) == (503, [])
    assert (await browser.trade(ticket)).status == 204


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_logging_out_by_page_closes_every_socket_of_the_session_with_4401_and_no_other(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser, stranger = site.browser(), site.browser()
    await browser.get("/tea")
    await stranger.get("/tea")
    sockets = [await browser.connect(), await browser.connect(), await browser.copy().connect()]
    other = await stranger.connect()

    await browser.get("/logout")

    for socket in sockets:
        assert await socket.receive("ended") == ["destroyed"]
        assert await socket.closed() == ENDED
    assert await other.call("cart.add", "tea") == {"tea": 2}


async def test_logging_out_by_socket_answers_the_call_and_then_closes_them_all(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    mine, other = await browser.connect(), await browser.connect()

    assert await mine.call("account.logout") == "bye"

    for socket in (mine, other):
        assert await socket.receive("ended") == ["destroyed"]
        assert await socket.closed() == ENDED
    assert await stored(store, browser.sid) is None
    assert (await browser.get("/look")).json == {}


async def test_ending_a_session_by_the_registry_tells_the_reason(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    assert browser.sid is not None

    ended = [await site.app.sessions.end(browser.sid, "banned"), await site.app.sessions.end(browser.sid)]

    assert ended == [True, False]
    assert await socket.receive("ended") == ["banned"]
    assert await socket.closed() == ENDED


async def test_the_hook_runs_to_its_end_before_the_socket_is_closed(store: StoreProbe, serve_live: ServeLive) -> None:
    class Slow(Live):
        async def on_session_end(self, reason: str) -> None:  # type: ignore[override]  # a coroutine here
            await asyncio.sleep(0)
            await self.publish.socket(self.id, "bye", reason)
            await self.write_message(msgpack.packb([2, "last", []]), binary=True)

    site = await serve_live(store, Slow)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()

    await browser.get("/logout")

    assert await socket.receive("last") == []
    assert await socket.closed() == ENDED


async def test_a_hook_that_raises_at_the_end_is_logged_and_the_socket_is_closed_nevertheless(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Broken(Live):
        def on_session_end(self, reason: str) -> None:
            raise ZeroDivisionError("on purpose")

    site = await serve_live(memory, Broken)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    told = expect_log("failed", count=1)

    await browser.get("/logout")

    assert await socket.closed() == ENDED
    assert told.records[0].exc_info is not None


async def test_a_socket_that_opts_out_goes_on_with_a_fresh_anonymous_session(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    class Staying(WithView):
        close_on_session_end = False

    site = await serve_live(store, Staying)
    browser = site.browser()
    await browser.get("/tea")
    old = browser.sid
    socket = await browser.connect()
    assert await socket.receive("session") == [{"teas": 1}]

    await browser.get("/logout")
    assert await socket.receive("ended") == ["destroyed"]
    gone = await socket.receive("session")
    empty = await socket.call("cart.show")
    added = await socket.call("cart.add", "tea")
    traded = await socket.traded()

    assert (gone, empty, added, traded.status) == ([None], {}, {"tea": 1}, 204)
    assert browser.sid != old
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}}


async def test_a_call_under_way_when_its_session_ends_is_told_session_gone_and_revives_nothing(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Live):
        @rpc(use=[load_session])
        async def slow(self) -> str:
            self.session["late"] = 1
            began.set()
            await go_on.wait()
            return "a false success"

    site = await serve_live(store, Slow)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    slow = socket.ask("slow")
    await within(began.wait(), "the call did not begin")

    await browser.get("/logout")
    go_on.set()
    error = await refused(socket.reply(slow))

    assert (error.code, error.message) == (4040, "session gone")
    assert await socket.closed() == ENDED
    assert await stored(store, browser.sid) is None


async def test_a_call_that_outlasts_the_end_of_its_session_cannot_keep_the_socket_open(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    began = asyncio.Event()

    class Endless(Live):
        @rpc
        async def endless(self) -> None:
            began.set()
            await asyncio.Event().wait()

    site = await serve_live(store, Endless)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    endless = socket.ask("endless")
    await within(began.wait(), "the call did not begin")

    await browser.get("/logout")

    assert await socket.closed() == ENDED
    with pytest.raises(SocketClosed):
        await socket.reply(endless)


async def test_end_all_ends_every_session_of_a_user_but_the_one_to_keep(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    fred_here, fred_there, anna = site.browser(), site.browser(), site.browser()
    for browser, name in ((fred_here, "fred"), (fred_there, "fred"), (anna, "anna")):
        await browser.get(f"/login?name={name}")
    sockets = [await browser.connect() for browser in (fred_here, fred_there, anna)]
    before = {session.id for session in await site.app.sessions.of_user("fred")}

    ended = await site.app.sessions.end_all("fred", keep=fred_here.sid)

    assert before == {fred_here.sid, fred_there.sid}
    assert ended == 1
    assert await sockets[1].closed() == ENDED
    assert [(await sockets[number].call("cart.show"))["userId"] for number in (0, 2)] == ["fred", "anna"]
    assert [session.id for session in await site.app.sessions.of_user("fred")] == [fred_here.sid]
    assert await site.app.sessions.end_all("fred") == 1
    assert await sockets[0].closed() == ENDED
    assert await site.app.sessions.of_user("fred") == []


@pytest.mark.parametrize("command", ["DEL", "UNLINK", "FLUSHDB", "PEXPIRE", "corrupt"])
async def test_a_session_removed_in_redis_by_anybody_closes_its_sockets(
    command: str, redis_url: str, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    store = StoreProbe(RedisStore(redis_url))
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    key = f"sess:{browser.sid}"
    expect_log("cannot be read and is left alone", count=1 if command == "corrupt" else 0, required=False)

    async with aioredis.Redis.from_url(redis_url) as client:
        match command:
            case "FLUSHDB":
                await client.flushdb()
            case "PEXPIRE":
                await client.pexpire(key, 1)
            case "corrupt":
                await client.set(key, "no session at all")
            case _:
                await client.execute_command(command, key)

        assert await socket.closed() == ENDED
        # And nobody brings it back.
        left = await client.get(key)
        assert left == (b"no session at all" if command == "corrupt" else None)


# --- a store that is away ---------------------------------------------------------------------------------------------


async def test_a_socket_opened_while_redis_is_down_lives_and_has_its_session_when_redis_is_back(
    proxy: FaultProxy, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(StoreProbe(RedisStore(proxy.url)), WithView)
    browser = site.browser()
    await browser.get("/tea")
    expect_log("Redis cannot be reached")
    expect_log("Redis is back", count=1)
    proxy.refuse()

    socket = await browser.connect()
    works = [await socket.call("add", 2, 3), await socket.call("add_async", 2, 3)]
    errors = [await refused(socket.call(method)) for method in ("cart.show", "cart.show_now")]
    errors += [await refused(socket.call(method, "tea")) for method in ("cart.add", "cart.add_now")]
    await proxy.accept()
    view = await socket.receive("session")

    assert works == [5, 5]
    assert [(error.code, error.message) for error in errors] == [(4050, "unavailable")] * 4
    assert view == [{"teas": 1}]
    assert await socket.call("cart.add", "tea") == {"tea": 2}
    assert (await browser.get("/look")).json == {"cart": {"tea": 2}}


async def test_a_socket_lives_through_an_outage_of_redis_and_sees_what_was_changed_meanwhile(
    redis_url: str, proxy: FaultProxy, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    store = StoreProbe(RedisStore(proxy.url))
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    assert await socket.call("cart.show_now") == {"cart": {"tea": 1}}
    expect_log("Redis cannot be reached")
    expect_log("Redis is back", count=1)

    proxy.refuse()
    await eventually(lambda: not store.coherent, "the cut was not noticed")
    away = await refused(socket.call("cart.show_now"))
    async with aioredis.Redis.from_url(redis_url) as client:
        text = json.loads(await client.get(f"sess:{browser.sid}"))
        text["meanwhile"] = True
        await client.set(f"sess:{browser.sid}", json.dumps(text), ex=100)
    await proxy.accept()

    assert away.code == 4050
    assert await socket.receive("changed") == [["meanwhile"]]
    assert await socket.call("cart.show_now") == {"cart": {"tea": 1}, "meanwhile": True}


async def test_a_session_that_ended_while_redis_was_away_closes_its_sockets_when_it_is_back(
    redis_url: str, proxy: FaultProxy, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(StoreProbe(RedisStore(proxy.url)))
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    expect_log("Redis cannot be reached")
    expect_log("Redis is back", count=1)

    proxy.refuse()
    async with aioredis.Redis.from_url(redis_url) as client:
        await client.delete(f"sess:{browser.sid}")
    await proxy.accept()

    assert await socket.closed() == ENDED


# --- hostile messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="the one byte that MessagePack never has"),
        pytest.param(b"\x94\x00\x01", id="half a call"),
        pytest.param(b"\xff" * 100, id="noise"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="four thousand million elements"),
        pytest.param(b"\x91" * 10_000, id="10,000 deep"),
        pytest.param(b"\xdf\x00\x01\x00\x00" + b"\x80" * 60_000, id="many empty maps"),
        pytest.param(msgpack.packb(7), id="a number"),
        pytest.param(msgpack.packb({}), id="a map"),
        pytest.param(msgpack.packb([]), id="an empty array"),
        pytest.param(msgpack.packb([9, 1, "add", []]), id="an unknown kind"),
        pytest.param(msgpack.packb([-1, 1, "add", []]), id="a kind below zero"),
        pytest.param(msgpack.packb(["0", 1, "add", []]), id="a kind that is text"),
        pytest.param(msgpack.packb([0]), id="a call that says nothing"),
        pytest.param(msgpack.packb([0, 7]), id="a call without method"),
        pytest.param(msgpack.packb([0, 7, 5, []]), id="a method that is a number"),
        pytest.param(msgpack.packb([0, 7, "add", {}]), id="params that are a map"),
        pytest.param(msgpack.packb([0, 7, "add", "xy"]), id="params that are a text"),
        pytest.param(msgpack.packb([0, 7, b"\xff\xfe", []]), id="a method that is bytes"),
        pytest.param(b"\x94\x00\x07\xa2\xff\xfe\x90", id="a method that is no UTF-8"),
        pytest.param(msgpack.packb([0, 1.5, "add", [1, 2]]), id="an id that is a fraction"),
        pytest.param(msgpack.packb([0, None, "add", [1, 2]]), id="an id that is nil"),
        pytest.param(msgpack.packb([0, [7], "add", [1, 2]]), id="an id that is an array"),
        pytest.param(msgpack.packb([0, 7, "add", [1, 2], 5]), id="meta that is a number"),
        pytest.param(msgpack.packb([0, 7, "add", [1, 2], {}, 6, 7]), id="too many elements"),
    ],
)
async def test_a_message_that_is_none_is_answered_with_an_error_and_the_socket_goes_on(
    payload: bytes, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    socket.send_raw(payload)
    kind, call_id, error, result = await socket.receive_message()

    assert (kind, result) == (1, None)
    assert call_id in {None, 7}
    assert error[0] in {-32700, -32600, -32601, -32602}
    assert await socket.call("add", 2, 3) == 5


@pytest.mark.parametrize(
    "message",
    [
        pytest.param([1, 99, None, "a reply that nobody waits for"], id="reply"),
        pytest.param([1, "x", [1, "a", None], None], id="refusal"),
        pytest.param([3, 99], id="cancel"),
        pytest.param([5, 99, 5], id="credit"),
        pytest.param([2, "no.such.method", []], id="notification of an unknown method"),
        pytest.param([2, "add", ["x"]], id="notification with wrong arguments"),
    ],
)
async def test_what_refers_to_nothing_is_passed_over_in_silence(
    message: list[Any], memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    socket.send(message)

    assert await nothing_else(socket) == [[]]


async def test_a_text_message_under_the_binary_subprotocol_is_an_error(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    socket.send_raw('[0,1,"add",[2,3]]')

    assert (await socket.receive_message())[2][0] == -32700
    assert await socket.call("add", 2, 3) == 5


@pytest.mark.parametrize(
    "name",
    [
        "",
        "no_such_method",
        "cart",
        "cart.",
        ".add",
        "cart.no_such",
        "cart.add.x",
        "Cart.add",
        "__init__",
        "__class__",
        "cart.__class__",
        "_tell",
        "_push_view",
        "open",
        "close",
        "on_message",
        "on_close",
        "write_message",
        "get",
        "prepare",
        "finish",
        "subscribe",
        "call",
        "publish",
        "session",
        "session_turn",
        "may_subscribe",
        "cart.session",
        "cart.handler",
        "application.settings",
        "add\0",
        "add ",
        "x" * 10_000,
        "\U0001f375",
    ],
)
async def test_only_marked_methods_can_be_called(name: str, memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    error = await refused(socket.call(name, 1, 2))

    assert error.code == -32601
    assert error.message.startswith("method not found")
    assert len(error.message) < 200
    assert await socket.call("add", 2, 3) == 5


@pytest.mark.parametrize(
    ("params", "words"),
    [
        pytest.param((), "takes 2 arguments", id="none"),
        pytest.param((1,), "takes 2 arguments", id="one"),
        pytest.param((1, 2, 3), "takes 2 arguments", id="three"),
        pytest.param(("1", 2), "params[0] (a): expected int, got str", id="text for a number"),
        pytest.param((1, None), "params[1] (b): expected int, got null", id="nil for a number"),
        pytest.param((1, 2.5), "params[1] (b): expected int, got float", id="a fraction"),
        pytest.param((True, 2), "params[0] (a): expected int, got bool", id="a boolean"),
        pytest.param(([1], 2), "params[0] (a): expected int, got array", id="an array"),
    ],
)
async def test_wrong_types_and_counts_are_answered_with_the_arguments_name(
    params: tuple[Any, ...], words: str, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    error = await refused(socket.call("add", *params))

    assert error.code == -32602
    assert words in error.message


async def test_a_message_over_the_limit_closes_the_socket_with_1009(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    socket.send_raw(b"\x00" * (64 * 1024 + 1))

    assert (await socket.closed()).code == 1009


async def test_a_hundred_bad_messages_in_a_row_are_each_answered(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    for number in range(100):
        socket.send([0, f"id-{number}", "no_such", []])

    ids = [(await socket.receive_message())[1] for _ in range(100)]
    assert ids == [f"id-{number}" for number in range(100)]


async def test_an_id_may_be_text_and_may_be_used_again_when_it_is_answered(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    results = [await socket.reply(socket.send_call([0, "the same", "add", [number, 1]])) for number in range(3)]

    assert results == [1, 2, 3]


async def test_a_result_that_cannot_be_sent_is_logged_and_told_as_internal_error(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Odd(Live):
        @rpc
        def odd(self) -> Any:
            return object()

    site = await serve_live(memory, Odd)
    socket = await site.browser().connect()
    expect_log("odd gave a object, which cannot be sent", logger="sstream.rpc", count=1)

    error = await refused(socket.call("odd"))

    assert (error.code, error.message) == (-32603, "internal error")
    assert await socket.call("add", 2, 3) == 5


# --- the handshake ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1.evil.example",
        "null",
        "file://",
        "garbage",
        "http://[",
    ],
)
async def test_a_handshake_from_another_origin_is_refused(
    origin: str, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    await browser.get("/tea")
    memory.asked.clear()

    with pytest.raises(HTTPClientError) as told:
        await browser.connect(headers={"Origin": origin})

    assert told.value.code == 403
    assert site.app.sockets == {}
    assert site.app.sessions.count_sockets(browser.sid or "") == 0


async def test_https_of_the_same_host_is_another_origin_for_a_plain_websocket(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)

    with pytest.raises(HTTPClientError) as told:
        await site.browser().connect(headers={"Origin": site.url.replace("http://", "https://")})

    assert told.value.code == 403


@pytest.mark.parametrize("site_word", ["cross-site", "same-site", "none", "garbage"])
async def test_a_handshake_that_the_browser_itself_calls_foreign_is_refused(
    site_word: str, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)

    with pytest.raises(HTTPClientError) as told:
        await site.browser().connect(headers={"Sec-Fetch-Site": site_word})

    assert told.value.code == 403
    assert await (await site.browser().connect(headers={"Sec-Fetch-Site": "same-origin"})).call("add", 2, 3) == 5


async def test_trusted_origins_are_let_in_and_no_others(memory: StoreProbe) -> None:
    friend = "https://friend.example"
    session = SessionOptions(secret=SECRET)
    application = Application([("/ws", Live)], store=memory, session=session, trusted_origins=[friend])
    async with serve(application) as site:
        browser = site.browser()

        socket = await browser.connect(headers={"Origin": friend, "Sec-Fetch-Site": "cross-site"})

        assert await socket.call("add", 2, 3) == 5
        for origin in (friend + ".evil.example", "http://friend.example", friend + ":8443", friend + "/"):
            with pytest.raises(HTTPClientError):
                await browser.connect(headers={"Origin": origin})


async def test_behind_a_proxy_that_speaks_https_the_sites_own_origin_is_https(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory, proxy=True)
    browser = site.browser()
    origin = site.url.replace("http://", "https://")
    forwarded = {"Origin": origin, "X-Forwarded-Proto": "https"}

    socket = await browser.connect(headers=forwarded, trades=False)
    await socket.call("cart.add", "tea")
    ticket, _ = await socket.receive("sstream:ticket")
    traded = await browser.trade(ticket, headers={**forwarded, "Sec-Fetch-Site": None})

    assert traded.status == 204
    assert "; Secure;" in traded.cookies[0]
    with pytest.raises(HTTPClientError):
        await browser.connect(headers={"Origin": site.url, "X-Forwarded-Proto": "https"})


async def test_over_https_pages_sockets_and_tickets_work_and_the_cookie_is_secure_by_itself(
    store: StoreProbe,
) -> None:
    application = Application([("/ws", WithView), *PAGES], store=store, session=SessionOptions(secret=SECRET))
    async with serve(application, CERTIFICATE) as site:
        browser, first = site.browser(), site.browser()

        page = await browser.get("/tea")
        socket = await browser.connect()
        view = await socket.receive("session")
        await socket.call("account.login", "fred")
        login = await socket.traded()
        fresh = await first.connect()
        await fresh.call("cart.add", "tea")
        introduced = await fresh.traded()
        await browser.get("/logout")

        for reply in (page, login, introduced):
            assert reply.cookies[0].endswith("; Path=/; HttpOnly; Secure; SameSite=Lax")
        assert view == [{"teas": 1}]
        assert await socket.closed() == ENDED
        assert (await first.get("/look")).json == {"cart": {"tea": 1}}


async def test_a_program_without_an_origin_is_let_in(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)

    socket = await site.browser().connect(headers={"Origin": None})

    assert await socket.call("add", 2, 3) == 5


async def test_a_subclass_may_let_other_origins_in(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Open(Live):
        def check_origin(self, origin: str) -> bool:
            return origin == "https://friend.example"

    site = await serve_live(memory, Open)

    socket = await site.browser().connect(headers={"Origin": "https://friend.example"})

    assert await socket.call("add", 2, 3) == 5


async def test_the_json_subprotocol_speaks_the_same_arrays_as_text(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, WithView)
    browser = site.browser()
    await browser.get("/tea")

    socket = await browser.connect(subprotocol="sstream.v1.json")

    assert socket.headers["Sec-WebSocket-Protocol"] == "sstream.v1.json"
    assert await socket.receive("session") == [{"teas": 1}]
    assert await socket.call("add", 2, 3) == 5
    assert await socket.call("cart.add", "tea") == {"tea": 2}
    await site.app.publish.all("news", {"tea": ["ä", 1.5, None]})
    assert await socket.receive("news") == [{"tea": ["ä", 1.5, None]}]
    assert (await refused(socket.call("add", "x", 1))).code == -32602
    socket.send_raw("[0,1,")
    assert (await socket.receive_message())[2][0] == -32700


async def test_without_a_subprotocol_it_is_messagepack(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)

    socket = await site.browser().connect(subprotocol=None)

    assert "Sec-WebSocket-Protocol" not in socket.headers
    assert await socket.call("add", 2, 3) == 5


async def test_an_open_of_ones_own_gets_the_routes_arguments_and_the_session_whether_def_or_async_def(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    class Plain(Live):
        def open(self, room: str) -> None:
            self.heard.append([room, dict(self.session)])

    class Later(Live):
        async def open(self, room: str) -> None:
            await asyncio.sleep(0)
            self.heard.append([room, dict(self.session)])

    site = await serve_live(store, ("/plain/(.*)", Plain), ("/later/(.*)", Later))
    browser = site.browser()
    await browser.get("/put?a=1")

    heard = [await (await browser.connect(path)).call("what_was_heard") for path in ("/plain/lobby", "/later/lobby")]

    assert heard == [[["lobby", {"a": "1"}]]] * 2


async def test_open_may_write_to_the_session_in_a_turn_of_its_own(store: StoreProbe, serve_live: ServeLive) -> None:
    class Greeting(Live):
        async def open(self) -> None:
            async with self.session_turn() as session:
                session["opened"] = session.get("opened", 0) + 1

    site = await serve_live(store, Greeting)
    browser = site.browser()

    first = await browser.connect()
    assert (await first.traded()).status == 204
    second = await browser.connect()

    assert await second.call("cart.show") == {"opened": 2}
    assert await first.call("cart.show") == {"opened": 2}
    assert await stored(store, browser.sid) == {"opened": 2}


async def test_calls_sent_while_open_still_waits_run_after_it_as_tornado_has_it(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    go_on = asyncio.Event()

    class Slow(Live):
        async def open(self) -> None:
            await go_on.wait()
            self.heard.append("opened")

    site = await serve_live(memory, Slow)
    socket = await site.browser().connect()

    call = socket.ask("what_was_heard")
    go_on.set()

    assert await socket.reply(call) == ["opened"]


async def test_an_open_that_raises_is_logged_and_nothing_of_the_socket_is_left(
    store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Broken(Live):
        def open(self) -> None:
            raise ZeroDivisionError("on purpose")

    class BrokenLater(Live):
        async def open(self) -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError("on purpose")

    site = await serve_live(store, ("/ws", Broken), ("/later", BrokenLater))
    browser = site.browser()
    await browser.get("/tea")
    expect_log("Uncaught exception", logger="tornado.application", count=2)

    for path in ("/ws", "/later"):
        socket = await browser.connect(path)
        assert (await socket.closed()).code in {None, 1006, 1011}

    await eventually(lambda: not site.app.sockets, "the sockets are left")
    assert site.app.sessions.count_sockets(browser.sid or "") == 0
    assert site.app.hub.sockets_of("all") == ()


async def test_a_prepare_that_refuses_the_handshake_leaves_nothing(store: StoreProbe, serve_live: ServeLive) -> None:
    class MembersOnly(Live):
        async def prepare(self) -> None:
            await super().prepare()
            if self.session.user_id is None:
                raise HTTPError(401)

    site = await serve_live(store, MembersOnly)
    browser = site.browser()
    await browser.get("/tea")

    with pytest.raises(HTTPClientError) as told:
        await browser.connect()
    left = (list(site.app.sockets), site.app.sessions.count_sockets(browser.sid or ""))
    await browser.get("/login?name=fred")
    socket = await browser.connect()

    assert told.value.code == 401
    assert left == ([], 0)
    assert await socket.call("add", 2, 3) == 5


async def test_a_plain_get_at_the_websockets_route_is_refused_and_leaves_nothing(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")

    page = await browser.get("/ws")

    assert page.status in {400, 426}
    assert page.cookies == []
    assert site.app.sockets == {}
    assert site.app.sessions.count_sockets(browser.sid or "") == 0


async def test_a_client_that_leaves_during_the_handshake_leaves_nothing(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    hold = store.hold("get", "sess:")
    _, writer = await asyncio.open_connection(*site.address)
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Cookie: {browser.jar.header('/ws')}\r\n\r\n".encode()
    )
    await hold.wait()

    writer.transport.abort()
    await browser.copy().get("/put?a=1")  # the server has read on since
    hold.release()
    later = await browser.connect()
    await later.close()

    await eventually(lambda: not site.app.sockets, "the socket is left")
    await eventually(lambda: site.app.sessions.count_sockets(browser.sid or "") == 0, "the session's socket is left")


async def test_a_session_that_ends_during_the_handshake_ends_the_socket_or_leaves_it_anonymous(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    hold = store.hold("get", "sess:", after=True)
    opening = asyncio.ensure_future(browser.connect())
    await hold.wait()

    await site.app.sessions.end(browser.sid or "")
    hold.release()
    socket = await opening

    try:
        assert await socket.call("cart.show") == {}
    except (RPCError, SocketClosed):
        assert await socket.closed() == ENDED
    assert await stored(store, browser.sid) is None


async def test_a_session_has_a_bounded_number_of_sockets(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, limits=Limits(sockets_per_session=2))
    browser, stranger = site.browser(), site.browser()
    await browser.get("/tea")
    await stranger.get("/tea")
    first, second = await browser.connect(), await browser.connect()

    third = await browser.connect()
    other = await stranger.connect()

    assert (await third.closed()).code == 4429
    assert [await socket.call("add", 1, 1) for socket in (first, second, other)] == [2, 2, 2]
    await first.close()
    await eventually(lambda: site.app.sessions.count_sockets(browser.sid or "") == 1, "the first is not gone")
    assert await (await browser.connect()).call("add", 1, 1) == 2


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"cookie":{},"userId":{"a":1}}', id="a user that is an object"),
        pytest.param(b'{"cookie":{},"userId":true}', id="a user that is a boolean"),
        pytest.param(b'{"cookie":{},"userId":""}', id="a user without name"),
        pytest.param(b'{"cookie":{},"userId":1.5}', id="a user that is a fraction"),
        pytest.param(b'{"cookie":{},"channels":7}', id="channels that are a number"),
        pytest.param(b'{"cookie":{},"channels":["*","a b","",7,null,"fine"]}', id="channels of illegal names"),
        pytest.param(b'{"cookie":{},"_sstream":{"moves":{"to":7,"by":"x"},"born":"x"}}', id="broken books"),
        pytest.param(b'{"cookie":{"originalMaxAge":"soon","expires":[]}}', id="a cookie of wrong types"),
    ],
)
async def test_odd_fields_that_somebody_else_stored_never_break_a_socket(
    text: bytes, store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(store)
    await store.store.swap(f"sess:{SID}", None, text, 3600)
    expect_log("sstream|session|channel|user", required=False)
    browser = site.browser(**{"connect.sid": signed(SID)})

    socket = await browser.connect()

    assert await socket.call("cart.add", "tea") == {"tea": 1}
    await site.app.publish.all("news")
    assert await socket.receive("news") == []


async def test_a_corrupt_text_leaves_a_socket_anonymous_and_the_key_alone(
    store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(store)
    await store.store.swap(f"sess:{SID}", None, b"no session at all", 3600)
    expect_log("cannot be read and is left alone", count=1)
    browser = site.browser(**{"connect.sid": signed(SID)})

    socket = await browser.connect()

    assert await socket.call("cart.add", "tea") == {"tea": 1}
    assert (await socket.traded()).status == 204
    assert browser.sid != SID
    assert await store.store.get(f"sess:{SID}") == b"no session at all"


async def test_on_close_runs_and_nothing_of_the_socket_is_left(store: StoreProbe, serve_live: ServeLive) -> None:
    closed: list[Any] = []

    class Watching(Live):
        def on_close(self) -> None:
            closed.append((self.close_code, self.session.user_id))

    site = await serve_live(store, Watching)
    browser = site.browser()
    await browser.get("/login?name=fred")
    socket = await browser.connect()
    await socket.call("add", 1, 1)
    store.asked.clear()

    await socket.close(1000, "done")
    await eventually(lambda: closed, "on_close was not called")

    assert closed == [(1000, "fred")]
    assert site.app.sockets == {}
    assert site.app.sessions.count_sockets(browser.sid or "") == 0
    assert site.app.hub.sockets_of("all") == ()
    assert store.asked == []


async def test_a_call_in_flight_is_cancelled_when_its_socket_closes_and_stores_nothing(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    class Slow(Live):
        @rpc(use=[load_session])
        async def slow(self) -> None:
            self.session["half"] = 1
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    site = await serve_live(store, Slow)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    slow = socket.ask("slow")
    await within(began.wait(), "the call did not begin")

    await socket.close()
    await within(cancelled.wait(), "the call was not cancelled")

    with pytest.raises(SocketClosed):
        await socket.reply(slow)
    assert await stored(store, browser.sid) == {"a": "1"}


async def test_a_plain_websocket_handler_may_use_the_session_too(store: StoreProbe, serve_live: ServeLive) -> None:
    class Echo(SessionMixin, WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            async with self.session_turn() as session:
                session["said"] = message
            await self.write_message(json.dumps(["said", [dict(session)]]))

        def on_session_change(self, keys: frozenset[str]) -> None:
            self.write_message(json.dumps(["changed", sorted(keys)]))

    site = await serve_live(store, Echo)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect(subprotocol=None)

    socket.send_raw("tea")
    said = await socket.receive("said")
    await browser.get("/put?a=2")
    changed = await socket.receive_event("changed")
    await browser.get("/logout")

    assert said == [{"a": "1", "said": "tea"}]
    assert changed == ["changed", ["a"]]
    assert await socket.closed() == ENDED


# --- events -----------------------------------------------------------------------------------------------------------


class Talking(Live):
    """Publishes for its callers, and subscribes them."""

    @rpc
    async def join(self, *channels: str) -> None:
        await self.subscribe(*channels)

    @rpc
    async def leave(self, *channels: str) -> None:
        await self.unsubscribe(*channels)

    @rpc(use=[load_session])
    async def join_all(self, *channels: str) -> list[str]:
        await self.session.channels.subscribe(*channels)
        return self.session.channels.list()

    @rpc(use=[load_session])
    async def leave_all(self, *channels: str) -> list[str]:
        await self.session.channels.unsubscribe(*channels)
        return self.session.channels.list()

    @rpc
    async def say(self, target: str, whom: Any, event: str) -> None:
        match target:
            case "all":
                await self.publish.all(event, "args", 1)
            case "user":
                await self.publish.user(whom, event)
            case "channel":
                await self.publish.channel(whom, event)
            case "socket":
                await self.publish.socket(whom, event)


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


async def test_events_reach_those_they_are_for_and_nobody_else(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory, Talking)
    first, second, anna = await three(site)
    anonymous = await site.browser().connect()
    everybody = (first, second, anna, anonymous)
    await first.call("join", "lobby", "tea")
    await anonymous.call("join", "lobby")

    await first.call("say", "all", None, "to all")
    to_all = await heard(site, *everybody)
    await anonymous.call("say", "user", "fred", "to fred")
    to_fred = await heard(site, *everybody)
    await anonymous.call("say", "user", ["fred", "anna"], "to both")
    to_both = await heard(site, *everybody)
    await anna.call("say", "channel", "lobby", "to the lobby")
    to_lobby = await heard(site, *everybody)
    await anna.call("say", "socket", await second.call("me"), "to one")
    to_one = await heard(site, *everybody)

    assert to_all == [["to all"]] * 4
    assert to_fred == [["to fred"], ["to fred"], [], []]
    assert to_both == [["to both"], ["to both"], ["to both"], []]
    assert to_lobby == [["to the lobby"], [], [], ["to the lobby"]]
    assert to_one == [[], ["to one"], [], []]


async def test_events_carry_their_arguments_and_the_channels_name(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory, Talking)
    socket = await site.browser().connect()
    await socket.call("join", "lobby")

    await site.app.publish.all("news", {"tea": 1}, [1, 2.5, "ä", None, b"bytes"])
    await site.app.publish.channel("lobby", "said", "hello")

    assert await socket.receive_event("news") == ["news", [{"tea": 1}, [1, 2.5, "ä", None, b"bytes"]]]
    assert await socket.receive_event("said") == ["said", ["hello"], {"channel": "lobby"}]


async def test_a_socket_leaves_a_channel_and_hears_no_more_of_it(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory, Talking)
    socket = await site.browser().connect()
    await socket.call("join", "lobby", "tea")

    await socket.call("leave", "lobby")
    await site.app.publish.channel(["lobby", "tea"], "news")

    assert await heard(site, socket) == [["news"]]


async def test_a_sessions_channels_hold_for_all_its_sockets_and_for_later_ones(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, Talking)
    browser = site.browser()
    await browser.get("/put?a=1")
    mine, other, stranger = await browser.connect(), await browser.connect(), await site.browser().connect()

    assert await mine.call("join_all", "lobby") == ["lobby"]
    await other.receive("changed")
    later = await browser.connect()
    await site.app.publish.channel("lobby", "joined")
    joined = await heard(site, mine, other, later, stranger)
    assert await other.call("leave_all", "lobby") == []
    await mine.receive("changed")
    await later.receive("changed")
    await site.app.publish.channel("lobby", "left")
    left = await heard(site, mine, other, later, stranger)

    assert joined == [["joined"], ["joined"], ["joined"], []]
    assert left == [[], [], [], []]


async def test_logging_in_and_out_changes_whose_events_a_socket_hears(store: StoreProbe, serve_live: ServeLive) -> None:
    class Changing(Talking):
        @rpc(use=[load_session])
        async def become(self, name: str | None) -> None:
            await self.session.set_user_id(name)

    site = await serve_live(store, Changing)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    names = []

    for name in ("fred", "anna", None):
        await socket.call("become", name)
        await socket.traded()
        await site.app.publish.user("fred", "to fred")
        await site.app.publish.user("anna", "to anna")
        names += await heard(site, socket)

    assert names == [["to fred"], ["to anna"], []]


async def test_an_anonymous_socket_hears_nothing_of_users(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory, Talking)
    socket = await site.browser().connect()

    for user in ("", "None", "null", "0", "anonymous"):
        if user:
            await site.app.publish.user(user, "secret")
        with pytest.raises(ValueError):
            await site.app.publish.user(None, "secret")  # type: ignore[arg-type]  # that is what is tested

    assert await heard(site, socket) == [[]]


async def test_a_subscription_to_an_illegal_channel_is_an_error_to_the_caller(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(memory, Talking)
    socket = await site.browser().connect()
    expect_log("join raised", logger="sstream.rpc", required=False)

    for name in ("", "*", "a b", "x" * 300, "\0", "{tag}"):
        error = await refused(socket.call("join", name))
        assert error.code in {-32602, -32603}

    assert site.app.hub.topics_of(next(iter(site.app.sockets.values()))) == {"all", f"socket:{await socket.call('me')}"}


async def test_a_socket_is_subscribed_to_a_bounded_number_of_channels(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory, Talking, limits=Limits(channels=3))
    socket = await site.browser().connect()
    await socket.call("join", "a", "b")

    error = await refused(socket.call("join", "c", "d"))
    await socket.call("join", "b", "c")
    last = await refused(socket.call("join", "d"))

    assert (error.code, last.code) == (4029, 4029)
    await site.app.publish.channel(["a", "b", "c", "d"], "news")
    assert await heard(site, socket) == [["news", "news", "news"]]


async def test_a_browser_subscribes_only_where_it_may(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Rooms(Live):
        def may_subscribe(self, channel: str) -> bool | Awaitable[bool]:
            if channel.startswith("slow-"):
                return self._ask(channel)
            return channel.startswith("open-")

        async def _ask(self, channel: str) -> bool:
            await asyncio.sleep(0)
            return channel == "slow-yes"

    site = await serve_live(memory, ("/ws", Rooms), ("/closed", Live))
    socket, closed = await site.browser().connect(), await site.browser().connect("/closed")

    replies = [await socket.call("sstream.subscribe", name) for name in ("open-a", "open-b", "slow-yes")]
    refusals = [(await refused(socket.call("sstream.subscribe", name))).code for name in ("secret", "slow-no")]
    refusals.append((await refused(closed.call("sstream.subscribe", "open-a"))).code)
    illegal = [(await refused(socket.call("sstream.subscribe", name))).code for name in ("", "open-*", "open-a b", 7)]
    await socket.call("sstream.unsubscribe", "open-b")
    await site.app.publish.channel(["open-a", "open-b", "slow-yes", "secret", "slow-no"], "news")

    assert replies == [{}] * 3
    assert refusals == [4003] * 3
    assert illegal == [-32602] * 4
    assert await heard(site, socket, closed) == [["news", "news"], []]


async def test_a_browser_cannot_reach_topics_that_are_no_channels(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Open(Live):
        def may_subscribe(self, channel: str) -> bool:
            return True

    site = await serve_live(memory, Open)
    socket = await site.browser().connect()

    for name in ("all", "user:fred", "socket:1", "channel:x"):
        await socket.call("sstream.subscribe", name)
    await site.app.publish.user("fred", "secret")
    await site.app.publish.channel("x", "secret")

    assert await heard(site, socket) == [[]]


async def test_a_browser_publishes_only_where_it_may(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Wall(Talking):
        def may_publish(self, channel: str) -> bool | Awaitable[bool]:
            return self._ask(channel) if channel.startswith("slow-") else channel == "wall"

        async def _ask(self, channel: str) -> bool:
            await asyncio.sleep(0)
            return channel == "slow-yes"

    site = await serve_live(memory, ("/ws", Wall), ("/closed", Live))
    socket, closed = await site.browser().connect(), await site.browser().connect("/closed")
    await socket.call("join", "wall", "slow-yes", "slow-no", "secret")

    for channel in ("wall", "slow-yes"):
        await socket.call("sstream.publish", channel, "said", {"tea": 1}, 2)
    refusals = [
        (await refused(asking.call("sstream.publish", channel, "said"))).code
        for asking, channel in ((socket, "secret"), (socket, "slow-no"), (closed, "wall"))
    ]
    illegal = [
        (await refused(socket.call("sstream.publish", "wall", *rest))).code
        for rest in (("sstream:gap",), ("sstream:ticket", "x"), ("",), (), (7,))
    ]

    assert [await socket.receive_event("said") for _ in range(2)] == [
        ["said", [{"tea": 1}, 2], {"channel": "wall"}],
        ["said", [{"tea": 1}, 2], {"channel": "slow-yes"}],
    ]
    assert refusals == [4003] * 3
    assert illegal == [-32602] * 5
    assert await heard(site, socket, closed) == [[], []]


async def test_presence_lists_the_users_of_a_channel_to_those_who_are_in_it(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    class Room(Live):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(presence=True) if channel == "room" else None

        def may_subscribe(self, channel: str) -> bool:
            return True

        def presence_about(self, channel: str) -> dict[str, Any]:
            return {"color": self.session.get("color")}

    site = await serve_live(memory, Room)
    fred, anna, nobody = site.browser(), site.browser(), site.browser()
    for browser, name, color in ((fred, "fred", "red"), (anna, "anna", "blue")):
        await browser.get(f"/put?color={color}")
        await browser.get(f"/login?name={name}")
    mine, twin, hers, guest = await fred.connect(), await fred.connect(), await anna.connect(), await nobody.connect()

    early = await refused(mine.call("sstream.presence", "room"))
    for socket in (mine, twin, hers, guest):
        await socket.call("sstream.subscribe", "room")
    together = await guest.call("sstream.presence", "room")
    joined = [await mine.receive("joined") for _ in range(2)]
    await mine.close()
    with_the_twin = await guest.call("sstream.presence", "room")

    assert early.code == 4003
    present = [{"user": "anna", "about": {"color": "blue"}}, {"user": "fred", "about": {"color": "red"}}]
    assert together == with_the_twin == present
    assert joined == [["fred", {"color": "red"}], ["anna", {"color": "blue"}]]
    anna_joined = ["joined", ["anna", {"color": "blue"}], {"channel": "room"}]
    assert await nothing_else(twin, hers, guest) == [[anna_joined], [anna_joined], []]


async def test_a_channel_with_history_gives_a_browser_that_comes_back_what_it_missed(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    class Room(Live):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(history=(10, 60)) if channel == "room" else None

        def may_subscribe(self, channel: str) -> bool:
            return True

    site = await serve_live(memory, Room)
    browser = site.browser()
    socket = await browser.connect()
    start = await socket.call("sstream.subscribe", "room")
    await site.app.publish.channel("room", "said", 1)
    _, args, meta = await socket.receive_event("said")
    await socket.close()
    await site.app.publish.channel("room", "said", 2)
    await site.app.publish.channel("room", "said", 3)

    back = await browser.connect()
    since = {"offset": meta["offset"], "epoch": meta["epoch"]}
    reply = await back.call("sstream.subscribe", "room", since)
    missed = [await back.receive("said"), await back.receive("said")]
    await site.app.publish.channel("room", "said", 4)

    assert (args, meta["channel"], start["epoch"]) == ([1], "room", meta["epoch"])
    assert (reply["recovered"], reply["offset"]) == (True, meta["offset"] + 2)
    assert missed == [[2], [3]]
    assert await back.receive("said") == [4]


async def test_a_socket_that_its_session_has_bound_and_that_follows_hears_each_event_once(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    class Room(Live):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(history=(10, 60)) if channel == "room" else None

        def may_subscribe(self, channel: str) -> bool:
            return True

        @rpc(use=[load_session])
        async def stay(self) -> None:
            await self.session.channels.subscribe("room")

    site = await serve_live(memory, Room)
    browser = site.browser()
    await browser.get("/put?a=1")
    first = await browser.connect()
    await first.call("stay")
    since = await first.call("sstream.subscribe", "room")
    await first.close()

    back = await browser.connect()  # in the channel by its session, before it asks
    await site.app.publish.channel("room", "said", 1)
    heard = [await back.receive("said")]
    reply = await back.call("sstream.subscribe", "room", {"offset": since["offset"], "epoch": since["epoch"]})
    await site.app.publish.channel("room", "said", 2)
    heard.append(await back.receive("said"))

    assert reply["recovered"] is True
    assert heard == [[1], [2]]
    await back.assert_silent("said")


async def test_a_sessions_channels_are_bounded_as_well(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, Talking, limits=Limits(channels=3))
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("join_all", "a", "b")

    error = await refused(socket.call("join_all", "c", "d"))

    assert error.code == 4029
    assert await stored(store, browser.sid) == {"a": "1", "channels": ["a", "b"]}
    await site.app.publish.channel(["a", "b", "c", "d"], "news")
    assert await heard(site, socket) == [["news", "news"]]


async def test_the_server_calls_what_the_browser_exposes(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Asking(Live):
        @rpc
        async def ask_back(self, question: str) -> Any:
            return await self.call("answer", question)

    def answer(question: str) -> str:
        if question == "refuse":
            raise RPCError(4003, "I will not", [1])
        return question.upper()

    site = await serve_live(memory, Asking)
    socket = await site.browser().connect()
    socket.expose("answer", answer)

    result = await socket.call("ask_back", "tea?")
    error = await refused(socket.call("ask_back", "refuse"))

    assert result == "TEA?"
    assert (error.code, error.message, error.data) == (4003, "I will not", [1])


# --- what the log may say ---------------------------------------------------------------------------------------------


async def test_no_log_line_ever_holds_an_id_a_cookie_a_ticket_or_a_payload(
    store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    site = await serve_live(store, Spoiling)
    browser = site.browser()
    expect_log("", logger="sstream", required=False)
    expect_log("", logger="tornado", required=False)
    secrets: set[str | None] = set()
    with caplog.at_level("DEBUG"):
        await browser.get("/put?password=hunter2")
        secrets |= {browser.sid, browser.jar["connect.sid"]}
        socket = await browser.connect(trades=False)
        await socket.call("account.login", "fred")
        ticket, _ = await socket.receive("sstream:ticket")
        for call in (
            socket.call("fail"),
            socket.call("spoil", "nan"),
            socket.call("spoil", "big"),
            socket.call("xyzzy"),
        ):
            await refused(call)
        socket.send_raw(b"hunter2\xc1")
        await socket.receive_message()
        await browser.trade("forged-" + ticket)
        await browser.trade(ticket)
        secrets |= {ticket, browser.sid, browser.jar["connect.sid"]}
        store.fail("get", "swap", "touch")
        await browser.get("/put?a=1")
        await refused(socket.call("cart.add", "hunter2"))
        store.heal()
        sid = browser.sid
        assert sid is not None
        await store.store.delete(f"sess:{sid}")
        await store.store.swap(f"sess:{sid}", None, b"hunter2, and no session", 100)
        await browser.get("/look")
        await browser.get("/logout")

    secrets = {secret for secret in secrets if secret}
    assert len(secrets) == 5
    assert len(caplog.records) > 5
    for record in caplog.records:
        line = logging.Formatter().format(record)
        # The query of a page is the visitor's own, and stands in Tornado's log of requests.
        if record.name != "tornado.access":
            assert "hunter2" not in line
        assert not [secret for secret in secrets if secret in line], line


# --- two processes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(redis_server: str) -> Iterator[list[Process]]:
    """Two processes of one application on one Redis."""
    processes = [Process(sys.executable, ROOT / "tests/apps/two.py", redis_server, cwd=ROOT) for _ in range(2)]
    try:
        for process in processes:
            process.wait_for(r"^listening on ", timeout=20)
        yield processes
    finally:
        for process in processes:
            process.stop()


@pytest.fixture
async def two(processes: list[Process], redis_url: str) -> AsyncIterator[tuple[Site, Site]]:
    """The same, on a database that is empty; whatever a process writes to its log fails the test."""
    written = [len(process.log) for process in processes]
    sites = [Site(process.wait_for(r"^listening on (\S+)$")[1]) for process in processes]
    yield sites[0], sites[1]
    for site in sites:
        await site.close()
    assert [process.log[start:] for process, start in zip(processes, written, strict=True)] == ["", ""]


async def test_a_change_in_one_process_is_seen_by_sockets_of_the_other(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    tab = beyond(browser, there)
    socket = await tab.connect()
    assert await socket.receive("session") == [{"teas": 1}]

    await browser.get("/tea")
    by_page = await socket.receive("session")
    neighbour = await browser.connect()
    await neighbour.receive("session")
    await neighbour.call("cart.add", "tea")
    by_call = await socket.receive("session")

    assert [by_page, by_call] == [[{"teas": 2}], [{"teas": 3}]]
    assert await socket.call("cart.add", "tea") == {"tea": 4}
    assert [await neighbour.receive("session") for _ in range(2)] == [[{"teas": 3}], [{"teas": 4}]]
    assert (await browser.get("/look")).json == {"cart": {"tea": 4}}


async def test_a_logout_in_one_process_closes_the_sockets_of_the_other(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    tab = beyond(browser, there)
    sockets = [await browser.connect(), await tab.connect(), await tab.connect()]

    await browser.get("/logout")

    for socket in sockets:
        assert await socket.receive("ended") == ["destroyed"]
        assert await socket.closed() == ENDED


async def test_a_login_by_socket_takes_the_sockets_of_the_other_process_along(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    old = browser.sid
    tab = beyond(browser, there)
    mine, other = await browser.connect(), await tab.connect()

    await mine.call("account.login", "fred")
    traded = await mine.traded()
    after = beyond(browser, there)
    by_other = await other.call("cart.add", "tea")
    by_page = (await after.get("/tea")).json
    # What one process has stored reaches the other in a moment, and not before its next call.
    while await mine.receive("session") != [{"teas": 3}]:
        pass
    by_mine = await mine.call("cart.add", "tea")

    assert (traded.status, browser.sid != old) == (204, True)
    assert [by_other, by_page, by_mine] == [{"tea": 2}, {"tea": 3}, {"tea": 4}]
    assert (await tab.get("/look")).json == {}  # it still has the old cookie
    assert not other.is_closed


async def test_a_ticket_may_be_traded_at_the_other_process(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    socket = await browser.connect(trades=False)
    await socket.call("account.login", "fred")
    ticket, _ = await socket.receive("sstream:ticket")
    tab = beyond(browser, there)

    traded = await tab.trade(ticket)

    assert traded.status == 204
    assert (await tab.get("/look")).json["userId"] == "fred"
    assert (await browser.get("/look")).json == {}
    assert await socket.call("cart.add", "tea") == {"tea": 2}
    assert (await tab.get("/look")).json["cart"] == {"tea": 2}


async def test_an_event_published_in_one_process_reaches_the_sockets_of_the_other_once(two: tuple[Site, Site]) -> None:
    here, there = two
    fred, anna = here.browser(), there.browser()
    await fred.get("/login?name=fred")
    await anna.get("/login?name=anna")
    first, second = await fred.connect(), await anna.connect()
    for name, socket in (("fred", first), ("anna", second)):
        await until_it_listens(socket, name, first)

    await first.call("say", "user", "anna", "to anna")
    await first.call("say", "socket", await second.call("me"), "to one")
    await first.call("say", "user", "fred", "to fred")
    await first.call("say", "all", None, "to all")
    await first.call("say", "all", None, "marker")

    for socket in (first, second):
        await socket.receive("marker")
    others = {"session", "are you there"}
    names = [[event[0] for event in socket.events if event[0] not in others] for socket in (first, second)]
    assert names == [["to fred", "to all"], ["to anna", "to one", "to all"]]
    assert await second.receive("to all") == ["args", 1]


async def until_it_listens(socket: Socket, user: str, publisher: Socket) -> None:
    """A socket is open a moment before Redis sends it the events of its user."""
    while "are you there" not in [event[0] for event in socket.events]:
        await publisher.call("say", "user", user, "are you there")


async def test_end_all_in_one_process_ends_the_users_sockets_in_the_other(two: tuple[Site, Site]) -> None:
    here, there = two
    fred_here, fred_there = here.browser(), there.browser()
    await fred_here.get("/login?name=fred")
    await fred_there.get("/login?name=fred")
    mine, other = await fred_here.connect(), await fred_there.connect()

    ended = await mine.call("account.end_others")

    assert ended == 1
    assert await other.receive("ended") == ["ended"]
    assert await other.closed() == ENDED
    assert (await mine.call("cart.show"))["userId"] == "fred"


async def test_writes_from_both_processes_at_once_are_all_kept(two: tuple[Site, Site]) -> None:
    here, there = two
    browser = here.browser()
    await browser.get("/tea")
    twin = beyond(browser, there)
    sockets = [await browser.connect(), await twin.connect()]

    await asyncio.gather(
        *(socket.call("put", f"socket-{place}-{turn}") for turn in range(15) for place, socket in enumerate(sockets)),
        *(tab.get(f"/put?page-{place}-{turn}=x") for turn in range(15) for place, tab in enumerate((browser, twin))),
        *(socket.call("count") for socket in sockets for _ in range(15)),
    )

    data = (await browser.get("/look")).json
    assert len(data) == 1 + 30 + 30 + 1
    assert data["n"] == 30


def beyond(browser: Browser, site: Site) -> Browser:
    """The same visitor, at another process."""
    twin = site.browser()
    twin.jar["connect.sid"] = browser.jar["connect.sid"]
    return twin
