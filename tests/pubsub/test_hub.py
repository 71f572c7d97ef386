import asyncio
import random

import pytest
import redis.asyncio as aioredis
from hypothesis import example, given, settings, strategies as st

from sstream.errors import BrokerError
from sstream.pubsub import Hub, MemoryBroker, Message, Position, Publisher, RedisBroker, hub as hub_module
from sstream.pubsub.broker import Recovery
from sstream.pubsub.message import encode_event, number_event
from sstream.testing import within

from .listening import LAST_TEN, Inbox, eventually, with_history

LOBBY = "channel:lobby"
KEPT = "channel:kept"


class Reluctant(MemoryBroker):
    """A broker that can be told to wait, to fail, and to lose events."""

    def __init__(self):
        super().__init__()
        self.fails = False  # to subscribe and to read
        self.deaf = False  # to events
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = asyncio.Event()
        self.reading.set()
        self.asked = asyncio.Event()  # for a history, and the answer is held up

    async def subscribe(self, topics):
        await self.gate.wait()
        await super().subscribe(topics)  # wanted, whatever comes
        if self.fails:
            raise BrokerError("away")

    async def unsubscribe(self, topics):
        await self.gate.wait()
        await super().unsubscribe(topics)

    async def history(self, topic, since, history):
        if self.fails:
            raise BrokerError("away")
        recovery = await super().history(topic, since, history)
        if not self.reading.is_set():
            self.asked.set()
        await self.reading.wait()  # on its way back
        return recovery

    async def publish(self, topic, payload, history=None):
        if self.deaf:
            listener, self._listener = self._listener, None
            try:
                return await super().publish(topic, payload, history)
            finally:
                self._listener = listener
        return await super().publish(topic, payload, history)


@pytest.fixture
async def broker():
    return Reluctant()


@pytest.fixture
async def hub(broker):
    hub = Hub(broker, channel_options=with_history)
    await hub.start()
    yield hub
    await hub.close()


@pytest.fixture
def publish(broker):
    return Publisher(broker, channel_options=with_history)


async def idle(hub):
    await hub._rounds.finish()
    if hub._recovery is not None:
        await hub._recovery


async def idle_recovery(hub):
    while hub._recovery is not None:
        await asyncio.gather(hub._recovery)


# Who listens


async def test_socket_gets_the_events_of_its_topics(hub, publish):
    inbox, other = Inbox("a"), Inbox("b")
    await hub.bind(inbox, "all", "socket:a", "user:1", LOBBY)
    await hub.bind(other, "all", "socket:b")

    await publish.channel("lobby", "n", 1)
    await publish.all("n", 2)
    await publish.user(1, "n", 3)
    await publish.socket(["a", "b"], "n", 4)

    assert inbox.numbers == [1, 2, 3, 4]
    assert other.numbers == [2, 4]


async def test_all_sockets_of_a_topic_get_the_same_message(hub, publish):
    one, two = Inbox("a"), Inbox("b")
    await hub.bind(one, "all")
    await hub.bind(two, "all")

    await publish.all("n", 1)

    assert one.messages[0] is two.messages[0]


async def test_unbound_socket_gets_nothing_from_the_call_on(hub, publish):
    inbox = Inbox()
    await hub.bind(inbox, "all", LOBBY)

    await hub.unbind(inbox, LOBBY)
    await publish.channel("lobby", "n", 1)
    await publish.all("n", 2)

    assert inbox.numbers == [2]
    assert hub.topics_of(inbox) == {"all"}


async def test_dropped_socket_is_forgotten(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, "all", LOBBY, KEPT)

    hub.drop(inbox)
    hub.drop(inbox)
    await publish.all("n", 1)
    await idle(hub)

    assert inbox.messages == []
    assert hub.topics_of(inbox) == set()
    assert (list(hub.topics), broker._topics, hub._sockets) == ([], set(), {})


async def test_topic_is_kept_while_anybody_listens(hub, broker):
    one, two = Inbox("a"), Inbox("b")
    await hub.bind(one, LOBBY)
    await hub.bind(two, LOBBY)

    hub.drop(one)
    await idle(hub)
    assert broker._topics == {LOBBY}
    assert hub.sockets_of(LOBBY) == (two,)

    hub.drop(two)
    await idle(hub)
    assert broker._topics == set()
    assert hub.sockets_of(LOBBY) == ()


