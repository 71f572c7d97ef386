"""Where sessions are kept: the contract of every store, and the one in memory."""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from typing import Protocol, Self, runtime_checkable

from sstream.errors import ConfigurationError

__all__ = ["Listener", "MemoryStore", "SessionStore"]

Listener = Callable[[str | None], None]

_log = logging.getLogger("sstream.session")


@runtime_checkable
class SessionStore(Protocol):
    """Texts with a lifetime, compare-and-set, and a watch. It knows no JSON, no cookies and no Tornado.

    Any key may be asked for; those of sessions start with ``SessionOptions.prefix``. Every coroutine raises
    `StoreError` where the store did not answer in time or answered with an error, and never anything else.

    Guarantee: what `swap` or `delete` returned is stored; after a `StoreError` it is unknown whether it is.
    """

    @property
    def coherent(self) -> bool:
        """Will every change by others be reported from now on? While not, no copy may be used without reading."""

    async def get(self, key: str) -> bytes | None:
        """The text at ``key``, or ``None``. From now on the next change of it is reported to the listeners."""

    async def swap(self, key: str, expected: bytes | None, text: bytes | None, ttl: int) -> tuple[bool, bytes | None]:
        """Store ``text`` for ``ttl`` seconds if ``expected`` is what is stored: ``(made, stored)``.

        ``stored`` is what stands there afterwards: ``text`` if the swap was made, else somebody else's. ``None`` is
        the absence of a text, before and after. From now on the next change is reported to the listeners.
        """

    async def delete(self, key: str) -> bool:
        """Remove whatever is at ``key``; was there anything? It works for a full store too."""

    async def touch(self, key: str, ttl: int) -> None:
        """Give the text at ``key`` another ``ttl`` seconds from now. An unknown key is no error."""

    async def ttl(self, key: str) -> int | None:
        """Seconds that the text at ``key`` has left, rounded up; ``None`` if there is none."""

    def watch(self, listener: Listener) -> None:
        """Call ``listener(key)`` when anybody else changed, removed or let expire what was read or swapped here.

        It is called at least once for the first change after each read, from the event loop, and must not block.
        ``listener(None)`` says that any key may have changed, and is called whenever `coherent` changes.
        """

    async def start(self) -> None:
        """Connect, if there is anything to connect to. A store that is not started starts at first use."""

    async def close(self) -> None:
        """Let go of everything. Safe to call twice."""


class MemoryStore:
    """Sessions in this process alone; they end with it. For development and tests.

    Args:
        max_texts: How many texts it holds at most. The one that would expire first makes room, with a warning.
        clock: Unix time in seconds; a test turns it by hand and calls `expire`.
    """

    def __init__(self, *, max_texts: int = 100_000, clock: Callable[[], float] = time.time) -> None:
        if max_texts < 1:
            raise ConfigurationError(f"max_texts={max_texts}; at least 1")
        self._max_texts = max_texts
        self._clock = clock
        self._texts: dict[str, tuple[bytes, float]] = {}  # key -> text, Unix time of its end
        self._ends: list[tuple[float, str]] = []  # a heap; an entry that no longer fits _texts is stale
        self._stores: list[MemoryStore] = [self]
        self._listeners: list[Listener] = []
        self._timer: asyncio.TimerHandle | None = None

    def share(self) -> Self:
        """Another store on the same texts, as a second process would have; what one writes the others hear."""
        store = type(self)(max_texts=self._max_texts, clock=self._clock)
        store._texts, store._ends, store._stores = self._texts, self._ends, self._stores
        self._stores.append(store)
        return store

    @property
    def coherent(self) -> bool:
        return True

    async def get(self, key: str) -> bytes | None:
        return self._read(key)

    async def swap(self, key: str, expected: bytes | None, text: bytes | None, ttl: int) -> tuple[bool, bytes | None]:
        stored = self._read(key)
        if stored != expected:
            return False, stored
        if text is None or ttl <= 0:
            if stored is not None:
                self._remove(key)
            return True, None
        end = self._clock() + ttl
        self._texts[key] = (text, end)
        self._schedule(key, end)
        if len(self._texts) > self._max_texts:
            self._evict(key)
        self._report(key)
        return True, text

    async def delete(self, key: str) -> bool:
        return self._read(key) is not None and self._remove(key)

    async def touch(self, key: str, ttl: int) -> None:
        text = self._read(key)
        if text is None:
            return
        if ttl <= 0:
            self._remove(key)
            return
        end = self._clock() + ttl
        self._texts[key] = (text, end)
        self._schedule(key, end)

    async def ttl(self, key: str) -> int | None:
        return None if self._read(key) is None else max(1, round(self._texts[key][1] - self._clock() + 0.499))

    def watch(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        self._arm()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._listeners.clear()
        if self in self._stores:
            self._stores.remove(self)
            if self._stores:
                self._stores[0]._arm()  # what this one has written shall expire by itself nevertheless

    def expire(self) -> None:
        """Remove every text whose time has come; a timer does so by itself."""
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            end, key = heapq.heappop(self._ends)
            if key in self._texts and self._texts[key][1] == end:
                self._remove(key, everywhere=True)

    def _read(self, key: str) -> bytes | None:
        found = self._texts.get(key)
        if found is None:
            return None
        text, end = found
        if end > self._clock():
            return text
        self._remove(key, everywhere=True)
        return None

    def _remove(self, key: str, *, everywhere: bool = False) -> bool:
        del self._texts[key]
        self._report(key, everywhere=everywhere)
        return True

    def _report(self, key: str, *, everywhere: bool = False) -> None:
        for store in self._stores:
            if everywhere or store is not self:
                for listener in store._listeners:
                    listener(key)

    def _schedule(self, key: str, end: float) -> None:
        heapq.heappush(self._ends, (end, key))
        # Invariant: at most about half of the heap is stale, however often a session is touched.
        if len(self._ends) > 2 * len(self._texts) + 64:
            self._ends[:] = [(end, key) for key, (_, end) in self._texts.items()]
            heapq.heapify(self._ends)
        self._arm()

    def _arm(self) -> None:
        if not self._ends:
            return
        # Ten times a second at most: an expiry may be that late for those who watch, never for those who read.
        delay = max(self._ends[0][0] - self._clock(), 0.1)
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.expire()
        self._arm()

    def _evict(self, newest: str) -> None:
        kept = None
        while self._ends:
            end, key = heapq.heappop(self._ends)
            if key not in self._texts or self._texts[key][1] != end:
                continue
            if key != newest:
                _log.warning("MemoryStore is full (%d texts): the one nearest to its end made room", self._max_texts)
                self._remove(key, everywhere=True)
                break
            kept = (end, key)
        if kept is not None:
            heapq.heappush(self._ends, kept)
