"""One process wired together: what it is made of, what it refuses, what it serves by itself, and how it goes down."""

import asyncio
import gc
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis
from tornado.httpclient import HTTPClientError
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.routing import HostMatches, PathMatches, Rule
from tornado.web import Application as TornadoApplication, HTTPError, RequestHandler, url

import sstream
from sstream import (
    Application,
    BrokerError,
    ConfigurationError,
    Limits,
    MemoryBroker,
    MemoryStore,
    RedisBroker,
    RedisStore,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    SessionStore,
    StoreError,
    load_session,
    rpc,
)
from sstream.testing import Closed, FaultProxy, Site, SocketClosed, StoreProbe, eventually, serve, within

CLIENT = Path(sstream.__file__).parent / "client"
OPTIONS = SessionOptions(secret="a test's own secret")

ServeApp = Callable[..., Awaitable[Site]]


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[FaultProxy]:
    """A Redis that may be away; it stands before ``serve_app`` in a test, so that it is closed behind it."""
    async with FaultProxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy


@pytest.fixture
async def serve_app() -> AsyncIterator[ServeApp]:
    """``await serve_app(("/", Page), limits=...)``: an application in memory, or as the keywords say."""
    async with AsyncExitStack() as stack:

        async def serve_app(*routes: Any, **settings: Any) -> Site:
            if "redis" not in settings:
                settings.setdefault("store", StoreProbe(MemoryStore()))
            application = Application(list(routes), **{"session": OPTIONS, **settings})
            return await stack.enter_async_context(serve(application))

        yield serve_app


class Visits(SessionMixin, RequestHandler):
    """Counts this visitor's visits."""

    def get(self) -> None:
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.write(f"{self.session['visits']} visits")


class Live(RPCHandler):
    """A websocket with one method that needs no session and one that does."""

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(use=[load_session])
    async def count(self) -> int:
        self.session["n"] = self.session.get("n", 0) + 1
        return int(self.session["n"])


# --- what it refuses, and warns of ------------------------------------------------------------------------------------


def test_the_public_default_secret_is_refused_in_production() -> None:
    with pytest.raises(ConfigurationError, match=r"secret is the public default.*SessionOptions\(secret="):
        Application([], production=True, redis="redis://localhost:6379/0")


def test_the_public_default_secret_is_refused_in_production_among_others_too() -> None:
    session = SessionOptions(secret=["my own", "SocketStream"])

    with pytest.raises(ConfigurationError, match="public default"):
        Application([], production=True, session=session, redis="redis://localhost:6379/0")


def test_the_public_default_secret_is_warned_of_in_development(expect_log: Callable[..., Any]) -> None:
    expect_log("secret is the public default: anybody can forge a session", count=1)
    expect_log("sessions are kept in memory", count=1)

    Application([])


def test_debug_is_quiet_about_what_is_fit_for_development() -> None:
    Application([], debug=True, autoreload=False)


def test_sessions_in_memory_are_warned_of(expect_log: Callable[..., Any]) -> None:
    expect_log("sessions are kept in memory: they end with this process", count=1)

    Application([], session=OPTIONS)


def test_sessions_in_redis_and_a_secret_of_ones_own_are_quiet() -> None:
    Application([], session=OPTIONS, redis="redis://localhost:6379/0", production=True)


def test_debug_is_refused_in_production() -> None:
    with pytest.raises(ConfigurationError, match="debug=True shows tracebacks"):
        Application([], session=OPTIONS, redis="redis://localhost:6379/0", production=True, debug=True)


class Open(RPCHandler):
    """Lets everybody in."""

    def check_origin(self, origin: str) -> bool:
        return True


class Choosy(RPCHandler):
    """Looks at its request, which is not there before a visitor is."""

    def check_origin(self, origin: str) -> bool:
        return self.request.host == "friend.example"


def test_a_handler_that_lets_every_site_in_is_warned_of(expect_log: Callable[..., Any]) -> None:
    warning = expect_log("check_origin lets every site in", count=1)

    Application([("/open", Open), ("/choosy", Choosy), ("/live", Live)], session=OPTIONS, redis="redis://localhost")

    assert "Open.check_origin" in warning.records[0].getMessage()


