"""A store and a broker that note what is asked of them, and fail, wait or are outrun where a test wants it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from sstream.errors import BrokerError, SStreamError, StoreError
from sstream.pubsub.broker import Broker, Listener, Recovery
from sstream.pubsub.channels import History
from sstream.pubsub.message import Position
from sstream.session.store import SessionStore
from sstream.testing.waiting import within

__all__ = ["BrokerProbe", "Hold", "StoreProbe"]

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Rule:
    """What befalls an operation, where, and how often yet; ``None`` means for ever."""

    operation: str
    key: str
    after: bool
    times: int | None

    def matches(self, operation: str, keys: Collection[str], after: bool) -> bool:
        return (
            (self.operation, self.after) == (operation, after)
            and self.times != 0
            and any(key.startswith(self.key) for key in keys)
        )

    def use(self) -> None:
        if self.times is not None:
            self.times -= 1


@dataclass(eq=False, slots=True)
class _Delay(_Rule):
    seconds: float


@dataclass(eq=False, slots=True)
class _Race(_Rule):
    rival: Callable[[], Awaitable[Any]]


@dataclass(eq=False, slots=True)
class Hold(_Rule):
    """An operation that waits until the test lets it go; see `StoreProbe.hold`.

    Attributes:
        reached: Set when the operation was asked for, and stands.
    """

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        """Wait until the operation was asked for, and stands."""
        await within(self.reached.wait(), f"{self.operation} was not asked for")

    def release(self) -> None:
        """Let it go on: to the store, or from there back to who asked."""
        self._gate.set()


class _Probe:
    """Stands before a store or a broker.

    Wherever a ``key`` can be named, only operations on keys (topics, with a broker) that start with it are meant. With
    ``after`` a thing happens when the operation is done, on its way back: the caller does not know that it was.

    Attributes:
        asked: Every operation in order, as ``(name, key)``.
    """

    _error: ClassVar[type[SStreamError]]

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self._failures: list[_Rule] = []
        self._delays: list[_Delay] = []
        self._stops: list[Hold | _Race] = []

    def fail(self, *operations: str, key: str = "", after: bool = False, times: int | None = None) -> None:
        """From now on let these raise, ``times`` times each, or until `heal`."""
        self._failures += [_Rule(operation, key, after, times) for operation in operations]

    def delay(self, *operations: str, seconds: float, key: str = "", times: int | None = None) -> None:
        """From now on let these take so long before they begin, ``times`` times each, or until `heal`."""
        self._delays += [_Delay(operation, key, False, times, seconds) for operation in operations]

    def heal(self) -> None:
        """Let nothing fail or be slow any more."""
        self._failures.clear()
        self._delays.clear()

    def hold(self, operation: str, key: str = "", *, after: bool = False) -> Hold:
        """Let the next such operation wait until it is released: ``await hold.wait()``, ``hold.release()``."""
        hold = Hold(operation, key, after, 1)
        self._stops.append(hold)
        return hold

    def race(self, operation: str, rival: Callable[[], Awaitable[Any]], key: str = "", *, after: bool = False) -> None:
        """Run ``rival`` when the next such operation is asked for, before it begins: somebody else was faster."""
        self._stops.append(_Race(operation, key, after, 1, rival))

    async def _ask(self, operation: str, keys: Collection[str], call: Callable[[], Awaitable[T]]) -> T:
        self.asked += [(operation, key) for key in keys]
        await self._meet(operation, keys, after=False)
        result = await call()
        await self._meet(operation, keys, after=True)
        return result

    async def _meet(self, operation: str, keys: Collection[str], *, after: bool) -> None:
        for delay in [rule for rule in self._delays if rule.matches(operation, keys, after)]:
            delay.use()
            await asyncio.sleep(delay.seconds)
        stop = next((rule for rule in self._stops if rule.matches(operation, keys, after)), None)
        if stop is not None:
            self._stops.remove(stop)
            if isinstance(stop, Hold):
                stop.reached.set()
                await stop._gate.wait()
            else:
                await stop.rival()
        failure = next((rule for rule in self._failures if rule.matches(operation, keys, after)), None)
        if failure is not None:
            failure.use()
            raise self._error(f"{operation} fails{' afterwards' if after else ''}, as the test wants it")


class StoreProbe(_Probe):
    """Stands before a store, as one itself: ``Application(..., store=StoreProbe(MemoryStore()))``.

    The operations are those of `SessionStore`: ``get``, ``swap``, ``delete``, ``touch``, ``ttl``. What it lets fail
    raises `StoreError`, as the contract has it.

    Args:
        store: Where the texts are.
        deadline: Seconds after which an operation fails that is held or slow; ``None`` lets it take its time.
    """

    _error = StoreError

    def __init__(self, store: SessionStore, *, deadline: float | None = None) -> None:
        super().__init__()
        self.store = store
        self._deadline = deadline

    @property
    def coherent(self) -> bool:
        return self.store.coherent

    async def get(self, key: str) -> bytes | None:
        return await self._ask_store("get", key, lambda: self.store.get(key))

    async def swap(self, key: str, expected: bytes | None, text: bytes | None, ttl: int) -> tuple[bool, bytes | None]:
        return await self._ask_store("swap", key, lambda: self.store.swap(key, expected, text, ttl))

    async def delete(self, key: str) -> bool:
        return await self._ask_store("delete", key, lambda: self.store.delete(key))

    async def touch(self, key: str, ttl: int) -> None:
        await self._ask_store("touch", key, lambda: self.store.touch(key, ttl))

    async def ttl(self, key: str) -> int | None:
        return await self._ask_store("ttl", key, lambda: self.store.ttl(key))

    def watch(self, listener: Callable[[str | None], None]) -> None:
        self.store.watch(listener)

    async def start(self) -> None:
        await self.store.start()

    async def close(self) -> None:
        await self.store.close()

    def expire(self) -> None:
        """Remove what has expired by a clock that was turned, from a `MemoryStore`; others do so by themselves."""
        expire = getattr(self.store, "expire", None)
        if expire is not None:
            expire()

    async def _ask_store(self, operation: str, key: str, call: Callable[[], Awaitable[T]]) -> T:
        limit = asyncio.timeout(self._deadline)
        try:
            async with limit:
                return await self._ask(operation, (key,), call)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise StoreError(f"{operation} took longer than {self._deadline:g} s") from error


class BrokerProbe(_Probe):
    """Stands before a broker, as one itself: ``Application(..., broker=BrokerProbe(MemoryBroker()))``.

    The operations are those of `Broker`: ``subscribe``, ``publish``, ``history``, ``enter``, ``leave``, ``sweep``,
    ``present``; ``unsubscribe`` is noted alone, as it waits for nobody and does not fail. What it lets fail raises
    `BrokerError`, as the contract has it.
    """

    _error = BrokerError

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self.broker = broker
        self._topics: set[str] = set()
        self._listener: Listener | None = None

    @property
    def connected(self) -> bool:
        """Is the broker there?"""
        return bool(getattr(self.broker, "connected", True))

    def lose(self, *topics: str) -> None:
        """Tell the application that events to ``topics`` may be lost, to all it listens to if none is named."""
        if self._listener is not None:
            self._listener.missed(topics or tuple(self._topics))

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        await self.broker.start(listener)

    async def close(self) -> None:
        self._listener = None
        await self.broker.close()

    async def subscribe(self, topics: Collection[str]) -> None:
        self._topics.update(topics)
        await self._ask("subscribe", topics, lambda: self.broker.subscribe(topics))

    async def unsubscribe(self, topics: Collection[str]) -> None:
        self._topics.difference_update(topics)
        self.asked += [("unsubscribe", topic) for topic in topics]
        await self.broker.unsubscribe(topics)

    async def publish(self, topic: str, payload: bytes, history: History | None = None) -> Position | None:
        return await self._ask("publish", (topic,), lambda: self.broker.publish(topic, payload, history))

    async def history(self, topic: str, since: Position | None, history: History) -> Recovery:
        return await self._ask("history", (topic,), lambda: self.broker.history(topic, since, history))

    async def enter(self, topic: str, node: str, users: Mapping[str, bytes], ttl: float) -> None:
        await self._ask("enter", (topic,), lambda: self.broker.enter(topic, node, users, ttl))

    async def leave(self, topic: str, node: str, users: Collection[str], grace: float) -> None:
        await self._ask("leave", (topic,), lambda: self.broker.leave(topic, node, users, grace))

    async def sweep(self, topic: str) -> float | None:
        return await self._ask("sweep", (topic,), lambda: self.broker.sweep(topic))

    async def present(self, topic: str) -> dict[str, bytes]:
        return await self._ask("present", (topic,), lambda: self.broker.present(topic))
