"""The borders to store and broker: how long each operation took and how often it failed, whatever is behind them."""

from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any, TypeVar

from sstream.counters import OperationCounts
from sstream.errors import SStreamError
from sstream.pubsub import Broker
from sstream.pubsub.broker import Listener as Hearer, Recovery
from sstream.pubsub.channels import History
from sstream.pubsub.message import Position
from sstream.session.store import Listener, SessionStore

__all__ = ["CountedBroker", "CountedStore", "Span"]

T = TypeVar("T")

Span = Callable[[str], AbstractContextManager[object]]  # something that stands around an operation of this name


class _Border:
    """Counts operations, and lets a span stand around each, if there are spans."""

    def __init__(self, counts: OperationCounts, span: Span | None) -> None:
        self._counts = counts
        self._span = span

    async def _ask(self, name: str, operation: Coroutine[Any, Any, T]) -> T:
        began = perf_counter()
        try:
            if self._span is None:
                return await operation
            with self._span(name):
                return await operation
        except SStreamError:
            self._counts.errors[name] += 1
            raise
        finally:
            self._counts.times[name].observe(perf_counter() - began)


class CountedStore(_Border):
    """A `SessionStore` whose operations are counted."""

    def __init__(self, store: SessionStore, counts: OperationCounts, span: Span | None = None) -> None:
        super().__init__(counts, span)
        self._store = store

    @property
    def coherent(self) -> bool:
        return self._store.coherent

    async def get(self, key: str) -> bytes | None:
        return await self._ask("get", self._store.get(key))

    async def swap(self, key: str, expected: bytes | None, text: bytes | None, ttl: int) -> tuple[bool, bytes | None]:
        return await self._ask("swap", self._store.swap(key, expected, text, ttl))

    async def delete(self, key: str) -> bool:
        return await self._ask("delete", self._store.delete(key))

    async def touch(self, key: str, ttl: int) -> None:
        await self._ask("touch", self._store.touch(key, ttl))

    async def ttl(self, key: str) -> int | None:
        return await self._ask("ttl", self._store.ttl(key))

    def watch(self, listener: Listener) -> None:
        self._store.watch(listener)

    async def start(self) -> None:
        await self._store.start()

    async def close(self) -> None:
        await self._store.close()


class CountedBroker(_Border):
    """A `Broker` whose operations are counted; ``unsubscribe`` is not, it waits for nobody."""

    def __init__(self, broker: Broker, counts: OperationCounts, span: Span | None = None) -> None:
        super().__init__(counts, span)
        self._broker = broker

    async def start(self, listener: Hearer) -> None:
        await self._broker.start(listener)

    async def close(self) -> None:
        await self._broker.close()

    async def subscribe(self, topics: Collection[str]) -> None:
        await self._ask("subscribe", self._broker.subscribe(topics))

    async def unsubscribe(self, topics: Collection[str]) -> None:
        await self._broker.unsubscribe(topics)

    async def publish(self, topic: str, payload: bytes, history: History | None = None) -> Position | None:
        return await self._ask("publish", self._broker.publish(topic, payload, history))

    async def history(self, topic: str, since: Position | None, history: History) -> Recovery:
        return await self._ask("history", self._broker.history(topic, since, history))

    async def enter(self, topic: str, node: str, users: Mapping[str, bytes], ttl: float) -> None:
        await self._ask("enter", self._broker.enter(topic, node, users, ttl))

    async def leave(self, topic: str, node: str, users: Collection[str], grace: float) -> None:
        await self._ask("leave", self._broker.leave(topic, node, users, grace))

    async def sweep(self, topic: str) -> float | None:
        return await self._ask("sweep", self._broker.sweep(topic))

    async def present(self, topic: str) -> dict[str, bytes]:
        return await self._ask("present", self._broker.present(topic))