async def test_binding_twice_is_binding_once(hub, publish):
    inbox = Inbox()
    await hub.bind(inbox, "all", "all")
    await hub.bind(inbox, "all")

    await publish.all("n", 1)

    assert inbox.numbers == [1]


async def test_unbinding_what_is_not_bound_is_no_error(hub):
    inbox = Inbox()
    await hub.unbind(inbox, LOBBY)
    await hub.bind(inbox, "all")
    await hub.unbind(inbox, LOBBY)

    assert hub.topics_of(inbox) == {"all"}


async def test_bind_returns_when_the_broker_listens(hub, broker):
    broker.gate.clear()
    one = asyncio.create_task(hub.bind(Inbox("a"), LOBBY))
    two = asyncio.create_task(hub.bind(Inbox("b"), LOBBY))
    await asyncio.sleep(0.01)
    waited = not one.done() and not two.done()

    broker.gate.set()
    await asyncio.gather(one, two)

    assert waited
    assert broker._topics == {LOBBY}


async def test_joined_socket_may_wait_until_the_broker_listens(hub, broker):
    broker.gate.clear()
    socket = Inbox()
    hub.join(socket, "all", LOBBY)
    waiting = asyncio.ensure_future(hub.acknowledged(socket))
    await asyncio.sleep(0)
    assert not waiting.done()

    broker.gate.set()
    await waiting

    assert broker._topics == {"all", LOBBY}
    await hub.acknowledged(Inbox())  # who is bound to nothing waits for nobody


async def test_socket_that_goes_while_it_is_being_bound_leaves_nothing(hub, broker):
    broker.gate.clear()
    inbox = Inbox()
    binding = asyncio.create_task(hub.bind(inbox, LOBBY))
    await asyncio.sleep(0)
    hub.drop(inbox)
    broker.gate.set()
    await binding
    await idle(hub)

    assert (list(hub.topics), broker._topics) == ([], set())


async def test_cancelled_bind_leaves_the_others_alone(hub, broker, publish):
    broker.gate.clear()
    one, two = Inbox("a"), Inbox("b")
    giving_up = asyncio.create_task(hub.bind(one, LOBBY))
    staying = asyncio.create_task(hub.bind(two, LOBBY))
    await asyncio.sleep(0)
    giving_up.cancel()
    broker.gate.set()
    await staying

    await publish.channel("lobby", "n", 1)

    assert (one.numbers, two.numbers) == ([], [1])
    assert hub.topics_of(one) == set()


async def test_bind_that_fails_leaves_only_what_was_bound_before(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, "all")
    broker.fails = True
    with pytest.raises(BrokerError):
        await hub.bind(inbox, "all", LOBBY)
    broker.fails = False
    await idle(hub)

    await publish.all("n", 1)

    assert hub.topics_of(inbox) == {"all"}
    assert broker._topics == {"all"}
    assert inbox.numbers == [1]


async def test_bind_after_a_failure_asks_the_broker_again(hub, broker, publish):
    one, two = Inbox("a"), Inbox("b")
    broker.fails = True
    hub.join(one, LOBBY)
    await idle(hub)
    with pytest.raises(BrokerError):
        await hub.bind(two, LOBBY)
    broker.fails = False

    await hub.bind(two, LOBBY)
    await publish.channel("lobby", "n", 1)

    assert (one.numbers, two.numbers) == ([1], [1])


async def test_joined_socket_is_bound_without_waiting_and_told_of_the_gap(hub, broker, publish):
    inbox = Inbox()
    broker.fails = True
    hub.join(inbox, "all", LOBBY, KEPT)
    await idle(hub)
    broker.fails = False

    hub.missed([KEPT, LOBBY, "all"])
    await idle(hub)
    await publish.all("n", 1)
    await publish.channel("kept", "n", 2)

    assert [args for event, args in inbox.events if event == "sstream:gap"] == [["lobby"], [None], ["kept"]]
    assert inbox.numbers == [1, 2]


