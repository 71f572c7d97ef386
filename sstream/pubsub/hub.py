"""The hub of a process: which sockets listen to which topic, and what a topic's sockets have seen of it."""

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from sstream.errors import BrokerError
from sstream.pubsub.broker import Broker, Recovery
from sstream.pubsub.channels import PLAIN, ChannelOptions, History, history_of, options_of
from sstream.pubsub.fanout import FanOut, Member, Socket
from sstream.pubsub.message import Message, Position
from sstream.pubsub.rounds import Rounds
from sstream.pubsub.topics import channel_of

__all__ = ["Hub"]

log = logging.getLogger("sstream.pubsub")

HELD: Final = 1024  # events that wait in one place while history is being read; more is a gap
PATIENCE: Final = 10.0  # seconds after which a history that cannot be read is given up: its sockets are told of a gap
PAUSE: Final = 0.25  # seconds between two attempts
AT_ONCE: Final = 100  # histories read side by side after an outage


class _Log:
    """Where this process stands in a channel with history."""

    __slots__ = ("era", "held", "history", "overflowed", "position", "recovering")

    def __init__(self, history: History) -> None:
        self.history = history
        self.position: Position | None = None  # everything up to here was handed out; None: nothing is known yet
        self.held: list[Message] | None = []  # what was heard while history is being read; None: live
        self.overflowed = False
        self.recovering = False
        self.era = 0  # how many gaps were told

    def begin(self, position: Position | None) -> bool:
        """Take the place where the channel was, unless a recovery is under way, or has come and gone meanwhile."""
        if self.recovering or self.position is not None:
            return False
        self.position = position
        return True

    def hold(self, message: Message) -> None:
        assert self.held is not None
        if len(self.held) < HELD:
            self.held.append(message)
        else:
            self.overflowed = True


class _Topic:
    __slots__ = ("_alone", "_many", "acknowledged", "log", "snapshot", "wanted")

    def __init__(self) -> None:
        # One member, as each socket's own topic has it, takes no dict: 0.2 KB less.
        self._alone: Member | None = None
        self._many: dict[Socket, Member] | None = None
        self.snapshot: tuple[Member, ...] | None = ()
        self.wanted = False  # the broker was told
        self.acknowledged = False  # and listens
        self.log: _Log | None = None

    @property
    def members(self) -> Collection[Member]:
        if self._many is not None:
            return self._many.values()
        return () if self._alone is None else (self._alone,)

    def add(self, member: Member) -> None:
        self.snapshot = None
        if self._many is not None:
            self._many[member.socket] = member
        elif self._alone is None:
            self._alone = member
        else:
            self._many = {self._alone.socket: self._alone, member.socket: member}
            self._alone = None

    def remove(self, socket: Socket) -> None:
        self.snapshot = None
        if self._many is None:
            self._alone = None
        else:
            del self._many[socket]


