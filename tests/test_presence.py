"""Who is in a channel, through the whole stack: two processes, two tabs, two users, both clients, a kill."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from sstream import connect
from sstream.testing import Browser, Process, Socket, eventually
from tests.apps.lobby import TIMES
from tests.pubsub.ageing import age, stays

ROOT = Path(__file__).parents[1]
GREEN = {"color": "green"}

Node = tuple[Process, str]


@pytest.fixture
def nodes(redis_url: str) -> Iterator[list[Node]]:
    """Two processes of the application, each on a port of its own."""
    command = [sys.executable, "-m", "sstream", "run", "tests.apps.lobby:make_app", "--port", "0"]
    with ExitStack() as stack:
        processes = [stack.enter_context(Process(*command, cwd=ROOT, env={"REDIS_URL": redis_url})) for _ in range(2)]
        ready = r"listening on (http://127\.0\.0\.1:\d+)"
        yield [(process, process.wait_for(ready, timeout=60)[1]) for process in processes]


async def join(browser: Browser) -> Socket:
    socket = await browser.connect()
    await socket.call("sstream.subscribe", "lobby")
    return socket


def of(browser: Browser, url: str) -> Browser:
    """The same visitor, at the other process: cookies know no ports."""
    other = Browser(url)
    other.jar._cookies.update(browser.jar._cookies)
    return other


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[aioredis.Redis]:
    async with aioredis.Redis.from_url(redis_url) as client:
        yield client


async def is_leaving(client: aioredis.Redis, user: str) -> bool:
    """Has every process said that a user is gone, so that only the grace time is left?"""
    left = await stays(client, "lobby", user)
    return bool(left) and max(left) <= TIMES.grace


async def is_renewed(client: aioredis.Redis, user: str) -> bool:
    """Has a process said just now that a user is there?"""
    return max(await stays(client, "lobby", user), default=0.0) > TIMES.ttl - TIMES.grace


async def test_presence_counts_users_over_tabs_and_processes_and_forgets_those_of_a_killed_one(
    nodes: list[Node], client: aioredis.Redis
) -> None:
    (_, here), (other, there) = nodes
    ada, bob, zoe, onlooker = Browser(here), Browser(there), Browser(there), Browser(here)
    await ada.get("/login?name=ada")
    await bob.get("/login?name=bob")
    watching = await join(onlooker)  # it has no user, so it is nobody's presence
    async with connect(there.replace("http", "ws") + "/ws") as program:
        lobby = program.channel("lobby")
        await lobby.subscribe()
        tabs = [await join(ada), await join(of(ada, there))]  # one on each process
        his = await join(bob)

        assert await watching.receive("joined") == ["ada", GREEN]
        assert await watching.receive("joined") == ["bob", GREEN]
        everybody = [{"user": "ada", "about": GREEN}, {"user": "bob", "about": GREEN}]
        assert await lobby.presence() == everybody
        assert await watching.call("sstream.presence", "lobby") == everybody
        assert await watching.call("who") == await his.call("who") == ["ada", "bob"]

        for turn in range(4):  # a storm: both tabs come and go, crosswise between the processes
            await asyncio.gather(*(tab.close() for tab in tabs))
            tabs = await asyncio.gather(join(of(ada, here if turn % 2 else there)), join(ada))
        await zoe.get("/login?name=zoe")
        await (await join(zoe)).close()
        await eventually(lambda: is_leaving(client, "zoe"), "zoe is still there")
        await age(client, "lobby", TIMES.grace + 1)
        assert await watching.receive("joined") == ["zoe", GREEN]
        assert await watching.receive("left") == ["zoe"]  # and of the others, who were away before her, nobody
        assert await lobby.presence() == everybody

    other.send(signal.SIGKILL)
    await asyncio.to_thread(other.wait)
    # Twice two thirds of the time for which its word counts: who is alive says so in between.
    await age(client, "lobby", TIMES.ttl * 2 / 3)
    await eventually(lambda: is_renewed(client, "ada"), "nobody says that ada is there")
    await age(client, "lobby", TIMES.ttl * 2 / 3)
    assert await watching.receive("left") == ["bob"]
    assert await watching.call("who") == ["ada"]

    await tabs[1].call("log_out")
    assert (await tabs[1].closed()).code == 4401
    await eventually(lambda: is_leaving(client, "ada"), "ada is still there")
    await age(client, "lobby", TIMES.grace + 1)
    assert await watching.receive("left") == ["ada"]
    assert await watching.call("who") == []
    for browser in (ada, bob, zoe, onlooker, *(tab.browser for tab in tabs), his.browser):
        await browser.close()
