"""Listeners and sockets that keep what they get, and can be waited for."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from sstream import testing
from sstream.pubsub import Burst, ChannelOptions, History, Message, Position

PATIENCE = 20.0  # seconds; only a failure meets it

LAST_TEN = History(10, 60)


def with_history(name: str) -> ChannelOptions:
    """Channels whose name begins with ``kept`` have a history of ten events, those with ``here`` have presence."""
    return ChannelOptions(
        history=(10, 60) if name.startswith("kept") else None,
        presence=name.startswith("here"),
    )


async def eventually(condition: Callable[[], Any]) -> None:
    """Return when a condition holds that nothing tells of."""
    await testing.eventually(condition, "the condition does not hold", PATIENCE)


class _Waitable:
    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def _change(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise AssertionError(f"waited in vain; there is {self!r}") from error


class Ear(_Waitable):
    """A broker's listener."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: list[tuple[str, bytes]] = []
        self.lost: list[str] = []
        self.full = False
        self._room = asyncio.Event()

    def heard(self, topic: str, payload: bytes) -> None:
        self.payloads.append((topic, payload))
        self._change()

    def missed(self, topics: Collection[str]) -> None:
        self.lost.extend(topics)
        self._change()

    async def room(self) -> None:
        await self._room.wait()

    def make_room(self) -> None:
        self.full = False
        self._room.set()

    def events(self, topic: str | None = None) -> list[list[Any]]:
        return [msgspec.msgpack.decode(payload)[1:] for name, payload in self.payloads if topic in {None, name}]

    async def hears(self, count: int) -> list[list[Any]]:
        await self.until(lambda: len(self.payloads) >= count)
        return self.events()

    async def loses(self, *topics: str) -> None:
        await self.until(lambda: {*topics} <= {*self.lost})

    def __repr__(self) -> str:
        return f"Ear({self.events()[-20:]}, lost={self.lost})"


class Inbox(_Waitable):
    """A socket."""

    def __init__(self, name: str = "8f3c") -> None:
        super().__init__()
        self.id = name
        self.messages: list[Message] = []

    def deliver(self, message: Message) -> None:
        self.messages.append(message)
        self._change()

    def deliver_all(self, burst: Burst) -> None:
        for message in burst.messages:
            self.deliver(message)

    @property
    def events(self) -> list[list[Any]]:
        """``[event, args]`` of each, as far as it goes."""
        return [msgspec.msgpack.decode(message.payload)[1:3] for message in self.messages]

    @property
    def numbers(self) -> list[Any]:
        """The first argument of each event named ``n``."""
        return [args[0] for event, args in self.events if event == "n"]

    @property
    def offsets(self) -> list[int]:
        return [message.position.offset for message in self.messages if message.position is not None]

    @property
    def last(self) -> Position:
        return [message.position for message in self.messages if message.position is not None][-1]

    async def gets(self, count: int) -> list[list[Any]]:
        await self.until(lambda: len(self.messages) >= count)
        return self.events

    async def gets_event(self, event: str, count: int = 1) -> list[list[Any]]:
        await self.until(lambda: [name for name, _ in self.events].count(event) >= count)
        return [args for name, args in self.events if name == event]

    def __repr__(self) -> str:
        return f"Inbox({self.id}, {self.events[-20:]})"
