"""How many acknowledged writes are lost when one visitor's requests overlap: Express beside sstream.

    python -m benchmarks.lost_updates

One session, 100 requests that each write a key of their own and are answered 200; then the keys are counted. Express
runs express-session with connect-redis, sstream a page with `SessionMixin`; both in one process, on the same Redis.
"""

import asyncio
import os
import platform
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis
import tornado
import tornado.web
from tornado.httpclient import AsyncHTTPClient

from sstream import Application, SessionMixin, SessionOptions
from sstream.testing import Process, RedisServer, ToolMissing, find_node

__all__ = ["main", "measure"]

WRITES = 100
AT_ONCE = (2, 10, 50)
ROUNDS = 5
HERE = Path(__file__).parent


class Write(SessionMixin, tornado.web.RequestHandler):
    def get(self, key: str) -> None:
        self.session[key] = 1
        self.finish("stored")


class Count(SessionMixin, tornado.web.RequestHandler):
    def get(self) -> None:
        self.finish(str(sum(key.startswith("key") for key in self.session)))


def make_app(redis_url: str) -> Application:
    return Application(
        [(r"/write/(\w+)", Write), ("/count", Count)], session=SessionOptions(secret="benchmark"), redis=redis_url
    )


async def measure(base: str, at_once: int) -> int:
    """The number of acknowledged writes that are not in the session afterwards."""
    client = AsyncHTTPClient(force_instance=True, max_clients=at_once)
    try:
        first = await client.fetch(f"{base}/write/start")
        headers = {"Cookie": first.headers["Set-Cookie"].split(";")[0]}

        async def write(number: int) -> None:
            await client.fetch(f"{base}/write/key{number}", headers=headers)

        for first_of_wave in range(0, WRITES, at_once):
            await asyncio.gather(*(write(number) for number in range(first_of_wave, first_of_wave + at_once)))
        counted = await client.fetch(f"{base}/count", headers=headers)
        return WRITES - int(counted.body)
    finally:
        client.close()


async def table(servers: dict[str, Callable[[int], Awaitable[int]]]) -> None:
    """Print a Markdown table, the contenders alternating within each round."""
    lost: dict[tuple[str, int], list[int]] = {}
    for _ in range(ROUNDS):
        for at_once in AT_ONCE:
            for name, server in servers.items():
                lost.setdefault((name, at_once), []).append(await server(at_once))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.python_implementation()} "
        f"{platform.python_version()}, tornado {tornado.version}, redis-py {redis.__version__}\n\n"
        f"Acknowledged writes lost, of {WRITES} to different keys of one session; "
        f"median of {ROUNDS} rounds (least to most)\n"
    )
    print("| server | " + " | ".join(f"{at_once} at once" for at_once in AT_ONCE) + " |")
    print("|---" * (len(AT_ONCE) + 1) + "|")
    for name in servers:
        rows = [sorted(lost[name, at_once]) for at_once in AT_ONCE]
        print(f"| {name} | " + " | ".join(f"{row[ROUNDS // 2]} ({row[0]} to {row[-1]})" for row in rows) + " |")


async def main() -> None:
    with RedisServer() as server:
        app = make_app(server.url)
        port = next(iter(app.listen(0, "127.0.0.1")._sockets.values())).getsockname()[1]
        servers: dict[str, Callable[[int], Awaitable[int]]] = {
            "sstream": lambda at_once: measure(f"http://127.0.0.1:{port}", at_once)
        }
        try:
            await app.start()
            try:
                node = find_node()
            except ToolMissing as error:
                print(f"Express is left out: {error}", file=sys.stderr)
                await table(servers)
                return
            with Process(node, HERE / "lost_updates.mjs", env={"REDIS_URL": server.url}) as express:
                express_port = express.wait_for(r"listening on (\d+)")[1]
                base = f"http://127.0.0.1:{express_port}"
                await table({"express-session + connect-redis": lambda at_once: measure(base, at_once), **servers})
        finally:
            await app.close()


if __name__ == "__main__":
    asyncio.run(main())
