"""Logging in and out, a new id, and the end: by page and by websocket, over real sockets."""

import json

import pytest

from sstream.errors import FORBIDDEN, INVALID_PARAMS

from .test_app import SESSION_COOKIE
from .visitor import Line, Refused, Visitor


async def trade(visitor: Visitor, line: Line) -> int:
    """Fetch the cookie that belongs to the ticket, as the browser's client does."""
    ticket, path = await line.event("sstream:ticket")
    headers = {"Content-Type": "application/json", "Origin": visitor.url}
    return (await visitor.fetch(path, method="POST", body=json.dumps({"ticket": ticket}), headers=headers)).code


def logged_in(page: str) -> bool:
    return 'id="login"' in page and 'aria-labelledby="login-title" hidden' in page


async def test_logging_in_by_page_renews_the_id_and_keeps_the_cart(visitor):
    await visitor.post("/cart/add", tea="sencha")
    old = visitor.cookies[SESSION_COOKIE]

    response = await visitor.post("/login", name="ada", password="oolong")

    assert (response.code, response.headers["Location"]) == (303, "/#session-title")
    assert visitor.cookies[SESSION_COOKIE] != old
    page = await visitor.get()
    assert logged_in(page)
    assert "&quot;sencha&quot;: 1" in page
    stale = Visitor(int(visitor.url.rpartition(":")[2]), cookies={**visitor.cookies, SESSION_COOKIE: old})
    assert "No session yet." in await stale.get()
    assert not logged_in(await stale.get())


async def test_a_wrong_password_is_told_on_the_page_and_changes_nothing(visitor):
    await visitor.post("/login", name="ada", password="oolong")
    stranger = Visitor(int(visitor.url.rpartition(":")[2]))

    response = await stranger.post("/login", name="ada", password="sencha")

    assert response.code == 403
    assert "That is not the password of ada." in response.body.decode()
    assert SESSION_COOKIE not in stranger.cookies


@pytest.mark.parametrize(("name", "password"), [("Ada!", "oolong"), ("a", "oolong"), ("ada", "x")])
async def test_what_is_no_name_or_no_password_is_refused_by_page_and_by_websocket(visitor, name, password):
    response = await visitor.post("/login", name=name, password=password)
    async with await visitor.line() as line:
        with pytest.raises(Refused) as refused:
            await line.call("session.log_in", name, password)

    assert response.code == 400
    assert refused.value.code == INVALID_PARAMS
    assert SESSION_COOKIE not in visitor.cookies


async def test_logging_in_by_websocket_renews_the_id_and_the_old_cookie_is_dead(visitor):
    await visitor.post("/cart/add", tea="sencha")
    old = visitor.cookies[SESSION_COOKIE]

    async with await visitor.line() as line:
        view = await line.call("session.log_in", "ada", "oolong")
        traded = await trade(visitor, line)

    assert view["user"] == "ada"
    assert traded == 204
    assert logged_in(await visitor.get())
    stale = Visitor(int(visitor.url.rpartition(":")[2]), cookies={SESSION_COOKIE: old})
    assert not logged_in(await stale.get())


async def test_a_wrong_password_is_told_by_websocket(visitor):
    await visitor.post("/login", name="ada", password="oolong")

    async with await visitor.line() as line:
        with pytest.raises(Refused) as refused:
            await line.call("session.log_in", "ada", "sencha")

    assert (refused.value.code, refused.value.message) == (FORBIDDEN, "that is not the password of ada")


async def test_a_new_id_keeps_the_data(visitor):
    await visitor.post("/cart/add", tea="sencha")
    old = visitor.cookies[SESSION_COOKIE]

    async with await visitor.line() as line:
        await line.call("session.renew")
        await trade(visitor, line)
        (view,) = await line.event("session")
        while view["id"] == old[4:12]:
            (view,) = await line.event("session")

    assert visitor.cookies[SESSION_COOKIE] != old
    assert view["data"]["cart"] == {"sencha": 1}


@pytest.mark.parametrize("way", ["page", "websocket"])
async def test_logging_out_ends_every_socket_of_the_session(visitor, way):
    await visitor.post("/login", name="ada", password="oolong")
    one, two = await visitor.line(), await visitor.line()

    if way == "page":
        await visitor.post("/logout")
    else:
        await one.call("session.end")

    assert [await line.end() for line in (one, two)] == [4401, 4401]
    assert not logged_in(await visitor.get())


async def test_ending_all_others_leaves_this_one(visitor):
    other = Visitor(int(visitor.url.rpartition(":")[2]))
    for each in (visitor, other):
        await each.post("/login", name="ada", password="oolong")
    ended = await other.line()

    async with await visitor.line() as line:
        count = await line.call("session.end_others")

    assert count == 1
    assert await ended.end() == 4401
    assert logged_in(await visitor.get())
    assert not logged_in(await other.get())


async def test_who_is_not_logged_in_has_no_others(visitor):
    async with await visitor.line() as line:
        with pytest.raises(Refused) as refused:
            await line.call("session.end_others")

    assert refused.value.code == FORBIDDEN