async def test_joined_socket_whose_channel_cannot_be_read_is_told_of_the_gap(hub, broker, publish, monkeypatch):
    monkeypatch.setattr(hub_module, "PAUSE", 0.001)
    read, answers = broker.history, [BrokerError("away"), BrokerError("away")]

    async def history(*question):
        if answers:
            raise answers.pop()
        return await read(*question)

    broker.history = history  # it listens all the while: nobody will tell that anything was missed
    one, two = Inbox("a"), Inbox("b")
    hub.join(one, KEPT)
    with pytest.raises(BrokerError):
        await hub.bind(two, KEPT)
    await publish.channel("kept", "n", 1)
    await idle(hub)
    await publish.channel("kept", "n", 2)

    assert one.events == [["sstream:gap", ["kept"]], ["n", [1]], ["n", [2]]]
    assert two.events == []


async def test_deliver_may_drop_the_socket(hub, publish):
    class Full(Inbox):
        def deliver(self, message):
            super().deliver(message)
            hub.drop(self)

    one, two = Full("a"), Full("b")
    await hub.bind(one, "all", LOBBY)
    await hub.bind(two, "all")

    await publish.all("n", 1)
    await publish.all("n", 2)

    assert (one.numbers, two.numbers) == ([1], [1])


async def test_what_is_no_event_is_dropped_with_one_line(hub, broker, publish, expect_log):
    expected = expect_log("channel:lobby: dropped what somebody published", count=1)
    inbox = Inbox()
    await hub.bind(inbox, LOBBY)

    await broker.publish(LOBBY, b"secret \xc1")
    await publish.channel("lobby", "n", 1)

    assert inbox.numbers == [1]
    assert "secret" not in expected.records[0].getMessage()


async def test_event_of_an_unknown_topic_is_nothing(hub):
    hub.heard(LOBBY, encode_event("n", [1]))
    hub.missed([LOBBY])


async def test_closing_ends_those_who_wait(hub, broker):
    broker.gate.clear()
    binding = asyncio.create_task(hub.bind(Inbox(), LOBBY))
    await asyncio.sleep(0)
    broker.gate.set()
    await hub.close()
    await hub.close()

    with pytest.raises(BrokerError, match="closed"):
        await binding
    assert broker._topics == set()


async def test_channels_with_presence_are_known(hub):
    inbox = Inbox()
    await hub.bind(inbox, "channel:here", LOBBY, "all")
    known = list(hub.present_topics)
    hub.drop(inbox)
    await idle(hub)

    assert (known, list(hub.present_topics)) == (["channel:here"], [])


steps = st.lists(
    st.tuples(
        st.sampled_from(["bind", "join", "follow", "unbind", "drop", "open", "shut", "fail", "heal", "turn"]),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=100)
@given(steps)
def test_topic_is_in_the_hub_if_and_only_if_the_broker_listens(steps):
    async def run():
        broker = Reluctant()
        hub = Hub(broker, channel_options=with_history)
        await hub.start()
        publish = Publisher(broker, channel_options=with_history)
        inboxes = [Inbox(str(number)) for number in range(4)]
        topics = ["all", LOBBY, KEPT]
        tasks = []
        for step, socket, topic in steps:
            inbox, name = inboxes[socket], topics[topic]
            if step in {"bind", "follow"}:
                tasks.append(asyncio.create_task(getattr(hub, step)(inbox, name)))
            elif step == "join":
                hub.join(inbox, name)
            elif step == "unbind":
                await hub.unbind(inbox, name)
            elif step == "drop":
                hub.drop(inbox)
            elif step in {"open", "shut"}:
                (broker.gate.set if step == "open" else broker.gate.clear)()
            elif step in {"fail", "heal"}:
                broker.fails = step == "fail"
            else:
                await asyncio.sleep(0)
        broker.gate.set()
        broker.fails = False
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, Recovery | BrokerError)
        await idle(hub)

        members = {name for inbox in inboxes for name in hub.topics_of(inbox)}
        assert set(hub.topics) == members == broker._topics
        for name in topics:
            assert set(hub.sockets_of(name)) == {inbox for inbox in inboxes if name in hub.topics_of(inbox)}
        hub.missed(topics)  # those that were joined while the broker failed
        await idle(hub)
        for inbox in inboxes:
            inbox.messages.clear()
        await publish.all("n", "all")
        await publish.channel(["lobby", "kept"], "n", "channel")
        for inbox in inboxes:
            assert len(inbox.numbers) == len(hub.topics_of(inbox))
        await hub.close()
        assert broker._topics == set()

    asyncio.run(run())


