"""A socket that came without a session writes to one."""

import pytest

from sstream.testing import StoreProbe

from .live import ServeLive, nothing_else, signed


@pytest.mark.parametrize("method", ["cart.add", "cart.add_now"])
async def test_the_first_write_on_a_socket_without_a_cookie_reaches_the_browsers_cookie_by_a_ticket(
    method: str, store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect()

    reply = await socket.call(method, "tea")
    traded = await socket.traded()

    assert reply == {"tea": 1}
    assert (traded.status, traded.body) == (204, b"")
    assert traded.cookies == [f"connect.sid={signed(browser.sid or '')}; Path=/; HttpOnly; SameSite=Lax"]
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}}
    assert await socket.call(method, "tea") == {"tea": 2}
    assert (await browser.get("/tea")).json == {"tea": 3}
    assert await socket.call("cart.show") == {"cart": {"tea": 3}}
    assert await nothing_else(socket) == [[["changed", [["cart"]]]]]


async def test_a_socket_that_only_reads_without_a_cookie_stores_nothing_and_gets_no_ticket(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    socket = await site.browser().connect(trades=False)

    assert await socket.call("cart.show") == {}
    assert await socket.call("cart.show_now") == {}

    assert await nothing_else(socket) == [[]]
    assert store.asked == []


async def test_logging_out_on_a_socket_without_a_session_ends_nothing_and_the_next_call_begins_one(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect()

    assert await socket.call("account.logout") == "bye"
    first_cart = await socket.call("cart.add", "tea")

    assert first_cart == {"tea": 1}
    assert (await socket.traded()).status == 204
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}}


async def test_two_first_calls_at_once_make_one_session(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect()

    first, second = socket.ask("cart.add", "tea"), socket.ask("cart.add_now", "tea")

    assert [await socket.reply(first), await socket.reply(second)] == [{"tea": 1}, {"tea": 2}]
    assert (await socket.traded()).status == 204
    assert (await browser.get("/look")).json == {"cart": {"tea": 2}}
    assert await nothing_else(socket) == [[]]


async def test_logging_in_on_a_socket_without_a_cookie_gives_the_browser_a_session_of_that_user(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect()

    assert await socket.call("account.login", "fred") == "hello fred"

    assert (await socket.traded()).status == 204
    assert (await browser.get("/look")).json == {"greeted": True, "userId": "fred"}
    assert await socket.call("cart.show") == {"greeted": True, "userId": "fred"}


async def test_a_client_that_trades_no_tickets_keeps_its_session_for_the_sockets_life(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket = await browser.connect(trades=False)

    await socket.call("cart.add", "tea")
    await socket.call("cart.add", "tea")

    assert await socket.call("cart.show") == {"cart": {"tea": 2}}
    assert browser.sid is None
