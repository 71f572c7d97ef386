import asyncio
import itertools

import pytest
from hypothesis import given, settings, strategies as st

from sstream.pubsub import Message, fanout
from sstream.pubsub.fanout import FanOut, Member

from .listening import Inbox


def message(number, size=1):
    return Message(str(number).encode().rjust(size))  # what it carries does not matter here


def got(inbox):
    return [int(message.payload) for message in inbox.messages]


def crowd(count):
    inboxes = [Inbox(str(number)) for number in range(count)]
    return inboxes, tuple(Member(inbox, inbox.deliver) for inbox in inboxes)


def still():
    """A clock by which nothing takes any time, so that the numbers decide."""
    return 0.0


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_few_are_served_at_once():
    inboxes, members = crowd(10)
    out = FanOut(10, clock=still)

    out.send("a", members, message(1))

    assert [got(inbox) for inbox in inboxes] == [[1]] * 10
    await turns(2)


async def test_many_are_served_in_slices_and_others_get_their_turn():
    inboxes, members = crowd(1000)
    out = FanOut(100, clock=still)
    served = []

    out.send("a", members, message(1))
    for _ in range(11):
        served.append(sum(map(bool, map(got, inboxes))))
        await asyncio.sleep(0)

    assert served[0] == 0
    assert all(after - before <= 100 for before, after in itertools.pairwise(served))
    assert served[-1] == 1000
    await turns(2)


class SlowSends:
    """A clock that goes on with each event that is sent, and with nothing else."""

    def __init__(self, seconds, inboxes):
        self.now = 0.0
        self._seconds = seconds
        self._inboxes = inboxes
        self._sent = 0

    def flush(self):
        delivered = sum(len(inbox.messages) for inbox in self._inboxes)
        self.now += (delivered - self._sent) * self._seconds
        self._sent = delivered

    def clock(self):
        return self.now


async def test_slice_ends_by_time_where_sending_is_slow():
    inboxes, members = crowd(1000)
    slow = SlowSends(0.001, inboxes)
    out = FanOut(256, slow.flush, slow.clock)
    times = []

    out.send("a", members, message(1))
    out.send("a", members, message(2))
    while out.waiting:
        times.append(slow.now)
        await asyncio.sleep(0)

    steps = [after - before for before, after in itertools.pairwise(times)]
    assert max(steps) == pytest.approx(2 * fanout.STRIDE * 0.001)
    assert all(got(inbox) == [1, 2] for inbox in inboxes)
    await turns(2)


async def test_slice_ends_by_number_where_sending_is_quick():
    inboxes, members = crowd(1000)
    quick = SlowSends(0.000_001, inboxes)
    out = FanOut(256, quick.flush, quick.clock)
    served = []

    out.send("a", members, message(1))
    while out.waiting:
        served.append(sum(map(bool, map(got, inboxes))))
        await asyncio.sleep(0)

    assert served == [0, 256, 512, 768]
    await turns(2)


async def test_slow_large_topics_take_turns():
    one, members_of_one = crowd(300)
    two, members_of_two = crowd(300)
    slow = SlowSends(0.001, one + two)
    out = FanOut(256, slow.flush, slow.clock)

    out.send("one", members_of_one, message(1))
    out.send("two", members_of_two, message(2))
    await turns(2)

    assert [sum(map(bool, map(got, inboxes))) for inboxes in (one, two)] == [fanout.STRIDE, fanout.STRIDE]
    out.close()


async def test_second_small_topic_of_one_turn_waits_when_the_turn_is_used_up():
    one, members_of_one = crowd(80)
    two, members_of_two = crowd(80)
    out = FanOut(100, clock=still)

    out.send("one", members_of_one, message(1))
    out.send("two", members_of_two, message(2))
    at_once = (len(got(one[0])), len(got(two[0])))
    await asyncio.sleep(0)

    assert at_once == (1, 0)
    assert got(two[-1]) == [2]
    await turns(2)


async def test_small_topic_does_not_wait_for_a_large_one():
    _, large = crowd(10_000)
    small, members = crowd(1)
    out = FanOut(100, clock=still)
    out.send("large", large, message(1))
    await asyncio.sleep(0)

    out.send("small", members, message(2))
    await turns(2)

    assert got(small[0]) == [2]
    out.close()


async def test_messages_that_come_together_go_out_together():
    inboxes, members = crowd(300)
    out = FanOut(100, clock=still)

    for number in range(16):
        out.send("a", members, message(number))
    await asyncio.sleep(0)

    assert [len(got(inbox)) for inbox in inboxes] == [16] * 100 + [0] * 200
    await turns(4)
    assert all(got(inbox) == list(range(16)) for inbox in inboxes)


class Bundles(Inbox):
    """Notes how many messages came in one piece."""

    def __init__(self, name):
        super().__init__(name)
        self.sizes = []

    def deliver_all(self, burst):
        self.sizes.append(len(burst.messages))
        super().deliver_all(burst)


