"""Calls that fail change nothing, and say no more than they may."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sstream import load_session, rpc
from sstream.testing import StoreProbe

from .live import Live, ServeLive, Spoiling, refused, stored


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
