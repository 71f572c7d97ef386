"""Keeps several processes of one application running, and lets all of them go down together.

They share the listening sockets, which the supervisor has opened: a connection that waits to be accepted belongs to
none of them, so whoever drains or dies loses none. With SO_REUSEPORT each would have a queue of its own in the kernel,
and what waits there is reset with its process.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Final

from sstream.limits import Limits
from sstream.serving import SIGNALS, end_by, urls_of

__all__ = ["HURRY", "Leash", "Supervisor"]

_log = logging.getLogger("sstream")

# What ends a process at once that is going down. Not SIGTERM: who stops a service may send that to all its processes
# (systemd does, by default), and ours comes on top.
HURRY: Final = signal.SIGINT

FIRST_PAUSE: Final = 0.1  # seconds before a dead process is replaced; doubled each time
LONGEST_PAUSE: Final = 10.0  # seconds
LONG: Final = 10.0  # seconds of life after which the pauses begin anew
MARGIN: Final = 5.0  # seconds beside its drain time after which a process that does not end is killed
LAST: Final = 1.0  # seconds that the processes get to say what they cut, when a second signal has come


class Leash:
    """The process's end of its connection to the supervisor.

    Args:
        end: One of a pair of sockets.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def tell_up(self, drain: float | None) -> None:
        """Say that this process serves, and how many seconds it may take to drain."""
        self._end.sendall(f"up {'' if drain is None else drain}\n".encode())

    def watch(self) -> asyncio.Event:
        """An event that is set when the supervisor is gone, killed most likely: nobody else would end this process."""
        gone, loop = asyncio.Event(), asyncio.get_running_loop()

        def on_end() -> None:
            loop.remove_reader(self._end)
            _log.warning("the supervisor is gone: going down")
            gone.set()

        loop.add_reader(self._end, on_end)  # it says nothing, so what can be read is its end
        return gone


class _Child:
    """One process, and what is known of it.

    Attributes:
        up: Done when it serves, true, or when it has ended before, false.
        ended: Done when it has ended, with its exit status, negative for a signal.
        drain: Seconds that it may take to drain; ``None`` for as long as it takes.
    """

    def __init__(self, process: asyncio.subprocess.Process, leash: socket.socket) -> None:
        self.pid = process.pid
        self.began = time.monotonic()
        self.drain = Limits().drain
        self.ended = asyncio.ensure_future(process.wait())
        self.up = asyncio.ensure_future(self._come_up(leash))
        self._process = process
        # What it has said is still read. Its end of the leash may live on, in a process that it has forked.
        self.ended.add_done_callback(lambda _: _read_no_more(leash))

    async def _come_up(self, leash: socket.socket) -> bool:
        reader, self._leash = await asyncio.open_connection(sock=leash)
        words = (await reader.readline()).decode().split()
        if words:
            self.drain = float(words[1]) if len(words) > 1 else None
        return bool(words)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def close(self) -> int:
        """Let go of a process that has ended; its exit status."""
        await self.up
        self._leash.close()
        with contextlib.suppress(ConnectionError):
            await self._leash.wait_closed()
        return await self.ended


class Supervisor:
    """Keeps processes running until SIGTERM or SIGINT comes.

    One that dies is replaced, after a pause that grows if it dies again and again. The first must come up before the
    others are started; if it does not, its application cannot be made, and that is the end.

    Args:
        command: What starts a process; ``--sockets`` and ``--leash`` are added.
        count: How many.
        sockets: What they listen to.
    """

    def __init__(self, command: Sequence[str], count: int, sockets: Sequence[socket.socket]) -> None:
        self._command = command
        self._count = count
        self._sockets = sockets
        self._children: set[_Child] = set()
        self._up = 0  # how many have ever come up
        self._status = 0

    async def run(self) -> int:
        """Keep them until all are to end; the exit status."""
        loop = asyncio.get_running_loop()
        self._first_up: asyncio.Future[None] = loop.create_future()
        self._ending: asyncio.Future[None] = loop.create_future()
        self._hurrying: asyncio.Future[signal.Signals] = loop.create_future()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep())
            await _one_of(self._first_up, self._ending)
            for _ in range(self._count - 1):
                group.create_task(self._keep())
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        if self._hurrying.done():
            end_by(self._hurrying.result())
        return self._status

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._ending.done():
            _log.info("%s: %d processes are going down", number.name, len(self._children))
            self._end()
        elif not self._hurrying.done():
            _log.warning("%s came again: ending at once", number.name)
            self._hurrying.set_result(number)

    def _end(self) -> None:
        for listening in self._sockets:
            listening.close()
        self._ending.set_result(None)

    async def _keep(self) -> None:
        """Keep one process running, and whoever takes its place."""
        pause = FIRST_PAUSE
        while not self._ending.done():
            try:
                child = await self._start()
            except OSError as error:
                if not self._up:
                    _log.error("no process can be started: %s", error)
                    self._status = 1
                    self._end()
                    break
                # There is no process, memory or descriptor left now; there may be again.
                _log.error("no process can be started: %s; another attempt in %.1f s", error, pause)
                await _one_of(self._ending, timeout=pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            await _one_of(child.up, self._ending)
            came_up = child.up.done() and child.up.result()
            if came_up and not self._ending.done():  # both in one turn: the end it is, and the sockets are closed
                self._say_up(child)
            await _one_of(child.ended, self._ending)
            if not child.ended.done():
                await self._go_down(child)
            self._children.discard(child)
            status = await child.close()
            if self._ending.done():
                break
            if not self._up:
                self._status = status if status > 0 else 1
                self._end()
                break
            lived = time.monotonic() - child.began
            if lived > LONG or (came_up and status == 0):
                pause = FIRST_PAUSE
            _log.error("process %d %s after %.1f s; another in %.1f s", child.pid, _how(status), lived, pause)
            await _one_of(self._ending, timeout=pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        numbers = [listening.fileno() for listening in self._sockets]
        arguments = ["--sockets", ",".join(map(str, numbers)), "--leash", str(theirs.fileno())]
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    *arguments,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[*numbers, theirs.fileno()],
                    process_group=0,  # Ctrl-C in a terminal reaches us alone, and we tell them
                )
            except BaseException:
                ours.close()
                raise
        child = _Child(process, ours)
        self._children.add(child)
        return child

    def _say_up(self, child: _Child) -> None:
        self._up += 1
        if self._up == 1:
            self._first_up.set_result(None)
        if self._up == self._count:
            pids = ", ".join(str(pid) for pid in sorted(child.pid for child in self._children))
            _log.info("listening on %s with %d processes: %s", urls_of(self._sockets), self._count, pids)
        elif self._up > self._count:
            _log.info("process %d is up", child.pid)

    async def _go_down(self, child: _Child) -> None:
        """End a process gently, or else."""
        child.send(signal.SIGTERM)
        limit = None if child.drain is None else child.drain + MARGIN
        await _one_of(child.ended, self._hurrying, timeout=limit)
        if self._hurrying.done():
            child.send(HURRY)
            await _one_of(child.ended, timeout=LAST)
        if not child.ended.done():
            _log.error("process %d does not end and is killed", child.pid)
            self._status = 1
            child.send(signal.SIGKILL)


def _read_no_more(leash: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        leash.shutdown(socket.SHUT_RD)


async def _one_of(*futures: "asyncio.Future[Any]", timeout: float | None = None) -> None:
    """Return when one of them is done, or the time is over."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"  # one of the real-time ones, most of which have no name
