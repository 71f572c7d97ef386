"""Opens the Teahouse: Redis, the Tornado server, and Express next door; Ctrl-C closes all of it."""

import argparse
import asyncio
import errno
import logging
import os
import secrets
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from demo.app import make_app
from sstream import Application
from sstream.testing import Process, ProcessError, RedisServer, ToolMissing, find_node

EXPRESS = Path(__file__).parent / "express"
PORTS = 100  # how far to look for a free one


def say(name: str, text: str) -> None:
    print(f"  {name:<10}{text}", flush=True)


def open_redis(closing: ExitStack, *, memory: bool = False) -> str | None:
    """The URL of a Redis: the one named by SSTREAM_REDIS_URL, else one of our own, else ``None``."""
    if memory:
        say("Redis", "not started: --memory")
        return None
    if url := os.environ.get("SSTREAM_REDIS_URL"):
        # The URL may hold a password.
        say("Redis", f"yours at {urlsplit(url).hostname}, by SSTREAM_REDIS_URL")
        return url
    try:
        server = closing.enter_context(RedisServer())
    except (ToolMissing, ProcessError) as error:
        say("Redis", f"not started: {error}")
        return None
    say("Redis", f"{server.url}, started for this demo; it keeps nothing")
    return server.url


def listen(app: Application, port: int) -> int:
    """Listen on ``port`` of this machine alone, or on the next free one; tells which."""
    for candidate in range(port, port + PORTS):
        try:
            app.listen(candidate, address="localhost")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            taken = f" ({port} is taken)" if candidate != port else ""
            say("Teahouse", f"http://localhost:{candidate}/{taken}")
            return candidate
    raise SystemExit(f"no free port from {port} to {port + PORTS - 1}")


def free_port(after: int) -> int:
    for candidate in range(after + 1, after + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return candidate
    return 0


async def open_express(closing: ExitStack, *, redis: str | None, secret: str, beside: int) -> int | None:
    """The port of the Express application, or ``None`` where it cannot run."""
    try:
        if redis is None:
            raise ToolMissing("there is no Redis, and that is where it would find the sessions")
        node = find_node()
        if not (EXPRESS / "node_modules").is_dir():
            raise ToolMissing("its packages are missing; npm ci --prefix demo/express")
        port = free_port(beside)
        env = {"REDIS_URL": redis, "SECRET": secret, "PORT": str(port), "TEAHOUSE_PORT": str(beside)}
        process = closing.enter_context(Process(node, EXPRESS / "server.mjs", env=env))
        await asyncio.to_thread(process.wait_for, r"^listening on \d+$")
    except (ToolMissing, ProcessError) as error:
        say("Express", f"not started: {error}")
        return None
    say("Express", f"http://localhost:{port}/")
    return port


async def serve(closing: ExitStack, *, redis: str | None, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)

    secret = os.environ.get("SECRET") or secrets.token_urlsafe(32)
    app = make_app(secret=secret, redis=redis)
    try:
        await app.start()
        port = listen(app, port)
        app.settings["express_port"] = await open_express(closing, redis=redis, secret=secret, beside=port)
        print("\nCtrl-C closes it.", flush=True)
        await stopping.wait()
    finally:
        # From here on a second Ctrl-C ends it the hard way.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        print("\nClosing.", flush=True)
        await app.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8888, help="where to listen; the next free one if it is taken")
    parser.add_argument("--memory", action="store_true", help="keep the sessions in memory, without Redis and Express")
    options = parser.parse_args()
    # What sstream has to say, such as that sessions are in memory, stands below what we say.
    logging.basicConfig(format=f"{'':<12}%(message)s")
    print("The Teahouse, a demo of sstream\n", flush=True)
    with ExitStack() as closing:
        redis = open_redis(closing, memory=options.memory)
        asyncio.run(serve(closing, redis=redis, port=options.port))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