async def test_messages_that_go_out_together_are_handed_over_in_one_piece():
    inboxes = [Bundles(str(number)) for number in range(300)]
    members = tuple(Member(inbox, inbox.deliver) for inbox in inboxes)
    out = FanOut(100, clock=still)

    for number in range(16):
        out.send("a", members, message(number))
    await turns(4)

    assert all(inbox.sizes == [16] and got(inbox) == list(range(16)) for inbox in inboxes)


async def test_a_piece_has_a_bounded_size_unless_one_message_is_larger_by_itself():
    inboxes = [Bundles(str(number)) for number in range(3)]
    members = tuple(Member(inbox, inbox.deliver) for inbox in inboxes)
    out = FanOut(2, clock=still)
    half = fanout.BATCH_SIZE // 2

    for number, size in enumerate([half, half, 1, 2 * half + 1, 1, 1]):
        out.send("a", members, message(number, size))
    await turns(12)

    assert all(got(inbox) == list(range(6)) for inbox in inboxes)
    assert all(inbox.sizes == [2, 2] for inbox in inboxes)  # beside two single ones
    assert not out.waiting


async def test_member_that_catches_up_or_has_left_is_handed_each_message_by_itself():
    inboxes = [Bundles(str(number)) for number in range(4)]
    members = tuple(Member(inbox, inbox.deliver) for inbox in inboxes)
    out = FanOut(2, clock=still)
    held, gone = [], []
    for number in range(3):
        out.send("a", members, message(number))

    members[1].deliver = held.append

    def leave(message):
        gone.append(message)
        if len(gone) == 2:
            members[2].deliver = lambda message: None

    members[2].deliver = leave
    await turns(6)

    assert [int(message.payload) for message in held] == [0, 1, 2]
    assert [int(message.payload) for message in gone] == [0, 1]
    assert [inbox.sizes for inbox in inboxes] == [[3], [], [], [3]]


async def test_member_that_leaves_between_slices_gets_nothing_more():
    inboxes, members = crowd(300)
    out = FanOut(100, clock=still)
    out.send("a", members, message(1))
    await asyncio.sleep(0)

    members[299].deliver = lambda message: None
    await turns(5)

    assert [got(inboxes[298]), got(inboxes[299])] == [[1], []]


async def test_socket_that_fails_hurts_nobody_else(expect_log):
    expected = expect_log("socket 1 did not take an event", count=1)
    inboxes, members = crowd(3)
    out = FanOut(10, clock=still)

    def fail(message):
        raise RuntimeError("no")

    members[1].deliver = fail
    out.send("a", members, message(1))
    await turns(2)

    assert [got(inbox) for inbox in inboxes] == [[1], [], [1]]
    assert len(expected.records) == 1


async def test_event_published_while_delivering_comes_after_those_that_wait():
    inboxes, members = crowd(4)
    out = FanOut(2, clock=still)

    def answer(message):
        if message.payload == b"1":
            out.send("a", members, Message(b"2"))
        inboxes[0].deliver(message)

    members[0].deliver = answer
    out.send("a", members, message(1))
    await turns(8)

    assert [got(inbox) for inbox in inboxes] == [[1, 2]] * 4


async def test_full_until_half_of_it_is_served(monkeypatch):
    monkeypatch.setattr(fanout, "HIGH_WATER", 8)
    monkeypatch.setattr(fanout, "BATCH", 1)
    _, members = crowd(4)
    out = FanOut(2, clock=still)
    for number in range(7):
        out.send("a", members, message(number))
    before = out.full
    out.send("a", members, message(7))

    full = out.full
    await out.room()

    assert (before, full, out.full) == (False, True, False)
    assert out._waiting == 4
    out.close()


async def test_closed_while_waiting_for_room(monkeypatch):
    monkeypatch.setattr(fanout, "HIGH_WATER", 1)
    _, members = crowd(4)
    out = FanOut(2, clock=still)
    out.send("a", members, message(1))
    waiting = asyncio.ensure_future(out.room())

    out.close()
    await waiting

    assert not out.full


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_nobody_is_no_work(size):
    out = FanOut(size, clock=still)
    out.send("a", (), message(1))
    await turns(2)
    assert not out.full


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 2)),
            st.tuples(st.just("join"), st.integers(0, 2)),
            st.tuples(st.just("turn"), st.just(0)),
        ),
        max_size=60,
    ),
    st.integers(1, 5),
)
def test_each_member_gets_what_was_sent_since_it_came_once_and_in_order(steps, slice_size):
    async def run():
        out = FanOut(slice_size, clock=still)
        topics = {0: (), 1: (), 2: ()}
        expected = {}
        for number, (step, topic) in enumerate(steps):
            if step == "send":
                out.send(str(topic), topics[topic], message(number))
                for member in topics[topic]:
                    expected[member].append(number)
            elif step == "join":
                inbox = Inbox()
                member = Member(inbox, inbox.deliver)
                expected[member] = []
                topics[topic] = (*topics[topic], member)
            else:
                await asyncio.sleep(0)
        await turns(2000 // slice_size)
        assert out._waiting == 0
        for member, numbers in expected.items():
            assert got(member.socket) == numbers

    asyncio.run(run())