# History


async def test_follow_from_now_on_tells_the_position(hub, publish):
    inbox = Inbox()
    await publish.channel("kept", "n", 1)

    recovery = await hub.follow(inbox, KEPT)
    await publish.channel("kept", "n", 2)

    assert (recovery.position.offset, recovery.recovered, recovery.missed) == (1, True, ())
    assert inbox.numbers == [2]


async def test_follow_hands_out_what_was_missed_before_anything_later(hub, broker, publish):
    inbox = Inbox()
    since = (await hub.follow(inbox, KEPT)).position
    hub.drop(inbox)
    for number in range(1, 4):
        await publish.channel("kept", "n", number)

    again = Inbox("again")
    broker.reading.clear()
    following = asyncio.create_task(hub.follow(again, KEPT, since))
    await broker.asked.wait()
    await publish.channel("kept", "n", 4)  # live, while the history is on its way
    nothing_yet = list(again.messages)
    broker.reading.set()
    recovery = await following
    await publish.channel("kept", "n", 5)

    assert nothing_yet == []
    assert recovery.recovered
    assert again.numbers == [1, 2, 3, 4, 5]
    assert again.offsets == [1, 2, 3, 4, 5]


async def test_event_that_is_in_the_history_and_comes_live_afterwards_is_handed_out_once(hub, broker, publish):
    first, late = Inbox("first"), Inbox("late")
    since = (await hub.follow(first, KEPT)).position
    broker.deaf = True
    positions = [await broker.publish(KEPT, encode_event("n", [number]), LAST_TEN) for number in (1, 2)]
    broker.deaf = False

    await hub.follow(late, KEPT, since)
    for number, position in enumerate(positions, 1):  # the listening connection was behind
        hub.heard(KEPT, number_event(encode_event("n", [number]), "kept", position))
    await publish.channel("kept", "n", 3)

    assert late.numbers == [1, 2, 3]
    assert first.numbers == [1, 2, 3]


async def test_follow_without_replay_only_returns_what_was_missed(hub, publish):
    inbox = Inbox()
    since = (await hub.follow(inbox, KEPT)).position
    hub.drop(inbox)
    await publish.channel("kept", "n", 1)

    recovery = await hub.follow(inbox, KEPT, since, replay=False)
    await publish.channel("kept", "n", 2)

    assert [message.position.offset for message in recovery.missed] == [1]
    assert inbox.numbers == [2]


async def test_follow_by_a_socket_that_has_had_everything_since_goes_on_and_repeats_nothing(hub, publish):
    inbox, other = Inbox(), Inbox("other")
    since = (await hub.follow(inbox, KEPT)).position
    await hub.bind(other, KEPT)  # as for the sake of a session
    await publish.channel("kept", "n", 1)
    await publish.channel("kept", "n", 2)

    recoveries = [await hub.follow(socket, KEPT, since) for socket in (inbox, other)]
    recoveries += [await hub.follow(socket, KEPT, Position(1, since.epoch)) for socket in (inbox, other)]
    await publish.channel("kept", "n", 3)

    assert inbox.numbers == other.numbers == [1, 2, 3]
    assert [(recovery.position.offset, recovery.recovered) for recovery in recoveries] == [(0, True)] * 2 + [
        (1, True)
    ] * 2


async def test_follow_while_events_are_on_their_way_repeats_and_loses_nothing(broker, publish):
    hub = Hub(broker, channel_options=with_history, slice_size=1)
    await hub.start()
    inboxes = [Inbox(str(number)) for number in range(3)]
    for inbox in inboxes:
        await hub.bind(inbox, KEPT)
    since = (await broker.history(KEPT, None, LAST_TEN)).position
    await publish.channel("kept", "n", 1)  # the first slice alone has left

    recovery = await hub.follow(inboxes[2], KEPT, since)
    on_its_way = list(inboxes[2].messages)
    await inboxes[2].gets(1)

    assert recovery == Recovery(since, True)  # no further than the reader knows: what comes later is news to it
    assert on_its_way == []
    assert inboxes[2].numbers == [1]
    await hub.close()


