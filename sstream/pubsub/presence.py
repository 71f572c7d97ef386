"""Who is here: the users in a channel, counted over their sockets and all nodes."""

import asyncio
import logging
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec

from sstream.errors import BrokerError, ConfigurationError
from sstream.options import Options
from sstream.pubsub.broker import Broker
from sstream.pubsub.fanout import Socket
from sstream.pubsub.hub import Hub
from sstream.pubsub.rounds import Rounds
from sstream.pubsub.topics import channel_topic, user_topic

__all__ = ["Presence", "PresenceOptions", "Present"]

log = logging.getLogger("sstream.pubsub")

MAX_ABOUT: Final = 1024  # bytes of what is told of a user, encoded
AT_ONCE: Final = 500  # channels whose heartbeats are on their way together
TICK: Final = 0.002  # seconds; a broker may count in milliseconds

_encode = msgspec.msgpack.Encoder().encode
_decode_map = msgspec.msgpack.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceOptions(Options):
    """How soon the others hear of who is gone.

    Attributes:
        ttl: Seconds for which a process's word about its users counts. One that dies loses them after ``ttl +
            heartbeat`` seconds at most.
        heartbeat: Seconds between its words.
        grace: Seconds that a user may be away unnoticed, for a reconnect.
    """

    ttl: float = 20.0
    heartbeat: float = 6.0
    grace: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat < self.ttl or self.grace < 0:
            raise ConfigurationError(
                f"ttl={self.ttl}, heartbeat={self.heartbeat} and grace={self.grace}: legal are a heartbeat of more "
                "than 0 and less than ttl seconds, and a grace of 0 or more"
            )


@dataclass(frozen=True, slots=True)
class Present:
    """A user in a channel, and what is told of that user there."""

    user: str
    about: dict[str, Any]


