"""Sockets while the store is away."""

import json
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis

from sstream import RedisStore
from sstream.testing import FaultProxy, StoreProbe, eventually

from .live import ENDED, ServeLive, WithView, refused


async def test_a_socket_opened_while_redis_is_down_lives_and_has_its_session_when_redis_is_back(
    proxy: FaultProxy, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(StoreProbe(RedisStore(proxy.url)), WithView)
    browser = site.browser()
    await browser.get("/tea")
    expect_log("Redis cannot be reached")
    expect_log("Redis is back")
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
    expect_log("Redis is back")

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
    expect_log("Redis is back")

    proxy.refuse()
    async with aioredis.Redis.from_url(redis_url) as client:
        await client.delete(f"sess:{browser.sid}")
    await proxy.accept()

    assert await socket.closed() == ENDED
