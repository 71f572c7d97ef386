"""One-time tickets for a cookie."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from sstream import Application, MemoryStore, SessionOptions
from sstream.testing import StoreProbe, serve

from .live import PAGES, SECRET, Live, Look, Put, ServeLive, login_ticket, refused, stored


async def test_a_ticket_is_good_once(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    thief = browser.copy()

    first, second = await browser.trade(ticket), await thief.trade(ticket)
    third = await browser.trade(ticket)

    assert [first.status, second.status, third.status] == [204, 403, 403]
    assert second.cookies == third.cookies == []
    assert second.body == third.body == b""
    assert (await browser.get("/look")).json["userId"] == "fred"


async def test_of_many_trades_of_one_ticket_at_once_one_succeeds(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    tabs = [browser.copy() for _ in range(8)]

    pages = await asyncio.gather(*(tab.trade(ticket) for tab in tabs))

    assert sorted(page.status for page in pages) == [204] + [403] * 7
    assert sum(len(page.cookies) for page in pages) == 1


async def test_a_ticket_is_bound_to_its_session(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser, stranger, nobody = site.browser(), site.browser(), site.browser()
    socket, ticket = await login_ticket(site, browser)
    await stranger.get("/put?name=stranger")
    before = await stored(store, browser.sid)

    foreign, bare = await stranger.trade(ticket), await nobody.trade(ticket)

    assert [(page.status, page.cookies) for page in (foreign, bare)] == [(403, [])] * 2
    assert await stored(store, browser.sid) == before
    assert (await stranger.get("/look")).json == {"name": "stranger"}
    assert (await browser.trade(ticket)).status == 204
    assert (await socket.call("cart.show"))["userId"] == "fred"


async def test_a_ticket_of_a_new_session_cannot_replace_the_session_of_another_visitor(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    attacker, victim = site.browser(), site.browser()
    socket = await attacker.connect(trades=False)
    await socket.call("cart.add", "tea")
    ticket, _ = await socket.receive("sstream:ticket")
    await victim.get("/put?name=victim")

    page = await victim.trade(ticket)

    assert (page.status, page.cookies) == (403, [])
    assert (await victim.get("/look")).json == {"name": "victim"}


@pytest.mark.parametrize(
    "ticket",
    [
        "",
        "forged",
        "x" * 32,
        "x" * 900,
        "x" * 5000,
        "*",
        "a\r\nb\0",
        "\U0001f600",
        "naïve",
        7,
        None,
        ["x"],
        {"a": 1},
        True,
    ],
    ids=repr,
)
async def test_a_forged_ticket_is_refused_and_changes_nothing(
    ticket: Any, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, good = await login_ticket(site, browser)
    before = await stored(memory, browser.sid)

    page = await browser.trade(ticket)

    assert (page.status, page.body, page.cookies) == (403, b"", [])
    assert await stored(memory, browser.sid) == before
    assert (await browser.trade(good)).status == 204


async def test_an_expired_ticket_is_refused_and_changes_nothing(serve_live: ServeLive) -> None:
    now = 1_000_000.0
    store = StoreProbe(MemoryStore(clock=lambda: now))
    site = await serve_live(store, max_age=10**9)
    browser = site.browser()
    socket = await browser.connect(trades=False)
    await socket.call("cart.add", "tea")
    ticket, _ = await socket.receive("sstream:ticket")

    now += 31
    page = await browser.trade(ticket)

    assert (page.status, page.cookies, browser.sid) == (403, [], None)
    assert await socket.call("cart.show") == {"cart": {"tea": 1}}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": "https://evil.example", "Sec-Fetch-Site": None}, id="another origin"),
        pytest.param({"Origin": "null", "Sec-Fetch-Site": None}, id="an opaque origin"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="cross-site by the browser's word"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, id="a neighbouring host"),
        pytest.param({"Content-Type": "text/plain"}, id="a body that needs no preflight"),
        pytest.param({"Content-Type": None}, id="no content type"),
    ],
)
async def test_a_trade_from_another_origin_is_refused_and_the_ticket_stays_good(
    headers: dict[str, str | None], memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    old = browser.sid

    refused = await browser.fetch(
        "POST",
        "/_sstream/session",
        body=json.dumps({"ticket": ticket}),
        headers={"Content-Type": "application/json", **headers},
    )

    assert (refused.status, refused.cookies, browser.sid) == (403, [], old)
    assert (await browser.trade(ticket)).status == 204


async def test_another_scheme_or_port_is_another_origin(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    host, port = site.address
    origins = [f"https://{host}:{port}", f"http://{host}:{port + 1}", f"http://{host}", f"http://localhost:{port}"]

    statuses = [
        (await browser.trade(ticket, headers={"Origin": origin, "Sec-Fetch-Site": None})).status for origin in origins
    ]

    assert statuses == [403] * 4
    assert (await browser.trade(ticket, headers={"Sec-Fetch-Site": None})).status == 204


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff", b"7", b'{"ticket"}', b"[" * 1000, b"{" * 5000])
async def test_a_trade_whose_body_is_garbage_is_refused(body: bytes, memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)

    page = await site.browser().fetch(
        "POST", "/_sstream/session", body=body, headers={"Content-Type": "application/json"}
    )

    assert (page.status, page.cookies) == (403, [])


async def test_only_post_trades(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)

    page = await browser.get(f"/_sstream/session?ticket={ticket}")

    assert (page.status, page.cookies) == (405, [])


async def test_a_trade_needs_no_xsrf_token(memory: StoreProbe) -> None:
    session = SessionOptions(secret=SECRET)
    application = Application([("/ws", Live), *PAGES], store=memory, session=session, xsrf_cookies=True)
    async with serve(application) as site:
        browser = site.browser()
        socket = await browser.connect()

        await socket.call("cart.add", "tea")

        assert (await socket.traded()).status == 204
        assert (await browser.get("/look")).json == {"cart": {"tea": 1}}


async def test_logging_in_works_where_the_cookie_has_a_path_of_its_own(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory, ("/shop/ws", Live), ("/shop/look", Look), ("/shop/put", Put), path="/shop")
    browser = site.browser()
    await browser.get("/shop/put?a=1")
    socket = await browser.connect("/shop/ws")

    await socket.call("account.login", "fred")

    assert (await socket.traded()).status == 204
    assert (await browser.get("/shop/look")).json["userId"] == "fred"


async def test_a_trade_while_the_store_is_down_is_503_and_may_be_tried_again(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)
    expect_log("503 POST /_sstream/session", logger="tornado.access", count=1)
    expect_log("503 POST /_sstream/session", logger="tornado.general", required=False)
    memory.fail("get")

    page = await browser.trade(ticket)
    memory.heal()

    assert (page.status, page.cookies) == (503, [])
    assert (await browser.trade(ticket)).status == 204


async def test_a_trade_that_breaks_off_just_behind_the_move_may_be_tried_again(
    store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    expect_log("503 POST /_sstream/session", logger="tornado.access", count=1)
    expect_log("503 POST /_sstream/session", logger="tornado.general", required=False)
    site = await serve_live(store)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)

    async def cut() -> None:
        store.fail("swap", key="sstream:fate:", times=1)

    store.race("swap", cut, key=f"sess:{browser.sid}", after=True)  # the old id has died

    first = await browser.trade(ticket)
    second = await browser.trade(ticket)

    assert (first.status, second.status) == (503, 204)
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}, "greeted": True, "userId": "fred"}


@pytest.mark.parametrize("operation", ["delete", "get"])
async def test_a_trade_that_loses_the_store_when_its_ticket_is_used_up_brings_the_cookie(
    operation: str, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    browser = site.browser()
    _, ticket = await login_ticket(site, browser)

    async def cut() -> None:
        memory.fail(operation, after=operation == "delete")

    memory.race("delete", cut, key="sstream:ticket:", after=operation == "get")

    page = await browser.trade(ticket)
    memory.heal()

    assert page.status == 204
    assert (await browser.get("/look")).json == {"cart": {"tea": 1}, "greeted": True, "userId": "fred"}


@pytest.mark.parametrize(
    ("key", "after"),
    [pytest.param("sstream:user:", False, id="the index"), pytest.param("sess:", True, id="the answer")],
)
async def test_a_login_that_is_stored_and_yet_fails_brings_the_new_cookie(
    key: str, after: bool, store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()
    await socket.call("cart.show")
    store.fail("swap", key=key, after=after, times=1)

    error = await refused(socket.call("account.login", "fred"))
    traded = await socket.traded()

    assert (error.code, traded.status) == (4050, 204)
    assert await stored(store, browser.sid) == {"cart": {"tea": 1}, "greeted": True, "userId": "fred"}