class Presence:
    """Keeps the users of this node's sockets on the lists of their channels.

    A user is in a channel while any socket on any node says so. The first one publishes ``joined`` with the user and
    the map about that user, the last one ``left`` with the user, ``grace`` seconds after it is gone, so that nobody
    hears of a reconnect. A node that dies says nothing more, and its users leave after ``ttl`` seconds; the others
    look each ``heartbeat``.

    Args:
        broker: Where the lists are.
        hub: Which channels this node listens to: those it helps to keep.
        options: How soon.
        node: A name of this process that no other has; it holds no space.
    """

    def __init__(
        self,
        broker: Broker,
        hub: Hub,
        options: PresenceOptions | None = None,
        *,
        node: str | None = None,
    ) -> None:
        times = options if options is not None else PresenceOptions()
        self._broker = broker
        self._hub = hub
        self._ttl = times.ttl
        self._heartbeat = times.heartbeat
        self._grace = times.grace
        self._node = node or secrets.token_hex(8)
        self._here: dict[str, dict[str, bytes]] = {}  # by topic, then by user: what is told of that user
        self._standing: dict[tuple[str, str], dict[Socket, None]] = {}  # by topic and user
        self._sockets: dict[Socket, dict[str, str]] = {}  # by socket, then by topic: the user
        self._rounds = Rounds(self._tell)
        self._pulse: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}  # by topic: when those who left are to be looked for
        self._sweeps: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        if self._pulse is None:
            self._pulse = asyncio.get_running_loop().create_task(self._beat())

    async def close(self) -> None:
        """Let everybody here leave, with grace: their sockets come back on other nodes. Safe to call twice."""
        for socket in list(self._sockets):
            self.drop(socket)
        await self._rounds.finish()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        tasks = [task for task in (self._pulse, *self._sweeps) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pulse = None

    async def enter(
        self, socket: Socket, channel: str, user: str | int, about: Mapping[str, Any] | None = None
    ) -> None:
        """Put a user on the list of ``channel`` by way of ``socket``; returns when the broker has it.

        ``about`` takes the place of what was told of the user there before. A socket stands for one user in a channel.

        Raises:
            TypeError: ``about`` cannot be encoded.
            ValueError: It has more than 1 KiB, or a name is illegal.
            BrokerError: The broker did not answer; the socket does not stand for the user.
        """
        user_topic(user)  # refuses what is no user
        topic, name = channel_topic(channel), str(user)
        encoded = _encode(dict(about or {}))
        if len(encoded) > MAX_ABOUT:
            raise ValueError(f"what is told of a user has at most {MAX_ABOUT} bytes, not {len(encoded)}")
        if self._sockets.get(socket, {}).get(topic, name) != name:
            self._leave(socket, topic)
        self._sockets.setdefault(socket, {})[topic] = name
        users = self._here.setdefault(topic, {})
        is_news = users.get(name) != encoded
        users[name] = encoded
        self._standing.setdefault((topic, name), {})[socket] = None
        # Where a round is on its way, a second socket waits as well: the first one's word may not have arrived.
        if is_news or self._rounds.is_busy:
            try:
                await asyncio.shield(self._rounds.add((topic, name)))
            except BrokerError:
                if self._sockets.get(socket, {}).get(topic) == name:
                    self._leave(socket, topic)
                raise

    async def leave(self, socket: Socket, channel: str) -> None:
        """Take a socket's user off the list, unless another socket stands for that user."""
        self._leave(socket, channel_topic(channel))

    def drop(self, socket: Socket) -> None:
        """Forget a socket that is gone."""
        for topic in tuple(self._sockets.get(socket, ())):
            self._leave(socket, topic)

    async def list(self, channel: str) -> list[Present]:
        """Who is in ``channel``, in the order of their names.

        Raises:
            ValueError: The channel's name is illegal.
            BrokerError: The broker did not answer.
        """
        present = await self._broker.present(channel_topic(channel))
        return [Present(user, _decode_map(about)) for user, about in sorted(present.items())]

    def _leave(self, socket: Socket, topic: str) -> None:
        mine = self._sockets.get(socket, {})
        user = mine.pop(topic, None)
        if not mine:
            self._sockets.pop(socket, None)
        if user is None:
            return
        standing = self._standing[topic, user]
        del standing[socket]
        if not standing:
            del self._standing[topic, user], self._here[topic][user]
            if not self._here[topic]:
                del self._here[topic]
            self._rounds.add((topic, user))

    async def _tell(self, changed: Collection[tuple[str, str]]) -> None:
        came: dict[str, dict[str, bytes]] = {}
        gone: dict[str, list[str]] = {}
        for topic, user in changed:
            about = self._here.get(topic, {}).get(user)
            if about is not None:
                came.setdefault(topic, {})[user] = about
            else:
                gone.setdefault(topic, []).append(user)
        for topic, names in gone.items():
            self._sweep_after(topic, self._grace)
            await self._broker.leave(topic, self._node, names, self._grace)
        for topic, users in came.items():
            await self._broker.enter(topic, self._node, users, self._ttl)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            topics = iter(dict.fromkeys((*self._here, *self._hub.present_topics)))
            while some := list(islice(topics, AT_ONCE)):
                lost = [error for error in await asyncio.gather(*map(self._renew, some)) if error is not None]
                if lost:
                    log.info("presence: %d heartbeats were lost: %s", len(lost), lost[0])

    async def _renew(self, topic: str) -> BrokerError | None:
        """Say again who is here, or look who is gone. What goes wrong in one channel is no other's affair."""
        users = self._here.get(topic)
        try:
            if users is not None:
                await self._broker.enter(topic, self._node, dict(users), self._ttl)
            else:
                await self._broker.sweep(topic)
        except BrokerError as error:
            return error
        except Exception:
            log.exception("presence: a heartbeat failed")
        return None

    def _sweep_after(self, topic: str, seconds: float) -> None:
        if topic not in self._timers:
            self._timers[topic] = asyncio.get_running_loop().call_later(seconds, self._begin_sweep, topic)

    def _begin_sweep(self, topic: str) -> None:
        del self._timers[topic]
        task = asyncio.get_running_loop().create_task(self._sweep(topic))
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def _sweep(self, topic: str) -> None:
        try:
            due = await self._broker.sweep(topic)
        except BrokerError as error:
            log.info("presence: a look for those who left was lost: %s", error)  # the next heartbeat looks again
        else:
            if due is not None and due < self._heartbeat:  # the broker's clock is not ours
                self._sweep_after(topic, due + TICK)
