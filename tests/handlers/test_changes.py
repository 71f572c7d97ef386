"""What others change in a session is seen by its sockets."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis

from sstream import RedisStore
from sstream.testing import StoreProbe, eventually

from .live import Live, ServeLive, nothing_else


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
    store = StoreProbe(RedisStore(redis_url, deadline=20.0))
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
