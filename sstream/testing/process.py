"""Children that are waited for, heard, and ended."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from sstream.errors import SStreamError

__all__ = ["Process", "ProcessError"]

TETHER = Path(__file__).with_name("tether.py")
POLL = 0.01


class ProcessError(SStreamError):
    """A child ended, or was late; the message has the end of what it wrote."""


class Process:
    """A child that starts at once, whose output is kept, and that ends with us, even if we are killed.

    It gets a process group of its own, so Ctrl-C in a terminal reaches us alone and we end it in order. The kernel
    takes the *thread* that starts a child for its parent: start children from one that lives as long as they.

    Waiting blocks. Where the child talks to a server of this very event loop, wait in a thread:
    ``await asyncio.to_thread(process.wait)``.

    Args:
        command: The program and its arguments.
        env: Variables set beside those of our own environment; ``None`` as a value takes one away.
        cwd: Its working directory.
    """

    def __init__(
        self,
        *command: str | Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | str | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        # Append: the kernel keeps the lines of several writers whole.
        self._file = tempfile.TemporaryFile(mode="ab+", buffering=0)  # noqa: SIM115  (closed in _close_log)
        self._output: str | None = None
        environment = {**os.environ, **(env or {})}
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *self.command],
                env={name: value for name, value in environment.items() if value is not None},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=self._file,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except BaseException:
            self._file.close()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """What it ended with, negative for a signal; ``None`` while it runs."""
        return self._child.poll()

    @property
    def log(self) -> str:
        """All that it wrote so far, output and errors together."""
        if self._output is not None:
            return self._output
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), size, 0).decode("utf-8", "replace")

    def wait_for(self, pattern: str, *, timeout: float = 30.0, after: int = 0) -> re.Match[str]:
        """The first match of a regular expression in its log, waited for.

        Args:
            pattern: Searched in all of the log, many lines (``^`` and ``$`` are a line's ends).
            timeout: Seconds.
            after: Where in the log to begin; ``match.end()`` of an earlier match finds the next one.

        Raises:
            ProcessError: It ended without a match, or ``timeout`` passed.
        """
        expression = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        while True:
            # Look whether it lives before looking into the log: what it wrote last counts.
            ended = self.returncode is not None
            if match := expression.search(self.log, after):
                return match
            if ended:
                raise self._failed(f"ended with {self.returncode} before it wrote {pattern!r}")
            if time.monotonic() > deadline:
                raise self._failed(f"did not write {pattern!r} within {timeout:g} s")
            time.sleep(POLL)

    def wait(self, timeout: float = 30.0) -> int:
        """What it ends with, waited for.

        Raises:
            ProcessError: It still runs after ``timeout`` seconds.
        """
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._failed(f"still runs after {timeout:g} s") from None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self._child.send_signal(number)

    def freeze(self) -> None:
        """Stop it where it stands: its connections stay open, and nobody answers."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self.send(signal.SIGCONT)

    def kill(self) -> int:
        """End it and all of its process group at once, without a chance to clean up."""
        if self._child.poll() is None:
            # Not reaped yet, so the group is still its own.
            os.killpg(self.pid, signal.SIGKILL)
        returncode = self._child.wait()
        self._close_log()
        return returncode

    def stop(self, timeout: float = 5.0) -> int:
        """Ask it to end, kill it if it has not after ``timeout`` seconds, and tell what it ended with."""
        self.send(signal.SIGTERM)
        self.thaw()  # a frozen process hears nothing
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        return self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _close_log(self) -> None:
        if self._output is None:
            self._output = self.log
            self._file.close()

    def _failed(self, what: str) -> ProcessError:
        lines = self.log.rstrip().splitlines()[-20:]
        tail = "".join(f"\n    {line}" for line in lines) or " nothing"
        return ProcessError(f"{shlex.join(self.command)} {what}; it wrote:{tail}")
