"""What a call costs the store: nothing, where it does not use the session."""

import asyncio
import gc
import weakref

import pytest

from sstream.testing import StoreProbe, eventually

from .live import SID, ServeLive, signed, stored


async def test_a_socket_without_a_cookie_and_its_plain_calls_ask_the_store_nothing(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)

    socket = await site.browser().connect()
    results = [await socket.call("add", 2, 3), await socket.call("add_async", 4, 5)]
    await socket.close()

    assert results == [5, 9]
    assert socket.headers.get_list("Set-Cookie") == []
    assert store.asked == []


async def test_a_socket_with_a_cookie_reads_once_at_open_and_plain_calls_ask_nothing(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    store.asked.clear()

    socket = await browser.connect()
    await asyncio.gather(*(socket.call("add", 1, 1) for _ in range(10)))
    await asyncio.gather(*(socket.call("add_async", 1, 1) for _ in range(10)))
    await socket.close()
    await eventually(lambda: not site.app.sockets, "the server did not notice the close")

    assert store.asked == [("get", f"sess:{browser.sid}")]


async def test_calls_that_only_read_the_session_are_served_from_the_sockets_copy(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("cart.show")
    store.asked.clear()

    looks = [await socket.call(method) for method in ("cart.show", "cart.show_now") * 5]

    assert looks == [{"a": "1"}] * 10
    assert [operation for operation in store.asked if operation[0] != "touch"] == []


@pytest.mark.parametrize("method", ["cart.add", "cart.add_now"])
async def test_a_call_that_changes_the_session_costs_one_swap(
    method: str, store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("cart.show")
    store.asked.clear()

    for _ in range(3):
        await socket.call(method, "tea")

    assert store.asked == [("swap", f"sess:{browser.sid}")] * 3
    assert await stored(store, browser.sid) == {"a": "1", "cart": {"tea": 3}}


async def test_a_socket_with_a_forged_cookie_is_anonymous_and_asks_the_store_nothing(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)

    socket = await site.browser(**{"connect.sid": signed(SID, "another secret")}).connect()

    assert await socket.call("cart.show") == {}
    assert memory.asked == []


@pytest.mark.parametrize("path", ["/put?a=1", None])
async def test_a_socket_that_has_closed_does_not_wait_for_the_garbage_collector(
    store: StoreProbe, serve_live: ServeLive, path: str | None
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    if path is not None:
        await browser.get(path)
    socket = await browser.connect()
    await socket.call("cart.show")
    await socket.call("add_async", 1, 1)
    (handler,) = map(weakref.ref, site.app.sockets.values())
    gc.collect()
    gc.disable()

    try:
        await socket.close()

        await eventually(lambda: handler() is None, "the handler is still there")
    finally:
        gc.enable()