async def test_follow_by_a_socket_with_a_hole_begins_anew_at_the_given_place(hub, publish):
    first, late = Inbox("first"), Inbox("late")
    since = (await hub.follow(first, KEPT)).position
    await publish.channel("kept", "n", 1)
    await hub.bind(late, KEPT)
    await publish.channel("kept", "n", 2)

    await hub.follow(late, KEPT, since)
    await publish.channel("kept", "n", 3)

    assert late.numbers == [2, 1, 2, 3]


async def test_follow_after_a_gap_asks_the_history(hub, broker, publish):
    inbox = Inbox()
    since = (await hub.follow(inbox, KEPT)).position
    broker.deaf = True
    for number in range(11):
        await publish.channel("kept", "n", number)
    broker.deaf = False
    await publish.channel("kept", "n", "later")
    await idle(hub)

    recovery = await hub.follow(inbox, KEPT, since)

    assert not recovery.recovered
    assert [event for event, _ in inbox.events].count("sstream:gap") == 2


async def test_position_that_is_read_late_does_not_repeat_what_was_handed_out_meanwhile(hub, broker, publish):
    inbox = Inbox()
    await publish.channel("kept", "n", 1)
    broker.reading.clear()
    binding = asyncio.create_task(hub.bind(inbox, KEPT))
    await broker.asked.wait()
    read, broker.reading = broker.reading, asyncio.Event()
    broker.reading.set()
    hub.missed([KEPT])  # and the recovery is quicker than the first read
    await publish.channel("kept", "n", 2)
    await idle_recovery(hub)
    await publish.channel("kept", "n", 3)
    read.set()
    await binding

    await publish.channel("kept", "n", 4)
    await idle_recovery(hub)

    assert inbox.numbers == [2, 3, 4]


async def test_follow_too_late_is_not_recovered_and_goes_on_live(hub, publish):
    inbox = Inbox()
    since = (await hub.follow(inbox, KEPT)).position
    hub.drop(inbox)
    for number in range(11):
        await publish.channel("kept", "n", number)

    recovery = await hub.follow(inbox, KEPT, since)
    await publish.channel("kept", "n", "live")

    assert not recovery.recovered
    assert recovery.position.offset == 11
    assert inbox.events == [["sstream:gap", ["kept"]], ["n", ["live"]]]
    assert inbox.messages[0].payload == Message.gap("kept", recovery.position).payload


async def test_bind_that_is_given_up_leaves_those_in_who_asked_for_the_same(hub, broker, publish):
    bound, joined, alone = Inbox("a"), Inbox("b"), Inbox("c")
    broker.gate.clear()
    given_up = [asyncio.create_task(hub.bind(inbox, LOBBY)) for inbox in (bound, joined, alone)]
    await asyncio.sleep(0)
    second = asyncio.create_task(hub.bind(bound, LOBBY))
    hub.join(joined, LOBBY)
    await asyncio.sleep(0)

    for task in given_up:
        task.cancel()
    await asyncio.wait(given_up)
    broker.gate.set()
    await second
    await publish.channel("lobby", "n", 1)

    assert [inbox.numbers for inbox in (bound, joined, alone)] == [[1], [1], []]


async def test_binds_that_all_fail_leave_the_socket_out(hub, broker):
    inbox = Inbox()
    broker.fails = True

    results = await asyncio.gather(*(hub.bind(inbox, LOBBY) for _ in range(3)), return_exceptions=True)

    assert [type(result) for result in results] == [BrokerError] * 3
    assert hub.topics_of(inbox) == frozenset()


@pytest.mark.parametrize(("since", "recovered"), [(None, True), (Position(3, "e"), False)])
async def test_follow_of_a_channel_without_history_is_a_bind(hub, publish, since, recovered):
    inbox = Inbox()

    assert await hub.follow(inbox, LOBBY, since) == Recovery(None, recovered)
    await publish.channel("lobby", "n", 1)

    assert inbox.numbers == [1]


async def test_follow_that_fails_leaves_the_socket_out(hub, broker, publish):
    inbox = Inbox()
    await hub.follow(inbox, KEPT)
    broker.fails = True
    with pytest.raises(BrokerError):
        await hub.follow(inbox, KEPT)
    broker.fails = False
    await idle(hub)

    await publish.channel("kept", "n", 1)

    assert inbox.messages == []
    assert broker._topics == set()


