"""The Teahouse while its Redis is away: pages that say so, in time."""

import pytest
import redis

from sstream.testing import FaultProxy, eventually
from tests.ticking import ticking


@pytest.fixture
async def proxy(redis_server, redis_url):
    async with FaultProxy(redis.ConnectionPool.from_url(redis_server).connection_kwargs["port"]) as proxy:
        yield proxy


DEADLINE = 1.0  # seconds that the Teahouse waits for its Redis, for accounts and for sessions


@pytest.fixture
def teahouse_redis(proxy, monkeypatch):
    monkeypatch.setenv("SSTREAM_LIMITS_STORE_DEADLINE", str(DEADLINE))
    return proxy.url


@pytest.fixture(params=["refuse", "freeze"])
def go_away(request, proxy):
    """Takes Redis away."""
    return getattr(proxy, request.param)


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/login", {"name": "ada", "password": "oolong"}), ("/cart/add", {"tea": "sencha"}), ("/", None)],
)
async def test_a_page_says_that_it_is_away_and_when_to_come_again(visitor, proxy, go_away, expect_log, path, fields):
    expect_log("Redis cannot be reached")
    expect_log("connection to Redis", logger="sstream.pubsub", required=False)
    expect_log("listening to Redis again", logger="sstream.pubsub", required=False)
    expect_log("Redis is back", required=False)
    expect_log(f"503 [A-Z]+ {path} .*", logger="tornado.general" if fields is None else "sstream")
    expect_log(f"503 [A-Z]+ {path} ", logger="tornado.access")
    if fields is None:
        await visitor.post("/cart/add", tea="sencha")
    token = (await visitor.get()).partition('name="_xsrf" value="')[2].partition('"')[0]
    if path == "/login":
        visitor.cookies.pop("connect.sid", None)

    go_away()
    async with ticking() as ticks:
        if fields is None:
            response = await visitor.fetch(path)
        else:
            body = "&".join(f"{name}={value}" for name, value in {**fields, "_xsrf": token}.items())
            response = await visitor.fetch(path, method="POST", body=body, headers={"Origin": visitor.url})

    assert response.code == 503
    assert response.headers["Retry-After"] == "5"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    text = response.body.decode()
    assert "cannot reach its Redis" in text
    assert "Try again" in text
    assert ticks.seconds < 2 * DEADLINE  # it waits once, not for each


async def test_it_works_again_when_redis_is_back(visitor, proxy, expect_log):
    expect_log("Redis cannot be reached")
    expect_log("Redis is back", required=False)
    expect_log("connection to Redis", logger="sstream.pubsub", required=False)
    expect_log("listening to Redis again", logger="sstream.pubsub", required=False)
    expect_log("503 ", required=False)
    expect_log("503 ", logger="tornado.access", required=False)
    proxy.refuse()
    assert (await visitor.post("/login", name="ada", password="oolong")).code == 503

    await proxy.accept()

    async def enters():
        return (await visitor.post("/login", name="ada", password="oolong")).code == 303

    await eventually(enters, "nobody can log in")
    assert "Logged in as" in await visitor.get()
