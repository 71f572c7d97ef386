"""The websocket engine beside raw Tornado (and picows, where it is installed): calls, fan-out, idle memory, handshakes.

    python -m benchmarks.engine [--rounds 5] [--seconds 2] [--only tornado,sstream] [--table calls,large,fanout,memory]

Every server decodes MessagePack, calls ``add(2, 3)`` or ``echo(x)``, and encodes the reply; there is no framework on
top. One server process has one core, the load (load.c) the other; the contenders take turns in each round. The figure
is thousand messages per second of the server's CPU time, from /proc, the median of the rounds with the spread in
percent.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import tornado.httpserver
import tornado.web
import tornado.websocket

from sstream.limits import Limits
from sstream.websocket import SharedFrame, upgrade, websocket_protocol
from sstream.websocket.speedups import parser_class

HERE = Path(__file__).parent
LIMITS = Limits(message_rate=None)
CONNECTIONS = 50
SUBSCRIBERS = 1000
IDLE = 5000

decode = msgspec.msgpack.Decoder(list).decode
encode = msgspec.msgpack.Encoder().encode

METHODS: dict[str, Callable[..., Any]] = {"add": lambda a, b: a + b, "echo": lambda value: value}
CALLS = {
    "20 B": encode([0, 1, "add", [2, 3]]),
    "0.9 KB": encode([0, 1, "echo", ["x" * 900]]),
    "publish": encode([2, "publish", ["x" * 20]]),
}


def reply_to(message: Any) -> bytes:
    _, number, name, params = decode(message)
    return encode([1, number, None, METHODS[name](*params)])


# The contenders


class TornadoHandler(tornado.websocket.WebSocketHandler):
    subscribers: set[Any] = set()

    def open(self, *args: str, **kwargs: str) -> None:
        self.subscribers.add(self)

    def on_message(self, message: str | bytes) -> None:
        if message != CALLS["publish"]:
            self.write_message(reply_to(message), binary=True)
            return
        for subscriber in self.subscribers:
            subscriber.write_message(message, binary=True)

    def on_close(self) -> None:
        self.subscribers.discard(self)


class EngineHandler(tornado.websocket.WebSocketHandler):
    subscribers: set[Any] = set()

    def get_websocket_protocol(self) -> Any:
        return websocket_protocol(self, LIMITS)

    def open(self, *args: str, **kwargs: str) -> None:
        self.send = self.ws_connection.send  # type: ignore[union-attr]
        self.subscribers.add(self.ws_connection)

    def on_message(self, message: str | bytes) -> None:
        if message != CALLS["publish"]:
            self.send(reply_to(message))
            return
        shared = SharedFrame(message)
        for subscriber in self.subscribers:
            subscriber.send_shared(shared)

    def on_close(self) -> None:
        self.subscribers.clear()  # the connection is not known any more, and the load leaves as a whole


class AsyncEngineHandler(EngineHandler):
    async def on_message(self, message: str | bytes) -> None:  # type: ignore[override]
        super().on_message(message)


def serve_tornado(handler: type[tornado.websocket.WebSocketHandler]) -> Callable[[int], Any]:
    async def serve(port: int) -> None:
        logging.getLogger("tornado.access").setLevel(logging.ERROR)
        tornado.httpserver.HTTPServer(tornado.web.Application([("/", handler)])).listen(port, "127.0.0.1")

    return serve


async def serve_picows(port: int) -> None:
    import picows

    subscribers: set[Any] = set()

    class Listener(picows.WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: Any) -> None:
            subscribers.add(transport)

        def on_ws_disconnected(self, transport: Any) -> None:
            subscribers.discard(transport)

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            message = frame.get_payload_as_bytes()
            if message != CALLS["publish"]:
                transport.send(picows.WSMsgType.BINARY, reply_to(message))
                return
            for subscriber in subscribers:
                subscriber.send(picows.WSMsgType.BINARY, message)

    server = await picows.ws_create_server(lambda request: Listener(), "127.0.0.1", port)
    asyncio.ensure_future(server.serve_forever())  # noqa: RUF006 (as long as the process)


async def serve_stream(port: int) -> None:
    upgrade.may_take = lambda stream: False
    upgrade._tell_once = lambda: None  # type: ignore[assignment]
    await serve_tornado(EngineHandler)(port)


# name: (server, environment, uvloop)
CONTENDERS: dict[str, tuple[Callable[[int], Any], dict[str, str], bool]] = {
    "tornado": (serve_tornado(TornadoHandler), {}, False),
    "picows": (serve_picows, {}, True),
    "sstream-python": (serve_tornado(EngineHandler), {"SSTREAM_PURE_PYTHON": "1"}, False),
    "sstream-stream": (serve_stream, {}, False),
    "sstream": (serve_tornado(EngineHandler), {}, False),
    "sstream-async": (serve_tornado(AsyncEngineHandler), {}, False),
    "sstream-uvloop": (serve_tornado(EngineHandler), {}, True),
    "sstream-async-uvloop": (serve_tornado(AsyncEngineHandler), {}, True),
}


def run_server(name: str, port: int) -> None:
    serve, _, fast = CONTENDERS[name]

    async def main() -> None:
        await serve(port)
        print("listening", flush=True)
        await asyncio.Event().wait()

    if fast:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


# The harness


class Server:
    """One contender, running on the first core."""

    def __init__(self, name: str, port: int) -> None:
        environment = os.environ | CONTENDERS[name][1]
        self.port = port
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engine", "--serve", name, "--port", str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n"
        os.sched_setaffinity(self.process.pid, {min(os.sched_getaffinity(0))})

    def cpu(self) -> float:
        """Seconds on a core so far."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def memory(self) -> int:
        """Bytes of its own."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_", "Swap:")))

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Load:
    """load.c, compiled, on the last core."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.program = f"{self.directory}/load"
        subprocess.run(["cc", "-O2", "-o", self.program, HERE / "load.c"], check=True)

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        core = max(os.sched_getaffinity(0))
        return subprocess.Popen(
            ["taskset", "-c", str(core), self.program, *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )

    def measure(
        self, server: Server, seconds: float, connections: int, depth: int, call: str, *mode: str
    ) -> dict[str, float]:
        load = self.start(server.port, "/", connections, depth, seconds, CALLS[call].hex(), *mode)
        assert load.stdout is not None
        assert load.stdout.readline() == "start\n"
        before = server.cpu()
        assert load.stdout.readline() == "stop\n"
        used = server.cpu() - before
        result: dict[str, float] = json.loads(load.stdout.readline())
        load.wait()
        return result | {"rate": result["messages"] / used / 1e3, "wall": result["messages"] / result["seconds"] / 1e3}

    def idle(self, server: Server, connections: int) -> dict[str, float]:
        warm = self.start(server.port, "/", 50, 0, 0.2, "")
        warm.wait()
        before, cpu = server.memory(), server.cpu()
        load = self.start(server.port, "/", connections, 0, 3, "")
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        used = server.cpu() - cpu
        time.sleep(1)  # the last of them settle
        each = (server.memory() - before) / connections
        load.kill()
        load.wait()
        return {"rate": each / 1024, "handshakes": connections / used}

    def close(self) -> None:
        shutil.rmtree(self.directory)


COLUMNS: dict[str, list[tuple[str, Callable[[Load, Server, float], dict[str, float]]]]] = {
    "calls": [
        ("D=1", lambda load, server, seconds: load.measure(server, seconds, CONNECTIONS, 1, "20 B")),
        ("D=16", lambda load, server, seconds: load.measure(server, seconds, CONNECTIONS, 16, "20 B")),
    ],
    "large": [
        ("0.9 KB D=1", lambda load, server, seconds: load.measure(server, seconds, CONNECTIONS, 1, "0.9 KB")),
        ("0.9 KB D=16", lambda load, server, seconds: load.measure(server, seconds, CONNECTIONS, 16, "0.9 KB")),
    ],
    "fanout": [
        ("1 to 1000", lambda load, server, seconds: load.measure(server, seconds, SUBSCRIBERS, 1, "publish", "fanout")),
        (
            "16 to 1000",
            lambda load, server, seconds: load.measure(server, seconds, SUBSCRIBERS, 16, "publish", "fanout"),
        ),
    ],
    "memory": [("KB idle", lambda load, server, seconds: load.idle(server, IDLE))],
}


def version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no {package}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--table", default=",".join(COLUMNS))
    parser.add_argument("--port", type=int, default=18765)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run_server(options.serve, options.port)
        return

    names = [name for name in options.only.split(",") if name != "picows" or version("picows") != "no picows"]
    columns = [column for table in options.table.split(",") for column in COLUMNS[table]]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.python_implementation()}"
        f" {platform.python_version()}, {version('tornado')}, {version('uvloop')}, {version('picows')},"
        f" parser {parser_class.__name__}; {options.rounds} rounds of {options.seconds} s"
    )
    load = Load()
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    port = options.port
    for number in range(options.rounds):
        for title, measure in columns:
            for name in names:
                port += 1
                server = Server(name, port)
                try:
                    results.setdefault((name, title), []).append(measure(load, server, options.seconds))
                finally:
                    server.close()
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    load.close()

    base = names[0]
    print(f"{'':22}" + "".join(f"{title:>26}" for title, _ in columns))
    for name in names:
        cells = []
        for title, _ in columns:
            rates = [result["rate"] for result in results[name, title]]
            median = statistics.median(rates)
            spread = (max(rates) - min(rates)) / median * 50
            factor = median / statistics.median(result["rate"] for result in results[base, title])
            cells.append(f"{median:11.1f} ±{spread:2.0f}% {factor:6.2f}x  ")
        print(f"{name:22}" + "".join(f"{cell:>26}" for cell in cells))
    print("p99 µs, the least and the most served connection, handshakes a second of CPU:")
    for name in names:
        cells = []
        for title, _ in columns:
            runs = results[name, title]
            if "p99" in runs[0]:
                fair = min(run["fewest"] / max(run["most"], 1) for run in runs)
                cells.append(f"{statistics.median(run['p99'] for run in runs):12.0f} {fair:6.2f}")
            else:
                cells.append(f"{statistics.median(run['handshakes'] for run in runs):.0f}/s")
        print(f"{name:22}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
