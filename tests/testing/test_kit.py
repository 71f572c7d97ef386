"""The kit for applications' tests: what a browser and its sockets do, what is published, and who may be unkind when."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import tornado.web
from tornado.httpclient import HTTPClientError
from tornado.httputil import HTTPHeaders
from tornado.websocket import WebSocketHandler

from sstream import (
    Actions,
    Application,
    BrokerError,
    ChannelOptions,
    Limits,
    MemoryBroker,
    MemoryStore,
    RPCError,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    SessionStore,
    StoreError,
    load_session,
    rpc,
)
from sstream.pubsub import History
from sstream.testing import (
    BrokerProbe,
    Browser,
    Clock,
    Closed,
    CookieJar,
    Site,
    SocketClosed,
    StoreProbe,
    capture,
    eventually,
    serve,
    within,
)

OPTIONS = SessionOptions(secret="a test's own secret", max_age=1000, persistent=True)


class Home(SessionMixin, tornado.web.RequestHandler):
    def get(self) -> None:
        self.xsrf_token  # noqa: B018 - asking for it sets the cookie
        self.write({"user": self.session.user_id, "data": dict(self.session)})


class Login(SessionMixin, tornado.web.RequestHandler):
    async def post(self) -> None:
        await self.session.set_user_id(self.get_argument("name"))
        self.redirect(self.get_argument("next", "/"), status=int(self.get_argument("status", "302")))


class Echo(tornado.web.RequestHandler):
    def post(self) -> None:
        self.write({"method": "POST", "body": self.request.body.decode(), "type": self.request.headers["Content-Type"]})

    def get(self) -> None:
        self.write({"method": "GET", "query": self.request.query})


class Loop(tornado.web.RequestHandler):
    def get(self) -> None:
        self.redirect("/loop")


class Cart(Actions):
    middleware = [load_session]

    @rpc
    async def add(self, item: str) -> list[str]:
        self.session["cart"] = [*self.session.get("cart", []), item]
        return list(self.session["cart"])

    @rpc
    async def log_in(self, name: str) -> None:
        await self.session.set_user_id(name)


class Live(RPCHandler):
    actions = {"cart": Cart}

    @classmethod
    def channel_options(cls, channel: str) -> ChannelOptions | None:
        return ChannelOptions(history=(10, 60)) if channel == "kept" else None

    @rpc
    async def join(self, channel: str) -> None:
        await self.subscribe(channel)

    @rpc
    async def count(self, most: int):
        try:
            for number in range(most):
                yield number
            raise RPCError(4009, "no more")
        finally:
            await self.publish.all("counted")

    @rpc
    async def ask_back(self, question: str) -> Any:
        return await self.call("answer", question)


class Plain(WebSocketHandler):
    def open(self) -> None:
        self.write_message("no wire of ours {")

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


ROUTES = [
    ("/", Home),
    ("/login", Login),
    ("/echo", Echo),
    ("/loop", Loop),
    ("/away", tornado.web.RedirectHandler, {"url": "http://elsewhere.example/"}),
    ("/ws", Live),
    ("/plain", Plain),
]


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000)


@pytest.fixture
def store(clock: Clock) -> StoreProbe:
    return StoreProbe(MemoryStore(clock=clock))


@pytest.fixture
def broker(clock: Clock) -> BrokerProbe:
    return BrokerProbe(MemoryBroker(clock=clock))


@pytest.fixture
async def site(clock: Clock, store: StoreProbe, broker: BrokerProbe) -> AsyncIterator[Site]:
    app = Application(ROUTES, session=OPTIONS, store=store, broker=broker, clock=clock, xsrf_cookies=True)
    async with serve(app) as site:
        yield site


# --- pages ------------------------------------------------------------------------------------------------------------


async def test_a_form_is_posted_with_the_token_and_its_redirect_followed_with_the_new_cookie(site: Site) -> None:
    browser = site.browser()
    await browser.get()

    page = await browser.post("/login", {"name": "ada"})

    assert (page.status, page.url, page.json["user"]) == (200, f"{site.url}/", "ada")
    assert browser.sid is not None


async def test_without_the_token_a_post_is_refused(site: Site, expect_log: Callable[..., Any]) -> None:
    expect_log("_xsrf", "tornado.general", count=2)
    browser = site.browser()

    before_any_page = await browser.post("/login", {"name": "ada"})
    await browser.get()
    left_out = await browser.post("/login", {"name": "ada"}, headers={"X-Xsrftoken": None})

    assert [before_any_page.status, left_out.status] == [403, 403]


async def test_a_redirect_is_seen_where_it_is_not_followed(site: Site) -> None:
    browser = site.browser()
    await browser.get()

    page = await browser.post("/login", {"name": "ada"}, follow_redirects=False)

    assert (page.status, page.headers["Location"]) == (302, "/")


@pytest.mark.parametrize(("status", "method"), [(301, "GET"), (303, "GET"), (307, "POST"), (308, "POST")])
async def test_a_redirect_changes_the_method_as_in_a_browser(site: Site, status: int, method: str) -> None:
    browser = site.browser()
    await browser.get()

    page = await browser.post("/login", {"name": "ada", "next": "/echo?a=1#part", "status": status})

    assert page.json["method"] == method


async def test_a_redirect_to_another_site_is_not_followed_and_one_without_end_is_an_error(site: Site) -> None:
    away = await site.browser().get("/away")

    assert away.status == 301
    with pytest.raises(AssertionError, match=r"/loop redirects more than 10 times"):
        await site.browser().get("/loop")


async def test_json_and_lists_are_posted_as_a_page_would(site: Site) -> None:
    browser = site.browser()
    await browser.get()

    form = (await browser.post("/echo", {"a": ["1", "ä"]})).json
    text = (await browser.post("/echo", json={"a": 1})).json

    assert (form["type"], form["body"]) == ("application/x-www-form-urlencoded", "a=1&a=%C3%A4")
    assert (text["type"], text["body"]) == ("application/json", '{"a":1}')


async def test_a_refused_connection_is_an_error_of_the_connection(site: Site) -> None:
    await site.app.close()

    with pytest.raises(OSError):
        await site.browser().get()


# --- cookies ----------------------------------------------------------------------------------------------------------


def jar_with(*lines: str, path: str = "/", clock: Callable[[], float] = lambda: 0.0) -> CookieJar:
    jar, headers = CookieJar(clock=clock), HTTPHeaders()
    for line in lines:
        headers.add("Set-Cookie", line)
    jar.take(headers, path)
    return jar


def test_a_cookie_is_sent_to_its_path_alone_and_a_secure_one_by_https() -> None:
    jar = jar_with("a=1; Path=/shop", "b=2", "c=3; Secure; Path=/", path="/tea/pot")

    assert [jar.header(path) for path in ("/", "/shop", "/shop/x", "/shopping", "/tea/x")] == [
        "",
        "a=1",
        "a=1",
        "",
        "b=2",
    ]
    assert jar.header("/", is_https=True) == "c=3"


def test_a_cookie_lives_until_its_time_has_come_or_it_is_taken_back() -> None:
    clock = Clock(0)
    jar = jar_with("a=1; Max-Age=10", "b=2; Expires=Thu, 01 Jan 1970 00:00:20 GMT", "c=3; Max-Age=0", clock=clock)

    names = []
    for _ in range(3):
        names.append(repr(jar))
        clock.turn(10)

    assert names == ["CookieJar(['a', 'b'])", "CookieJar(['b'])", "CookieJar([])"]
    assert "b" not in jar
    with pytest.raises(KeyError):
        jar["b"]


def test_a_cookie_may_be_put_and_removed_by_hand() -> None:
    jar = jar_with("a=1")

    jar["b"] = "2"
    del jar["a"]

    assert (jar.get("a"), jar["b"], jar.copy().header("/")) == (None, "2", "b=2")


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_a_browser_may_come_with_a_session(site: Site) -> None:
    browser = await site.browser_with({"cart": ["tea"]}, user_id="ada")

    page = await browser.get()
    stored = await site.session_of(browser)

    assert page.json == {"user": "ada", "data": {"cart": ["tea"], "userId": "ada"}}
    assert stored is not None
    assert (stored.id, stored["cart"]) == (browser.sid, ["tea"])
    assert await site.session_of(site.browser()) is None


async def test_the_cookie_of_a_socket_s_first_write_is_there_for_the_next_page(site: Site) -> None:
    browser = site.browser()
    ws = await browser.connect()

    await ws.call("cart.add", "tea")

    assert (await browser.get()).json["data"] == {"cart": ["tea"]}
    assert (await ws.traded()).status == 204


async def test_tickets_are_traded_one_after_another(site: Site) -> None:
    browser = site.browser()
    ws = await browser.connect()

    await ws.call("cart.add", "tea")
    for name in ("ada", "bob"):
        await ws.call("cart.log_in", name)

    assert (await browser.get()).json["user"] == "bob"
    statuses = [(await ws.traded()).status for _ in range(3)]
    assert (statuses[0], statuses[2]) == (204, 204)  # the second login may have overtaken the first one's ticket


async def test_a_client_that_does_not_trade_hears_of_the_ticket(site: Site) -> None:
    browser = site.browser()
    ws = await browser.connect(trades=False)

    await ws.call("cart.add", "tea")
    ticket, path = await ws.receive("sstream:ticket")
    await browser.settle()
    before = browser.sid
    await browser.trade(ticket, path)

    assert (before, browser.sid is None) == (None, False)


async def test_turning_the_clock_ends_sessions_cookies_and_sockets_and_activity_keeps_them(
    site: Site, clock: Clock
) -> None:
    idle, busy = site.browser(), site.browser()
    sockets = []
    for browser in (idle, busy):
        await browser.get()
        await browser.post("/login", {"name": "ada"})
        sockets.append(await browser.connect())

    clock.turn(600)
    await sockets[1].call("cart.add", "tea")
    clock.turn(600)

    assert await sockets[0].closed() == Closed(4401, "session ended")
    assert (idle.sid, await site.session_of(idle)) == (None, None)
    assert await sockets[1].call("cart.add", "milk") == ["tea", "milk"]


def test_time_cannot_be_turned_back() -> None:
    clock = Clock(5)

    with pytest.raises(ValueError, match=r"-1 seconds; 0 and more"):
        clock.turn(-1)
    assert clock() == 5


# --- sockets ----------------------------------------------------------------------------------------------------------


async def test_a_stream_gives_its_items_and_then_its_error(site: Site) -> None:
    ws = await site.browser().connect()

    stream = ws.stream("count", 40, credit=3)

    assert [await anext(stream) for _ in range(40)] == list(range(40))
    with pytest.raises(RPCError, match="no more"):
        await anext(stream)


async def test_who_leaves_a_stream_cancels_it(site: Site) -> None:
    ws = await site.browser().connect()

    stream = ws.stream("count", 10**9)
    assert await anext(stream) == 0
    await stream.aclose()

    assert await ws.receive("counted") == []
    await ws.call("join", "lobby")
    assert ws.events == []


async def test_the_server_may_call_what_is_exposed(site: Site) -> None:
    ws = await site.browser().connect()

    def answer(question: str) -> str:
        if question == "why":
            raise RPCError(4003, "not told")
        return f"{question}: 42"

    ws.expose("answer", answer)

    assert await ws.call("ask_back", "what") == "what: 42"
    with pytest.raises(RPCError, match="not told"):
        await ws.call("ask_back", "why")


async def test_an_event_that_does_not_come_is_told_with_those_that_did(site: Site) -> None:
    ws = await site.browser().connect()
    await site.app.publish.all("news", 1)
    await eventually(lambda: ws.events, "what came instead")

    with pytest.raises(AssertionError) as failed:
        await ws.receive("cart", timeout=0.05)

    assert str(failed.value) == "no event 'cart'; it is open; not received:\n    ['news', [1]]: waited 0.05 s"


async def test_silence_is_sure_by_markers_in_every_topic(site: Site) -> None:
    browser = await site.browser_with(user_id="ada")
    ws, other = await browser.connect(), await site.browser().connect()
    await ws.call("join", "lobby")

    await ws.assert_silent()
    assert other.events == []

    publish = site.app.publish
    for publishing in (
        publish.all("news"),
        publish.user("ada", "news"),
        publish.channel("lobby", "news"),
        publish.socket(ws.handler.id, "news"),
    ):
        await publishing
        with pytest.raises(AssertionError, match=r"not silent; there came:\n    \['news', \[\]"):
            await ws.assert_silent()
        await ws.assert_silent("cart")
        with pytest.raises(AssertionError, match="not silent"):
            await ws.assert_silent("cart", "news")
        await ws.receive("news")
        await ws.assert_silent()


async def test_what_redis_is_still_carrying_is_no_silence(redis_url: str) -> None:
    async with serve(Application(ROUTES, session=OPTIONS, redis=redis_url)) as site:
        ws = await site.browser().connect()
        for number in range(20):
            await site.app.publish.all("news", number)
            with pytest.raises(AssertionError, match=rf"'news', \[{number}\]"):
                await ws.assert_silent()
            assert await ws.receive("news") == [number]


async def test_the_silence_of_a_closed_socket_and_of_another_process_says_nothing(site: Site) -> None:
    ws = await site.browser().connect()
    async with Browser(site.url) as stranger:
        elsewhere = await stranger.connect()
        with pytest.raises(LookupError, match="no RPCHandler in this process"):
            await elsewhere.assert_silent()
    await ws.close()

    with pytest.raises(SocketClosed, match="before its handler was looked at"):
        await ws.assert_silent()
    with pytest.raises(LookupError, match="served by another process"):
        Site(site.url).app  # noqa: B018 - it raises


async def test_whatever_waits_is_told_of_the_close_at_once(site: Site) -> None:
    ws = await site.browser().connect()
    waiting = [asyncio.ensure_future(wait) for wait in (ws.receive("news"), ws.call("ask_back", "what"))]
    await ws.receive_message()  # the question, which nothing answers

    ws.handler.close(4000, "enough")
    errors = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(error) for error in errors] == [SocketClosed, SocketClosed]
    assert str(errors[0]).startswith("closed with 4000 (enough) before event 'news' came")
    with pytest.raises(SocketClosed):
        ws.notify("join", "lobby")
    assert repr(ws).endswith("Closed(code=4000, reason='enough')>")


async def test_a_refused_handshake_tells_its_status(site: Site) -> None:
    with pytest.raises(HTTPClientError) as refused:
        await site.browser().connect(headers={"Origin": "https://evil.example"})

    assert refused.value.code == 403


async def test_json_is_spoken_where_it_is_asked_for(site: Site) -> None:
    ws = await site.browser().connect(subprotocol="sstream.v1.json")

    assert await ws.call("cart.add", "tea") == ["tea"]
    await ws.assert_silent()


async def test_what_is_no_message_of_the_wire_is_received_whole(site: Site) -> None:
    ws = await site.browser().connect("/plain")

    assert await ws.receive_message() == ["no wire of ours {"]
    ws.send_raw(b"\xc1")
    assert await ws.receive_message() == [b"\xc1"]
    with pytest.raises(LookupError):
        ws.handler  # noqa: B018 - it raises


async def test_the_application_is_closed_even_where_a_browser_cannot_be(
    store: StoreProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(RPCHandler):
        @rpc
        async def work(self, load: str = "") -> None:
            await asyncio.Event().wait()

    # With as many calls as may be, and much behind them, it reads no further, and does not see that the browser closes.
    app = Application([("/ws", Busy)], session=OPTIONS, store=store, limits=Limits(calls_in_flight=1))

    async def visit() -> None:
        async with serve(app) as site:
            ws = await site.browser().connect()
            ws.ask("work")
            for _ in range(100):
                ws.ask("work", "x" * 50_000)
            monkeypatch.setattr("sstream.testing.waiting._patience", 0.1)

    with pytest.raises(AssertionError, match="it was not closed"):
        await visit()

    assert not app.is_ready


async def test_a_socket_that_nobody_closes_is_reported(store: StoreProbe) -> None:
    forgotten = []

    async def forget() -> None:
        async with serve(Application(ROUTES, session=OPTIONS, store=store)) as site:
            await site.browser().connect()  # the site closes it
            forgotten.append(await Browser(site.url).connect())

    with pytest.warns(ResourceWarning) as reported:
        await forget()

    assert [str(warning.message) for warning in reported] == [
        "left open: Live at /ws; close the client's end in the test"
    ]
    assert (await forgotten[0].closed()).code == 1001


# --- waiting ----------------------------------------------------------------------------------------------------------


async def test_a_timeout_of_the_awaited_thing_s_own_is_not_ours() -> None:
    async def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await within(late(), "nothing")


async def test_eventually_asks_functions_and_coroutine_functions() -> None:
    answers = iter([0, None, 7])

    async def ask() -> Any:
        return next(answers)

    assert await eventually(ask, "no seven") == 7
    with pytest.raises(AssertionError, match=r"never true: waited 0.01 s"):
        await eventually(lambda: False, "never true", timeout=0.01)


# --- what is published ------------------------------------------------------------------------------------------------


async def test_everything_published_is_noted_in_order_and_delivered(site: Site) -> None:
    ws = await (await site.browser_with(user_id="ada")).connect()
    before = site.app.publish

    with capture(site.app) as published:
        await site.app.publish.user(["ada", "bob"], "cart", {"tea": 1})
        await ws.handler.publish.channel("kept", "said", "hello")
        await site.app.publish.all("news")
    await site.app.publish.all("later")

    assert published == [
        ("user:ada", "cart", [{"tea": 1}]),
        ("user:bob", "cart", [{"tea": 1}]),
        ("channel:kept", "said", ["hello"]),
        ("all", "news", []),
    ]
    assert published.of("cart", "user:bob") == [[{"tea": 1}]]
    assert site.app.publish is before
    assert [(await ws.receive(name)) for name in ("cart", "news", "later")] == [[{"tea": 1}], [], []]


async def test_what_is_published_later_is_waited_for(site: Site) -> None:
    with capture(site.app) as published:
        receiving = asyncio.ensure_future(published.receive("news", "all"))
        await site.app.publish.channel("lobby", "news", 1)
        await site.app.publish.all("news", 2)

        assert await receiving == [2]
        assert published == [("channel:lobby", "news", [1])]
        with pytest.raises(AssertionError) as failed:
            await published.receive("cart", timeout=0.01)

    text = "no event 'cart' was published; there were:\n    ('channel:lobby', 'news', [1]): waited 0.01 s"
    assert str(failed.value) == text


# --- the store --------------------------------------------------------------------------------------------------------


def test_a_probe_is_a_store(store: StoreProbe) -> None:
    assert isinstance(store, SessionStore)
    assert store.coherent


async def test_a_store_fails_for_so_long_or_so_often_as_it_is_told(store: StoreProbe) -> None:
    store.fail("get", "ttl", key="sess:", times=1)
    store.fail("delete")

    outcomes = []
    for _ in range(2):
        for asking in (store.get("sess:a"), store.get("other"), store.ttl("sess:a"), store.delete("sess:a")):
            try:
                outcomes.append(await asking)
            except StoreError as error:
                outcomes.append(str(error))
    store.heal()

    lost = [f"{name} fails, as the test wants it" for name in ("get", "ttl", "delete")]
    assert outcomes == [lost[0], None, lost[1], lost[2], None, None, None, lost[2]]
    assert not await store.delete("sess:a")
    assert store.asked[:2] == [("get", "sess:a"), ("get", "other")]


async def test_a_store_may_do_it_and_lose_the_answer(store: StoreProbe) -> None:
    store.fail("swap", after=True, times=1)

    with pytest.raises(StoreError, match="swap fails afterwards"):
        await store.swap("a", None, b"1", 10)

    assert await store.get("a") == b"1"


async def test_a_held_operation_waits_before_the_store_or_behind_it(store: StoreProbe) -> None:
    before, after = store.hold("swap", "a"), store.hold("swap", "b", after=True)
    swaps = [asyncio.ensure_future(store.swap(key, None, b"1", 10)) for key in ("a", "b")]
    await before.wait()
    await after.wait()

    seen = [await store.get(key) for key in ("a", "b")]
    is_done = [swap.done() for swap in swaps]
    before.release()
    after.release()

    assert (seen, is_done) == ([None, b"1"], [False, False])
    assert await asyncio.gather(*swaps) == [(True, b"1")] * 2


async def test_a_slow_store_gives_up_at_its_deadline(clock: Clock) -> None:
    store = StoreProbe(MemoryStore(clock=clock), deadline=0.2)
    store.delay("get", seconds=30, times=1)

    with pytest.raises(StoreError, match=r"get took longer than 0.2 s"):
        await store.get("a")
    store.delay("get", seconds=0.001)

    assert await store.get("a") is None


async def test_a_rival_is_faster_once(store: StoreProbe) -> None:
    async def rival() -> None:
        await store.swap("a", None, b"rival", 10)

    store.race("swap", rival)

    assert await store.swap("a", None, b"mine", 10) == (False, b"rival")
    assert await store.swap("a", b"rival", b"mine", 10) == (True, b"mine")


# --- the broker -------------------------------------------------------------------------------------------------------


async def test_a_broker_fails_where_it_is_told(site: Site, broker: BrokerProbe) -> None:
    ws = await site.browser().connect()
    broker.fail("publish", key="channel:", times=1)

    with pytest.raises(BrokerError, match="publish fails, as the test wants it"):
        await site.app.publish.channel("lobby", "said")

    await site.app.publish.channel("lobby", "said")
    await site.app.publish.all("news")
    assert await ws.receive("news") == []
    assert [topic for name, topic in broker.asked if name == "publish"] == ["channel:lobby", "channel:lobby", "all"]


async def test_a_broker_that_lost_something_tells_of_the_gap(site: Site, broker: BrokerProbe) -> None:
    ws = await site.browser().connect()
    await ws.call("join", "lobby")

    broker.lose("channel:lobby")
    first = await ws.receive("sstream:gap")
    broker.lose()

    assert first == ["lobby"]
    assert await ws.receive("sstream:gap") is not None
    assert broker.connected


async def test_all_that_a_broker_is_asked_is_noted_and_done(broker: BrokerProbe) -> None:
    topic, history = "channel:kept", History(10, 60)
    await broker.subscribe([topic, "all"])
    position = await broker.publish(topic, b"\x93\x02\xa1a\x90", history)
    recovery = await broker.history(topic, None, history)
    await broker.enter(topic, "node", {"ada": b"\x80"}, 10)
    present = await broker.present(topic)
    await broker.leave(topic, "node", ["ada"], 0)
    await broker.sweep(topic)
    await broker.unsubscribe(["all"])
    await broker.close()

    assert position == recovery.position
    assert present == {"ada": b"\x80"}
    assert [name for name, _ in broker.asked] == re.findall(
        r"\w+", "subscribe subscribe publish history enter present leave sweep unsubscribe"
    )