class Hub:
    """Binds sockets to topics and hands them what comes in; the listener of a broker.

    A socket gets the events of a topic in order, each once. In a channel with history a hole in the numbers is filled
    from there before anything later is handed out; what cannot be filled, and what was lost where there is no history,
    is told with the event ``sstream:gap`` (`Message.gap`).

    Args:
        broker: Where events come from.
        channel_options: The options of a channel by its name.
        slice_size: Sockets that are served in one turn of the loop, if they take no more than 3 ms.
        flush: Sends what the sockets were handed, at once; else they do it at the end of the turn.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        channel_options: Callable[[str], ChannelOptions] = lambda name: PLAIN,
        slice_size: int = 256,
        flush: Callable[[], object] = lambda: None,
    ) -> None:
        self._broker = broker
        self._channel_options = channel_options
        # Invariant: a topic is in _topics if and only if the broker wants it, or the running round will tell it so.
        self._topics: dict[str, _Topic] = {}
        self._present_topics: dict[str, None] = {}
        self._sockets: dict[Socket, dict[str, Member]] = {}
        self._fan_out = FanOut(slice_size, flush)
        self._rounds = Rounds(self._tell)
        self._to_recover: dict[str, None] = {}
        self._recovery: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._broker.start(self)

    async def close(self) -> None:
        """Forget all sockets. The broker is not closed: it may still publish."""
        await self._rounds.close()
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        self._fan_out.close()
        names = [name for name, topic in self._topics.items() if topic.wanted]
        self._topics.clear()
        self._present_topics.clear()
        self._sockets.clear()
        self._to_recover.clear()
        if names:
            await self._broker.unsubscribe(names)

    # Who listens.

    async def bind(self, socket: Socket, *topics: str) -> None:
        """Let ``socket`` hear ``topics``: whatever is published after the return reaches it.

        Raises:
            BrokerError: The broker did not answer; the socket is in none of those topics that it was not in before, or
                has been let into meanwhile by somebody else.
        """
        members = self._join(socket, topics)
        try:
            await self._acknowledged(topics)
        except BaseException:
            for name, member in members.items():
                member.claims -= 1
                if not member.claims and self._is_current(member, name):
                    self._leave(socket, name)
            raise

    def join(self, socket: Socket, *topics: str) -> None:
        """Like `bind`, without waiting for the broker.

        If the broker is away, the socket is told of the gap when it is back.
        """
        self._join(socket, topics)

    async def acknowledged(self, socket: Socket) -> None:
        """Return when the broker listens to all that ``socket`` is bound to: whatever is published then reaches it.

        Raises:
            BrokerError: The broker did not answer; the socket is told of the gap when it is back.
        """
        await self._acknowledged(self._sockets.get(socket, ()))

    async def follow(
        self, socket: Socket, topic: str, since: Position | None = None, *, replay: bool = True
    ) -> Recovery:
        """Let ``socket`` hear ``topic`` from a known place on: each event after it once, in order.

        What was missed after ``since`` is handed to the socket before anything later, and where that is not to be had,
        the event of the gap is. With ``replay=False`` it is only returned, and the caller sees to the order.
        ``since=None``: from now on. A socket that already listens to the topic, and has had all that came after
        ``since``, just goes on; one that has a hole before what it had starts anew at that place. A topic without
        history is bound, and its recovery has no position.

        Raises:
            BrokerError: The broker did not answer; the socket does not listen to the topic.
        """
        history = history_of(topic, self._channel_options)
        if history is None:
            await self.bind(socket, topic)
            return Recovery(None, since is None)
        if since is not None and replay and self._has_had(socket, topic, since):
            # Some of it may still be on its way, so the recovery ends where the reader knows that it is.
            return Recovery(since, True)
        self._leave(socket, topic)
        self._join(socket, (topic,))
        member = self._sockets[socket][topic]
        member.had_since = None
        held: list[Message] = []
        member.deliver = held.append
        try:
            await self._acknowledged((topic,))
            recovery = await self._broker.history(topic, since, history)
        except BaseException:
            if self._is_current(member, topic):
                self._leave(socket, topic)
            raise
        if self._is_current(member, topic):
            self._note(member, topic, since if recovery.recovered and since is not None else recovery.position)
            self._go_live(member, topic, recovery, held, replay)
        return recovery

    async def unbind(self, socket: Socket, *topics: str) -> None:
        """Hand ``socket`` nothing more of ``topics``, from the call on."""
        self._leave_all(socket, topics)

    def leave(self, socket: Socket, *topics: str) -> None:
        """Like `unbind`, for who cannot await."""
        self._leave_all(socket, topics)

    def drop(self, socket: Socket) -> None:
        """Forget a socket that is gone."""
        self._leave_all(socket, tuple(self._sockets.get(socket, ())))

    def topics_of(self, socket: Socket) -> frozenset[str]:
        """The topics that ``socket`` is bound to."""
        return frozenset(self._sockets.get(socket, ()))

    def sockets_of(self, topic: str) -> tuple[Socket, ...]:
        """The sockets of this process that are bound to ``topic``."""
        entry = self._topics.get(topic)
        return () if entry is None else tuple(member.socket for member in entry.members)

    def size_of(self, topic: str) -> int:
        """How many sockets of this process are bound to ``topic``."""
        entry = self._topics.get(topic)
        return 0 if entry is None else len(entry.members)

    @property
    def waiting(self) -> int:
        """Events that wait to be handed to their sockets."""
        return self._fan_out.waiting

    @property
    def topics(self) -> Collection[str]:
        """The topics that any socket of this process is bound to."""
        return self._topics.keys()

    @property
    def present_topics(self) -> Collection[str]:
        """Those of `topics` that are channels with presence."""
        return self._present_topics.keys()

    def _join(self, socket: Socket, names: Collection[str]) -> dict[str, Member]:
        """Make ``socket`` a member, and give its places; those that it had already are claimed once more."""
        mine = self._sockets.get(socket, {})
        new = [name for name in dict.fromkeys(names) if name not in mine]
        # What options there are is the application's word, and may raise: before anything is changed.
        options = {name: options_of(name, self._channel_options) for name in new if name not in self._topics}
        if new:
            self._sockets[socket] = mine
        deliver = socket.deliver  # one bound method for all of them
        for name in new:
            topic = self._topics.get(name)
            if topic is None:
                topic = self._topics[name] = _Topic()
                history = options[name].kept
                if history is not None:
                    topic.log = _Log(history)
                if options[name].presence:
                    self._present_topics[name] = None
                self._rounds.add(name)
            mine[name] = member = Member(socket, deliver)
            topic.add(member)
            if topic.log is not None:
                member.had_since, member.era = topic.log.position, topic.log.era
        members = {name: mine[name] for name in names}
        for member in members.values():
            member.claims += 1
        return members

    def _leave_all(self, socket: Socket, names: Collection[str]) -> None:
        for name in names:
            self._leave(socket, name)

    def _leave(self, socket: Socket, name: str) -> None:
        mine = self._sockets.get(socket)
        if mine is None:
            return
        member = mine.pop(name, None)
        if not mine:
            del self._sockets[socket]
        if member is None:
            return
        member.deliver = _ignore
        topic = self._topics[name]
        topic.remove(socket)
        if not topic.members:
            self._rounds.add(name)

    def _note(self, member: Member, name: str, position: Position | None) -> None:
        """Note from where on a member has had everything."""
        record = self._topics[name].log
        if record is not None:
            member.had_since, member.era = position, record.era

    def _has_had(self, socket: Socket, name: str, since: Position) -> bool:
        """Was everything after ``since`` handed to a socket already, or will be?"""
        topic, member = self._topics.get(name), self._sockets.get(socket, {}).get(name)
        if topic is None or member is None or topic.log is None:
            return False
        start, now = member.had_since, topic.log.position
        if start is None or now is None or member.era != topic.log.era:
            return False
        return start.epoch == since.epoch == now.epoch and start.offset <= since.offset <= now.offset

    def _is_current(self, member: Member, name: str) -> bool:
        return self._sockets.get(member.socket, {}).get(name) is member

    # What the broker knows.

    async def _acknowledged(self, names: Collection[str]) -> None:
        """Return when the broker listens to ``names``."""
        rounds = {
            self._rounds.add(name) for name in names if (topic := self._topics.get(name)) and not topic.acknowledged
        }
        for done in rounds:  # one, or none
            await asyncio.shield(done)  # one of many who wait may give up alone

    async def _tell(self, names: Collection[str]) -> None:
        leaving, coming = [], []
        for name in names:
            topic = self._topics.get(name)
            if topic is None or topic.acknowledged and topic.members:
                continue
            if topic.members:
                topic.wanted = True
                coming.append(name)
            else:
                del self._topics[name]
                self._present_topics.pop(name, None)
                self._to_recover.pop(name, None)
                if topic.wanted:
                    leaving.append(name)
        if leaving:
            await self._broker.unsubscribe(leaving)
        if coming:
            await self._broker.subscribe(coming)
            beginning = []
            for name in coming:
                topic = self._topics[name]
                if topic.log is None:
                    topic.acknowledged = True
                else:
                    beginning.append(self._begin(name, topic, topic.log))
            if beginning:
                await asyncio.gather(*beginning)

    async def _begin(self, name: str, topic: _Topic, record: _Log) -> None:
        """The broker listens to a topic with history now: note where its channel is."""
        if record.position is None and not record.recovering:
            # The read follows the acknowledgement: whatever comes later than the position is on its way to us.
            try:
                recovery = await self._broker.history(name, None, record.history)
            except BrokerError:
                self._recover_soon(name, record)  # for those who joined without waiting: they are told of the gap
                raise
            if record.begin(recovery.position):
                for member in topic.members:
                    if member.deliver == member.socket.deliver:  # not one that is catching up by itself
                        self._note(member, name, recovery.position)
                self._go_on(name, topic)
        topic.acknowledged = True

    # What comes in.

    @property
    def full(self) -> bool:
        return self._fan_out.full

    async def room(self) -> None:
        await self._fan_out.room()

    def heard(self, topic: str, payload: bytes) -> None:
        entry = self._topics.get(topic)
        if entry is None:
            return
        try:
            message = Message.parse(payload)
        except ValueError as error:
            log.warning("%s: dropped what somebody published: %s", topic, error)
            return
        if entry.log is None:
            self._send(topic, entry, message)
        elif entry.log.held is not None:
            entry.log.hold(message)
        else:
            self._in_order(topic, entry, entry.log, message)

    def missed(self, topics: Collection[str]) -> None:
        touched: dict[Socket, Member] = {}
        for name in topics:
            topic = self._topics.get(name)
            if topic is None:
                continue
            topic.acknowledged = True
            if topic.log is not None:
                self._recover_soon(name, topic.log)
            elif (channel := channel_of(name)) is not None:
                self._send(name, topic, Message.gap(channel))
            else:
                touched.update((member.socket, member) for member in topic.members)
        if touched:
            # Once for each socket, however many of its own topics are meant.
            self._fan_out.send("", tuple(touched.values()), Message.gap(None))

    def _send(self, name: str, topic: _Topic, message: Message) -> None:
        if topic.snapshot is None:
            topic.snapshot = tuple(topic.members)
        self._fan_out.send(name, topic.snapshot, message)

    def _in_order(self, name: str, topic: _Topic, record: _Log, message: Message) -> None:
        """Hand out the next event of a channel with history, drop a repeated one, and see a hole."""
        position, known = message.position, record.position
        if position is None:
            self._send(name, topic, message)
        elif known is None or position == (known.offset + 1, known.epoch):
            record.position = position  # None: a gap was told, and this is where it goes on
            self._send(name, topic, message)
        elif position.epoch != known.epoch or position.offset > known.offset:
            self._recover_soon(name, record)
            record.hold(message)

    def _recover_soon(self, name: str, record: _Log) -> None:
        record.recovering = True
        if record.held is None:
            record.held = []
        self._to_recover[name] = None
        if self._recovery is None:
            self._recovery = asyncio.get_running_loop().create_task(self._recover_all())

    async def _recover_all(self) -> None:
        try:
            while self._to_recover:
                names = list(self._to_recover)[:AT_ONCE]
                for name in names:
                    del self._to_recover[name]
                await asyncio.gather(*map(self._recover, names))
        finally:
            self._recovery = None

    async def _recover(self, name: str) -> None:
        """Fill a hole from history, or tell of it."""
        topic = self._topics.get(name)
        if topic is None or topic.log is None:
            return
        record = topic.log
        record.recovering = True
        if record.held is None:
            record.held = []
        since, heard = record.position, len(record.held)
        recovery = await self._read_patiently(name, record)
        if self._topics.get(name) is not topic:
            return  # nobody listens any more, or somebody anew
        if recovery is None or not recovery.recovered or since is None:
            record.position = _before(record.held, since) or (recovery.position if recovery is not None else None)
            record.era += 1
            self._send(name, topic, Message.gap(channel_of(name), record.position))
        else:
            record.position = recovery.position
            for message in recovery.missed:
                self._send(name, topic, message)
            held, record.held = (
                record.held,
                [
                    message
                    for number, message in enumerate(record.held)
                    if number >= heard or not _is_beyond(message.position, recovery.position)
                ],
            )
            if len(record.held) < len(held):
                # Heard before the count was read, and not counted: Redis has lost the end of it, or somebody made the
                # number up. To wait for what comes before it would be for ever.
                log.warning("%s: dropped events whose numbers the broker has not given", name)
                record.era += 1
                self._send(name, topic, Message.gap(channel_of(name), record.position))
        record.recovering = False
        self._go_on(name, topic)
        if recovery is not None and _is_behind(record.position, recovery.position):
            # What was held ends before the channel did: its last events may be lost too, with none after them to tell.
            self._recover_soon(name, record)
        if record.overflowed:
            # What was not held and has a number is in the history; what has none is lost.
            record.overflowed = False
            record.era += 1
            self._send(name, topic, Message.gap(channel_of(name), record.position))
            self._recover_soon(name, record)

    async def _read_patiently(self, name: str, record: _Log) -> Recovery | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while True:
            try:
                return await self._broker.history(name, record.position, record.history)
            except BrokerError as error:
                if loop.time() >= end:
                    log.warning("%s: its history cannot be read, its sockets are told of a gap: %s", name, error)
                    return None
            except Exception:
                log.exception("%s: its history cannot be read, its sockets are told of a gap", name)
                return None
            await asyncio.sleep(PAUSE)

    def _go_on(self, name: str, topic: _Topic) -> None:
        """Hand out what was held back, then go live."""
        record = topic.log
        assert record is not None
        held, record.held = record.held or [], None
        for message in held:
            if record.recovering:  # there is a further hole, in what was held
                record.hold(message)
            else:
                self._in_order(name, topic, record, message)

    def _go_live(self, member: Member, name: str, recovery: Recovery, held: list[Message], replay: bool) -> None:
        """Hand a member what it missed, then what came meanwhile, then let it hear like everybody else."""
        deliver = member.socket.deliver
        after = recovery.position
        # In this order: a deliver that drops the socket makes the member deaf, and that must stand.
        member.deliver = deliver if after is None else partial(_deliver_later, member, after)
        if replay:
            missed = recovery.missed if recovery.recovered else (Message.gap(channel_of(name), after),)
            for message in missed:
                if member.deliver is _ignore:
                    return
                deliver(message)
        for message in held:
            member.deliver(message)


def _deliver_later(member: Member, after: Position, message: Message) -> None:
    """Deliver to a member that has had everything up to ``after``: the same event may still come in live."""
    position = message.position
    if position is not None:
        if position.epoch == after.epoch and position.offset <= after.offset:
            return
        member.deliver = member.socket.deliver
    member.socket.deliver(message)


def _is_behind(position: Position | None, other: Position | None) -> bool:
    if position is None or other is None:
        return False
    return position.epoch == other.epoch and position.offset < other.offset


def _is_beyond(position: Position | None, newest: Position | None) -> bool:
    if position is None or newest is None:
        return False
    return position.epoch != newest.epoch or position.offset > newest.offset


def _before(held: list[Message], since: Position | None) -> Position | None:
    """The place in front of the first event that was held back and is later than ``since``."""
    for message in held:
        position = message.position
        if position is not None and (since is None or position.epoch != since.epoch or position.offset > since.offset):
            return Position(position.offset - 1, position.epoch)
    return None


def _ignore(message: Message) -> None:
    pass
