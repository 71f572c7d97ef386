"""The Python client, against our own server, and against one that writes MessagePack-RPC's arrays by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application as PlainApplication, RequestHandler
from tornado.websocket import WebSocketHandler

from sstream import Actions, Application, Limits, MemoryStore, RPCError, RPCHandler, SessionOptions, load_session, rpc
from sstream.client import ClosedError, Socket, connect
from sstream.client.events import Inbox
from sstream.errors import CANCELLED, FORBIDDEN, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, TIMEOUT, TOO_MANY
from sstream.pubsub import ChannelOptions
from sstream.testing import Site, StoreProbe, eventually, serve, within

OPTIONS = SessionOptions(secret="a test's own secret")
QUICK = (0.001, 0.01)


class Cart(Actions):
    @rpc
    def add(self, item: str, count: int = 1) -> dict[str, int]:
        return {item: count}


class Live(RPCHandler):
    actions = {"cart": Cart}
    cancelled = 0
    closed = 0

    def may_subscribe(self, channel: str) -> bool:
        return channel != "secret"

    @classmethod
    def channel_options(cls, channel: str) -> ChannelOptions | None:
        return ChannelOptions(history=(100, 60)) if channel.startswith("log") else None

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def refuse(self) -> None:
        raise RPCError(FORBIDDEN, "not you", {"why": "so"})

    @rpc
    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            type(self).cancelled += 1

    @rpc
    async def count(self, most: int) -> AsyncIterator[int]:
        try:
            for number in range(most):
                yield number
        finally:
            type(self).closed += 1

    @rpc
    async def broken(self) -> AsyncIterator[int]:
        yield 1
        raise RPCError(FORBIDDEN, "enough")

    @rpc
    async def confirm(self, method: str, params: list[Any], timeout: float | None = None) -> Any:
        return await self.call(method, *params, timeout=timeout)

    @rpc
    async def say(self, channel: str, text: str) -> None:
        await self.publish.channel(channel, "said", text)

    @rpc
    def drop(self, code: int) -> None:
        self.close(code, "dropped")

    @rpc(use=[load_session])
    async def remember(self, value: int) -> None:
        self.session["value"] = value

    @rpc(use=[load_session])
    async def login(self, name: str) -> None:
        await self.session.set_user_id(name)

    @rpc(use=[load_session])
    def recall(self) -> Any:
        return [self.session.get("value"), self.session.user_id]

    def session_view(self) -> dict[str, Any] | None:
        value = self.session.get("value")
        return None if value is None else {"value": value}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    Live.cancelled = Live.closed = 0
    application = Application(
        [("/ws", Live)], session=OPTIONS, store=StoreProbe(MemoryStore()), limits=Limits(message_rate=None)
    )
    async with serve(application) as site:
        yield site


@pytest.fixture
async def dial(site: Site) -> AsyncIterator[Callable[..., Any]]:
    """``await dial(**options)`` connects; closed with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def dial(**options: Any) -> Socket:
            url = site.url.replace("http", "ws") + "/ws"
            return await within(stack.enter_async_context(connect(url, **options)), "a connection")

        yield dial


# Calls


@pytest.mark.parametrize("subprotocol", ["sstream.v1.msgpack", "sstream.v1.json"])
async def test_call_gives_the_result(dial, subprotocol):
    s = await dial(subprotocol=subprotocol)

    assert await s.call("add", 2, 3) == 5


async def test_rpc_names_methods_by_attributes(dial):
    s = await dial()

    assert await s.rpc.cart.add("tea", 2) == {"tea": 2}


async def test_refusal_is_an_rpc_error(dial):
    s = await dial()

    with pytest.raises(RPCError) as caught:
        await s.call("refuse")

    assert (caught.value.code, caught.value.message, caught.value.data) == (FORBIDDEN, "not you", {"why": "so"})


@pytest.mark.parametrize(
    ("method", "params", "code"), [("nope", [], METHOD_NOT_FOUND), ("add", ["x", 1], INVALID_PARAMS)]
)
async def test_wrong_call_is_an_rpc_error(dial, method, params, code):
    s = await dial()

    with pytest.raises(RPCError) as caught:
        await s.call(method, *params)

    assert caught.value.code == code


async def test_many_calls_at_once_get_their_own_results(dial):
    s = await dial()

    assert await asyncio.gather(*(s.call("add", n, 1) for n in range(200))) == list(range(1, 201))