@pytest.mark.parametrize("origin", ["*", "friend.example", "https://", "https://friend.example:port"])
def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^trusted_origins: .*legal are a scheme, a host"):
        Application([], session=OPTIONS, debug=True, autoreload=False, trusted_origins=[origin])


def test_one_text_for_several_origins_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is one text; give a list"):
        Application([], session=OPTIONS, debug=True, autoreload=False, trusted_origins="https://friend.example")


def test_a_short_secret_is_warned_of_in_production(expect_log: Callable[..., Any]) -> None:
    expect_log("a session secret is shorter than 16 characters: it may be guessed", count=1)

    session = SessionOptions(secret=["a test's own secret", "keyboard cat"])
    Application([], session=session, redis="redis://localhost:6379/0", production=True)


def test_a_cookie_over_plain_http_is_warned_of_in_production(expect_log: Callable[..., Any]) -> None:
    expect_log("secure=False sends the session's cookie over plain http", count=1)

    session = SessionOptions(secret="a test's own secret", secure=False)
    Application([], session=session, redis="redis://localhost:6379/0", production=True)


@pytest.mark.parametrize("address", ["", "localhost", "http://localhost", "redis+sentinel://localhost:26379"])
@pytest.mark.parametrize("keyword", ["redis", "store", "broker"])
def test_an_address_that_is_none_of_redis_is_refused(keyword: str, address: str) -> None:
    with pytest.raises(ConfigurationError, match="Redis"):
        Application([], session=OPTIONS, debug=True, autoreload=False, **{keyword: address})


def test_an_empty_secret_is_refused() -> None:
    for secret in ("", [], ["good", ""]):
        with pytest.raises(ConfigurationError, match="secret is empty"):
            SessionOptions(secret=secret)


async def test_redis_makes_store_and_broker_and_each_may_be_given_alone(
    redis_url: str, expect_log: Callable[..., Any]
) -> None:
    expect_log("sessions are shared with other processes, and events are not", count=1)
    async with aioredis.Redis.from_url(redis_url) as client:
        probe = StoreProbe(MemoryStore())
        applications = [
            Application([], session=OPTIONS, redis=redis_url),
            Application([], session=OPTIONS, redis=client),
            Application([], session=OPTIONS, store=redis_url),
            Application([], session=OPTIONS, store=probe, broker=redis_url),
            Application([], session=OPTIONS, redis=redis_url, store=probe),
        ]

        kinds = [(type(application.store), type(application.broker)) for application in applications]

        assert kinds == [
            (RedisStore, RedisBroker),
            (RedisStore, RedisBroker),
            (RedisStore, MemoryBroker),
            (StoreProbe, RedisBroker),
            (StoreProbe, RedisBroker),
        ]
        for application in applications:
            await application.close()


def test_a_store_of_ones_own_keeps_the_contract_by_its_shape() -> None:
    assert isinstance(StoreProbe(MemoryStore()), SessionStore)


# --- routes -----------------------------------------------------------------------------------------------------------


async def test_routes_and_settings_are_tornados_own(serve_app: ServeApp) -> None:
    class Setting(RequestHandler):
        def get(self) -> None:
            self.write(f"{self.settings['color']} {self.reverse_url('named', 7)}")

    class Named(SessionMixin, RequestHandler):
        def initialize(self, greeting: str) -> None:
            self.greeting = greeting

        def get(self, number: str) -> None:
            self.session["number"] = number
            self.write(f"{self.greeting} {number}")

    site = await serve_app(
        ("/setting", Setting),
        url(r"/named/(\d+)", Named, {"greeting": "hello"}, name="named"),
        Rule(HostMatches("127.0.0.1"), [("/by-host", Visits)]),
        color="green",
    )
    browser = site.browser()

    texts = [(await browser.get(path)).text for path in ("/setting", "/named/7", "/by-host")]

    assert texts == ["green /named/7", "hello 7", "1 visits"]


def requests_in_memory() -> list[HTTPServerRequest]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, HTTPServerRequest)]


