"""What an application publishes, noted."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from sstream.application import Application
from sstream.pubsub.broker import Broker
from sstream.pubsub.channels import History
from sstream.pubsub.message import Position
from sstream.pubsub.publisher import Publisher
from sstream.testing.waiting import within

__all__ = ["Capture", "Published", "capture"]


class Published(NamedTuple):
    """One event: ``topic`` is ``"all"``, ``"user:ada"``, ``"channel:lobby"`` or ``"socket:8f3c..."``."""

    topic: str
    event: str
    args: list[Any]


class Capture(list[Published]):
    """What was published since it began, in the order in which it was handed to the broker.

    It is a list of `Published`, each equal to ``(topic, event, args)``; to publish to two users makes two of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._came = asyncio.Event()

    def of(self, event: str, topic: str | None = None) -> list[list[Any]]:
        """The arguments of every event of this name, to ``topic`` alone if that is given."""
        return [found.args for found in self if found.event == event and topic in {None, found.topic}]

    async def receive(self, event: str, topic: str | None = None, *, timeout: float | None = None) -> list[Any]:
        """The arguments of the first event of this name, waited for, taken out.

        Raises:
            AssertionError: It was not published in time; the message tells what was.
        """

        async def look() -> list[Any]:
            while True:
                for found in self:
                    if found.event == event and topic in {None, found.topic}:
                        self.remove(found)
                        return found.args
                self._came.clear()
                await self._came.wait()

        __tracebackhide__ = True
        where = "" if topic is None else f" to {topic}"
        return await within(look(), lambda: f"no event {event!r} was published{where}; {self._seen()}", timeout)

    def note(self, published: Published) -> None:
        """Add one."""
        self.append(published)
        self._came.set()

    def _seen(self) -> str:
        return "there were:" + ("".join(f"\n    {tuple(found)!r}" for found in self) or " none")


class _Tap:
    """The broker as far as a publisher needs it; what goes through is noted."""

    def __init__(self, broker: Broker, published: Capture) -> None:
        self._broker = broker
        self._published = published

    async def publish(self, topic: str, payload: bytes, history: History | None = None) -> Position | None:
        _, event, args, *_ = msgspec.msgpack.decode(payload)
        self._published.note(Published(topic, event, args))
        return await self._broker.publish(topic, payload, history)


@contextmanager
def capture(application: Application) -> Iterator[Capture]:
    """Note what ``application`` publishes, by ``app.publish`` and its handlers' ``self.publish``; it is delivered too.

    Like this::

        with capture(app) as published:
            await ws.call("cart.add", "tea", 1)
        assert published == [("user:ada", "cart", [{"tea": 1}])]
    """
    published = Capture()
    before = application.publish
    tap: Any = _Tap(application.broker, published)  # a publisher asks nothing else of its broker
    application.publish = Publisher(tap, channel_options=application.channel_options)
    try:
        yield published
    finally:
        application.publish = before
