"""What all sockets of one event loop share: the end of a turn, the pings, the log."""

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING

from tornado.ioloop import IOLoop

if TYPE_CHECKING:
    from sstream.websocket.connection import Connection

__all__ = ["Engine", "Pulse", "flush_sockets"]

logger = logging.getLogger("sstream.websocket")

# Pings and their answers are looked at together, at most so often.
_GRAIN = 0.25  # seconds

# What peers do wrong is told, but a hostile peer must not fill the disk with it.
_SECONDS_PER_COMPLAINT = 1.0


class Engine:
    """One for each event loop; get it by `Engine.of`."""

    __slots__ = (
        "_complained",
        "_context",
        "_dirty",
        "_is_due",
        "_pulses",
        "_unsaid",
        "done",
        "loop",
        "may_drop_readers",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # Does it forget who reads a socket without being told so? asyncio's own never does.
        self.may_drop_readers = not isinstance(loop, asyncio.SelectorEventLoop)
        # The future of every message that needs no waiting for: Tornado makes a task for each.
        self.done: asyncio.Future[None] = loop.create_future()
        self.done.set_result(None)
        self._context = contextvars.copy_context()
        self._dirty: list[Connection] = []
        self._is_due = False  # `_flush` will be called
        self._pulses: dict[tuple[float, float], Pulse] = {}
        self._complained = -_SECONDS_PER_COMPLAINT
        self._unsaid = 0

    @classmethod
    def of(cls, io_loop: IOLoop) -> "Engine":
        """Give the engine of a loop; it lives as long as Tornado's loop object."""
        attributes = vars(io_loop)
        engine: Engine | None = attributes.get("_sstream_engine")
        if engine is None:
            engine = attributes["_sstream_engine"] = cls(asyncio.get_running_loop())
        return engine

    def flush_later(self, connection: "Connection") -> None:
        """Flush a socket when the callbacks of this turn have run, with all others that were written to."""
        # One callback for all: a publish to 1,000 sockets would make 1,000 handles.
        if not self._is_due:
            self._is_due = True
            self.loop.call_soon(self._flush, context=self._context)
        self._dirty.append(connection)

    def _flush(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Flush the sockets that were written to, now."""
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def pulse(self, interval: float, timeout: float) -> "Pulse":
        """Give the timer of all sockets with these intervals."""
        pulse = self._pulses.get((interval, timeout))
        if pulse is None:
            pulse = self._pulses[interval, timeout] = Pulse(self.loop, interval, timeout)
        return pulse

    def complain(self, code: int, reason: str) -> None:
        """Log that a peer was closed for what it did, in one short line, and not more than one a second."""
        now = self.loop.time()
        if now - self._complained < _SECONDS_PER_COMPLAINT:
            self._unsaid += 1
            return
        self._complained = now
        unsaid, self._unsaid = self._unsaid, 0
        logger.info("closed a socket with %d: %s%s", code, reason, f" ({unsaid} more since the last)" if unsaid else "")


def flush_sockets() -> None:
    """Send what the sockets of the running loop were given, instead of at the end of the turn."""
    Engine.of(IOLoop.current()).flush()


class Pulse:
    """Pings all its sockets every ``interval`` seconds, from one timer, and ends those that give no sign of life.

    A socket has ``timeout`` seconds from the ping to send anything at all; 0 means that it never needs to. One that is
    silent is ended within ``interval + timeout`` seconds and a fraction.
    """

    __slots__ = ("_asked", "_due", "_grain", "_interval", "_loop", "_rest", "_timeout", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float, timeout: float) -> None:
        self._loop = loop
        self._interval = interval
        self._timeout = timeout
        self._rest = max(interval - timeout, 0.0)
        self._grain = min(_GRAIN, interval, timeout or interval)
        # Invariant: a socket is in one of the two; both are ordered by time, for each wait is the same for all.
        self._due: dict[Connection, float] = {}
        self._asked: dict[Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "Connection") -> None:
        """Ping a socket from now on."""
        self._due[connection] = self._loop.time() + self._interval
        if self._timer is None:
            self._wind()

    def discard(self, connection: "Connection") -> None:
        """Let a socket be."""
        self._due.pop(connection, None)
        self._asked.pop(connection, None)

    def _wind(self) -> None:
        first = min((next(iter(waits.values())) for waits in (self._due, self._asked) if waits), default=None)
        self._timer = None
        if first is not None:
            self._timer = self._loop.call_at(max(first, self._loop.time() + self._grain), self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        for connection in self._take(self._asked, now):
            # The loop may have been busy, or the socket not read for reasons of ours: then the kernel has the answer.
            if connection.heard or connection.has_input():
                self._due[connection] = now + self._rest
            else:
                connection.end_silently()
        for connection in self._take(self._due, now):
            connection.heard = False
            if self._timeout:
                self._asked[connection] = now + self._timeout
            else:
                self._due[connection] = now + self._interval
            connection.write_ping(b"")
        self._wind()

    @staticmethod
    def _take(waits: "dict[Connection, float]", now: float) -> "list[Connection]":
        taken = []
        for connection, when in waits.items():
            if when > now:
                break
            taken.append(connection)
        for connection in taken:
            del waits[connection]
        return taken