async def test_requests_are_let_go_of_whoever_answers_them(serve_app: ServeApp) -> None:
    class Plain(RequestHandler):
        def get(self) -> None:
            self.write("plain")

    class Refusing(SessionMixin, RequestHandler):
        def get(self) -> None:
            raise HTTPError(403)

    def answer(request: HTTPServerRequest) -> None:
        start = ResponseStartLine("HTTP/1.1", 200, "OK")
        request.connection.write_headers(start, HTTPHeaders({"Content-Length": "2"}), b"ok")
        request.connection.finish()

    inner = TornadoApplication([("/inner/.*", Plain)])
    routes = [("/", Visits), ("/refuse", Refusing), Rule(PathMatches("/inner/.*"), inner), ("/ws", Live)]
    site = await serve_app(*routes, Rule(PathMatches("/callable"), answer))
    browser = site.browser()
    of_other_tests = requests_in_memory()

    pages = [await browser.get(path) for path in ("/", "/refuse", "/inner/x", "/missing", "/ws", "/callable")]
    socket = await browser.connect()
    await socket.close()
    await within(site.app.drain(), "it waits for somebody")
    await browser.close()

    assert [page.status for page in pages] == [200, 403, 200, 404, 400, 200]
    left = [request for request in requests_in_memory() if all(request is not other for other in of_other_tests)]
    assert left == []


async def test_an_application_may_listen_on_several_ports(serve_app: ServeApp) -> None:
    site = await serve_app(("/", Visits))
    browser = site.browser()
    await browser.get()

    server = site.app.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    second = Site(f"http://127.0.0.1:{listening.getsockname()[1]}").browser(
        **{"connect.sid": browser.jar["connect.sid"]}
    )

    assert (await second.get()).text == "2 visits"


async def test_listening_connects_by_itself(redis_url: str) -> None:
    application = Application([("/", Visits)], session=OPTIONS, redis=redis_url)
    server = application.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    browser = Site(f"http://127.0.0.1:{listening.getsockname()[1]}").browser()

    texts = [(await browser.get()).text for _ in range(2)]

    await application.close()
    assert texts == ["1 visits", "2 visits"]


async def test_two_applications_on_one_memory_store_share_their_sessions_and_hear_of_each_other(
    serve_app: ServeApp, expect_log: Callable[..., Any]
) -> None:
    expect_log("sessions are kept in memory", count=2)
    store = MemoryStore()
    here = await serve_app(("/", Visits), ("/ws", Live), store=store)
    there = await serve_app(("/", Visits), ("/ws", Live), store=store)
    browser = here.browser()
    await browser.get()
    tab = there.browser(**{"connect.sid": browser.jar["connect.sid"]})
    sockets = [await browser.connect(), await tab.connect()]

    counts = [await socket.call("count") for socket in sockets * 2]
    text = (await tab.get()).text
    await here.app.sessions.end(browser.sid or "")

    assert counts == [1, 2, 3, 4]
    assert text == "2 visits"
    assert [(await socket.closed()).code for socket in sockets] == [4401, 4401]


# --- what it serves by itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "file"),
    [("client.js", "sstream.js"), ("vendor/msgpack.js", "vendor/msgpack.js"), ("client.d.ts", "sstream.d.ts")],
)
async def test_the_browser_client_is_served_with_its_codec(path: str, file: str, serve_app: ServeApp) -> None:
    site = await serve_app()
    browser = site.browser()

    page = await browser.get(f"/_sstream/{path}")
    again = await browser.get(f"/_sstream/{path}", headers={"If-None-Match": page.headers["Etag"]})
    head = await browser.fetch("HEAD", f"/_sstream/{path}")

    assert (page.status, page.body) == (200, (CLIENT / file).read_bytes())
    if path.endswith(".js"):
        assert page.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.cookies == []
    assert (again.status, again.body) == (304, b"")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(page.body)))


async def test_every_module_that_the_client_imports_is_served(serve_app: ServeApp) -> None:
    site = await serve_app()
    browser = site.browser()
    client = (await browser.get("/_sstream/client.js")).text

    imported = [line.split('"')[1] for line in client.splitlines() if line.startswith("import ") and " from " in line]

    assert imported == ["./vendor/msgpack.js"]
    vendored = await browser.get("/_sstream/" + imported[0].removeprefix("./"))
    note = json.loads((CLIENT / "vendor/msgpack.json").read_text())
    assert hashlib.sha256(vendored.body).hexdigest() in json.dumps(note)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "client",
        "client.js/",
        "vendor/",
        "vendor/msgpack.json",
        "../application.py",
        "vendor/../../errors.py",
        "%2e%2e/errors.py",
    ],
)
async def test_nothing_else_of_the_package_is_served(path: str, serve_app: ServeApp) -> None:
    site = await serve_app()

    assert (await site.browser().get(f"/_sstream/{path}")).status == 404


