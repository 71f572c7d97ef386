"""What docs/reliability.md promises of a whole process, and of the Redis that it stands on."""

import asyncio
import gc
import re
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis
import tornado.web

from sstream import (
    Application,
    BrokerError,
    ChannelOptions,
    Limits,
    MemoryBroker,
    RedisBroker,
    RedisStore,
    RPCError,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    StoreError,
    load_session,
    rpc,
)
from sstream.pubsub import Publisher
from sstream.rpc.codec import MSGPACK
from sstream.rpc.dispatch import drain_detached
from sstream.session import express
from sstream.testing import Browser, Closed, Process, RedisServer, eventually, serve
from tests.websocket.frames import frame
from tests.websocket.peer import Peer

Start = Callable[[], tuple[Process, Browser]]

ROOT = Path(__file__).parents[1]
HOW_TO = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
RIGHTS = re.search(r"user sstream on >password (.*?)```", HOW_TO, re.DOTALL)

APP = """
import asyncio
import gc
import logging
import sys

import tornado.web

from sstream import Application, RPCHandler, SessionMixin, SessionOptions, rpc


class Look(SessionMixin, tornado.web.RequestHandler):
    async def get(self):
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.write(dict(self.session))


class Live(RPCHandler):
    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b


class Telling(Application):
    def listen(self, port, address=None, **kwargs):
        server = super().listen(0, "127.0.0.1", **kwargs)
        (listening,) = server._sockets.values()
        print(f"listening on {listening.getsockname()[1]}", flush=True)
        return server


logging.basicConfig(level=logging.WARNING)
app = Telling([("/", Look), ("/ws", Live)], session=SessionOptions(secret="a test's own"), redis=sys.argv[1])
asyncio.run(app.serve(8888))
"""


@pytest.fixture
def start(redis_url: str) -> Iterator[Start]:
    """Starts a process, and gives it and a browser of it."""
    with ExitStack() as processes:

        def start() -> tuple[Process, Browser]:
            process = processes.enter_context(Process(sys.executable, "-c", APP, redis_url, cwd=ROOT))
            port = process.wait_for(r"^listening on (\d+)$", timeout=60)[1]
            return process, Browser(f"http://127.0.0.1:{port}")

        yield start


async def test_a_process_without_file_descriptors_serves_who_is_there_and_takes_others_in_later(
    start: Start,
) -> None:
    process, browser = start()
    socket = await browser.connect()
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
            socket = await browser.connect()
            await socket.call("log_in")
            await socket.traded()
            await socket.call("sstream.subscribe", "lobby", {"offset": 0, "epoch": "none"})
            assert [present["user"] for present in await socket.call("sstream.presence", "lobby")] == ["ada"]
            assert await socket.call("count") == 1
            await socket.call("say")
            await socket.receive("said")
            await socket.receive("heard")
            assert await app.can_serve()
            await socket.call("log_out")
            assert (await socket.closed()).code == 4401

            refused = await admin.acl_log()

            assert [entry["object"] for entry in refused] == []


# --- Redis ------------------------------------------------------------------------------------------------------------


async def test_a_process_whose_redis_refuses_client_side_caching_is_ready(
    need: Callable[..., Any], expect_log: Callable[..., Any]
) -> None:
    assert RIGHTS is not None
    expect_log("every call reads its session anew")
    rights = " ".join(right for right in RIGHTS[1].split() if right != "+client|tracking")
    with need(lambda: RedisServer(f"user sstream on >password {rights}")) as server:
        url = f"redis://sstream:password@127.0.0.1:{server.port}/0"
        app = Application([], session=SessionOptions(secret="a test's own"), redis=url)
        async with serve(app) as site:
            await eventually(app.can_serve, "it is not ready")

            assert (await site.browser().get("/_sstream/health/ready")).status == 200


async def test_no_error_tells_what_redis_repeats_of_a_command(need: Callable[..., Any]) -> None:
    renamed = "".join(f'rename-command {command} ""\n' for command in ("GET", "EVALSHA", "PUBLISH"))
    with need(lambda: RedisServer(renamed)) as server:
        store, broker = RedisStore(server.url), RedisBroker(server.url)
        errors: list[Exception] = []

        for attempt in (
            store.get("sess:hunter2"),
            store.swap("sess:hunter2", None, b"hunter2", 60),
            Publisher(broker).all("said", "hunter2"),
        ):
            with pytest.raises((StoreError, BrokerError), match="unknown command") as raised:
                await attempt
            errors.append(raised.value)

        assert len(errors) == 3
        assert not [error for error in errors if "hunter2" in str(error)]
        await store.close()
        await broker.close()


def test_a_text_that_was_cut_inside_a_string_is_told_at_once() -> None:
    text = b'{"cookie":{},"a":[' + b"[]," * 70 + b'"' + b'\\"' * 500_000
    began = time.thread_time()

    with pytest.raises(express.CorruptText):
        express.split(text)

    assert time.thread_time() - began < 5.0  # in the square of its length it would take hours


# --- draining ---------------------------------------------------------------------------------------------------------


class Asking(RPCHandler):
    """Has calls that end only if somebody still listens to the browser, or never."""

    @rpc
    async def ask(self) -> str:
        return str(await self.call("confirm"))

    @rpc
    async def follow(self) -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()


