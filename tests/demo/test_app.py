"""The Teahouse over real sockets, its sessions in memory."""

import re
from urllib.parse import urlencode

import pytest

from sstream.errors import INVALID_PARAMS

from .visitor import Refused

SESSION_COOKIE = "connect.sid"


def cart_of(page: str) -> dict[str, int]:
    """What a page shows in the cart."""
    lines = re.findall(r'<li data-tea="([^"]+)"([^>]*)>.*?<b class="count">(\d+)</b>', page, re.DOTALL)
    return {tea: int(count) for tea, attributes, count in lines if not re.search(r"\bhidden\b", attributes)}


def last_writer(page: str) -> str | None:
    match = re.search(r'<li data-writer="(\w+)" aria-current="true">', page)
    return match and match[1]


# Pages


async def test_a_visit_alone_makes_no_session(visitor):
    page = await visitor.get()

    assert SESSION_COOKIE not in visitor.cookies
    assert "No session yet." in page
    assert cart_of(page) == {}
    assert last_writer(page) is None


async def test_a_visit_with_its_websocket_makes_no_session_and_is_told_none(visitor):
    await visitor.get()

    async with await visitor.line() as line:
        with pytest.raises(Refused):
            await line.call("cart.add", "coffee")

    assert line.events == [[2, "session", [None]]]
    assert SESSION_COOKIE not in visitor.cookies


async def test_adding_by_page_fills_the_cart_and_leads_back(visitor):
    response = await visitor.post("/cart/add", tea="sencha")

    assert (response.code, response.headers["Location"]) == (303, "/#sencha")
    page = await visitor.get()
    assert cart_of(page) == {"sencha": 1}
    assert last_writer(page) == "page"


async def test_removing_and_clearing_by_page(visitor):
    for tea in ("sencha", "sencha", "puer"):
        await visitor.post("/cart/add", tea=tea)

    await visitor.post("/cart/remove", tea="sencha")
    removed = cart_of(await visitor.get())
    await visitor.post("/cart/clear")

    assert removed == {"sencha": 1, "puer": 1}
    assert cart_of(await visitor.get()) == {}


@pytest.mark.parametrize("path", ["/cart/add", "/cart/remove"])
async def test_an_unknown_tea_is_refused_and_makes_no_session(visitor, path):
    response = await visitor.post(path, tea="coffee")

    assert response.code == 400
    assert SESSION_COOKIE not in visitor.cookies


@pytest.mark.parametrize("path", ["/cart/add", "/cart/remove", "/cart/clear"])
async def test_a_form_from_elsewhere_is_refused(visitor, path, expect_log):
    expect_log("'_xsrf' argument missing", "tornado.general")
    await visitor.post("/cart/add", tea="puer")

    response = await visitor.fetch(path, method="POST", body=urlencode({"tea": "puer"}))

    assert response.code == 403
    assert cart_of(await visitor.get()) == {"puer": 1}


async def test_the_page_shows_a_short_id_and_never_the_whole(visitor):
    await visitor.post("/cart/add", tea="sencha")

    page = await visitor.get()

    shown = re.search(r'<code id="id">([^<]+)…</code>', page)
    signed = visitor.cookies[SESSION_COOKIE].removeprefix("s%3A")
    assert signed.startswith(shown[1])
    assert signed.split(".")[0] not in page


async def test_the_policy_needs_nothing_inline(visitor):
    response = await visitor.fetch("/")

    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = response.body.decode()
    assert not re.search(r"\s(style|on\w+)=|<style|<script(?![^>]* src=)|javascript:", page)
    assert not re.search(r'(src|href)="(https?:)?//', page)


async def test_the_page_tells_that_express_is_not_there(visitor):
    page = await visitor.get()

    assert "There is no Redis here" in page
    assert ">Express <span>" not in page


async def test_the_page_links_to_all_doors_on_the_host_the_visitor_came_by(visitor, teahouse, port):
    teahouse.settings["doors"] = {"Teahouse": port, "Express": 8889}

    page = await visitor.get()

    assert 'href="http://127.0.0.1:8889/"' in page
    assert f'href="http://127.0.0.1:{port}/" aria-current="page"' in page


# Calls


async def test_page_and_websocket_fill_one_cart(visitor):
    await visitor.post("/cart/add", tea="sencha")

    async with await visitor.line() as line:
        view = await line.call("cart.add", "sencha")

    assert view["data"] == {"cart": {"sencha": 2}, "lastWriter": "websocket"}
    page = await visitor.get()
    assert cart_of(page) == {"sencha": 2}
    assert last_writer(page) == "websocket"


async def test_removing_and_clearing_by_websocket(visitor):
    await visitor.post("/cart/add", tea="assam")

    async with await visitor.line() as line:
        added = await line.call("cart.add", "puer", 3)
        removed = await line.call("cart.remove", "puer")
        cleared = await line.call("cart.clear")

    assert added["data"]["cart"] == {"assam": 1, "puer": 3}
    assert removed["data"]["cart"] == {"assam": 1, "puer": 2}
    assert cleared["data"] == {"cart": {}, "lastWriter": "websocket"}


async def test_a_first_write_by_websocket_reaches_the_browsers_cookie(visitor):
    await visitor.get()

    async with await visitor.line() as line:
        await line.call("cart.add", "darjeeling")
        ticket, path = await line.event("sstream:ticket")
        traded = await visitor.fetch(
            path,
            method="POST",
            body=f'{{"ticket":"{ticket}"}}',
            headers={"Content-Type": "application/json", "Origin": visitor.url},
        )

    assert traded.code == 204
    assert cart_of(await visitor.get()) == {"darjeeling": 1}


@pytest.mark.parametrize(
    ("params", "named"),
    [(["coffee"], "tea"), ([7], "tea"), (["puer", 0], "count"), (["puer", "two"], "count")],
)
async def test_a_wrong_order_is_told_which_argument_is_wrong(visitor, params, named):
    async with await visitor.line() as line:
        with pytest.raises(Refused) as refused:
            await line.call("cart.add", *params)

    assert refused.value.code == INVALID_PARAMS
    assert named in refused.value.message + str(refused.value.data)


async def test_what_a_page_writes_is_told_to_the_open_websocket(visitor):
    await visitor.post("/cart/add", tea="sencha")

    async with await visitor.line() as line:
        (at_open,) = await line.event("session")
        await visitor.post("/cart/add", tea="puer")
        (changed,) = await line.event("session")

    assert at_open["data"]["cart"] == {"sencha": 1}
    assert changed["data"] == {"cart": {"sencha": 1, "puer": 1}, "lastWriter": "page"}
    assert changed["ttl"] == 30 * 86400
