"""What the browser may see of its session, pushed when it changes."""

import asyncio
from collections.abc import Callable
from typing import Any

from sstream import RPCError, load_session, rpc
from sstream.testing import StoreProbe, within

from .live import Live, ServeLive, WithView, nothing_else, refused


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
    mine, other = await browser.connect(), await browser.connect()
    at_open = [await socket.receive_event("session") for socket in (mine, other)]
    old = browser.sid

    await mine.call("account.renew")
    await mine.traded()
    moved = [await socket.receive_event("session") for socket in (mine, other)]

    assert at_open == [["session", [{"id": old}]]] * 2
    assert moved == [["session", [{"id": browser.sid}]]] * 2


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
    told = expect_log("_send_view failed", count=2)

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