async def test_a_healthy_process_is_live_and_ready(serve_app: ServeApp) -> None:
    site = await serve_app()
    browser = site.browser()

    pages = [await browser.get(f"/_sstream/health/{question}") for question in ("live", "ready")]
    head = await browser.fetch("HEAD", "/_sstream/health/ready")

    assert [(page.status, page.json, page.cookies) for page in pages] == [(200, {"status": "ok"}, [])] * 2
    assert all(page.headers["Cache-Control"] == "no-store" for page in pages)
    assert (head.status, head.body) == (200, b"")
    assert (await browser.get("/_sstream/health/other")).status == 404


async def test_without_its_redis_a_process_is_live_and_not_ready_until_redis_is_back(
    proxy: FaultProxy, serve_app: ServeApp, expect_log: Callable[..., Any]
) -> None:
    expect_log("cannot be reached|is away|lost", required=False)
    expect_log("is back", required=False)
    expect_log("503 GET /_sstream/health/ready", logger="tornado.access")
    site = await serve_app(redis=proxy.url)
    browser = site.browser()
    await eventually(lambda: _is_ready(site), "it did not become ready")

    proxy.refuse()
    await eventually(lambda: not site.app.store.coherent, "the cut was not noticed")
    ready, live = await browser.get("/_sstream/health/ready"), await browser.get("/_sstream/health/live")
    await proxy.accept()

    assert (ready.status, ready.json, live.status) == (503, {"status": "unavailable"}, 200)
    assert await eventually(lambda: _is_ready(site), "it did not become ready again")


async def _is_ready(site: Site) -> bool:
    return (await site.browser().get("/_sstream/health/ready")).status == 200


# --- the registry and the publisher, outside of handlers --------------------------------------------------------------


async def test_a_session_made_by_a_script_is_a_browsers_by_its_cookie(redis_url: str, serve_app: ServeApp) -> None:
    site = await serve_app(("/", Visits), ("/ws", Live), redis=redis_url)
    sessions = site.app.sessions

    session = await sessions.create({"visits": 41}, user_id="fred")
    browser = site.browser(**{"connect.sid": sessions.cookie_value(session)})
    page = await browser.get()
    found = await sessions.get(session.id)

    assert page.text == "42 visits"
    assert found is not None
    assert (dict(found), found.user_id) == ({"visits": 42, "userId": "fred"}, "fred")
    assert [known.id for known in await sessions.of_user("fred")] == [session.id]
    assert await sessions.get("unknown") is None
    assert await sessions.end("unknown") is False


async def test_a_session_of_the_registry_may_be_changed_and_saved_and_open_sockets_see_it(
    redis_url: str, serve_app: ServeApp
) -> None:
    site = await serve_app(("/", Visits), ("/ws", Live), redis=redis_url)
    browser = site.browser()
    await browser.get()
    socket = await browser.connect()
    assert await socket.call("count") == 1

    session = await site.app.sessions.get(browser.sid or "")
    assert session is not None
    session["n"] = 10
    await session.save()

    assert await socket.call("count") == 11


async def test_the_applications_publisher_needs_no_socket(serve_app: ServeApp) -> None:
    site = await serve_app(("/ws", Live))

    await site.app.publish.all("nobody hears this")
    socket = await site.browser().connect()
    await site.app.publish.all("news", 1)

    assert await socket.receive("news") == [1]
    assert socket.events == []


async def test_a_publisher_refuses_names_that_are_sstreams_own(serve_app: ServeApp) -> None:
    site = await serve_app(("/ws", Live))

    with pytest.raises(ValueError, match="sstream's own"):
        await site.app.publish.all("sstream:ticket", "x")


# --- going down -------------------------------------------------------------------------------------------------------