async def test_a_draining_process_hears_what_browsers_answer_and_ends_streams() -> None:
    limits = Limits(drain=8.0)
    app = Application([("/ws", Asking)], session=SessionOptions(secret="a test's own"), debug=True, limits=limits)
    async with serve(app) as site:
        asked, may_answer = asyncio.Event(), asyncio.Event()

        async def confirm() -> str:
            asked.set()
            await may_answer.wait()
            return "yes"

        asking, following = await site.browser().connect(), await site.browser().connect()
        asking.expose("confirm", confirm)
        answer, stream = asking.ask("ask"), following.ask("follow")
        following.send([5, 1, 10])
        await following.receive_message()
        await asked.wait()

        draining = asyncio.create_task(app.drain())

        with pytest.raises(RPCError, match="going away"):
            await following.reply(stream)
        may_answer.set()
        assert await asking.reply(answer) == "yes"
        assert await asking.closed() == await following.closed() == Closed(1012, "restart")
        await draining


# --- presence ---------------------------------------------------------------------------------------------------------


class SlowBroker(MemoryBroker):
    """Acknowledges a subscription to a channel when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.gate = asyncio.Event(), asyncio.Event()

    async def subscribe(self, topics: Collection[str]) -> None:
        if any(topic.startswith("channel:") for topic in topics):
            self.reached.set()
            await self.gate.wait()
        await super().subscribe(topics)


class LogIn(SessionMixin, tornado.web.RequestHandler):
    async def get(self) -> None:
        await self.session.set_user_id("ada")


class Present(RPCHandler):
    left: asyncio.Event

    @classmethod
    def channel_options(cls, channel: str) -> ChannelOptions:
        return ChannelOptions(presence=True)

    @rpc(detached=True)
    async def join(self) -> None:
        await self.subscribe("lobby")
        self.left.set()


async def test_a_socket_that_closes_while_it_is_being_subscribed_leaves_no_ghost() -> None:
    broker = SlowBroker()
    Present.left = asyncio.Event()
    app = Application(
        [("/ws", Present), ("/login", LogIn)], session=SessionOptions(secret="a test's own"), debug=True, broker=broker
    )
    async with serve(app) as site:
        browser = site.browser()
        await browser.get("/login")
        socket = await browser.connect()
        socket.notify("join")
        await broker.reached.wait()
        await socket.close()
        await eventually(lambda: not app.sockets, "the socket is still known")

        broker.gate.set()
        await Present.left.wait()

        assert await app.presence.list("lobby") == []


class Late(RPCHandler):
    gate: asyncio.Event

    @rpc(detached=True)
    async def join(self) -> None:
        await self.gate.wait()
        await self.subscribe("lobby")

    @rpc(detached=True, use=[load_session])
    async def log_in(self) -> None:
        await self.gate.wait()
        await self.session.set_user_id("ada")


async def test_a_socket_that_is_bound_only_after_it_has_closed_is_forgotten() -> None:
    Late.gate = asyncio.Event()
    app = Application([("/ws", Late)], session=SessionOptions(secret="a test's own"), debug=True)
    async with serve(app) as site:
        browser = await site.browser_with({"visits": 1})
        socket = await browser.connect()
        socket.notify("join")
        socket.notify("log_in")
        await eventually(lambda: socket.handler.calls_in_flight == 2, "the calls have not begun")
        await socket.close()
        await eventually(lambda: not app.sockets, "the socket is still known")

        Late.gate.set()
        await drain_detached()

        session = await site.session_of(browser)
        assert session is not None
        assert session.user_id == "ada"
        await eventually(lambda: not app.hub.topics, "a socket that is gone is bound for ever")


class Passing(RPCHandler):
    @rpc(use=[load_session])
    async def visit(self) -> int:
        await self.subscribe("lobby")
        self.session["visits"] = self.session.get("visits", 0) + 1
        return self.session["visits"]


async def test_sockets_come_and_go_without_growth() -> None:
    # A million would take an hour; of a few hundred, counted by objects, it is seen if one is left of each.
    application = Application([("/ws", Passing)], session=SessionOptions(secret="x" * 32), debug=True, autoreload=False)
    call = frame(2, MSGPACK.encode([0, 1, "visit", []]))

    async def come_and_go(cookie: str) -> None:
        peer = await Peer.connect(site.address[1])
        await peer.shake_hands({"Cookie": cookie})
        peer.send(call)
        await peer.receive()
        await peer.abort()

    async def objects_after(count: int, cookie: str) -> int:
        for _ in range(count // 20):
            await asyncio.gather(*(come_and_go(cookie) for _ in range(20)))
        await eventually(lambda: not application.sockets, "the end of all sockets")
        gc.collect()
        return len(gc.get_objects())

    async with serve(application) as site:
        session = await application.sessions.create({"visits": 0}, user_id="ada")
        cookie = f"{application.sessions.options.name}={application.sessions.cookie_value(session)}"
        before = await objects_after(100, cookie)
        growth = await objects_after(300, cookie) - before

    # Timers that were cancelled, which the loop keeps for a while.
    assert growth < 150
