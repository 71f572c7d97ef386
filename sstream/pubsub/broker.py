"""Brokers carry finished events between the processes of an application, by topic; MemoryBroker serves one process."""

import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from sstream.pubsub.channels import History
from sstream.pubsub.message import Message, Position, joined_event, left_event, number_event
from sstream.pubsub.topics import channel_of

__all__ = ["POSITION_KEPT", "Broker", "Listener", "MemoryBroker", "Recovery"]

POSITION_KEPT: Final = 30 * 86400  # 30 days: how much longer than the events themselves the count of a channel is kept


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a reader that knew a position gets.

    Attributes:
        position: The newest event of the channel at the time of reading; ``None`` for a channel without history.
        recovered: Whether ``missed`` is all that came after the reader's position; true where there was none.
        missed: The events after the reader's position, oldest first.
    """

    position: Position | None
    recovered: bool
    missed: tuple[Message, ...] = ()


class Listener(Protocol):
    """What a broker tells the process that it serves. `Hub` is the listener."""

    @property
    def full(self) -> bool:
        """Whether the listener has so much to do that a broker should wait for `room` before it goes on reading."""

    def heard(self, topic: str, payload: bytes) -> None:
        """An event came in on a topic; in order per topic and publisher."""

    def missed(self, topics: Collection[str]) -> None:
        """The broker was away and listens again from now: what was published to ``topics`` meanwhile did not come."""

    async def room(self) -> None:
        """Return when the listener can take more."""


class Broker(Protocol):
    """Carries events by topic: at most once, in order per topic and publisher.

    The publisher's own process hears an event in the same way as all others. A time in which the broker may have lost
    something is never silent: it ends with `Listener.missed`. Every method raises `BrokerError` when the broker does
    not answer within its deadline, or refuses.
    """

    async def start(self, listener: Listener) -> None:
        """Begin to tell ``listener``. A broker that is away is no error: it will be looked for until `close`."""

    async def close(self) -> None:
        """End all connections and tasks. Safe to call twice."""

    async def subscribe(self, topics: Collection[str]) -> None:
        """Listen to ``topics``; what is published after the return is heard.

        From the call on they are wanted. If this raises they stay so: the broker listens to them as soon as it can and
        tells that by `Listener.missed`, until `unsubscribe`.
        """

    async def unsubscribe(self, topics: Collection[str]) -> None:
        """Listen to ``topics`` no more. Waits for nobody and does not fail."""

    async def publish(self, topic: str, payload: bytes, history: History | None = None) -> Position | None:
        """Send an event; the broker has it when this returns.

        With a ``history`` the payload must be ``[2, event, args]``; the broker numbers it, keeps it and sends it, all
        or nothing, and returns its position.

        Raises:
            BrokerError: Whether the event was delivered is unknown; it is not sent again.
        """

    async def history(self, topic: str, since: Position | None, history: History) -> Recovery:
        """The events of ``topic`` after ``since``; for ``None`` just where the channel is now."""

    async def enter(self, topic: str, node: str, users: Mapping[str, bytes], ttl: float) -> None:
        """Note that ``users`` are in the channel of ``topic`` by way of ``node``, for ``ttl`` seconds from now.

        The name of a node has no space. Each user comes with a map in MessagePack, which takes the place of what is
        known of that user. For each that was not there by way of any node, the event ``[2, "joined", [user, map],
        {channel}]`` is published.
        """

    async def leave(self, topic: str, node: str, users: Collection[str], grace: float) -> None:
        """Let ``users`` be there by way of ``node`` for ``grace`` more seconds at most."""

    async def sweep(self, topic: str) -> float | None:
        """Forget those whose time is up; for each who is there by no other node ``[2, "left", [user], {channel}]``.

        Returns the seconds until this is due again, ``None`` if nobody is there. However many nodes sweep, each event
        is published once.
        """

    async def present(self, topic: str) -> dict[str, bytes]:
        """The users in the channel of ``topic`` and the map of each, after a `sweep`."""


class _Log:
    """The history of one channel in memory."""

    __slots__ = ("dead_at", "epoch", "events", "expires_at", "offset")

    def __init__(self) -> None:
        self.epoch = secrets.token_urlsafe(6)
        self.offset = 0
        self.events: deque[tuple[int, bytes]] = deque()
        self.expires_at = 0.0
        self.dead_at = 0.0


class _Attendance:
    """Who is in one channel."""

    __slots__ = ("maps", "until")

    def __init__(self) -> None:
        self.until: dict[str, dict[str, float]] = {}  # by user, then by node
        self.maps: dict[str, bytes] = {}


class MemoryBroker:
    """A broker for one process, and the shortest account of what a broker does.

    `share` gives a further one on the same memory, for a second application in the process.

    Args:
        clock: Seconds that only grow; what history and presence expire by.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._listener: Listener | None = None
        self._topics: set[str] = set()
        self._logs: dict[str, _Log] = {}
        self._attendances: dict[str, _Attendance] = {}
        self._all: list[MemoryBroker] = [self]  # those that share the memory

    def share(self) -> "MemoryBroker":
        """A broker that hears and remembers what this one does."""
        other = MemoryBroker(clock=self._clock)
        other._logs, other._attendances, other._all = self._logs, self._attendances, self._all
        self._all.append(other)
        return other

    async def start(self, listener: Listener) -> None:
        self._listener = listener

    async def close(self) -> None:
        self._listener = None
        self._topics.clear()

    async def subscribe(self, topics: Collection[str]) -> None:
        self._topics.update(topics)

    async def unsubscribe(self, topics: Collection[str]) -> None:
        self._topics.difference_update(topics)

    async def publish(self, topic: str, payload: bytes, history: History | None = None) -> Position | None:
        listener = self._listener
        if listener is not None and listener.full:
            await listener.room()
        position = None
        if history is not None:
            payload, position = self._keep(topic, payload, history)
        for broker in self._all:
            if topic in broker._topics and broker._listener is not None:
                broker._listener.heard(topic, payload)
        return position

    async def history(self, topic: str, since: Position | None, history: History) -> Recovery:
        log = self._log(topic, history)
        now = Position(log.offset, log.epoch)
        if since is None:
            return Recovery(now, True)
        missed = [payload for offset, payload in log.events if offset > since.offset]
        if since.epoch != log.epoch or len(missed) != log.offset - since.offset:
            return Recovery(now, False)
        return Recovery(now, True, tuple(map(Message.parse, missed)))

    async def enter(self, topic: str, node: str, users: Mapping[str, bytes], ttl: float) -> None:
        await self.sweep(topic)
        attendance = self._attendances.setdefault(topic, _Attendance())
        for user, about in users.items():
            joined = user not in attendance.until
            attendance.until.setdefault(user, {})[node] = self._clock() + ttl
            attendance.maps[user] = about
            if joined:
                await self.publish(topic, joined_event(channel_of(topic) or topic, user, about))

    async def leave(self, topic: str, node: str, users: Collection[str], grace: float) -> None:
        attendance = self._attendances.get(topic)
        if attendance is None:
            return
        for user in users:
            nodes = attendance.until.get(user, {})
            if node in nodes:
                nodes[node] = min(nodes[node], self._clock() + grace)

    async def sweep(self, topic: str) -> float | None:
        attendance = self._attendances.get(topic)
        if attendance is None:
            return None
        now = self._clock()
        left = []
        for user, nodes in list(attendance.until.items()):
            attendance.until[user] = nodes = {node: until for node, until in nodes.items() if until > now}
            if not nodes:
                del attendance.until[user], attendance.maps[user]
                left.append(user)
        next_due = min((min(nodes.values()) for nodes in attendance.until.values()), default=None)
        if next_due is None:
            del self._attendances[topic]
        for user in left:
            await self.publish(topic, left_event(channel_of(topic) or topic, user))
        return None if next_due is None else next_due - now

    async def present(self, topic: str) -> dict[str, bytes]:
        await self.sweep(topic)
        attendance = self._attendances.get(topic)
        return {} if attendance is None else dict(attendance.maps)

    def _keep(self, topic: str, payload: bytes, history: History) -> tuple[bytes, Position]:
        log = self._log(topic, history)
        log.offset += 1
        position = Position(log.offset, log.epoch)
        payload = number_event(payload, channel_of(topic) or topic, position)
        log.events.append((log.offset, payload))
        while len(log.events) > history.size:
            log.events.popleft()
        log.expires_at = self._clock() + history.seconds
        return payload, position

    def _log(self, topic: str, history: History) -> _Log:
        now = self._clock()
        # The longest unused first. Two are looked at for each that may be added, so the dead cannot pile up.
        for oldest in [name for name, _ in zip(self._logs, range(2), strict=False)]:
            if self._logs[oldest].dead_at <= now:
                del self._logs[oldest]
        log = self._logs.pop(topic, None) or _Log()
        self._logs[topic] = log
        log.dead_at = max(log.dead_at, now + history.seconds + POSITION_KEPT)
        if log.expires_at <= now:
            log.events.clear()
        return log
