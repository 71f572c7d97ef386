"""What docs/reliability.md promises of a whole process, and of the Redis user that docs/how-to.md describes."""

import asyncio
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis

from sstream import Application, ChannelOptions, RPCHandler, SessionOptions, load_session, rpc
from sstream.testing import Process, RedisServer
from tests.support import Browser, Closed, SocketClosed, eventually, serve

Start = Callable[[], tuple[Process, Browser]]

ROOT = Path(__file__).parents[1]
HOW_TO = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
SHUT_DOWN = re.search(r"## Shut down gently.*?```python\n(.*?)```", HOW_TO, re.DOTALL)
RIGHTS = re.search(r"user sstream on >password (.*?)```", HOW_TO, re.DOTALL)

APP = """
import logging
import sys

import tornado.web

from sstream import Application, RPCHandler, SessionMixin, SessionOptions, load_session, rpc


class Look(SessionMixin, tornado.web.RequestHandler):
    async def get(self):
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.write(dict(self.session))


class Live(RPCHandler):
    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(use=[load_session])
    async def until_draining(self) -> str:
        await self.publish.socket(self.id, "begun")
        while not self.application.is_draining:
            await asyncio.sleep(0.01)
        self.session["late"] = "stored"
        return "answered"

    @rpc
    async def for_ever(self) -> None:
        await self.publish.socket(self.id, "begun")
        await asyncio.Event().wait()


class Telling(Application):
    def listen(self, port, address=None, **kwargs):
        server = super().listen(0, "127.0.0.1", **kwargs)
        (listening,) = server._sockets.values()
        print(f"listening on {listening.getsockname()[1]}", flush=True)
        return server

    async def drain(self):
        print("draining", flush=True)
        await super().drain()


logging.basicConfig(level=logging.WARNING)
app = Telling([("/", Look), ("/ws", Live)], session=SessionOptions(secret="a test's own"), redis=sys.argv[1])
asyncio.run(serve(app))
"""


@pytest.fixture
def start(redis_url: str) -> Iterator[Start]:
    """Starts a process with the lines of the how-to, and gives it and a browser of it."""
    assert SHUT_DOWN is not None
    program = SHUT_DOWN[1] + APP
    with ExitStack() as processes:

        def start() -> tuple[Process, Browser]:
            process = processes.enter_context(Process(sys.executable, "-c", program, redis_url, cwd=ROOT))
            port = process.wait_for(r"^listening on (\d+)$", timeout=20)[1]
            return process, Browser(f"http://127.0.0.1:{port}")

        yield start


async def test_a_process_that_is_asked_to_end_answers_its_calls_and_exits_with_0(start: Start, redis_url: str) -> None:
    process, browser = start()
    await browser.get("/")
    socket = await browser.open()
    reply = socket.ask("until_draining")
    await socket.event("begun")

    process.send(signal.SIGTERM)

    assert await socket.reply(reply) == "answered"
    assert await socket.closed() == Closed(1012, "restart")
    assert await asyncio.to_thread(process.wait) == 0
    assert "Traceback" not in process.log
    async with aioredis.Redis.from_url(redis_url) as client:
        stored = await client.get(f"sess:{browser.sid}")
    assert isinstance(stored, bytes)
    assert b'"late":"stored"' in stored
    await browser.close()


async def test_a_process_that_is_asked_twice_ends_at_once(start: Start) -> None:
    process, browser = start()
    socket = await browser.open()
    reply = socket.ask("for_ever")
    await socket.event("begun")
    process.send(signal.SIGTERM)
    await asyncio.to_thread(process.wait_for, "^draining$")

    process.send(signal.SIGTERM)

    assert await asyncio.to_thread(process.wait, 5.0) == -signal.SIGTERM
    with pytest.raises(SocketClosed):
        await socket.reply(reply)
    await browser.close()


async def test_a_process_without_file_descriptors_serves_who_is_there_and_takes_others_in_later(
    start: Start,
) -> None:
    process, browser = start()
    socket = await browser.open()
    assert await socket.call("add", 1, 2) == 3
    used = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
    room, hard = used + 3, resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (room, hard))

    port = int(browser.url.rpartition(":")[2])
    crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
    await eventually(lambda: "Too many open files" in process.log, "the descriptors did not run out")
    assert await socket.call("add", 2, 3) == 5

    for _, writer in crowd:
        writer.close()
    assert (await browser.get("/")).json == {"visits": 1}
    assert await socket.call("add", 3, 4) == 7
    assert process.returncode is None
    assert process.log.count("Too many open files") < 30  # a line a second, not a traceback at each pass of the loop
    await browser.close()


class Everything(RPCHandler):
    """Uses all that sstream does with a Redis."""

    @classmethod
    def channel_options(cls, channel: str) -> ChannelOptions:
        return ChannelOptions(history=(10, 60), presence=True)

    def may_subscribe(self, channel: str) -> bool:
        return True

    @rpc(use=[load_session])
    async def log_in(self) -> None:
        await self.session.set_user_id("ada")
        await self.session.channels.subscribe("lobby")

    @rpc(use=[load_session])
    async def count(self) -> int:
        def change(session: Any) -> int:
            session["n"] = session.get("n", 0) + 1
            return int(session["n"])

        await self.session.touch()
        return await self.session.transact(change)

    @rpc
    async def say(self) -> None:
        await self.publish.channel("lobby", "said")
        await self.publish.user("ada", "heard")

    @rpc(use=[load_session])
    async def log_out(self) -> None:
        await self.session.destroy()


async def test_the_rights_that_are_told_are_enough_for_a_whole_application(need: Callable[..., Any]) -> None:
    assert RIGHTS is not None
    rights = " ".join(RIGHTS[1].split())
    with need(lambda: RedisServer(f"user sstream on >password {rights}")) as server:
        app = Application(
            [("/ws", Everything)],
            session=SessionOptions(secret="a test's own"),
            redis=f"redis://sstream:password@127.0.0.1:{server.port}/1",
        )
        async with serve(app) as site, aioredis.Redis(port=server.port) as admin:
            browser = site.browser()
            socket = await browser.open()
            await socket.call("log_in")
            await socket.traded()
            await socket.call("sstream.subscribe", "lobby", {"offset": 0, "epoch": "none"})
            assert [present["user"] for present in await socket.call("sstream.presence", "lobby")] == ["ada"]
            assert await socket.call("count") == 1
            await socket.call("say")
            await socket.event("said")
            await socket.event("heard")
            assert await app.can_serve()
            await socket.call("log_out")
            assert (await socket.closed()).code == 4401

            refused = await admin.acl_log()

            assert [entry["object"] for entry in refused] == []
