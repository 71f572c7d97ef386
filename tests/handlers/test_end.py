"""Sessions that end, and what becomes of their sockets."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import redis.asyncio as aioredis

from sstream import RedisStore, load_session, rpc
from sstream.testing import SocketClosed, StoreProbe, eventually, within

from .live import ENDED, Live, ServeLive, WithView, heard, refused, stored


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


async def test_a_socket_that_goes_on_after_a_hook_that_raises_hears_nothing_of_its_old_user(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Broken(Live):
        close_on_session_end = False

        def on_session_end(self, reason: str) -> None:
            raise ZeroDivisionError("on purpose")

    site = await serve_live(memory, Broken)
    browser = site.browser()
    await browser.get("/login?name=fred")
    socket = await browser.connect()
    (handler,) = site.app.sockets.values()
    expect_log("failed", count=1)

    await browser.get("/logout")
    await eventually(lambda: handler.session.is_new, "the socket has its old session")
    await site.app.publish.user("fred", "secret")

    assert await heard(site, socket) == [[]]


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
    store = StoreProbe(RedisStore(redis_url, deadline=20.0))
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
