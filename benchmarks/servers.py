"""One contender, running on a core of its own, and what the kernel knows of it."""

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from websockets.sync.client import connect

from benchmarks.contenders import NODE_MODULES, Contender
from benchmarks.generator import Generator, Programs, encode_request
from sstream.testing import Process, ToolMissing, find_node

__all__ = ["BareEcho", "Server", "WrongAnswer", "missing", "pin_to_load_core"]

ROOT = Path(__file__).parent.parent
START = 60.0  # seconds; only a failure meets it

_cores = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _cores[0], _cores[-1]


class WrongAnswer(Exception):
    """A contender does not do the work."""


def missing(contender: Contender) -> str | None:
    """Why it cannot run here, or None."""
    for need in contender.needs:
        if need.startswith("npm:"):
            if not (NODE_MODULES / need.removeprefix("npm:") / "package.json").exists():
                return f"{need.removeprefix('npm:')} is not installed: `make bench` does that"
            continue
        try:
            metadata.version(need)
        except metadata.PackageNotFoundError:
            return f"{need} is not installed: `make bench` does that"
    if contender.is_node:
        try:
            find_node()
        except ToolMissing as error:
            return str(error)
    return None


def _command(name: str, contender: Contender) -> list[str]:
    if contender.is_node:
        return [str(find_node()), str(ROOT / "benchmarks" / "contenders" / contender.server)]
    return [sys.executable, "-m", "benchmarks.contenders", name]


def pin_to_load_core() -> None:
    """Stay off the servers' core from now on, we and the generators that we start."""
    os.sched_setaffinity(0, {LOAD_CORE})


@contextmanager
def _server_core() -> Iterator[None]:
    """Children that are started here run on the servers' core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Pinned:
    dialect = "msgpack"
    path = "/"

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        with _server_core():
            self.process = Process(*command, env=env, cwd=ROOT)
        try:
            self.port = int(self.process.wait_for(r"^listening on (\d+)$", timeout=START)[1])
        except BaseException:
            self.process.kill()
            raise

    def memory(self) -> int:
        """Bytes that are its own."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_", "Swap:")))

    def count_files(self) -> int:
        """How many files it has open, connections among them."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def wait_for_files(self, at_most: int) -> None:
        """Wait until it has not more than so many files open: until it knows that connections are gone."""
        deadline = time.monotonic() + START
        while (many := self.count_files()) > at_most:
            if time.monotonic() > deadline:
                raise WrongAnswer(f"{many} files are still open, {START:.0f} s after their connections were lost")
            time.sleep(0.05)

    def load(self, programs: Programs, **options: Any) -> Generator:
        """A generator for it."""
        options = {"dialect": self.dialect, "path": self.path} | options
        headers = [f"Origin: http://127.0.0.1:{self.port}"] if options["dialect"] != "http" else []
        return Generator(programs.find("load"), self.port, headers=headers, pid=self.process.pid, **options)

    def close(self) -> None:
        self.process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class BareEcho(_Pinned):
    """What the machine and the generator can do at most."""

    def __init__(self, programs: Programs) -> None:
        super().__init__([str(programs.find("bare_echo"))], {})


class Server(_Pinned):
    """A contender; it has answered one call rightly when the constructor returns."""

    def __init__(self, name: str, contender: Contender, *, redis: str | None = None) -> None:
        self.contender = contender
        self.dialect, self.path = contender.dialect, contender.path
        env = {"REDIS_URL": redis} if redis else {}
        super().__init__(_command(name, contender), {**contender.env, **env})
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def cookies(self, count: int) -> list[str]:
        """Log in so often; a session each."""
        # One connection, a hundred requests at a time: no client is as fast as no client.
        found: list[str] = []
        request = f"GET /login HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=START) as connection:
            while len(found) < count:
                many = min(100, count - len(found))
                connection.sendall(request * many)
                answer = connection.makefile("rb")
                for _ in range(many):
                    status = answer.readline()
                    headers = http.client.parse_headers(answer)
                    answer.read(int(headers["Content-Length"]))
                    if b" 200 " not in status or "Set-Cookie" not in headers:
                        raise WrongAnswer(f"{self.contender.label}: /login answered {status!r} with {headers.items()}")
                    found.append(headers["Set-Cookie"].split(";")[0])
        return found

    def page(self, path: str, cookie: str) -> str:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START)
        try:
            client.request("GET", path, headers={"Cookie": cookie})
            return client.getresponse().read().decode()
        finally:
            client.close()

    def call(self, method: str, *params: Any, cookie: str | None = None, path: str | None = None) -> Any:
        """Call it once, by a client of other people's making."""
        url, payload = f"127.0.0.1:{self.port}{path or self.path}", encode_request(self.dialect, method, *params)[0]
        headers = {"Cookie": cookie} if cookie else {}
        with connect(f"ws://{url}", origin=f"http://127.0.0.1:{self.port}", additional_headers=headers) as client:  # type: ignore[arg-type]  # a str is one
            if self.dialect != "socketio":
                client.send(payload)
                kind, number, error, result = msgspec.msgpack.decode(client.recv(START))  # type: ignore[arg-type]
                if (kind, number, error) != (1, 1 << 24, None):
                    raise WrongAnswer(f"{self.contender.label}: {method} was answered {[kind, number, error, result]}")
                return result
            client.recv(START)
            client.send("40")
            client.recv(START)
            client.send(payload.decode())
            reply = client.recv(START)
            if not isinstance(reply, str) or not reply.startswith("430"):
                raise WrongAnswer(f"{self.contender.label}: {method} was answered {reply!r}")
            (result,) = json.loads(reply[3:])
            return result

    def _check(self) -> None:
        if "calls" in self.contender.can:
            for method, params, right in (("add", (2, 3), 5), ("echo", ("tea",), "tea")):
                if (answer := self.call(method, *params)) != right:
                    raise WrongAnswer(f"{self.contender.label}: {method}{params} gave {answer!r} instead of {right!r}")
