"""A Redis server of one's own, on a free port, that may be tormented."""

import re
import shutil
import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sstream.testing.process import Process, ProcessError
from sstream.testing.tools import find_redis_server

__all__ = ["RedisServer"]

START = 30.0  # seconds until it must answer
STOP = 5.0
POLL = 0.01
ADDRESS_IN_USE = re.compile(r"[Aa]ddress already in use")
READY = re.compile(r"Ready to accept connections|Sentinel ID is")


class RedisServer:
    """A Redis server on 127.0.0.1 that answers when the constructor returns, and keeps nothing on disk.

    Args:
        config: Lines of redis.conf, put after ours, so they win: users, a password, ``appendonly yes``,
            ``cluster-enabled yes``, ``sentinel monitor ...``.
        port: Its port; 0 takes a free one.
        sentinel: Start it as a Sentinel.
        binary: The server; by default that of ``find_redis_server``.

    Raises:
        ToolMissing: There is no server here.
        ProcessError: It did not start; the message has its log.
    """

    def __init__(self, config: str = "", *, port: int = 0, sentinel: bool = False, binary: Path | None = None) -> None:
        self.binary = binary or find_redis_server()
        self.directory = Path(tempfile.mkdtemp(prefix="sstream-redis-"))
        self._config = config
        self._sentinel = sentinel
        self._process: Process | None = None
        attempts = 1 if port else 5
        try:
            while True:
                self.port = port or _free_port()
                self._write_config()
                try:
                    self._start()
                    return
                except ProcessError as error:
                    # Between our look and its bind the port was anybody's.
                    attempts -= 1
                    if not attempts or not ADDRESS_IN_USE.search(str(error)):
                        raise
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> str:
        return self._running().log

    def freeze(self) -> None:
        """Stop it where it stands: it accepts connections and answers nothing."""
        self._running().freeze()

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self._running().thaw()

    def kill(self) -> None:
        """Take it down without warning; ``restart`` brings it back on the same port."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """End it, if it still runs, and start it anew on the same port, empty unless ``config`` says otherwise."""
        if self._process is not None:
            self._process.stop(STOP)
        # A Sentinel and a Cluster node write into their configuration; what they learned outlives a restart.
        if not self.directory.exists():
            self.directory.mkdir()
            self._write_config()
        self._start()

    def stop(self) -> None:
        """End it and remove its directory."""
        if self._process is not None:
            self._process.stop(STOP)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> Process:
        if self._process is None:
            raise ProcessError(f"the Redis server on port {self.port} was never started")
        return self._process

    def _write_config(self) -> None:
        lines = [f"port {self.port}", "bind 127.0.0.1", "daemonize no", f'dir "{self.directory}"']
        if not self._sentinel:
            lines += ['save ""', "appendonly no", "databases 16"]
        text = "\n".join([*lines, self._config, ""])
        (self.directory / "redis.conf").write_text(text, encoding="utf-8")

    def _start(self) -> None:
        mode = ["--sentinel"] if self._sentinel else []
        process = self._process = Process(self.binary, self.directory / "redis.conf", *mode, cwd=self.directory)
        deadline = time.monotonic() + START
        # Its own word first: the one that answers on the port might be another, which took it before.
        while not (READY.search(process.log) and self._answers()):
            if process.returncode is not None or time.monotonic() > deadline:
                reason = "ended" if process.returncode is not None else f"did not answer within {START:g} s"
                process.kill()
                raise ProcessError(f"{self.binary} on port {self.port} {reason}; it wrote:\n{process.log.rstrip()}")
            time.sleep(POLL)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                reply = connection.recv(64)
        except OSError:
            return False
        # One that wants a password is up as well; one that is -LOADING is not.
        return reply.startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        # A Cluster node listens 10,000 ports higher as well.
        if port <= 55535:
            return port
