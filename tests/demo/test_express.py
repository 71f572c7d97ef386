"""The Teahouse and Express, an unmodified express-session with connect-redis, on one Redis."""

import asyncio
from pathlib import Path

import pytest
import redis

from sstream.testing import Process

from .test_app import SESSION_COOKIE, cart_of, last_writer
from .visitor import Visitor

SERVER = Path(__file__).parents[2] / "demo" / "express" / "server.mjs"
MONTH = 30 * 86400


@pytest.fixture
def teahouse_redis(redis_url):
    return redis_url


@pytest.fixture
async def express(visitor, node, redis_url):
    """The same visitor at Express: cookies know no ports."""
    env = {"REDIS_URL": redis_url, "SECRET": "a test's own secret", "PORT": "0", "DOORS": '{"Teahouse": 8888}'}
    with Process(node, SERVER, env=env) as process:
        listening = await asyncio.to_thread(process.wait_for, r"^listening on (\d+)$")
        yield Visitor(int(listening[1]), cookies=visitor.cookies)


async def test_express_shows_what_page_and_websocket_added(visitor, express):
    await visitor.post("/cart/add", tea="sencha")
    async with await visitor.line() as line:
        await line.call("cart.add", "puer", 2)

    page = await express.get()

    assert cart_of(page) == {"sencha": 1, "puer": 2}
    assert last_writer(page) == "websocket"


async def test_what_express_adds_is_told_to_the_open_websocket(visitor, express):
    await visitor.post("/cart/add", tea="sencha")

    async with await visitor.line() as line:
        await line.event("session")
        response = await express.post("/cart/add", tea="sencha")
        (view,) = await line.event("session")
        called = await line.call("cart.add", "assam")

    assert (response.code, response.headers["Location"]) == (303, "/#sencha")
    assert view["data"] == {"cart": {"sencha": 2}, "lastWriter": "express"}
    assert called["data"]["cart"] == {"sencha": 2, "assam": 1}


async def test_a_session_that_express_began_is_the_teahouses_own(visitor, express):
    await express.post("/cart/add", tea="dong-ding")

    page = await visitor.get()

    assert cart_of(page) == {"dong-ding": 1}
    assert last_writer(page) == "express"


async def test_removing_and_clearing_in_express(visitor, express):
    for tea in ("sencha", "sencha", "puer"):
        await visitor.post("/cart/add", tea=tea)

    await express.post("/cart/remove", tea="sencha")
    removed = cart_of(await visitor.get())
    await express.post("/cart/clear")

    assert removed == {"sencha": 1, "puer": 1}
    assert cart_of(await visitor.get()) == {}
    assert cart_of(await express.get()) == {}


async def test_pages_and_websockets_at_once_lose_no_pot(visitor):
    await visitor.post("/cart/add", tea="sencha")

    async def five_calls() -> None:
        async with await visitor.line() as line:
            for _ in range(5):
                await line.call("cart.add", "sencha")

    await asyncio.gather(
        *(five_calls() for _ in range(3)),
        *(visitor.post("/cart/add", tea="sencha") for _ in range(5)),
    )

    assert cart_of(await visitor.get()) == {"sencha": 21}


async def test_express_leaves_a_session_its_thirty_days(visitor, express, redis_url):
    await visitor.post("/cart/add", tea="sencha")

    await express.post("/cart/add", tea="sencha")

    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys("sess:*")
        assert MONTH - 60 < client.ttl(key) <= MONTH


async def test_a_visit_to_express_makes_no_session(express, redis_url):
    page = await express.get()

    assert "No session yet." in page
    assert SESSION_COOKIE not in express.cookies
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("sess:*") == []


async def test_a_form_from_elsewhere_is_refused_by_express(visitor, express):
    await visitor.post("/cart/add", tea="puer")

    response = await express.fetch("/cart/clear", method="POST", body="", headers={"Origin": visitor.url})

    assert response.code == 403
    assert cart_of(await express.get()) == {"puer": 1}


@pytest.mark.parametrize("tea", ["coffee", "constructor", "__proto__", ""])
async def test_an_unknown_tea_is_refused_by_express(express, tea):
    response = await express.post("/cart/add", tea=tea)

    assert response.code == 400
    assert SESSION_COOKIE not in express.cookies
