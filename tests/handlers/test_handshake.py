"""Who may open a socket, and how."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler

from sstream import Application, Limits, RPCError, SessionMixin, SessionOptions, load_session, rpc
from sstream.testing import Closed, SocketClosed, StoreProbe, eventually, serve, within
from tests.websocket.frames import frame

from .live import CERTIFICATE, ENDED, PAGES, SECRET, SID, Live, ServeLive, WithView, refused, signed, stored


@pytest.mark.parametrize("host", ["[", "a[b]", "127.0.0.1:99999"])
async def test_a_handshake_with_a_host_that_is_none_is_refused(
    host: str, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)

    with pytest.raises(HTTPClientError) as told:
        await site.browser().connect(headers={"Host": host})

    assert told.value.code == 403


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


@pytest.mark.parametrize("resets", [False, True])
async def test_a_client_that_leaves_during_the_handshake_leaves_nothing(
    resets: bool, store: StoreProbe, serve_live: ServeLive
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
    if resets:
        # Having said more, which keeps Tornado from looking whether it is still there.
        writer.write(frame(2, b""))
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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


async def test_a_session_that_ends_while_prepare_is_at_work_ends_the_socket(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    class Thorough(WithView):
        async def prepare(self) -> None:
            await super().prepare()
            reached.set()
            await gate.wait()

    site = await serve_live(store, Thorough)
    browser = site.browser()
    await browser.get("/tea")
    opening = asyncio.ensure_future(browser.connect())
    await reached.wait()

    await browser.copy().get("/logout")
    gate.set()
    socket = await opening

    assert await socket.receive("ended") == ["destroyed"]
    assert await socket.closed() == ENDED


async def test_prepare_may_write_to_the_session_and_the_browser_gets_its_cookie(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    class Counting(WithView):
        async def prepare(self) -> None:
            await super().prepare()
            async with self.session_turn() as session:
                session["cart"] = {"tea": 1}

    site = await serve_live(store, Counting)
    browser = site.browser()

    socket = await browser.connect()

    assert await socket.receive("session") == [{"teas": 1}]
    assert (await socket.traded()).status == 204
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}}


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


async def test_a_socket_that_opens_after_a_drain_has_begun_is_sent_elsewhere_before_it_calls(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    await browser.get("/put?a=1")
    held = memory.hold("get")
    connecting = asyncio.create_task(browser.connect())
    await held.wait()

    draining = asyncio.create_task(site.app.drain())
    await eventually(lambda: site.app.is_draining, "no drain has begun")
    held.release()
    socket = await connecting

    assert await socket.closed() == Closed(1012, "restart")
    await within(draining, "the drain does not end")