async def test_socket_that_goes_while_it_is_catching_up_gets_nothing(hub, broker, publish):
    inbox = Inbox()
    since = (await hub.follow(inbox, KEPT)).position
    hub.drop(inbox)
    await publish.channel("kept", "n", 1)
    broker.reading.clear()
    following = asyncio.create_task(hub.follow(inbox, KEPT, since))
    await broker.asked.wait()
    hub.drop(inbox)
    broker.reading.set()
    await following

    await publish.channel("kept", "n", 2)

    assert inbox.messages == []


async def test_socket_dropped_by_its_own_replay_gets_no_more(hub, publish):
    class Full(Inbox):
        def deliver(self, message):
            super().deliver(message)
            hub.drop(self)

    first = Inbox("first")
    since = (await hub.follow(first, KEPT)).position
    for number in range(3):
        await publish.channel("kept", "n", number)
    full = Full()

    await hub.follow(full, KEPT, since)
    await publish.channel("kept", "n", 3)

    assert full.numbers == [0]


async def test_hole_in_the_numbers_is_filled_before_what_came_later(hub, broker, publish):
    one, two = Inbox("a"), Inbox("b")
    await hub.bind(one, KEPT)
    await hub.follow(two, KEPT)
    await publish.channel("kept", "n", 1)
    broker.deaf = True
    await publish.channel("kept", "n", 2)
    await publish.channel("kept", "n", 3)
    broker.deaf = False
    await publish.channel("kept", "n", 4)
    await publish.channel("kept", "n", 5)
    await idle(hub)

    assert one.numbers == two.numbers == [1, 2, 3, 4, 5]
    assert one.offsets == [1, 2, 3, 4, 5]


