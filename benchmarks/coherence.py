"""How soon a change of a session is seen on another process, and how soon its sockets are closed when it ends.

Two server processes on one Redis and 500 open websockets, of 250 sessions, one on each process. A change is timed from
its acknowledgement (the reply of the page or call on the one process) to the event ``session`` on the other; an end,
from its acknowledgement to the close with 4401. What arrives before the acknowledgement counts as 0.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec
import redis.asyncio as aioredis
import tornado.web
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from sstream import Application, RPCHandler, SessionMixin, SessionOptions, load_session, rpc
from sstream.testing import Process

__all__ = ["study"]

SESSIONS = 250
CHANGES = 60  # of each kind in a round
ENDS = 25
PATIENCE = 10.0  # seconds; only a failure meets it


# --- the servers ------------------------------------------------------------------------------------------------------


class Write(SessionMixin, tornado.web.RequestHandler):
    def get(self, value: str) -> None:
        self.session["value"] = int(value)


class Login(SessionMixin, tornado.web.RequestHandler):
    async def get(self, user: str) -> None:
        await self.session.set_user_id(user)


class Logout(SessionMixin, tornado.web.RequestHandler):
    async def get(self) -> None:
        await self.session.destroy()


class EndAll(tornado.web.RequestHandler):
    async def get(self, user: str) -> None:
        await self.application.sessions.end_all(user)  # type: ignore[attr-defined]  # it is sstream's


class Live(RPCHandler):
    @rpc(use=[load_session])
    def write(self, value: int) -> None:
        self.session["value"] = value

    def session_view(self) -> dict[str, Any]:
        return {"value": self.session.get("value")}


async def serve(url: str) -> None:
    """Be one of the two processes."""
    routes = [
        (r"/write/(\d+)", Write),
        (r"/login/(\w+)", Login),
        ("/logout", Logout),
        (r"/end_all/(\w+)", EndAll),
        ("/ws", Live),
    ]
    application = Application(routes, session=SessionOptions(secret="benchmark"), redis=url)
    server = application.listen(0, "127.0.0.1")
    await application.start()
    (listening,) = server._sockets.values()
    print(f"listening on 127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


# --- the visitors -----------------------------------------------------------------------------------------------------


class Socket:
    """One websocket; it notes when it was told what, and when it was closed."""

    def __init__(self) -> None:
        self.told: dict[Any, float] = {}  # value -> when
        self.replied_at = 0.0
        self.closed_at = 0.0
        self.came = asyncio.Event()
        self.connection: WebSocketClientConnection | None = None

    async def open(self, address: str, cookie: str) -> None:
        request = HTTPRequest(f"ws://{address}/ws", headers={"Cookie": cookie, "Origin": f"http://{address}"})
        self.connection = await websocket_connect(
            request, subprotocols=["sstream.v1.msgpack"], on_message_callback=self._on_message
        )

    def _on_message(self, payload: str | bytes | None) -> None:
        now = time.perf_counter()
        if payload is None:
            if self.connection is None or self.connection.close_code != 4401:
                raise RuntimeError("a socket was closed with another code than 4401")
            self.closed_at = now
        else:
            match msgspec.msgpack.decode(payload):  # type: ignore[arg-type]  # it is binary
                case [1, _, None, _]:
                    self.replied_at = now
                case [2, "session", [view]]:
                    self.told[view["value"]] = now
        self.came.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until what has come makes ``condition`` true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.came.clear()
                await self.came.wait()

    async def call(self, method: str, *params: Any) -> float:
        """Call, and tell when the reply came."""
        assert self.connection is not None
        self.replied_at = 0.0
        await self.connection.write_message(msgspec.msgpack.encode([0, 1, method, params]), binary=True)
        await self.until(lambda: self.replied_at)
        return self.replied_at


class Visitor:
    """A session with a websocket on each process."""

    def __init__(self, number: int, addresses: list[str]) -> None:
        self.user = f"user{number}"
        self.addresses = addresses
        self.cookie = ""
        self.sockets: list[Socket] = []

    async def come(self) -> None:
        """Log in anew and open both sockets."""
        self.cookie = ""
        await self.get(0, f"/login/{self.user}")
        self.sockets = [Socket() for _ in self.addresses]
        for socket, address in zip(self.sockets, self.addresses, strict=True):
            await socket.open(address, self.cookie)
            await socket.until(lambda socket=socket: None in socket.told)

    async def get(self, process: int, path: str) -> float:
        """Fetch a page, and tell when the reply was whole."""
        headers = {"Cookie": self.cookie} if self.cookie else {}
        reply = await AsyncHTTPClient().fetch(f"http://{self.addresses[process]}{path}", headers=headers)
        now = time.perf_counter()
        if "Set-Cookie" in reply.headers:
            self.cookie = reply.headers["Set-Cookie"].split(";")[0]
        return now

    async def leave(self) -> None:
        for socket in self.sockets:
            if socket.connection is not None and not socket.closed_at:
                socket._on_message = lambda payload: None  # type: ignore[method-assign]  # it closes by itself
                socket.connection._on_message_callback = None
                socket.connection.close()


# --- measuring --------------------------------------------------------------------------------------------------------


async def measure(
    visitors: list[Visitor], redis: aioredis.Redis, values: Iterator[int], samples: dict[str, list[float]]
) -> None:
    """One round of all kinds; each sample in milliseconds. No two ``values`` are the same."""

    async def change(visitor: Visitor, way: Callable[[Visitor, int], Awaitable[float]]) -> float:
        value = next(values)
        for socket in visitor.sockets:
            socket.told.clear()
        acknowledged = await way(visitor, value)
        other = visitor.sockets[1]
        await other.until(lambda: value in other.told)
        return max(other.told[value] - acknowledged, 0.0) * 1000

    async def end(visitor: Visitor, way: Callable[[Visitor], Awaitable[float]]) -> float:
        acknowledged = await way(visitor)
        for socket in visitor.sockets:
            await socket.until(lambda socket=socket: socket.closed_at)
        last = max(socket.closed_at for socket in visitor.sockets)
        await visitor.come()
        return max(last - acknowledged, 0.0) * 1000

    async def delete(visitor: Visitor) -> float:
        sid = visitor.cookie.split("s%3A")[1].split(".")[0]
        await redis.delete(f"sess:{sid}")
        return time.perf_counter()

    changes: dict[str, Callable[[Visitor, int], Awaitable[float]]] = {
        "change by a page, seen by the other process' socket": lambda visitor, value: visitor.get(0, f"/write/{value}"),
        "change by a call, seen by the other process' socket": lambda visitor, value: visitor.sockets[0].call(
            "write", value
        ),
    }
    ends: dict[str, Callable[[Visitor], Awaitable[float]]] = {
        "end by a logout page, both sockets closed": lambda visitor: visitor.get(0, "/logout"),
        "end by end_all, both sockets closed": lambda visitor: visitor.get(0, f"/end_all/{visitor.user}"),
        "end by DEL in Redis, both sockets closed": delete,
    }
    turn = 0
    for number in range(max(CHANGES, ENDS)):
        for name, write in changes.items():
            if number < CHANGES:
                turn = (turn + 1) % len(visitors)
                samples.setdefault(name, []).append(await change(visitors[turn], write))
        for name, finish in ends.items():
            if number < ENDS:
                turn = (turn + 1) % len(visitors)
                samples.setdefault(name, []).append(await end(visitors[turn], finish))


async def _study(redis_url: str, rounds: int) -> dict[str, list[float]]:
    me = [sys.executable, "-m", "benchmarks.coherence", redis_url]
    with Process(*me) as first, Process(*me) as second:
        addresses = [process.wait_for(r"listening on (\S+)\n")[1] for process in (first, second)]
        visitors = [Visitor(number, addresses) for number in range(SESSIONS)]
        samples: dict[str, list[float]] = {}
        values = itertools.count()
        async with aioredis.Redis.from_url(redis_url) as redis:
            try:
                for visitor in visitors:
                    await visitor.come()
                for _ in range(rounds):
                    await measure(visitors, redis, values, samples)
            finally:
                for visitor in visitors:
                    await visitor.leave()
        return samples


def study(redis: str, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    """Milliseconds from the acknowledgement, by what was done."""
    return {name: {"ms": samples} for name, samples in asyncio.run(_study(redis, rounds)).items()}


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