async def test_closing_closes_every_socket_with_1001_and_cancels_what_they_wait_for(serve_app: ServeApp) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    class Waiting(Live):
        @rpc
        async def wait(self) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    site = await serve_app(("/", Visits), ("/ws", Waiting))
    sockets = [await site.browser().connect() for _ in range(3)]
    waiting = sockets[0].ask("wait")
    await within(began.wait(), "the call did not begin")

    await site.app.close()

    assert [await socket.closed() for socket in sockets] == [Closed(1001, "going away")] * 3
    with pytest.raises(SocketClosed):
        await sockets[0].reply(waiting)
    await within(cancelled.wait(), "the call was not cancelled")
    with pytest.raises(OSError):
        await site.browser().get()


async def test_closing_twice_or_at_once_or_unused_is_safe(redis_url: str) -> None:
    unused = Application([], session=OPTIONS, redis=redis_url)
    used = Application([("/", Visits)], session=OPTIONS, redis=redis_url)
    used.listen(0, "127.0.0.1")
    await used.start()

    await unused.close()
    await unused.close()
    await asyncio.gather(used.close(), used.close())
    await used.close()


async def test_starting_twice_or_at_once_is_safe(redis_url: str) -> None:
    application = Application([], session=OPTIONS, redis=redis_url)

    await asyncio.gather(application.start(), application.start())
    await application.start()

    await application.close()


async def test_who_gives_up_waiting_for_the_start_does_not_stop_it() -> None:
    may_start = asyncio.Event()

    class Slow(StoreProbe):
        async def start(self) -> None:
            await may_start.wait()

    application = Application([], session=OPTIONS, store=Slow(MemoryStore()))
    impatient = asyncio.create_task(application.start())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])

    may_start.set()

    await within(application.start(), "it did not start")
    await application.close()


async def test_a_start_that_fails_fails_for_everybody_who_waits(expect_log: Callable[..., Any]) -> None:
    class Broken(StoreProbe):
        async def start(self) -> None:
            raise ConfigurationError("on purpose")

    expect_log("the start failed", count=1)
    application = Application([], session=OPTIONS, store=Broken(MemoryStore()))

    starts = [asyncio.create_task(application.start()) for _ in range(2)]

    await within(asyncio.wait(starts), "one of them never heard of it")
    assert [str(start.exception()) for start in starts] == ["on purpose"] * 2
    await application.close()


async def test_starting_while_redis_is_away_is_no_error(proxy: FaultProxy, expect_log: Callable[..., Any]) -> None:
    proxy.refuse()
    expect_log("cannot be reached|away|lost|connect", required=False)
    application = Application([], session=OPTIONS, redis=proxy.url, limits=Limits(store_deadline=0.1))

    await within(application.start(), "it did not start")

    with pytest.raises(StoreError):
        await application.sessions.create({"a": 1})
    await application.close()


async def test_one_limit_rules_the_store_and_the_broker(proxy: FaultProxy) -> None:
    hasty, patient = (
        Application([], session=OPTIONS, redis=proxy.url, limits=Limits(store_deadline=deadline))
        for deadline in (0.05, None)
    )
    alone = RedisBroker(proxy.url)  # whose own deadline lies between
    proxy.freeze()

    publishes = [asyncio.ensure_future(broker.publish("all", b"x")) for broker in (hasty.broker, patient.broker)]
    with pytest.raises(BrokerError):
        await within(alone.publish("all", b"x"), "the broker waits for ever")

    assert [publish.done() for publish in publishes] == [True, False]
    assert isinstance(publishes[0].exception(), BrokerError)
    proxy.thaw()
    await within(publishes[1], "who has time has not been answered")
    await asyncio.gather(hasty.close(), patient.close(), alone.close())


async def test_a_port_may_be_listened_on_again_at_once(redis_url: str) -> None:
    port = 0
    texts = []
    for _ in range(3):
        application = Application([("/", Visits), ("/ws", Live)], session=OPTIONS, redis=redis_url)
        server = application.listen(port, "127.0.0.1")
        (listening,) = server._sockets.values()
        port = listening.getsockname()[1]
        site = Site(f"http://127.0.0.1:{port}", application)
        browser = site.browser()
        texts.append((await browser.get()).text)
        await browser.connect()
        await application.close()
        await site.close()

    assert texts == ["1 visits"] * 3


