"""Logging in on a socket changes the id."""

from collections.abc import Callable
from typing import Any

from sstream import load_session, rpc
from sstream.session.redis import RedisStore
from sstream.testing import Clock, Fault, FaultProxy, StoreProbe, eventually

from .live import ENDED, Live, ServeLive, login_ticket, stored


async def test_logging_in_by_socket_renews_the_id_and_the_old_cookie_is_dead_after_the_trade(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    thief, old = browser.copy(), browser.sid
    socket = await browser.connect()

    reply = await socket.call("account.login", "fred")
    traded = await socket.traded()

    assert (reply, traded.status) == ("hello fred", 204)
    assert browser.sid != old
    assert await stored(store, old) is None
    expected = {"cart": {"tea": 1}, "greeted": True, "userId": "fred"}
    assert await stored(store, browser.sid) == expected
    assert (await browser.get("/look")).json == expected
    assert (await thief.get("/look")).json == {}
    assert await (await thief.connect()).call("cart.show") == {}


async def test_the_other_sockets_of_the_session_follow_to_the_new_id_and_share_it(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    mine, other = await browser.connect(), await browser.connect()

    await mine.call("account.login", "fred")
    await mine.traded()
    by_other = await other.call("cart.add", "tea")
    by_page = (await browser.get("/tea")).json
    by_mine = await mine.call("cart.add_now", "tea")

    assert [by_other, by_page, by_mine] == [{"tea": 2}, {"tea": 3}, {"tea": 4}]
    await eventually(lambda: site.app.sessions.count_sockets(browser.sid or "") == 2, "both follow")
    assert not mine.is_closed
    assert not other.is_closed


async def test_calls_between_the_login_and_the_trade_lose_nothing(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    mine, other = await browser.connect(trades=False), await browser.connect()

    await mine.call("account.login", "fred")
    ticket = await mine.receive("sstream:ticket")
    by_mine = await mine.call("cart.add", "tea")
    by_other = await other.call("cart.add_now", "tea")
    by_page = (await browser.get("/tea")).json
    traded = await browser.trade(*ticket)
    after = await mine.call("cart.add", "tea")

    assert [by_mine, by_other, by_page, traded.status, after] == [{"tea": 2}, {"tea": 3}, {"tea": 4}, 204, {"tea": 5}]
    data = await stored(store, browser.sid)
    assert data is not None
    assert (data["cart"], data["userId"]) == ({"tea": 5}, "fred")


async def test_without_a_trade_the_old_id_keeps_working_for_the_grace_time_and_then_ends(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    clock = Clock()
    site = await serve_live(store, renew_grace=30, clock=clock)
    browser = site.browser()
    await browser.get("/tea")
    old = browser.sid
    socket = await browser.connect(trades=False)

    await socket.call("account.login", "fred")
    in_time = (await browser.get("/look")).json
    clock.turn(31)
    late = (await browser.get("/look")).json

    assert (in_time["userId"], late) == ("fred", {})
    assert await _is_gone(store, old)
    assert (await socket.call("cart.show"))["userId"] == "fred"


async def test_a_store_that_is_away_when_the_grace_time_ends_is_tried_again(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, renew_grace=1)
    browser = site.browser()
    await browser.get("/tea")
    old = browser.sid
    socket = await browser.connect(trades=False)
    await socket.call("account.login", "fred")
    # Where nobody lives to end the grace time, the store does, a second later: not where a machine only stood still.
    await store.store.touch(f"sess:{old}", 60)
    store.fail("swap", key="sstream:moving:", times=1)

    await eventually(lambda: _is_gone(store, old), "the old id did not end")

    assert (await socket.call("cart.show"))["userId"] == "fred"


async def _is_gone(store: StoreProbe, sid: str | None) -> bool:
    return await stored(store, sid) is None


async def test_logging_in_twice_before_the_trade_ends_with_the_last_user(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    old = browser.sid
    socket = await browser.connect(trades=False)

    await socket.call("account.login", "fred")
    first = await socket.receive("sstream:ticket")
    await socket.call("account.login", "anna")
    second = await socket.receive("sstream:ticket")
    early, late = [await browser.trade(*ticket) for ticket in (first, second)]

    assert (early.status, early.cookies, late.status) == (204, [], 204)
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json["userId"] == "anna"
    assert (await socket.call("cart.show"))["userId"] == "anna"


async def test_logging_out_before_the_trade_makes_the_ticket_worthless(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket, ticket = await login_ticket(site, browser)
    old = browser.sid

    await browser.get("/logout")
    traded = await browser.trade(ticket)

    assert await socket.closed() == ENDED
    assert (traded.status, traded.cookies) == (204, [])  # the browser did nothing wrong
    assert (await browser.trade(ticket)).status == 403
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json == {}


async def test_logging_in_by_page_before_the_trade_wins_and_the_socket_follows(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    socket, ticket = await login_ticket(site, browser)
    old = browser.sid

    await browser.get("/login?name=anna")
    traded = await browser.trade(ticket)

    assert traded.status == 403
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json["userId"] == "anna"
    assert await socket.call("cart.add", "tea") == {"tea": 2}
    assert (await browser.get("/look")).json["cart"] == {"tea": 2}


async def test_regenerating_by_socket_gives_a_new_id_and_no_data(store: StoreProbe, serve_live: ServeLive) -> None:
    class Forgetting(Live):
        @rpc(use=[load_session])
        async def forget(self) -> None:
            await self.session.regenerate()
            self.session["fresh"] = True

    site = await serve_live(store, Forgetting)
    browser = site.browser()
    await browser.get("/login?name=fred")
    await browser.get("/tea")
    old = browser.sid
    socket = await browser.connect()

    await socket.call("forget")
    traded = await socket.traded()

    assert traded.status == 204
    assert browser.sid != old
    assert await stored(store, old) is None
    assert (await browser.get("/look")).json == {"fresh": True}
    assert await socket.call("cart.show") == {"fresh": True}


async def test_logging_in_by_page_takes_the_open_sockets_along(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()

    await browser.get("/login?name=fred")

    assert await socket.receive("changed") == [["userId"]]
    assert await socket.call("cart.add", "tea") == {"tea": 2}
    assert (await browser.get("/look")).json == {"cart": {"tea": 2}, "userId": "fred"}
    await site.app.publish.user("fred", "hello")
    assert await socket.receive("hello") == []


async def test_a_page_that_hears_no_more_of_the_store_after_the_move_still_brings_the_new_cookie(
    store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    expect_log("503 GET /login")
    expect_log("503 GET /login", logger="tornado.access")
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    assert await socket.call("cart.show") == {"cart": {"tea": 1}}
    store.fail("touch")  # the last step: the old id is dead by then

    page = await browser.get("/login?name=fred")
    store.heal()

    assert page.status == 503
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}, "userId": "fred"}
    assert await socket.call("cart.add", "tea") == {"tea": 2}


async def test_a_page_login_whose_last_answer_is_lost_with_the_connection_succeeds(
    proxy: FaultProxy, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    expect_log("Redis (cannot be reached|is back)", logger="sstream.session", required=False)
    store = StoreProbe(RedisStore(proxy.url))
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    assert await socket.call("cart.show") == {"cart": {"tea": 1}}
    old = browser.sid

    async def cut_reply() -> None:
        proxy.on("EVALSHA", Fault.CUT_REPLY)

    store.race("swap", cut_reply, key=f"sess:{old}")  # what removes the old id

    page = await browser.get("/login?name=fred")

    assert (page.status, page.cookies != []) == (200, True)
    assert browser.sid != old
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}, "userId": "fred"}
    assert await socket.call("cart.add", "tea") == {"tea": 2}
