"""The load: load.c, compiled here, as a child that is told what to do line by line."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from benchmarks.histogram import Histogram

__all__ = ["CompilerMissing", "Generator", "GeneratorError", "Measurement", "Opened", "Programs", "encode_request"]

HERE = Path(__file__).parent
WINDOW = 100  # handshakes under way at once

# What load.c stamps with a number: this one, or any above it, is 5 bytes in MessagePack.
_ID = 1 << 24
_ID_AT = 3


class CompilerMissing(Exception):
    """There is no C compiler here."""


class GeneratorError(Exception):
    """The load generator ended, or did not get what it needs; the message has what it wrote."""


class Programs:
    """The programs in C, compiled when they are first asked for, in a directory of their own."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="sstream-benchmarks-"))

    def find(self, name: str) -> Path:
        program = self._directory / name
        if not program.exists():
            compiler = shutil.which("gcc") or shutil.which("cc")
            if compiler is None:
                raise CompilerMissing("the load generator is written in C and there is no compiler: install gcc")
            subprocess.run([compiler, "-O2", "-o", program, HERE / f"{name}.c"], check=True)
        return program

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How opening went; the histogram has the time of each handshake."""

    opened: int
    seconds: float
    cpu: float  # seconds of the server
    own: float  # seconds of the generator
    errors: Mapping[str, int] = field(default_factory=dict)
    histogram: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What came back in a time.

    Attributes:
        messages: Answers, or events.
        cpu: Seconds of the server's CPU time.
        own: The same of the generator.
        fewest: Answers to the connection that got the fewest; ``most`` likewise.
        unsent: Requests that were due while 1,024 of that connection (one, of a page) were still unanswered.
        unanswered: Requests without an answer ten seconds after the end.
        events: Events that came.
        late: Nanoseconds that 99 of 100 requests left at most after they were due: what the generator itself adds.
        errors: By kind: ``error 4029``, ``closed 4429``, ``HTTP 503``, ``connection lost``.
        histogram: How long each request took that left, or was due, within the time, whenever it was answered; or each
            delivery.
    """

    messages: int
    seconds: float
    cpu: float
    own: float
    fewest: int
    most: int
    unsent: int
    unanswered: int
    open: int
    events: int = 0
    late: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    histogram: Histogram = field(default_factory=Histogram)


def encode_request(dialect: str, method: str, *params: Any) -> tuple[bytes, int]:
    """A call's payload, and where its number stands (-1: nowhere). ``publish`` wants no answer."""
    if dialect == "socketio":
        return f"42{'' if method == 'publish' else '0'}{json.dumps([method, *params])}".encode(), -1
    if method == "publish":
        return msgspec.msgpack.encode([2, method, params]), -1
    return msgspec.msgpack.encode([0, _ID, method, params]), _ID_AT


class Generator:
    """Connections to one server, and the load on them.

    Args:
        program: The compiled load.c.
        port: The server's.
        address: The server's, numeric.
        path: What the handshake, or the page's request, asks for.
        host: The ``Host`` header, if it is not ``address:port``.
        dialect: ``msgpack``, ``socketio`` or ``http``.
        headers: More lines of the request.
        cookies: ``Cookie`` values, one for each connection in turn.
        publisher: The port to which the first connection goes instead, the one that publishes in a fan-out.
        pid: The server's process, to tell its CPU time.
        on_progress: Called every quarter of a second while measuring, with a row of figures.
    """

    def __init__(
        self,
        program: Path,
        port: int,
        *,
        address: str = "127.0.0.1",
        path: str = "/",
        host: str | None = None,
        dialect: str = "msgpack",
        headers: Iterable[str] = (),
        cookies: Iterable[str] = (),
        publisher: int | None = None,
        pid: int | None = None,
        on_progress: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        self.dialect = dialect
        self._on_progress = on_progress
        words = [f"path={path}", f"dialect={dialect}", *(f"header={line}" for line in headers)]
        if host is not None:
            words.append(f"host={host}")
        if publisher is not None:
            words.append(f"publisher={publisher}")
        if pid is not None:
            words.append(f"pid={pid}")
        if on_progress is not None:
            words.append("progress=0.25")
        self._cookies: str | None = None
        if cookies := list(cookies):
            handle, self._cookies = tempfile.mkstemp(prefix="sstream-cookies-")
            os.write(handle, "\n".join([*cookies, ""]).encode())
            os.close(handle)
            words.append(f"cookies={self._cookies}")
        # It ends when its stdin does, so also when we are killed.
        self._child = subprocess.Popen(
            [program, address, str(port), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The generator's process."""
        return self._child.pid

    def open(self, connections: int, window: int = WINDOW) -> Opened:
        """Open more connections, at most ``window`` at a time."""
        result = self._do(f"open {connections} {window}")
        return Opened(**result | {"histogram": Histogram(result["histogram"])})

    def drop(self, connections: int) -> int:
        """Reset the last ones, as a cut cable does; how many that were."""
        return int(self._do(f"drop {connections}")["dropped"])

    def request(self, method: str, *params: Any) -> None:
        """What to send from now on."""
        payload, id_at = encode_request(self.dialect, method, *params)
        self._do(f"request {payload.hex()} {id_at}")

    def closed(
        self, depth: int, seconds: float, warm: float = 0.15, *, callers: int | None = None, trips: int = 0
    ) -> Measurement:
        """Each connection, or the first ``callers``, keeps ``depth`` requests under way.

        Args:
            trips: If given, it takes longer where so many round trips of all need that, and warming up where one does.
        """
        return self._measure(f"closed {depth} {warm} {seconds} {callers or 0} {trips}")

    def paced(self, rate: float, seconds: float, warm: float = 0.15) -> Measurement:
        """A fixed schedule, whatever is answered; a latency counts from when its request was due."""
        return self._measure(f"paced {rate} {warm} {seconds}")

    def paced_beside_events(
        self, rate: float, seconds: float, warm: float, *, callers: int, event: tuple[str, str], every: float
    ) -> Measurement:
        """The same, asked by ``callers`` connections, while the first one has everybody sent an event that often.

        Args:
            event: The method that sends it, and its text.
            every: Seconds from one event to the next.
        """
        payload, id_at = encode_request(self.dialect, *event)
        self._do(f"event {payload.hex()} {id_at}")
        return self._measure(f"paced {rate} {warm} {seconds} {callers} {every}")

    def fanout(self, batch: int, seconds: float, warm: float = 0.15) -> Measurement:
        """The first connection publishes ``batch`` events whenever all the others have got the last ones.

        Whole batches are measured, at least one, so it may take longer than ``seconds``.
        """
        return self._measure(f"fanout {batch} {warm} {seconds}")

    def interrupt(self) -> None:
        """End a measurement early: it tells what it has so far."""
        self._child.send_signal(signal.SIGINT)

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()
        if self._cookies is not None:
            Path(self._cookies).unlink(missing_ok=True)
            self._cookies = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _measure(self, command: str) -> Measurement:
        result = self._do(command)
        return Measurement(**result | {"histogram": Histogram(result["histogram"])})

    def _do(self, command: str) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        try:
            self._child.stdin.write(f"{command}\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # why, it has said on stderr
        while True:
            line = self._child.stdout.readline()
            if not line:
                raise GeneratorError(f"{command[:60]!r}: {self._child.stderr.read().strip() or 'it ended'}")
            result: dict[str, Any] = json.loads(line)
            if "progress" not in result:
                return result
            if self._on_progress is not None:
                self._on_progress(result)
