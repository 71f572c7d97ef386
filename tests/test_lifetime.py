"""How long a session lives: idle time, absolute time, activity, and what open sockets hear when it is over."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import redis.asyncio as aioredis
from tornado.web import RequestHandler

from sstream import (
    Application,
    Limits,
    MemoryStore,
    RedisStore,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    load_session,
    rpc,
)
from sstream.testing import Browser, Closed, Page, Site, Socket, SocketClosed, StoreProbe, eventually, serve
from tests.lasting import Lasting

SECRET = "a test's own secret"
ENDED = Closed(4401, "session ended")

ServeLive = Callable[..., Awaitable[Site]]


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> StoreProbe:
    """A store of each kind."""
    if request.param == "memory":
        return StoreProbe(MemoryStore())
    return StoreProbe(RedisStore(request.getfixturevalue("redis_url"), deadline=20.0))


@pytest.fixture
async def serve_live() -> AsyncIterator[ServeLive]:
    """``await serve_live(store, max_age=10)``: an application; keywords are the session's options."""
    async with AsyncExitStack() as stack:

        async def serve_live(store: StoreProbe, handler: type[RPCHandler] | None = None, **options: Any) -> Site:
            routes = [
                ("/ws", handler or Live),
                ("/put", Put),
                ("/look", Look),
                ("/login", Login),
                ("/keep", Keep),
                ("/stream", Stream),
            ]
            session = SessionOptions(**{"secret": SECRET, **options})
            # These tests call as often as they can.
            limits = Limits(message_rate=None, message_burst=None)
            application = Application(routes, store=store, session=session, limits=limits)
            return await stack.enter_async_context(serve(application))

        yield serve_live


class Put(SessionMixin, RequestHandler):
    """Writes to the session."""

    def get(self) -> None:
        self.session["put"] = self.session.get("put", 0) + 1


class Look(SessionMixin, RequestHandler):
    """Shows the session, and changes nothing."""

    def get(self) -> None:
        self.write(dict(self.session))


class Login(SessionMixin, RequestHandler):
    """Logs the visitor in as the query says."""

    async def get(self) -> None:
        await self.session.set_user_id(self.get_argument("name"))


class Keep(SessionMixin, RequestHandler):
    """Gives this session a lifetime of its own, none for the empty text."""

    def get(self) -> None:
        seconds = self.get_argument("seconds")
        self.session.max_age = int(seconds) if seconds else None


class Stream(Keep):
    """The same, and part of the reply leaves before the session is stored."""

    async def get(self) -> None:  # type: ignore[override]  # a coroutine here
        super().get()
        self.write("one ")
        await self.flush()
        self.write("two")


class Live(RPCHandler):
    """A websocket that tells when its session ends."""

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(use=[load_session])
    def look(self) -> dict[str, Any]:
        return dict(self.session)

    @rpc(use=[load_session])
    async def keep(self, seconds: int | None) -> None:
        self.session.max_age = seconds

    def on_session_end(self, reason: str) -> None:
        self._tell("ended", reason)


async def ttl(store: StoreProbe, browser: Browser) -> int | None:
    """Seconds that a browser's session has left, not counted as asked."""
    return await store.store.ttl(f"sess:{browser.sid}")


def expires(page: Page) -> float:
    """Seconds until the session's cookie expires."""
    (line,) = page.cookies
    (text,) = [field[8:] for field in line.split("; ") if field.startswith("Expires=")]
    return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()


# --- idle time --------------------------------------------------------------------------------------------------------


