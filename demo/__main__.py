"""Opens the Teahouse: Redis, two Tornado servers, and Express next door; Ctrl-C closes all of it."""

import argparse
import json
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from sstream.testing import Process, ProcessError, RedisServer, ToolMissing, find_node

ROOT = Path(__file__).parents[1]
EXPRESS = ROOT / "demo" / "express"
PORTS = 100  # how far to look for free ones
LOOK = 0.1  # seconds between two looks at what the processes have to say


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


def free_ports(first: int) -> Iterator[int]:
    """The free ones from ``first`` on."""
    for port in range(first, first + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
    raise SystemExit(f"not enough free ports from {first} to {first + PORTS - 1}")


def why_no_express(redis: str | None) -> str | None:
    """What keeps Express from running, if anything does."""
    if redis is None:
        return "there is no Redis, and that is where it would find the sessions"
    if not (EXPRESS / "node_modules").is_dir():
        return "its packages are missing; npm ci --prefix demo/express"
    try:
        find_node()
    except ToolMissing as error:
        return str(error)
    return None


def choose_doors(first: int, *, redis: str | None, express: bool) -> dict[str, int]:
    """A port for each process, and one that the servers share; sessions in memory are those of one process."""
    names = ["Teahouse"] if redis is None else ["Teahouse", "Server A", "Server B"]
    return dict(zip([*names, "Express"] if express else names, free_ports(first), strict=False))


class House:
    """The processes behind the doors."""

    def __init__(self, closing: ExitStack, *, doors: dict[str, int], redis: str | None, secret: str) -> None:
        self.doors = doors
        self.processes: dict[str, Process] = {}
        self._closing = closing
        self._env = {"SECRET": secret, "DOORS": json.dumps(doors), "REDIS_URL": redis}
        self._told: dict[str, int] = {}  # how much of a process' log is on the screen

    @property
    def names(self) -> list[str]:
        """The processes; the servers have the first door together, one alone has it to itself."""
        return [name for name in self.doors if name != "Teahouse"] or ["Teahouse"]

    def open(self, *names: str) -> None:
        """Start these processes and tell of each; without a server there is no Teahouse, without Express there is.

        Raises:
            ProcessError: A server did not start.
        """
        for name in names:
            env = {**self._env, "PORT": str(self.doors[name])}
            if name == "Express":
                self._start(name, find_node(), EXPRESS / "server.mjs", env=env)
            elif name.startswith("Server"):
                shared = {"NAME": name[-1], "SHARED_PORT": str(self.doors["Teahouse"])}
                self._start(name, sys.executable, "-m", "demo.server", env=env | shared)
            else:
                self._start(name, sys.executable, "-m", "demo.server", env=env | {"NAME": "A"})
        for name in names:
            self._wait_for(name)

    def _start(self, name: str, *command: str | Path, env: dict[str, str | None]) -> None:
        self.processes[name] = self._closing.enter_context(Process(*command, env=env, cwd=ROOT))

    def _wait_for(self, name: str) -> None:
        process = self.processes[name]
        try:
            process.wait_for(r"^listening on \d+\n", timeout=60.0)
        except ProcessError as error:
            if name != "Express":
                raise
            say(name, f"not started: {error}")
            del self.processes[name]
            return
        pid = f"  kill -9 {process.pid} to see the other one take over" if name.startswith("Server") else ""
        say(name, f"http://localhost:{self.doors[name]}/{pid}")

    def look(self) -> bool:
        """Pass on what the processes have to say, and who is gone; is a server left?"""
        for name, process in list(self.processes.items()):
            code = process.returncode
            log = process.log
            for line in log[self._told.get(name, 0) :].splitlines():
                if not line.startswith("listening on"):
                    say("", f"{name}: {line}")
            self._told[name] = len(log)
            if code is not None:
                say(name, f"is gone, {signal.Signals(-code).name if code < 0 else f'with exit status {code}'}")
                del self.processes[name]
        return any(name != "Express" for name in self.processes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8888, help="where to listen; the next free ones if it is taken")
    parser.add_argument("--memory", action="store_true", help="one process, sessions in its memory, no Express")
    options = parser.parse_args()

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())

    print("The Teahouse, a demo of sstream\n", flush=True)
    with ExitStack() as closing:
        redis = open_redis(closing, memory=options.memory)
        missing = why_no_express(redis)
        doors = choose_doors(options.port, redis=redis, express=missing is None)
        secret = os.environ.get("SECRET") or secrets.token_urlsafe(32)
        house = House(closing, doors=doors, redis=redis, secret=secret)
        taken = f" ({options.port} is taken)" if doors["Teahouse"] != options.port else ""
        first, *others = house.names
        house.open(first)
        say("Open", f"http://localhost:{doors['Teahouse']}/{taken}")  # before the others share the processor with it
        house.open(*others)
        if missing:
            say("Express", f"not started: {missing}")
        if redis is None:
            say("", "One process, and its memory: two of them, and Express, need a Redis between them.")
        print("\nCtrl-C closes it.", flush=True)
        while house.look() and not stopping.wait(LOOK):
            pass
        # From here on a second Ctrl-C ends it the hard way.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        print("\nClosing.", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ProcessError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
