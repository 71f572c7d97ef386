"""What the inspector shows: every second a snapshot, for as long as anybody watches."""

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, Final

from sstream.counters import BOUNDS
from sstream.logs import session_name
from sstream.session.commits import log_name

if TYPE_CHECKING:
    from sstream.application import Application
    from sstream.handlers import RPCHandler

__all__ = ["OWN", "Feed", "Own"]

OWN: Final = "sstream.inspector."  # methods of the inspector's own, which it does not show
_EVERY: Final = 1.0  # seconds
_SAMPLES: Final = 200  # calls of a method that are timed for a snapshot: 2.4 ms of a second, so that p99 is one of them
_KEPT: Final = 120  # snapshots that a page that is just opened gets
_SLOWEST: Final = 12
_FAILED: Final = 40
_CHANGED: Final = 2000
_TOLD: Final = 300  # changes that a page is told of at most
_LISTED: Final = 200  # sockets, channels and users that are listed; the largest first
_MEMORY: Final = 60.0  # seconds that a slow call is remembered


class Feed:
    """Snapshots of one application; nothing is looked at while nobody watches."""

    def __init__(self, application: "Application", every: float = _EVERY) -> None:
        self._application = application
        self._every = every
        self._watchers = 0
        self._ticker: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._made = 0  # snapshots so far; the last of them stands last in _past
        self._past: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._before: dict[str, tuple[int, int, list[int]]] = {}
        self._counted = 0, 0
        self._counted_crowds: tuple[int, dict[str, Any]] = -1, {}
        self._slow: deque[tuple[float, float, str, str]] = deque()  # when, seconds, method, socket
        self._failed: deque[dict[str, Any]] = deque(maxlen=_FAILED)
        self._changes: deque[dict[str, Any]] = deque(maxlen=_CHANGED)

    @property
    def is_watched(self) -> bool:
        """Does anybody look?"""
        return self._watchers > 0

    async def watch(self) -> AsyncGenerator[dict[str, Any], None]:
        """The snapshots of the last two minutes that were watched, then one every second."""
        self._watchers += 1
        if self._watchers == 1:
            self._begin()
        try:
            seen = self._made
            yield {"past": list(self._past)}
            while True:
                if seen == self._made:
                    assert self._next is not None
                    # Shielded: one who leaves must not end it for the others.
                    await asyncio.shield(self._next)
                # Who reads slowly gets all of them nevertheless, as far back as they are kept.
                seen = max(seen + 1, self._made - len(self._past) + 1)
                yield self._past[seen - self._made - 1]
        finally:
            self._watchers -= 1
            if self._watchers == 0:
                self._end()

    def _begin(self) -> None:
        counters = self._application.counters
        counters.calls.watch.watcher = self._on_call
        counters.sessions.watcher = self._on_change
        loop = asyncio.get_running_loop()
        self._next = loop.create_future()
        self._past.clear()
        # What came while nobody watched is no rate.
        self._measure()
        self._count()
        self._ticker = loop.create_task(self._tick())

    def _end(self) -> None:
        counters = self._application.counters
        counters.calls.watch.watcher = None
        counters.calls.look_away()
        counters.sessions.watcher = None
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if self._next is not None:
            self._next.cancel()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._every
            await asyncio.sleep(self._every)
            lag = max(loop.time() - due, 0.0)
            snapshot = self._snapshot(lag, loop.time() - due + self._every)
            self._past.append(snapshot)
            self._made += 1
            done, self._next = self._next, loop.create_future()
            if done is not None:
                done.set_result(None)

    # --- what happens meanwhile ---------------------------------------------------------------------------------------

    def _on_call(self, method: str, socket: str, code: int | None, seconds: float | None) -> None:
        if method.startswith(OWN):
            return
        if code is not None:
            self._failed.appendleft(
                {"at": time.time(), "method": method or "(unknown)", "socket": socket, "code": code}
            )
        elif seconds is not None:
            self._slow.append((time.monotonic(), seconds, method, socket))
            if len(self._slow) > 20 * _SLOWEST:
                self._forget()

    def _forget(self) -> None:
        """Of the calls that are remembered, keep the slowest of the last minute."""
        since = time.monotonic() - _MEMORY
        recent = sorted((call for call in self._slow if call[0] >= since), key=lambda call: -call[1])
        self._slow = deque(recent[:_SLOWEST])

    def _on_change(self, sid: str, keys: frozenset[str], transport: str, socket: Any) -> None:
        handler = getattr(socket, "listener", None)
        self._changes.appendleft(
            {
                "at": time.time(),
                "session": log_name(sid),
                "keys": sorted(keys),
                "transport": transport,
                "socket": getattr(handler, "id", None),
            }
        )

    # --- a snapshot ---------------------------------------------------------------------------------------------------

    def _measure(self) -> dict[str, tuple[int, int, list[int]]]:
        """What has come since the last time, by method: answers, errors, times."""
        counts = self._application.counters.calls
        now: dict[str, tuple[int, int, list[int]]] = {}
        for method in counts.methods:
            if method.name.startswith(OWN):
                continue
            answered, errors, times = now.get(method.name, (0, 0, [0] * (len(BOUNDS) + 1)))
            now[method.name] = (
                answered + method.answered,
                errors + sum(method.errors.values()),
                [a + b for a, b in zip(times, method.times.counts, strict=True)],
            )
        nothing = (0, 0, [0] * (len(BOUNDS) + 1))
        before, self._before = self._before, now
        counts.look_closer(_SAMPLES)
        return {
            name: (
                answered - before.get(name, nothing)[0],
                errors - before.get(name, nothing)[1],
                [a - b for a, b in zip(times, before.get(name, nothing)[2], strict=True)],
            )
            for name, (answered, errors, times) in now.items()
        }

    def _count(self) -> tuple[int, int]:
        """Calls of no method of ours, and pages, since the last time."""
        counters = self._application.counters
        unknown, pages = self._counted
        self._counted = sum(counters.calls.unknown.errors.values()), sum(counters.pages.values())
        return self._counted[0] - unknown, self._counted[1] - pages

    def _snapshot(self, lag: float, seconds: float) -> dict[str, Any]:
        application = self._application
        unknown, pages = self._count()
        methods, heat = [], [0] * (len(BOUNDS) + 1)
        for name, (answered, errors, times) in self._measure().items():
            heat = [a + b for a, b in zip(heat, times, strict=True)]
            if answered or errors:
                row: dict[str, Any] = {"name": name, "ok": answered / seconds, "failed": errors / seconds}
                methods.append(row | {"p50": _quantile(times, 0.5), "p99": _quantile(times, 0.99)})
        sockets = [socket for socket in application.sockets.values() if not isinstance(socket, Own)]
        self._forget()
        return {
            "at": time.time(),
            "ok": sum(row["ok"] for row in methods),
            "failed": sum(row["failed"] for row in methods) + unknown / seconds,
            "pages": pages / seconds,
            "methods": methods,
            "heat": heat,
            "lag": lag,
            "sockets": len(sockets),
            "users": sum(topic.startswith("user:") for topic in application.hub.topics),
            "channels": sum(topic.startswith("channel:") for topic in application.hub.topics),
            "queued": sum(socket.queued for socket in sockets),
            "in_flight": sum(socket.calls_in_flight for socket in sockets),
        }

    def calls(self) -> dict[str, Any]:
        """The slowest calls of the last minute, and the last that failed."""
        self._forget()
        now, wall = time.monotonic(), time.time()
        slow = [
            {"at": wall - (now - when), "seconds": seconds, "method": method, "socket": socket}
            for when, seconds, method, socket in self._slow
        ]
        return {"slow": slow, "failed": list(self._failed)}

    def changes(self, session: str | None) -> list[dict[str, Any]]:
        """Who changed which keys, the newest first; of one session or of all."""
        of_it = (change for change in self._changes if session in {None, change["session"]})
        return list(itertools.islice(of_it, _TOLD))

    def who(self, names: str = "") -> dict[str, Any]:
        """The sockets, channels and users of this process; so many are looked at closely, however many there are.

        Args:
            names: Whom to list before all others: ids of sockets, users or channels, with blanks between.
        """
        hub = self._application.hub
        sockets = [socket for socket in self._application.sockets.values() if not isinstance(socket, Own)]
        stuck = heapq.nlargest(_LISTED, (socket for socket in sockets if socket.queued), key=lambda one: one.queued)
        listed = itertools.islice(dict.fromkeys((*self._named(names), *stuck, *sockets[:_LISTED])), _LISTED)
        described = [_describe(socket, hub.topics_of(socket)) for socket in listed]
        # Who does not read comes first; but for that a row stays where it is.
        described.sort(key=lambda socket: (-socket["queued"], socket["user"] or "~", socket["id"]))
        return {
            "sockets": described,
            "hidden": len(sockets) - len(described),
            **self._crowds(),
        }

    def _crowds(self) -> dict[str, Any]:
        """The largest channels and users; counted once a snapshot, for all watchers."""
        made, crowds = self._counted_crowds
        if not self.is_watched or made != self._made:
            crowds = {"channels": self._largest("channel:"), "users": self._largest("user:")}
            self._counted_crowds = self._made, crowds
        return crowds

    def _named(self, names: str) -> Iterator[Any]:
        hub = self._application.hub
        for name in names.split():
            socket = self._application.sockets.get(name)
            found = (*([socket] if socket is not None else ()), *hub.sockets_of(f"user:{name}"))
            yield from (one for one in (*found, *hub.sockets_of(f"channel:{name}")) if not isinstance(one, Own))

    def _largest(self, prefix: str) -> list[tuple[str, int]]:
        hub = self._application.hub
        sizes = ((topic.removeprefix(prefix), hub.size_of(topic)) for topic in hub.topics if topic.startswith(prefix))
        return heapq.nsmallest(_LISTED, sizes, key=lambda item: (-item[1], item[0]))


class Own:
    """Marks the inspector's own sockets, which it does not show."""


def _describe(socket: "RPCHandler", topics: frozenset[str]) -> dict[str, Any]:
    user = next((topic[5:] for topic in topics if topic.startswith("user:")), None)
    return {
        "id": socket.id,
        "handler": type(socket).__name__,
        "user": user,
        "session": session_name(socket),
        "channels": sorted(topic[8:] for topic in topics if topic.startswith("channel:")),
        "queued": socket.queued,
        "in_flight": socket.calls_in_flight,
    }


def _quantile(counts: list[int], share: float) -> float | None:
    """Seconds that ``share`` of the calls stayed below, between the bounds in a straight line."""
    wanted, passed = sum(counts) * share, 0
    for index, count in enumerate(counts):
        if count and passed + count >= wanted:
            low = BOUNDS[index - 1] if index else 0.0
            high = BOUNDS[min(index, len(BOUNDS) - 1)]
            return low + (high - low) * (wanted - passed) / count
        passed += count
    return None