async def test_a_session_left_alone_expires_and_its_open_sockets_hear_so(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    whole = Lasting(1000)
    site = await serve_live(store, max_age=1000)
    browser = site.browser()
    await browser.get("/put")
    old = browser.sid
    sockets = [await browser.connect(), await browser.connect()]
    assert await ttl(store, browser) == whole

    await store.store.touch(f"sess:{old}", 1)  # as if it had been left alone until now

    for socket in sockets:
        assert await socket.receive("ended") == ["expired"]
        assert await socket.closed() == ENDED

    assert (await browser.get("/look")).json == {}
    await browser.get("/put")
    assert browser.sid != old


async def test_calls_of_a_socket_are_activity_and_the_clients_heartbeat_is_not(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, max_age=20)  # a touch in 0.2 s at most
    browser = site.browser()
    await browser.get("/put")
    socket = await browser.connect()
    store.asked.clear()
    clock = asyncio.get_running_loop()

    until = clock.time() + 0.3
    while clock.time() < until:
        await _ping(socket)
    by_heartbeat = [operation for operation, _ in store.asked]

    async def touched() -> bool:
        await socket.call("add", 1, 1)
        return bool(store.asked)

    await eventually(touched, "no call has touched the session")
    assert by_heartbeat == []
    assert {operation for operation, _ in store.asked} == {"touch"}
    assert (await browser.get("/look")).json == {"put": 1}
    assert not socket.is_closed


async def _ping(socket: Socket) -> None:
    # Whatever it answers, an error too, is a sign of life.
    await asyncio.wait([socket.ask("sstream.ping")])


async def test_touches_of_a_socket_are_throttled(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, max_age=14 * 86400)
    browser = site.browser()
    await browser.get("/put")
    socket = await browser.connect()
    store.asked.clear()

    for _ in range(100):
        await socket.call("add", 1, 1)
        await socket.call("look")

    assert len(store.asked) <= 1


async def test_a_touch_by_a_socket_gives_the_whole_idle_time_again(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, max_age=40)
    browser = site.browser()
    await browser.get("/put")
    socket = await browser.connect()
    await store.store.touch(f"sess:{browser.sid}", 20)

    async def touched() -> bool:
        whole = Lasting(40)
        await socket.call("add", 1, 1)
        return await ttl(store, browser) == whole

    assert await eventually(touched, "no call has touched the session")


async def test_an_anonymous_sockets_calls_touch_nothing(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, max_age=1)
    socket = await site.browser().connect()
    clock = asyncio.get_running_loop()

    until = clock.time() + 0.1
    while clock.time() < until:
        await socket.call("add", 1, 1)
        await socket.call("look")

    assert store.asked == []


async def test_a_touch_that_meets_an_ended_session_revives_nothing(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, max_age=20)
    browser = site.browser()
    await browser.get("/put")
    socket = await browser.connect()
    hold = store.hold("touch")
    call = asyncio.ensure_future(_call_until_closed(socket))

    await hold.wait()
    await site.app.sessions.end(browser.sid or "")
    hold.release()
    await call

    assert (await socket.closed()).code == 4401
    assert await ttl(store, browser) is None


async def _call_until_closed(socket: Socket) -> None:
    while not socket.is_closed:
        try:
            await socket.call("add", 1, 1)
        except SocketClosed:
            return


async def test_a_session_stored_without_a_lifetime_by_somebody_else_gets_one_by_the_next_visit(
    redis_url: str, serve_live: ServeLive
) -> None:
    store = StoreProbe(RedisStore(redis_url, deadline=20.0))
    site = await serve_live(store, max_age=1000)
    browser = site.browser()
    await browser.get("/put")
    async with aioredis.Redis.from_url(redis_url) as client:
        await client.persist(f"sess:{browser.sid}")

        await browser.get("/look")

        assert 990 < await client.ttl(f"sess:{browser.sid}") <= 1000


# --- a lifetime of its own --------------------------------------------------------------------------------------------


async def test_a_sessions_own_lifetime_holds_in_the_store_and_in_the_cookie(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, max_age=100)
    browser = site.browser()
    await browser.get("/put")
    default, its_own = Lasting(100), Lasting(5000)

    page = await browser.get("/keep?seconds=5000")
    kept = await ttl(store, browser)
    await store.store.touch(f"sess:{browser.sid}", 50)
    await browser.get("/look")
    after_a_read = await ttl(store, browser)
    await browser.get("/keep?seconds=")
    given_back = await ttl(store, browser)

    assert 4990 < expires(page) <= 5001
    assert kept == its_own
    assert after_a_read == its_own
    assert given_back == default


async def test_a_lifetime_given_by_a_socket_holds_and_the_next_page_brings_its_cookie(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, max_age=100, rolling=True)
    browser = site.browser()
    await browser.get("/put")
    socket = await browser.connect()
    its_own = Lasting(5000)

    await socket.call("keep", 5000)
    page = await browser.get("/look")

    assert await ttl(store, browser) == its_own
    assert 4990 < expires(page) <= 5001


async def test_a_rolling_persistent_cookie_counts_from_the_last_visit(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, max_age=5000, persistent=True, rolling=True)
    browser = site.browser()
    await browser.get("/put")
    text = await store.store.get(f"sess:{browser.sid}")
    assert text is not None
    # As it would stand there after an hour of reading alone: only the store's own clock was set anew.
    old = json.loads(text)
    old["cookie"]["expires"] = "2026-01-01T00:00:00.000Z"
    await store.store.swap(f"sess:{browser.sid}", text, json.dumps(old).encode(), 5000)

    page = await browser.get("/look")

    assert page.json == {"put": 1}
    assert 4990 < expires(page) <= 5001


async def test_a_lifetime_given_before_the_first_flush_is_in_the_cookie(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, max_age=100)
    browser = site.browser()
    await browser.get("/put")
    its_own = Lasting(5000)

    page = await browser.get("/stream?seconds=5000")

    assert page.text == "one two"
    assert 4990 < expires(page) <= 5001
    assert await ttl(store, browser) == its_own


# --- the whole life ---------------------------------------------------------------------------------------------------


async def make_older(store: StoreProbe, browser: Browser, seconds: int) -> None:
    """Let a browser's session be so much older than it is; the store would keep it."""
    text = await store.store.get(f"sess:{browser.sid}")
    assert text is not None
    aged = json.loads(text)
    aged["_sstream"]["born"] -= seconds
    await store.store.swap(f"sess:{browser.sid}", text, json.dumps(aged).encode(), 500)


async def test_the_whole_life_is_bounded_whatever_the_activity(
    store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    # Of a page during which the life ended.
    expect_log(r"409 GET /put .*: this session has lived as long as it may", required=False)
    site = await serve_live(store, max_age=100, absolute_max_age=500)
    browser = site.browser()
    await browser.get("/put")
    old = browser.sid
    socket = await browser.connect()
    await make_older(store, browser, 499)

    async def ended() -> bool:
        await browser.get("/look")
        await browser.get("/put")
        return browser.sid != old

    assert await eventually(ended, "activity kept it alive")
    assert await socket.receive("ended") == ["expired"]
    assert await socket.closed() == ENDED


async def test_the_whole_life_is_not_begun_anew_by_a_new_id(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, max_age=1000, absolute_max_age=500)
    browser = site.browser()
    await browser.get("/put")
    await make_older(store, browser, 400)

    await browser.get("/login?name=fred")
    after_login = await ttl(store, browser)
    await browser.get("/put")
    after_write = await ttl(store, browser)
    await browser.get("/look")
    after_read = await ttl(store, browser)

    for left in (after_login, after_write, after_read):
        assert left is not None
        assert 90 < left <= 101


async def test_an_idle_time_shorter_than_what_is_left_of_life_holds(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, max_age=100, absolute_max_age=5000)
    browser = site.browser()
    idle = Lasting(100)

    await browser.get("/put")

    assert await ttl(store, browser) == idle


# --- ends that nobody asked for ---------------------------------------------------------------------------------------


async def test_a_session_that_made_room_for_others_closes_its_sockets(
    serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    store = StoreProbe(MemoryStore(max_texts=3))
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put")
    socket = await browser.connect()
    expect_log("MemoryStore is full")

    for _ in range(3):
        await site.browser().get("/put")

    assert await socket.closed() == ENDED


async def test_the_list_of_a_users_sessions_forgets_those_that_expired(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, max_age=100)
    browsers = [site.browser() for _ in range(3)]
    for browser in browsers:
        await browser.get("/login?name=fred")
    await store.store.touch(f"sess:{browsers[0].sid}", 0)
    await store.store.delete(f"sess:{browsers[1].sid}")

    alive = await site.app.sessions.of_user("fred")
    listed = await store.store.get("sstream:user:fred")

    assert [session.id for session in alive] == [browsers[2].sid]
    assert listed is not None
    assert (browsers[0].sid or "") not in listed.decode()
    assert (browsers[1].sid or "") not in listed.decode()


async def test_nothing_of_ours_lies_below_the_prefix_of_express_but_sessions(
    redis_url: str, serve_live: ServeLive
) -> None:
    store = StoreProbe(RedisStore(redis_url, deadline=20.0))
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put")
    socket = await browser.connect()
    await browser.get("/login?name=fred")
    await socket.call("keep", 100)
    await site.browser().get("/login?name=anna")

    async with aioredis.Redis.from_url(redis_url) as client:
        keys = [key.decode() async for key in client.scan_iter("*")]

        assert len([key for key in keys if key.startswith("sess:")]) == 2
        assert all(key.startswith(("sess:", "sstream:")) for key in keys)
        lifetimes = [await client.ttl(key) for key in keys]
        assert all(0 < lifetime <= 2 * 30 * 86400 for lifetime in lifetimes)