@pytest.mark.parametrize("by", ["call", "option"])
async def test_call_that_takes_too_long_times_out_and_ends_on_the_server(dial, by):
    s = await dial(**({"timeout": 0.05} if by == "option" else {}))

    with pytest.raises(RPCError) as caught:
        await s.call("wait", **({"timeout": 0.05} if by == "call" else {}))

    assert caught.value.code == TIMEOUT
    await eventually(lambda: Live.cancelled == 1, "the end of the call on the server")


async def test_cancelling_the_task_cancels_the_call_on_the_server(dial):
    s = await dial()
    task = asyncio.ensure_future(s.call("wait"))
    await s.call("add", 1, 1)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: Live.cancelled == 1, "the end of the call on the server")


async def test_notification_has_no_reply(dial):
    s = await dial()

    assert s.notify("drop", 4000) is True

    await eventually(lambda: s.status.code == 4000, "the effect")


async def test_notification_without_a_connection_is_dropped(site):
    s = connect(site.url.replace("http", "ws") + "/ws")

    assert s.notify("add", 1, 2) is False


# Streams


async def take(items: AsyncIterator[Any], taken: list[Any]) -> None:
    """Put the items where they are seen also if the iterator raises."""
    async for item in items:
        taken.append(item)


async def test_stream_gives_all_items(dial):
    s = await dial()

    assert [item async for item in s.stream("count", 100)] == list(range(100))
    assert Live.closed == 1


async def test_stream_that_is_left_is_cancelled_on_the_server(dial):
    s = await dial()

    async with contextlib.aclosing(s.stream("count", 10**9)) as items:
        async for item in items:
            if item == 50:
                break

    await eventually(lambda: Live.closed == 1, "the end of the stream on the server")


async def test_stream_raises_what_ended_it(dial):
    s = await dial()
    items = []

    with pytest.raises(RPCError, match="enough"):
        await take(s.stream("broken"), items)

    assert items == [1]


async def test_stream_past_its_timeout_raises(dial):
    s = await dial()

    with pytest.raises(RPCError) as caught:
        await take(s.stream("count", 10**9, credit=1, timeout=0.05), [])

    assert caught.value.code == TIMEOUT


# The other direction


