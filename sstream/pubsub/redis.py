"""A broker on Redis, for an application of many processes: pub/sub for events, streams for history."""

import secrets
from collections.abc import Awaitable, Collection, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

from sstream.backend.connection import Argument
from sstream.backend.connector import Connector, Place
from sstream.backend.pipe import Script
from sstream.errors import ConfigurationError
from sstream.pubsub.broker import POSITION_KEPT, Listener, Recovery
from sstream.pubsub.channels import History
from sstream.pubsub.cluster import Cluster
from sstream.pubsub.message import Message, Position
from sstream.pubsub.scripts import ENTER, HISTORY, LEAVE, PRESENT, PUBLISH, SWEEP
from sstream.pubsub.server import Server
from sstream.pubsub.topics import channel_of

__all__ = ["RedisBroker"]

USERS: Final = 256  # users in one script, so that Redis is not held up for long


class RedisBroker:
    """A broker for the processes that share a Redis.

    One listening connection and one for commands; one subscription for each topic while anybody in the process
    listens; the publishes of one turn of the loop leave in one write. History is kept in a stream for each channel,
    with its count beside it, written and published by one script. docs/reference-publish-format.md tells the keys.

    Args:
        redis: A URL, or a client of ``redis.asyncio``, of which the broker takes the settings alone; it opens its own
            connections. ``redis+sentinel://host:port,.../service/db`` and ``redis+cluster://host:port,...`` are URLs
            too, with ``rediss+`` over TLS. On a Cluster events travel by sharded pub/sub.
        prefix: In front of every key and channel. It must not begin with ``sess:``.
        deadline: Seconds that each operation may take; ``None`` for no bound.
        ping_interval: Seconds of silence after which the listening connection is tested.

    Raises:
        ConfigurationError: The URL cannot be read, or the prefix is the sessions'.
    """

    def __init__(
        self,
        redis: Place,
        *,
        prefix: str = "sstream:",
        deadline: float | None = 1.0,
        ping_interval: float = 5.0,
    ) -> None:
        if prefix.startswith("sess:") or set(prefix) & set("{}*?[]\\ "):
            raise ConfigurationError(
                f"a broker cannot use the prefix {prefix!r}: connect-redis scans sess:*, and braces and patterns have "
                "a meaning of their own"
            )
        self._prefix = prefix
        self._connector = Connector(redis, timeout=deadline or 5.0)
        make = partial(Server, ears=self, deadline=deadline, ping_interval=ping_interval)
        self._place = Cluster(self._connector, make) if self._connector.seeds else make(self._connector)
        self._listener: Listener | None = None

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        self._place.start()

    async def close(self) -> None:
        await self._place.close()
        await self._connector.close()
        self._listener = None

    @property
    def connected(self) -> bool:
        """Whether this process hears everything it wants at the moment."""
        return self._place.connected

    async def subscribe(self, topics: Collection[str]) -> None:
        await self._place.subscribe([self._prefix + topic for topic in topics])

    async def unsubscribe(self, topics: Collection[str]) -> None:
        self._place.unsubscribe([self._prefix + topic for topic in topics])

    async def publish(self, topic: str, payload: bytes, history: History | None = None) -> Position | None:
        if history is None:
            await self.announce(topic, payload)
            return None
        channel = self._prefix + topic
        offset, epoch = await self._place.run(
            channel,
            PUBLISH,
            [*self._history_keys(channel), channel],
            secrets.token_urlsafe(6),
            history.seconds + POSITION_KEPT,
            history.seconds,
            history.size,
            self._place.publish,
            channel_of(topic) or topic,
            payload,
        )
        return Position(offset, epoch.decode())

    async def announce(self, topic: str, payload: bytes) -> int:
        """`publish` without history; how many processes heard the event, those of other applications too."""
        channel = self._prefix + topic
        heard: int = await self._place.send(channel, self._place.publish, channel, payload)
        return heard

    async def history(self, topic: str, since: Position | None, history: History) -> Recovery:
        channel = self._prefix + topic
        offset, epoch, recovered, *events = await self._place.run(
            channel,
            HISTORY,
            self._history_keys(channel),
            secrets.token_urlsafe(6),
            history.seconds + POSITION_KEPT,
            "" if since is None else since.epoch,
            0 if since is None else since.offset,
        )
        missed = tuple(Message.parse(fields[1]) for _, fields in events[0]) if events else ()
        return Recovery(Position(offset, epoch.decode()), bool(recovered), missed)

    async def enter(self, topic: str, node: str, users: Mapping[str, bytes], ttl: float) -> None:
        rest = iter(users.items())
        while words := [word for user_and_map in islice(rest, USERS) for word in user_and_map]:
            await self._attend(ENTER, topic, node, round(ttl * 1000), *words)

    async def leave(self, topic: str, node: str, users: Collection[str], grace: float) -> None:
        rest = iter(users)
        while some := list(islice(rest, USERS)):
            await self._attend(LEAVE, topic, node, round(grace * 1000), *some)

    async def sweep(self, topic: str) -> float | None:
        left: int = await self._attend(SWEEP, topic)
        return None if left < 0 else left / 1000

    async def present(self, topic: str) -> dict[str, bytes]:
        answer = await self._attend(PRESENT, topic)
        return dict(zip(map(bytes.decode, answer[::2]), answer[1::2], strict=True))

    def _attend(self, script: Script, topic: str, *arguments: Argument) -> Awaitable[Any]:
        channel = self._prefix + topic
        keys = [f"{self._prefix}until:{{{channel}}}", f"{self._prefix}users:{{{channel}}}", channel]
        return self._place.run(channel, script, keys, self._place.publish, channel_of(topic) or topic, *arguments)

    def _history_keys(self, channel: str) -> list[str]:
        # The braces put the keys into the slot of the channel itself on a Cluster.
        return [f"{self._prefix}position:{{{channel}}}", f"{self._prefix}log:{{{channel}}}"]

    # What the line hears.

    @property
    def full(self) -> bool:
        return self._listener is not None and self._listener.full

    async def room(self) -> None:
        if self._listener is not None:
            await self._listener.room()

    def heard(self, channel: str, payload: bytes) -> None:
        if self._listener is not None:
            self._listener.heard(channel[len(self._prefix) :], payload)

    def missed(self, channels: Collection[str]) -> None:
        if self._listener is not None:
            self._listener.missed([channel[len(self._prefix) :] for channel in channels])
