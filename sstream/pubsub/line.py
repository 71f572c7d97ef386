"""A listening connection to one Redis, which is there as long as Redis is, and tells when it was not."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol

from redis.crc import key_slot

from sstream.backend.connection import BROKEN, Backoff, Connection, Refusal, finish, pack
from sstream.backend.connector import Connector
from sstream.errors import BrokerError

__all__ = ["Ears", "Line"]

log = logging.getLogger("sstream.pubsub")

CHUNK: Final = 1000  # channels in one SUBSCRIBE
BREATH: Final = 100  # events after which others on the loop get their turn


class Ears(Protocol):
    """Who listens on a line."""

    @property
    def full(self) -> bool:
        """Whether the line should wait for `room` before it reads on."""

    async def room(self) -> None:
        """Return when there is room."""

    def heard(self, channel: str, payload: bytes) -> None:
        """A message came in."""

    def missed(self, channels: Collection[str]) -> None:
        """From now on ``channels`` are heard again; for a while they were not."""


class _Ack:
    """Somebody waits until the last of ``missing`` is acknowledged."""

    __slots__ = ("done", "missing")

    def __init__(self, missing: set[str]) -> None:
        self.missing = missing
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Line:
    """Keeps the subscriptions of this process at one Redis.

    A connection that was cut comes back by itself, subscribes to everything wanted in one go, and then tells its ears
    what may have been missed. One that is silent is pinged; without an answer it is cut.

    Args:
        connector: Makes a connection.
        ears: Who listens.
        deadline: Seconds to connect, and until a subscription must be acknowledged.
        ping_interval: Seconds of silence after which the other side is asked for a sign of life.
        on_moved: Given for a shard of a Redis Cluster: told which channels this server does not have any more, and how
            it said so.
        on_away: Told of each attempt to connect that failed.
    """

    def __init__(
        self,
        connector: Connector,
        ears: Ears,
        *,
        deadline: float,
        ping_interval: float,
        on_moved: Callable[[Collection[str], str], None] | None = None,
        on_away: Callable[[], None] | None = None,
    ) -> None:
        self._connector = connector
        self._ears = ears
        self._deadline = deadline
        self._ping_interval = ping_interval
        self._on_moved = on_moved
        self._on_away = on_away
        self._prefix = "S" if on_moved is not None else ""
        self._chunk = 1 if on_moved is not None else CHUNK  # a shard's command must stay within one slot
        self._wanted: dict[str, str] = {}  # each under itself, so that what is parsed anew is kept once
        self._acknowledged: set[str] = set()  # by the connection of now
        self._due: dict[str, int] = {}  # acknowledgements that this connection is still to give of each channel
        self._coming_back: set[str] = set()  # asked for at the begin of this connection, not yet acknowledged
        self._lost: dict[str, None] = {}  # wanted, and not listened to for a while
        self._found: list[str] = []  # were lost, are listened to again, and nobody was told yet
        self._waiting: list[_Ack] = []
        self._connection: Connection | None = None
        self._backoff = Backoff(0.05, 0.5)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        task, self._task = self._task, None
        await finish(task)
        for ack in self._waiting:
            if not ack.done.done():
                ack.done.set_exception(BrokerError("the broker was closed"))
        self._wanted.clear()

    @property
    def connected(self) -> bool:
        """Whether all that is wanted is listened to."""
        return self._connection is not None and not self._coming_back

    async def subscribe(self, channels: Collection[str]) -> None:
        """Listen to ``channels``; see `Broker.subscribe`."""
        self._wanted.update(zip(channels, channels, strict=True))
        missing = set(channels) - self._acknowledged
        if not missing:
            return
        connection = self._connection
        if connection is not None:
            self._tell(connection, "SUBSCRIBE", missing)
        ack = _Ack(missing)
        self._waiting.append(ack)
        try:
            async with asyncio.timeout(self._deadline):
                await ack.done
        except TimeoutError as error:
            self._lost.update(dict.fromkeys(channel for channel in ack.missing if channel in self._wanted))
            if connection is not None and connection is self._connection:
                # A server that does not acknowledge is sick, and what it does later would surprise us.
                connection.cut(error)
            raise BrokerError(f"Redis did not acknowledge {len(ack.missing)} subscriptions in time") from error
        finally:
            self._waiting.remove(ack)

    def adopt(self, channels: Collection[str]) -> None:
        """Listen to channels that were listened to elsewhere, and tell them as missed when they are heard."""
        self._wanted.update(zip(channels, channels, strict=True))
        self._lost.update(dict.fromkeys(channels))
        if self._connection is not None:
            self._coming_back.update(channels)
            self._tell(self._connection, "SUBSCRIBE", channels)

    def hears(self, channel: str) -> bool:
        """Whether this line listens to ``channel`` at the moment."""
        return channel in self._acknowledged

    def release(self, channels: Collection[str]) -> list[str]:
        """Leave channels to another line; those of them that it must tell as missed."""
        heard = [channel for channel in channels if channel in self._acknowledged or channel in self._lost]
        self.unsubscribe(channels)
        return heard

    def unsubscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            self._wanted.pop(channel, None)
            self._lost.pop(channel, None)
        self._acknowledged.difference_update(channels)
        if self._connection is not None:
            self._tell(self._connection, "UNSUBSCRIBE", channels)
            self._came_back(channels)
        self._settle(channels)

    def _tell(self, connection: Connection, command: str, channels: Collection[str]) -> None:
        if command == "SUBSCRIBE":
            for channel in channels:
                self._due[channel] = self._due.get(channel, 0) + 1
        chunks = _chunks(channels, self._chunk)
        connection.write(b"".join([pack(self._prefix + command, *chunk) for chunk in chunks]))

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except BROKEN as error:
                reason = str(error) or "no answer in time"
                if self._connection is not None:
                    log.warning("the listening connection to Redis was lost: %s", reason)
                else:
                    log.info("Redis cannot be reached: %s", reason)
                    if self._on_away is not None:
                        self._on_away()
            except Exception:
                log.exception("the listening connection to Redis failed")
            finally:
                if self._connection is not None:
                    await self._connection.close()
                    self._connection = None
                self._lost.update(dict.fromkeys((*self._acknowledged, *self._found)))
                self._found.clear()
                self._acknowledged.clear()
            await asyncio.sleep(self._backoff.pause())

    async def _listen(self) -> None:
        connection = self._connection = await self._connector.open()
        self._due.clear()
        self._coming_back = set(self._wanted)
        self._tell(connection, "SUBSCRIBE", self._wanted)
        self._came_back(())
        async with connection.watched(self._ping_interval, self._deadline, lambda: self._ears.full):
            await self._read(connection)

    async def _read(self, connection: Connection) -> None:
        ears = self._ears
        message = f"{self._prefix}message".lower().encode()
        subscribed = f"{self._prefix}subscribe".lower().encode()
        unsubscribed = f"{self._prefix}unsubscribe".lower().encode()
        while True:
            answers = await connection.read()
            for number, answer in enumerate(answers, 1):
                if isinstance(answer, Refusal):
                    self._refused(str(answer))
                    continue
                kind = answer[0]
                if kind == message:
                    if self._found:
                        self._tell_found()  # the gap first, then what came after it
                    ears.heard(answer[1].decode(), answer[2])
                    if ears.full:
                        await ears.room()  # nothing is read meanwhile, so that TCP slows the other side
                    elif number % BREATH == 0:
                        await asyncio.sleep(0)
                elif kind == subscribed:
                    self._subscribed(answer[1].decode())
                elif kind == unsubscribed and answer[1] is not None and self._on_moved is not None:
                    channel = answer[1].decode()
                    if channel in self._acknowledged:  # nobody asked for it: the slot has moved
                        self._on_moved([channel], "unsubscribed")

    def _refused(self, reason: str) -> None:
        if self._on_moved is None or not reason.startswith("MOVED"):
            raise ConnectionError(f"Redis refuses to let us listen: {reason}")
        slot = int(reason.split()[1])
        for channel in [channel for channel in self._due if key_slot(channel.encode()) == slot]:
            del self._due[channel]  # it does not say which one was refused: each one is, as they are in one slot
        self._on_moved([channel for channel in self._wanted if key_slot(channel.encode()) == slot], reason)

    def _subscribed(self, channel: str) -> None:
        if (due := self._due.pop(channel, 1) - 1) > 0:
            self._due[channel] = due
            return  # what it was given for may have been left since; the one that counts comes last
        if (wanted := self._wanted.get(channel)) is not None:
            self._acknowledged.add(wanted)
            if self._lost.pop(channel, False) is None:
                self._found.append(channel)
        self._came_back((channel,))
        self._settle((channel,))

    def _settle(self, channels: Collection[str]) -> None:
        """Nobody need wait for ``channels`` any longer."""
        for ack in self._waiting:
            ack.missing.difference_update(channels)
            if not ack.missing and not ack.done.done():
                ack.done.set_result(None)

    def _came_back(self, channels: Collection[str]) -> None:
        """Some of what this connection began with is settled; once all is, tell what may have been missed."""
        self._coming_back.difference_update(channels)
        if not self._coming_back:
            self._backoff.reset()
            if self._found:
                self._tell_found()

    def _tell_found(self) -> None:
        found, self._found = [channel for channel in self._found if channel in self._wanted], []
        if found:
            log.warning("listening to Redis again: %d topics may have missed something", len(found))
            self._ears.missed(found)


def _chunks(channels: Iterable[str], size: int) -> Iterator[Sequence[str]]:
    rest = iter(channels)
    while chunk := list(islice(rest, size)):
        yield chunk