async def test_a_background_task_that_fails_is_logged(serve_app: ServeApp, expect_log: Callable[..., Any]) -> None:
    site = await serve_app()
    told = expect_log("counting the tea failed", count=1)

    async def fail() -> None:
        raise ZeroDivisionError("on purpose")

    site.app.spawn(fail(), "counting the tea")
    await eventually(lambda: told.records, "it was not logged")

    assert told.records[0].exc_info is not None


async def test_a_background_task_ends_with_the_application(serve_app: ServeApp) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    site = await serve_app()
    site.app.spawn(wait())
    await within(began.wait(), "it did not begin")
    site.app.spawn(wait())  # this one is cancelled before its first step

    await site.app.close()

    assert cancelled.is_set()


# --- draining ---------------------------------------------------------------------------------------------------------


class Slow(Live):
    """Calls that wait until the test lets them go on."""

    began: asyncio.Event
    go_on: asyncio.Event

    @rpc
    async def wait(self) -> str:
        self.began.set()
        await self.go_on.wait()
        return "answered"

    @rpc(use=[load_session])
    async def save(self) -> str:
        self.session["saved"] = True
        self.began.set()
        await self.go_on.wait()
        return "saved"

    @rpc(detached=True)
    async def detached(self) -> None:
        self.began.set()
        await self.go_on.wait()


@pytest.fixture
def slow() -> type[Slow]:
    """A class of its own for each test."""

    class Fresh(Slow):
        began = asyncio.Event()
        go_on = asyncio.Event()

    return Fresh


async def test_draining_answers_the_calls_in_flight_saves_their_sessions_and_closes_with_1012(
    slow: type[Slow], serve_app: ServeApp
) -> None:
    store = StoreProbe(MemoryStore())
    site = await serve_app(("/", Visits), ("/ws", slow), store=store)
    browser = site.browser()
    await browser.get()
    busy, idle = await browser.connect(), await site.browser().connect()
    calls = [busy.ask("wait")]
    await within(slow.began.wait(), "the first call did not begin")
    slow.began.clear()
    calls.append(busy.ask("save"))
    await within(slow.began.wait(), "the second call did not begin")

    draining = asyncio.ensure_future(site.app.drain())
    idle_closed = await idle.closed()
    ready_while_draining = site.app.is_ready
    slow.go_on.set()
    answers = [await busy.reply(call) for call in calls]
    busy_closed = await busy.closed()
    await within(draining, "it did not end")

    assert answers == ["answered", "saved"]
    assert [closed.code for closed in (idle_closed, busy_closed)] == [1012, 1012]
    assert ready_while_draining is False
    text = await store.store.get(f"sess:{browser.sid}")
    assert text is not None
    assert json.loads(text)["saved"] is True


async def test_a_draining_process_takes_nobody_in(slow: type[Slow], serve_app: ServeApp) -> None:
    site = await serve_app(("/", Visits), ("/ws", slow))
    socket = await site.browser().connect()
    waiting = socket.ask("wait")
    await within(slow.began.wait(), "the call did not begin")
    draining = asyncio.ensure_future(site.app.drain())
    await asyncio.sleep(0)

    with pytest.raises(OSError):
        await site.browser().get()
    with pytest.raises((OSError, HTTPClientError)):
        await site.browser().connect()

    slow.go_on.set()
    assert await socket.reply(waiting) == "answered"
    await within(draining, "it did not end")


async def test_a_kept_alive_connection_opens_no_socket_while_the_process_drains(
    slow: type[Slow], serve_app: ServeApp, expect_log: Callable[..., Any]
) -> None:
    site = await serve_app(("/", Visits), ("/ws", slow))
    socket = await site.browser().connect()
    waiting = socket.ask("wait")
    await within(slow.began.wait(), "the call did not begin")
    expect_log("503 GET /ws", logger="tornado", required=False)
    reader, writer = await asyncio.open_connection(*site.address)
    writer.write(b"GET /_sstream/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"}")
    draining = asyncio.ensure_future(site.app.drain())
    await asyncio.sleep(0)

    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    answer = await within(reader.read(64), "no answer, and no end of the connection")
    writer.close()
    slow.go_on.set()
    await within(draining, "it did not end")

    assert not answer.startswith(b"HTTP/1.1 101")
    assert await socket.reply(waiting) == "answered"


