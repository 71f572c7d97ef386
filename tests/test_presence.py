"""Who is in a channel, through the whole stack: two processes, two tabs, two users, both clients, a kill."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sstream import connect
from sstream.testing import Browser, Process, Socket
from tests.apps.lobby import TIMES

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


async def test_presence_counts_users_over_tabs_and_processes_and_forgets_those_of_a_killed_one(
    nodes: list[Node],
) -> None:
    (_, here), (other, there) = nodes
    ada, bob, zoe, onlooker = Browser(here), Browser(there), Browser(there), Browser(here)
    await ada.get("/login?name=ada")
    await bob.get("/login?name=bob")
    watching = await join(onlooker)  # it has no user, so it is nobody's presence
    async with connect(there.replace("http", "ws") + "/ws") as client:
        lobby = client.channel("lobby")
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
        await (await join(zoe)).close()  # whoever of the others had left would be heard of before her
        assert await watching.receive("joined") == ["zoe", GREEN]
        assert await watching.receive("left") == ["zoe"]
        assert await lobby.presence() == everybody

    began = asyncio.get_running_loop().time()
    other.send(signal.SIGKILL)
    assert await watching.receive("left") == ["bob"]
    lasted = asyncio.get_running_loop().time() - began
    assert lasted < (TIMES.ttl + TIMES.heartbeat) * 3  # with the default times less than 30 s; and a busy machine
    assert await watching.call("who") == ["ada"]

    await tabs[1].call("log_out")
    assert (await tabs[1].closed()).code == 4401
    assert await watching.receive("left") == ["ada"]
    assert await watching.call("who") == []
    for browser in (ada, bob, zoe, onlooker, *(tab.browser for tab in tabs), his.browser):
        await browser.close()