async def test_end_that_was_missed_is_filled_when_the_broker_is_back(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    await publish.channel("kept", "n", 1)
    broker.deaf = True
    await publish.channel("kept", "n", 2)
    broker.deaf = False

    hub.missed([KEPT])
    await idle(hub)

    assert inbox.numbers == [1, 2]


async def test_hole_in_what_was_held_is_filled_too(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    broker.reading.clear()
    hub.missed([KEPT])
    await broker.asked.wait()
    await publish.channel("kept", "n", 1)
    broker.deaf = True
    await publish.channel("kept", "n", 2)
    broker.deaf = False
    await publish.channel("kept", "n", 3)
    broker.reading.set()
    await idle(hub)

    assert inbox.numbers == [1, 2, 3]


async def test_repeated_event_is_dropped(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    await publish.channel("kept", "n", 1)
    position = inbox.last

    hub.heard(KEPT, number_event(encode_event("n", [1]), "kept", position))

    assert inbox.numbers == [1]


async def test_hole_that_cannot_be_filled_is_told_once_and_it_goes_on(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    await publish.channel("kept", "n", 0)
    broker.deaf = True
    for number in range(1, 20):
        await publish.channel("kept", "n", number)
    broker.deaf = False
    await publish.channel("kept", "n", 20)
    await publish.channel("kept", "n", 21)
    await idle(hub)
    await publish.channel("kept", "n", 22)

    assert [event for event, _ in inbox.events] == ["n", "sstream:gap", "n", "n", "n"]
    assert inbox.numbers == [0, 20, 21, 22]
    assert inbox.messages[1].payload == Message.gap("kept", Position(20, inbox.last.epoch)).payload


@pytest.mark.parametrize("made_up", [lambda last: Position(last.offset + 5, last.epoch), lambda last: Position(2, "x")])
async def test_number_that_the_broker_has_not_given_is_a_gap_and_not_waited_for(
    hub, broker, publish, expect_log, made_up
):
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    await publish.channel("kept", "n", 1)
    expect_log("dropped events whose numbers the broker has not given", count=1)

    hub.heard(KEPT, number_event(encode_event("n", ["rogue"]), "kept", made_up(inbox.last)))
    await within(idle_recovery(hub), "it reads the history for ever")
    for number in range(2, 9):
        await publish.channel("kept", "n", number)
    await idle(hub)

    assert inbox.events[:2] == [["n", [1]], ["sstream:gap", ["kept"]]]
    assert inbox.numbers == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_recovery_for_those_who_have_left_does_nothing_to_those_who_came(hub, broker, publish, monkeypatch):
    monkeypatch.setattr(hub_module, "HELD", 1)
    first, second = Inbox("a"), Inbox("b")
    await hub.bind(first, KEPT)
    read, readings = broker.history, []

    async def history(*words):
        readings.append(asyncio.Event())
        recovery = await read(*words)
        await readings[-1].wait()
        return recovery

    broker.history = history
    hub.missed([KEPT])
    await eventually(lambda: len(readings) == 1)
    for number in range(3):  # more than is held
        await publish.channel("kept", "n", number)
    hub.drop(first)
    await hub._rounds.finish()
    binding = asyncio.create_task(hub.bind(second, KEPT))
    await eventually(lambda: len(readings) == 2)

    readings[0].set()  # for those who have left, while it is read where those stand who came
    for _ in range(10):
        await asyncio.sleep(0)
    for reading in readings[1:]:
        reading.set()
        await binding
    await idle(hub)
    await publish.channel("kept", "n", 3)

    assert second.events == [["n", [3]]]


async def test_new_epoch_is_a_gap_that_is_told(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    await publish.channel("kept", "n", 1)
    broker._logs.clear()  # a Redis that was emptied
    await publish.channel("kept", "n", 2)
    await idle(hub)
    await publish.channel("kept", "n", 3)

    assert inbox.events == [["n", [1]], ["sstream:gap", ["kept"]], ["n", [2]], ["n", [3]]]


async def test_history_that_cannot_be_read_is_tried_again(hub, broker, publish, monkeypatch):
    monkeypatch.setattr(hub_module, "PAUSE", 0.001)
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    broker.deaf = True
    await publish.channel("kept", "n", 1)
    broker.deaf, broker.fails = False, True
    hub.missed([KEPT])
    await asyncio.sleep(0)
    broker.fails = False
    await idle(hub)

    assert inbox.numbers == [1]


async def test_last_event_is_not_lost_in_silence_where_a_gap_is_told(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    await publish.channel("kept", "n", 1)
    broker.deaf = True
    for number in range(2, 20):  # more than the history holds
        await publish.channel("kept", "n", number)
    broker.deaf = False

    hub.missed([KEPT])
    await publish.channel("kept", "n", 20)
    broker.deaf = True
    await publish.channel("kept", "n", 21)
    broker.deaf = False
    await idle_recovery(hub)

    assert inbox.numbers == [1, 20, 21]
    assert [message.position is None for message in inbox.messages] == [False, True, False, False]


async def test_history_that_stays_unreadable_is_a_gap_that_is_told(hub, broker, publish, monkeypatch, expect_log):
    expect_log("its history cannot be read")
    monkeypatch.setattr(hub_module, "PATIENCE", 0)
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    await publish.channel("kept", "n", 1)
    broker.fails = True
    hub.missed([KEPT])
    await publish.channel("kept", "n", 2)  # heard, while it is not known what came before
    await idle(hub)
    await publish.channel("kept", "n", 3)

    assert inbox.events == [["n", [1]], ["sstream:gap", ["kept"]], ["n", [2]], ["n", [3]]]


async def test_broker_that_breaks_its_promise_is_a_gap_that_is_told(hub, broker, publish, monkeypatch, expect_log):
    expect_log("its history cannot be read")
    inbox = Inbox()
    await hub.bind(inbox, KEPT)

    async def broken(*_):
        raise ZeroDivisionError

    broker.history = broken
    hub.missed([KEPT])
    await idle(hub)

    assert inbox.events == [["sstream:gap", ["kept"]]]


async def test_too_many_events_while_history_is_read_are_a_gap_that_is_told(hub, broker, publish, monkeypatch):
    monkeypatch.setattr(hub_module, "HELD", 5)
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    broker.reading.clear()
    hub.missed([KEPT])
    await broker.asked.wait()
    for number in range(8):
        await publish.channel("kept", "n", number)
    broker.reading.set()
    await idle(hub)

    assert [event for event, _ in inbox.events] == ["n"] * 5 + ["sstream:gap"] + ["n"] * 3
    assert inbox.numbers == list(range(8))  # what was not held and has a number was in the history


async def test_events_without_a_number_keep_their_place(hub, broker, publish):
    inbox = Inbox()
    await hub.bind(inbox, KEPT)
    await publish.channel("kept", "n", 1)
    broker.reading.clear()
    hub.missed([KEPT])
    await broker.asked.wait()
    await broker.publish(KEPT, encode_event("n", ["another program's"], "kept"))
    await publish.channel("kept", "n", 2)
    broker.reading.set()
    await idle(hub)

    assert inbox.numbers == [1, "another program's", 2]


async def test_gap_is_told_once_to_each_socket_and_once_for_each_channel(hub):
    one, two = Inbox("a"), Inbox("b")
    await hub.bind(one, "all", "user:1", "socket:a", LOBBY, "channel:news")
    await hub.bind(two, "all", "user:1", "socket:b")

    hub.missed(list(hub.topics))
    await idle(hub)

    assert sorted(map(str, one.events)) == sorted(
        map(str, [["sstream:gap", ["lobby"]], ["sstream:gap", ["news"]], ["sstream:gap", [None]]])
    )
    assert two.events == [["sstream:gap", [None]]]


async def test_many_channels_recover_after_an_outage(hub, broker, publish):
    names = [f"kept{number}" for number in range(250)]
    inbox = Inbox()
    await hub.bind(inbox, *(f"channel:{name}" for name in names))
    broker.deaf = True
    await publish.channel(names, "n", 1)
    broker.deaf = False

    hub.missed(list(hub.topics))
    await idle(hub)

    assert inbox.numbers == [1] * 250


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32))
@example(661)
@example(1893)
def test_followers_get_everything_once_in_order_or_are_told(seed):
    """Publishing, losing, coming and going at random, with answers that come late."""

    async def run():
        dice = random.Random(seed)
        broker = Reluctant()
        hub = Hub(broker, channel_options=with_history, slice_size=2)
        await hub.start()
        publish = Publisher(broker, channel_options=with_history)
        number = 0
        inboxes: dict[Inbox, Position] = {}
        tasks = []

        async def follow(inbox, since):
            recovery = await hub.follow(inbox, KEPT, since)
            inboxes[inbox] = (since or recovery.position) if recovery.recovered else recovery.position

        for _ in range(dice.randrange(60)):
            step = dice.randrange(8)
            if step < 3:
                number += 1
                broker.deaf = dice.random() < 0.2
                await publish.channel("kept", "n", number)
                broker.deaf = False
            elif step == 3:
                known = list(inboxes.values())
                since = dice.choice(known) if known and dice.random() < 0.7 else None
                tasks.append(asyncio.create_task(follow(Inbox(), since)))
            elif step == 4:
                hub.missed([KEPT])
            elif step == 5:
                (broker.reading.clear if dice.random() < 0.5 else broker.reading.set)()
            else:
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
        broker.reading.set()
        await asyncio.gather(*tasks)
        hub.missed([KEPT])
        await idle(hub)
        while hub._fan_out._waiting:
            await asyncio.sleep(0)

        for inbox, since in inboxes.items():
            expected = since.offset + 1
            for message in inbox.messages:
                if message.position is None:  # told
                    expected = None
                else:
                    assert expected is None or message.position.offset == expected
                    expected = message.position.offset + 1
            assert expected in {None, number + 1}
        await hub.close()

    asyncio.run(run())


# With Redis


async def test_one_subscription_however_many_sockets(redis_url):
    broker = RedisBroker(redis_url, deadline=20.0)
    hub = Hub(broker)
    await hub.start()
    inboxes = [Inbox(str(number)) for number in range(50)]
    async with aioredis.Redis.from_url(redis_url) as client:
        await asyncio.gather(*(hub.bind(inbox, "all") for inbox in inboxes))
        while_bound = await client.pubsub_numsub("sstream:all")
        for inbox in inboxes:
            hub.drop(inbox)
        await idle(hub)
        await hub.bind(inboxes[0], LOBBY)  # a marker
        afterwards = await client.pubsub_channels()
    await hub.close()
    await broker.close()

    assert while_bound == [(b"sstream:all", 1)]
    assert afterwards == [b"sstream:channel:lobby"]