async def test_draining_waits_for_detached_calls_whose_sockets_are_gone(slow: type[Slow], serve_app: ServeApp) -> None:
    site = await serve_app(("/ws", slow))
    socket = await site.browser().connect()
    socket.notify("detached")
    await within(slow.began.wait(), "the call did not begin")
    await socket.close()
    await eventually(lambda: not site.app.sockets, "the server did not notice the close")

    draining = asyncio.ensure_future(site.app.drain())
    done, _ = await asyncio.wait([draining], timeout=0.05)
    slow.go_on.set()

    assert not done
    await within(draining, "it did not end")


async def test_draining_ends_after_its_time_and_says_what_it_cut(
    slow: type[Slow], serve_app: ServeApp, expect_log: Callable[..., Any]
) -> None:
    site = await serve_app(("/ws", slow), limits=Limits(drain=0.1))
    socket = await site.browser().connect()
    waiting = socket.ask("wait")
    await within(slow.began.wait(), "the call did not begin")
    expect_log(r"after 0\.1 s the drain ends and cuts 1 call, 0 pages, 1 socket", count=1)

    await within(site.app.drain(), "it did not end")
    await site.app.close()

    with pytest.raises(SocketClosed):
        await socket.reply(waiting)
    assert (await socket.closed()).code in {1001, 1012}


async def test_draining_answers_the_pages_in_flight(slow: type[Slow], serve_app: ServeApp) -> None:
    class SlowPage(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["visited"] = True
            slow.began.set()
            await slow.go_on.wait()
            self.write("answered")

    store = StoreProbe(MemoryStore())
    site = await serve_app(("/slow", SlowPage), store=store)
    browser = site.browser()
    page = asyncio.ensure_future(browser.get("/slow"))
    await within(slow.began.wait(), "the page did not begin")

    draining = asyncio.ensure_future(site.app.drain())
    await asyncio.wait([draining], timeout=0.05)
    slow.go_on.set()
    await within(draining, "it did not end")
    await site.app.close()

    assert (await page).text == "answered"
    text = await store.store.get(f"sess:{browser.sid}")
    assert text is not None
    assert json.loads(text)["visited"] is True


async def test_closing_while_a_page_saves_its_session_leaves_nothing_running(
    serve_app: ServeApp, expect_log: Callable[..., Any]
) -> None:
    store = StoreProbe(MemoryStore())
    site = await serve_app(("/", Visits), store=store)
    expect_log("503 GET /", required=False)
    expect_log("503 GET /", logger="tornado", required=False)
    hold = store.hold("swap")
    page = asyncio.ensure_future(site.browser().get())
    await hold.wait()

    await site.app.close()
    hold.release()

    with pytest.raises(OSError):
        await page


async def test_draining_an_idle_or_unused_process_is_quick(serve_app: ServeApp) -> None:
    site = await serve_app(("/ws", Live))

    await within(site.app.drain(), "it did not end")
    await within(site.app.drain(), "it did not end")


# --- hostile connections ----------------------------------------------------------------------------------------------


async def test_half_a_request_hurts_nobody_and_is_dropped_in_time() -> None:
    application = Application([("/", Visits)], session=OPTIONS, store=StoreProbe(MemoryStore()))
    async with serve(application) as site:
        reader, writer = await asyncio.open_connection(*site.address)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: connect.sid=s%3A")

        page = await site.browser().get()
        # Ten seconds is much for a header and little for whoever waits: not waited for here.
        (server,) = application._servers
        patience = server.conn_params.header_timeout
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""

        assert page.text == "1 visits"
        assert patience is not None
        assert patience <= 10


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
async def test_our_own_routes_take_no_other_methods(method: str, serve_app: ServeApp) -> None:
    site = await serve_app()

    for path in ("/_sstream/session", "/_sstream/client.js", "/_sstream/health/live"):
        page = await site.browser().fetch(method, path)
        assert page.status in {400, 405}