@pytest.mark.parametrize("is_async", [False, True])
async def test_server_calls_an_exposed_function(dial, is_async):
    s = await dial()

    async def later(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a * b

    s.expose("multiply", later if is_async else lambda a, b: a * b)

    assert await s.call("confirm", "multiply", [6, 7]) == 42


async def test_function_that_is_not_exposed_is_not_found(dial):
    s = await dial()
    take_back = s.expose("gone", lambda: 1)
    take_back()

    with pytest.raises(RPCError) as caught:
        await s.call("confirm", "gone", [])

    assert caught.value.code == METHOD_NOT_FOUND


async def test_what_is_taken_back_is_that_function_alone(dial):
    s = await dial()
    take_back = s.expose("multiply", lambda a, b: 0)
    s.expose("multiply", lambda a, b: a * b)

    take_back()

    assert await s.call("confirm", "multiply", [6, 7]) == 42


async def test_exposed_function_may_refuse(dial):
    s = await dial()

    def refuse() -> None:
        raise RPCError(4003, "no", [1])

    s.expose("refuse", refuse)

    with pytest.raises(RPCError) as caught:
        await s.call("confirm", "refuse", [])
    assert (caught.value.code, caught.value.data) == (4003, [1])


async def test_exposed_function_with_a_bug_is_logged_and_told_as_internal(dial, expect_log):
    expect_log("fail raised", "sstream.client", count=1)
    s = await dial()
    s.expose("fail", lambda: 1 / 0)

    with pytest.raises(RPCError) as caught:
        await s.call("confirm", "fail", [])

    assert caught.value.code == INTERNAL_ERROR


async def test_exposed_function_is_cancelled_when_the_server_gives_up(dial):
    s = await dial()
    seen = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    s.expose("wait", wait)

    with pytest.raises(RPCError):
        await s.call("confirm", "wait", [], 0.05)
    await eventually(lambda: seen == ["ended"], "the end of the function")


# Events and channels


async def test_event_reaches_its_listeners(dial, site):
    s = await dial()
    heard: list[Any] = []
    later = asyncio.Event()

    async def listen(*args: Any) -> None:
        await asyncio.sleep(0)
        heard.append(("async", *args))
        later.set()

    s.on("news", lambda *args: heard.append(args))
    s.on("news", listen)
    s.once("news", lambda *args: heard.append("once"))
    s.on("*", lambda name, args, meta: heard.append(name) if name != "session" else None)
    off = s.on("news", lambda *args: heard.append("never"))
    off()

    await site.app.publish.all("news", 1, {"a": 2})
    await within(later.wait(), "the event")

    assert heard == [(1, {"a": 2}), "once", "news", ("async", 1, {"a": 2})]


async def test_listener_that_raises_harms_nobody(dial, site, expect_log):
    expect_log("a listener of 'news' raised", "sstream.client", count=2)
    s = await dial()
    heard = asyncio.Event()

    async def fail() -> None:
        raise ZeroDivisionError

    s.on("news", fail)
    s.on("news", lambda: 1 / 0)
    s.on("news", heard.set)

    await site.app.publish.all("news")

    await within(heard.wait(), "the event")
    await asyncio.sleep(0)


async def test_channel_is_iterated(dial):
    s = await dial()
    channel = s.channel("lobby")
    events = channel.__aiter__()
    first = asyncio.ensure_future(anext(events))
    assert await channel.subscribe() == {}

    await s.call("say", "lobby", "hello")

    name, args, meta = await within(first, "the event")
    assert (name, args, meta["channel"]) == ("said", ["hello"], "lobby")
    await channel.unsubscribe()
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_channel_that_is_not_open_is_refused(dial):
    s = await dial()

    with pytest.raises(RPCError) as caught:
        await s.channel("secret").subscribe()

    assert caught.value.code == FORBIDDEN


async def test_same_channel_is_the_same_object(dial):
    s = await dial()

    assert s.channel("a") is s.channel("a")


async def test_unsubscribed_channel_is_silent(dial):
    s = await dial()
    heard: list[Any] = []
    s.channel("lobby").on("said", heard.append)
    await s.channel("lobby").subscribe()
    await s.call("say", "lobby", "one")

    await s.channel("lobby").unsubscribe()
    await s.call("say", "lobby", "two")
    await s.call("add", 1, 1)

    assert heard == ["one"]


async def test_channel_gets_what_it_missed_once_and_in_order_after_a_reconnect(dial):
    s, other = await dial(backoff=QUICK), await dial()
    heard: list[Any] = []
    channel = s.channel("log")
    channel.on("said", heard.append)
    await channel.subscribe()
    await other.call("say", "log", "before")
    await eventually(lambda: heard == ["before"], "the first event")

    with contextlib.suppress(ClosedError):
        await s.call("drop", 4000)
    for n in range(5):
        await other.call("say", "log", str(n))
    await within(s.ready(), "the reconnect")
    await other.call("say", "log", "after")

    await eventually(lambda: "after" in heard, "what came after")
    assert heard == ["before", *"01234", "after"]


async def test_channel_goes_on_from_a_position(dial):
    s, other = await dial(), await dial()
    await s.channel("log2").subscribe()
    await other.call("say", "log2", "one")
    await eventually(lambda: s.channel("log2").position["offset"] == 1, "the event")
    position = s.channel("log2").position
    await other.call("say", "log2", "two")
    third = await dial()
    heard: list[Any] = []
    third.channel("log2").on("said", heard.append)

    reply = await third.channel("log2").subscribe(since=position)

    assert reply["recovered"] is True
    assert heard == ["two"]


# The connection


async def test_lost_connection_comes_back(dial):
    s = await dial(backoff=QUICK)
    states: list[str] = []
    s.on("state", lambda status: states.append(status.state))

    with contextlib.suppress(ClosedError):
        await s.call("drop", 4408)
    await eventually(lambda: "connected" in states, "the reconnect")

    assert states == ["waiting", "connecting", "connected"]
    assert await s.call("add", 2, 3) == 5


async def test_call_under_way_fails_when_the_connection_is_lost(dial):
    s = await dial(backoff=QUICK)
    task = asyncio.ensure_future(s.call("wait"))
    await s.call("add", 1, 1)

    s.notify("drop", 4000)

    with pytest.raises(ClosedError) as caught:
        await within(task, "the end of the call")
    assert caught.value.code == 4000


async def test_call_in_the_moment_in_which_the_connection_breaks_is_a_closed_error(dial):
    s = await dial(backoff=QUICK)
    s._connection.protocol.stream.close()  # and nobody has told the socket so far

    with pytest.raises(ClosedError):
        await within(s.call("add", 2, 3), "the end of the call")


async def test_queued_call_is_sent_again_after_a_reconnect(dial):
    s = await dial(backoff=QUICK)
    s.notify("drop", 4000)

    assert await s.call("add", 2, 3, queue=True) == 5


async def test_calls_that_waited_do_not_flood_the_server():
    limits = Limits(message_burst=70, message_rate=100.0)
    app = Application([("/ws", Live)], session=OPTIONS, store=StoreProbe(MemoryStore()), limits=limits)
    async with serve(app) as site, connect(site.url.replace("http", "ws") + "/ws", backoff=QUICK) as s:
        losses: list[Any] = []
        waiting = asyncio.Event()
        s.on("waiting", losses.append)
        s.on("waiting", lambda status: waiting.set())
        s.notify("drop", 4000)
        await within(waiting.wait(), "the loss")

        sums = await within(asyncio.gather(*(s.call("add", n, 0, queue=True) for n in range(90))), "all replies")

    assert sums == list(range(90))
    assert len(losses) == 1


async def test_call_while_waiting_is_refused_at_once(dial):
    s = await dial(backoff=(60.0, 60.0))
    waiting = asyncio.Event()
    s.on("waiting", lambda status: waiting.set())
    s.notify("drop", 4000)
    await within(waiting.wait(), "the loss")

    with pytest.raises(ClosedError):
        await s.call("add", 2, 3)


async def test_too_many_queued_calls_are_refused(dial):
    s = await dial(backoff=(60.0, 60.0), max_queue=1)
    waiting = asyncio.Event()
    s.on("waiting", lambda status: waiting.set())
    s.notify("drop", 4000)
    await within(waiting.wait(), "the loss")
    task = asyncio.ensure_future(s.call("add", 2, 3, queue=True))
    await asyncio.sleep(0)

    with pytest.raises(RPCError) as caught:
        await s.call("add", 2, 3, queue=True)

    assert caught.value.code == TOO_MANY
    task.cancel()


@pytest.mark.parametrize("code", [4401, 4403])
async def test_final_close_code_ends_it(dial, code):
    s = await dial(backoff=QUICK)
    closed = asyncio.Event()
    s.on("closed", lambda status: closed.set())

    s.notify("drop", code)
    await within(closed.wait(), "the end")

    assert (s.state, s.status.code) == ("closed", code)
    with pytest.raises(ClosedError):
        await s.call("add", 2, 3)
    with pytest.raises(ClosedError):
        await s.channel("lobby").subscribe()


async def test_closed_socket_can_be_opened_again(dial):
    s = await dial()
    await s.close()

    s.open()

    assert await (await within(s.ready(), "the connection")).call("add", 2, 3) == 5


async def test_close_ends_calls_and_iterators(dial):
    s = await dial()
    call = asyncio.ensure_future(s.call("wait"))
    events = s.channel("lobby").__aiter__()
    event = asyncio.ensure_future(anext(events))
    await s.call("add", 1, 1)

    await s.close()
    await s.close()

    for task in (call, event):
        with pytest.raises(ClosedError):
            await task


async def test_server_that_is_not_there_is_tried_again():
    s = connect("ws://127.0.0.1:1/ws", backoff=QUICK)
    waits: list[Any] = []
    s.on("waiting", waits.append)

    s.open()
    await eventually(lambda: len(waits) >= 3, "three attempts")
    await s.close()

    assert all(0 <= status.retry_in <= 0.01 for status in waits)


async def test_handshake_that_is_refused_for_good_ends_it(site):
    with pytest.raises(ClosedError, match="the handshake was answered by 404"):
        async with connect(site.url.replace("http", "ws") + "/nowhere"):
            pass


async def test_connect_can_be_awaited(site):
    s = await within(connect(site.url.replace("http", "ws") + "/ws"), "the connection")

    assert await s.call("add", 2, 3) == 5
    await s.close()


@pytest.mark.parametrize("url", ["http://localhost/ws", "localhost", ""])
def test_url_that_is_none_is_an_error(url):
    with pytest.raises(ValueError, match="is no ws:// or wss:// URL"):
        connect(url)


# The session


async def test_session_made_on_the_socket_reaches_the_cookies_by_a_ticket(dial):
    s = await dial()
    traded = asyncio.Event()
    cookies: dict[str, str] = {}
    s.on("cookies", lambda new: (cookies.update(new), traded.set()))
    views: list[Any] = []
    s.on("session", views.append)

    await s.call("remember", 42)
    await within(traded.wait(), "the cookie")

    other = await dial(cookies=cookies)
    assert await other.call("recall") == [42, None]
    await eventually(lambda: s.session == {"value": 42}, "the view of the session")


async def test_cookie_of_before_the_login_is_replaced(dial):
    s = await dial()
    jars: list[dict[str, str]] = []
    s.on("cookies", jars.append)
    await s.call("remember", 1)
    await eventually(lambda: len(jars) == 1, "the first cookie")

    await s.call("login", "fred")
    await eventually(lambda: len(jars) == 2, "the second cookie")

    assert jars[0] != jars[1]
    other = await dial(cookies=jars[1])
    assert await other.call("recall") == [1, "fred"]


# Against arrays made by hand


class Handmade(WebSocketHandler):
    """Answers by a script: what a message that begins so is answered with."""

    received: list[Any]
    script: Callable[[Any], list[Any]]

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocols[0]

    def on_message(self, message: str | bytes) -> None:
        decoded = msgpack.unpackb(message)
        type(self).received.append(decoded)
        for answer in type(self).script(decoded):
            self.write_message(answer if isinstance(answer, bytes) else msgpack.packb(answer), binary=True)


@pytest.fixture
async def by_hand() -> AsyncIterator[Callable[..., Any]]:
    """``await by_hand(script)`` connects to a server that answers each message with what ``script`` gives."""
    async with contextlib.AsyncExitStack() as stack:

        async def by_hand(script: Callable[[Any], list[Any]], **options: Any) -> tuple[Socket, list[Any]]:
            handler = type("Scripted", (Handmade,), {"received": [], "script": staticmethod(script)})
            server = HTTPServer(PlainApplication([("/ws", handler)]))
            server.listen(0, "127.0.0.1")
            stack.push_async_callback(server.close_all_connections)
            stack.callback(server.stop)
            (listening,) = server._sockets.values()
            url = f"ws://127.0.0.1:{listening.getsockname()[1]}/ws"
            return await stack.enter_async_context(connect(url, **options)), handler.received

        yield by_hand


async def test_call_is_messagepack_rpcs_array(by_hand):
    s, received = await by_hand(lambda message: [[1, message[1], None, "done"]])

    assert await s.call("method", 1, "two") == "done"
    assert await s.call("method", timeout=5, traceparent="00-x") == "done"

    assert received == [[0, 1, "method", [1, "two"]], [0, 2, "method", [], {"timeout": 5, "traceparent": "00-x"}]]


async def test_stream_asks_for_items_ahead(by_hand):
    def script(message: Any) -> list[Any]:
        match message:
            case [5, call_id, 4]:
                return [[4, call_id, n] for n in range(4)]
            case [5, call_id, 2]:
                return [[4, call_id, "last"], [1, call_id, None, None]]
        return []

    s, received = await by_hand(script)

    assert [item async for item in s.stream("items", credit=4)] == [0, 1, 2, 3, "last"]
    assert received[:3] == [[0, 1, "items", []], [5, 1, 4], [5, 1, 2]]


async def test_cancel_is_an_array(by_hand):
    s, received = await by_hand(lambda message: [])

    with pytest.raises(RPCError):
        await s.call("method", timeout=0.01)

    await eventually(lambda: len(received) == 2, "the cancel")
    assert received[1] == [3, 1]


async def test_stray_messages_are_ignored(by_hand):
    stray = [[1, 99, None, "late"], [4, 99, "item"], [3, 99], [9, "newer"], [1, 1], [2, "event"]]
    s, _ = await by_hand(lambda message: [*stray, [1, message[1], None, "done"]])

    assert await s.call("method") == "done"


@pytest.mark.parametrize("error", ["text", {"a": 1}, [1], 5])
async def test_error_of_any_shape_is_an_rpc_error(by_hand, error):
    s, _ = await by_hand(lambda message: [[1, message[1], error, None]])

    with pytest.raises(RPCError):
        await s.call("method")


async def test_server_that_sends_what_is_no_message_is_left(by_hand):
    s, _ = await by_hand(lambda message: [b"\xc1"], backoff=QUICK)

    with pytest.raises(ClosedError, match="the server sent what is no message"):
        await s.call("method")


async def test_gap_is_told(by_hand):
    def script(message: Any) -> list[Any]:
        if message[2] == "sstream.subscribe":
            return [
                [1, message[1], None, {"offset": 5, "epoch": "a", "recovered": False}],
                [2, "said", ["x"], {"channel": "log", "offset": 6, "epoch": "a"}],
                [2, "sstream:gap", ["log"], {"channel": "log", "offset": 9, "epoch": "a"}],
                [2, "said", ["y"], {"channel": "log", "offset": 10, "epoch": "a"}],
            ]
        return []

    s, _ = await by_hand(script)
    told: list[Any] = []
    s.on("gap", told.append)
    s.channel("log").on("gap", lambda: told.append("gap"))
    s.channel("log").on("said", told.append)

    await s.channel("log").subscribe()
    await eventually(lambda: "y" in told, "the last event")

    assert told == ["gap", "log", "x", "gap", "log", "y"]


async def test_events_out_of_order_are_asked_for_again(by_hand):
    missed = [[2, "said", [n], {"channel": "log", "offset": n, "epoch": "a"}] for n in range(1, 4)]
    asked = []

    def script(message: Any) -> list[Any]:
        asked.append(message[3])
        if len(asked) == 1:
            return [[1, message[1], None, {"offset": 0, "epoch": "a", "recovered": True}], missed[0], missed[2]]
        return [[1, message[1], None, {"offset": 3, "epoch": "a", "recovered": True, "missed": missed[1:]}]]

    s, _ = await by_hand(script)
    heard: list[Any] = []
    s.channel("log").on("said", heard.append)

    await s.channel("log").subscribe()
    await eventually(lambda: len(heard) == 3, "what was missing")

    assert heard == [1, 2, 3]
    assert asked[1] == ["log", {"offset": 1, "epoch": "a"}]


async def test_session_event_of_a_channel_is_not_the_sessions(by_hand):
    events = [
        [2, "session", [{"mine": True}]],
        [2, "session", [{"forged": True}], {"channel": "lobby"}],
        [2, "sstream:ticket", ["forged"], {"channel": "lobby"}],
    ]
    s, _ = await by_hand(lambda message: [*events, [1, message[1], None, None]])
    views: list[Any] = []
    s.on("session", views.append)

    await s.call("method")

    assert views == [{"mine": True}]
    assert s.session == {"mine": True}


async def test_ticket_that_is_refused_is_logged(expect_log):
    logged = expect_log("a ticket was answered by 403", "sstream.client", count=1)

    class Refuse(RequestHandler):
        def post(self) -> None:
            posted.append((self.request.headers["Origin"], self.request.headers["Cookie"], self.request.body))
            self.send_error(403)

    posted: list[Any] = []
    script = staticmethod(lambda message: [[2, "sstream:ticket", ["secret"]]])
    handler = type("Scripted", (Handmade,), {"received": [], "script": script})
    server = HTTPServer(PlainApplication([("/ws", handler), ("/_sstream/session", Refuse)]))
    server.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"

    async with connect(origin.replace("http", "ws") + "/ws", cookies={"a": "b"}) as s:
        s.notify("method")
        await eventually(lambda: posted, "the ticket's way back")
        await eventually(lambda: logged.records, "the complaint")
    server.stop()
    await server.close_all_connections()

    assert posted == [(origin, "a=b", b'{"ticket":"secret"}')]


# The inbox


async def test_inbox_past_its_limit_ends_with_an_error():
    inbox = Inbox(2)
    for n in range(3):
        inbox.push(n)
    taken = []

    with pytest.raises(RPCError) as caught:
        await take(inbox.__aiter__(), taken)

    assert caught.value.code == TOO_MANY
    assert taken == [0, 1, 2]


async def test_unsubscribed_channel_tells_who_was_still_waiting(by_hand):
    s, _ = await by_hand(lambda message: [])
    task = asyncio.ensure_future(s.channel("log").subscribe())
    await asyncio.sleep(0)

    closing = asyncio.ensure_future(s.channel("log").unsubscribe())

    with pytest.raises(RPCError) as caught:
        await task
    assert caught.value.code == CANCELLED
    closing.cancel()
