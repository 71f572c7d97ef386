"""What every broker must do. One joins by a subclass with the fixtures broker, other, pass_time and set_offset."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from sstream.pubsub import Broker, Message, Position
from sstream.pubsub.message import encode_event, number_event

from .listening import LAST_TEN, Ear

__all__ = ["ABOUT", "LOBBY", "BrokerContract", "event"]

LOBBY = "channel:lobby"
ABOUT = msgspec.msgpack.encode({"name": "Fred"})


def event(number: object) -> bytes:
    return encode_event("n", [number])


class BrokerContract:
    """Two brokers, ``broker`` and ``other``, that two processes would have."""

    @pytest.fixture
    async def ear(self, broker: Broker) -> AsyncIterator[Ear]:
        ear = Ear()
        await broker.start(ear)
        yield ear
        await broker.close()

    @pytest.fixture
    async def other_ear(self, other: Broker) -> AsyncIterator[Ear]:
        ear = Ear()
        await other.start(ear)
        yield ear
        await other.close()

    # Events

    async def test_event_reaches_every_node_that_subscribed(self, broker, other, ear, other_ear):
        await broker.subscribe([LOBBY])
        await other.subscribe([LOBBY])

        await broker.publish(LOBBY, event(1))

        assert await ear.hears(1) == [["n", [1]]]
        assert await other_ear.hears(1) == [["n", [1]]]

    async def test_node_that_did_not_subscribe_hears_nothing(self, broker, other, ear, other_ear):
        await other.subscribe(["user:42"])

        await broker.publish(LOBBY, event(1))
        await broker.publish("user:42", event("marker"))

        assert await other_ear.hears(1) == [["n", ["marker"]]]

    async def test_payload_arrives_byte_for_byte(self, broker, ear):
        await broker.subscribe([LOBBY])
        payload = encode_event("n", ["\r\n\0$5\r\n*1\r\n" + "€" * 20_000, bytes(range(256))])

        await broker.publish(LOBBY, payload)

        await ear.hears(1)
        assert ear.payloads == [(LOBBY, payload)]

    async def test_events_of_one_publisher_arrive_in_order(self, broker, other, ear, other_ear):
        await other.subscribe([LOBBY])

        await asyncio.gather(*(broker.publish(LOBBY, event(number)) for number in range(2500)))

        assert await other_ear.hears(2500) == [["n", [number]] for number in range(2500)]

    async def test_topic_subscribed_twice_is_heard_once(self, broker, ear):
        await broker.subscribe([LOBBY])
        await broker.subscribe([LOBBY, "all"])

        await broker.publish(LOBBY, event(1))
        await broker.publish("all", event("marker"))

        assert await ear.hears(2) == [["n", [1]], ["n", ["marker"]]]

    async def test_unsubscribed_topic_is_heard_no_more(self, broker, ear):
        await broker.subscribe([LOBBY, "all"])
        await broker.unsubscribe([LOBBY])

        await broker.publish(LOBBY, event(1))
        await broker.publish("all", event("marker"))

        assert await ear.hears(1) == [["n", ["marker"]]]

    async def test_topic_subscribed_again_is_heard_again(self, broker, ear):
        for _ in range(20):
            await broker.subscribe([LOBBY])
            await broker.unsubscribe([LOBBY])
        await broker.subscribe([LOBBY])

        await broker.publish(LOBBY, event(1))

        assert await ear.hears(1) == [["n", [1]]]

    async def test_unsubscribing_what_was_never_subscribed_is_no_error(self, broker, ear):
        await broker.unsubscribe([LOBBY])
        await broker.subscribe([LOBBY])
        await broker.publish(LOBBY, event(1))

        assert await ear.hears(1) == [["n", [1]]]

    async def test_thousands_of_topics_are_subscribed_in_one_call(self, broker, ear):
        topics = [f"user:{number}" for number in range(2500)]

        await broker.subscribe(topics)
        await asyncio.gather(*(broker.publish(topic, event(topic)) for topic in topics))

        assert sorted(await ear.hears(2500)) == sorted(["n", [topic]] for topic in topics)

    async def test_close_is_safe_to_call_twice(self, broker, ear):
        await broker.subscribe([LOBBY])
        await broker.close()
        await broker.close()

        assert ear.payloads == []

    # History

    async def test_event_with_history_is_numbered_from_one(self, broker, ear):
        await broker.subscribe([LOBBY])

        first = await broker.publish(LOBBY, event("a"), LAST_TEN)
        second = await broker.publish(LOBBY, event("b"), LAST_TEN)

        assert first == Position(1, first.epoch)
        assert second == Position(2, first.epoch)
        await ear.hears(2)
        assert ear.payloads == [
            (LOBBY, number_event(event("a"), "lobby", first)),
            (LOBBY, number_event(event("b"), "lobby", second)),
        ]

    async def test_number_of_an_event_grows_through_every_length_of_an_integer(self, broker, ear, set_offset):
        await broker.subscribe([LOBBY])
        await broker.publish(LOBBY, event(0), LAST_TEN)

        for offset in (127, 255, 65535, 2**32 - 1):
            await set_offset(LOBBY, offset)
            position = await broker.publish(LOBBY, event(offset), LAST_TEN)
            assert position.offset == offset + 1

        await ear.hears(5)
        assert [Message.parse(payload).position.offset for _, payload in ear.payloads] == [
            1,
            128,
            256,
            65536,
            2**32,
        ]

    async def test_reader_without_a_position_is_told_the_newest(self, broker, ear):
        begin = await broker.history(LOBBY, None, LAST_TEN)
        position = await broker.publish(LOBBY, event(1), LAST_TEN)
        end = await broker.history(LOBBY, None, LAST_TEN)

        assert begin.position == Position(0, position.epoch)
        assert (end.position, end.recovered, end.missed) == (position, True, ())

    async def test_reader_gets_what_came_after_its_position_in_order(self, broker, other, ear, other_ear):
        positions = [await broker.publish(LOBBY, event(number), LAST_TEN) for number in range(5)]

        recovery = await other.history(LOBBY, positions[1], LAST_TEN)

        assert recovery.position == positions[4]
        assert recovery.recovered
        assert [message.payload for message in recovery.missed] == [
            number_event(event(number), "lobby", positions[number]) for number in (2, 3, 4)
        ]
        assert [message.position for message in recovery.missed] == positions[2:]

    async def test_reader_at_the_newest_event_missed_nothing(self, broker, ear):
        position = await broker.publish(LOBBY, event(1), LAST_TEN)

        recovery = await broker.history(LOBBY, position, LAST_TEN)

        assert (recovery.recovered, recovery.missed) == (True, ())

    async def test_reader_behind_the_kept_events_is_not_recovered(self, broker, ear):
        first = await broker.publish(LOBBY, event(0), LAST_TEN)
        for number in range(10):
            last = await broker.publish(LOBBY, event(number), LAST_TEN)
        exact = await broker.history(LOBBY, first, LAST_TEN)
        await broker.publish(LOBBY, event("one more"), LAST_TEN)
        behind = await broker.history(LOBBY, first, LAST_TEN)

        assert (exact.recovered, len(exact.missed), exact.position) == (True, 10, last)
        assert (behind.recovered, behind.missed) == (False, ())
        assert behind.position == Position(12, first.epoch)

    @pytest.mark.parametrize("offset", [-1, 2, 2**53])
    async def test_reader_with_an_impossible_offset_is_not_recovered(self, broker, ear, offset):
        position = await broker.publish(LOBBY, event(1), LAST_TEN)

        recovery = await broker.history(LOBBY, Position(offset, position.epoch), LAST_TEN)

        assert (recovery.recovered, recovery.missed, recovery.position) == (False, (), position)

    async def test_reader_of_another_epoch_is_not_recovered(self, broker, ear):
        position = await broker.publish(LOBBY, event(1), LAST_TEN)

        recovery = await broker.history(LOBBY, Position(1, "another"), LAST_TEN)

        assert (recovery.recovered, recovery.missed, recovery.position) == (False, (), position)

    async def test_history_ends_some_time_after_the_last_event(self, broker, ear, pass_time):
        first = await broker.publish(LOBBY, event(1), LAST_TEN)
        last = await broker.publish(LOBBY, event(2), LAST_TEN)

        await pass_time(61)

        assert not (await broker.history(LOBBY, first, LAST_TEN)).recovered
        # Nothing is missing after the last one, and the count goes on.
        assert (await broker.history(LOBBY, last, LAST_TEN)).recovered
        assert await broker.publish(LOBBY, event(3), LAST_TEN) == Position(3, first.epoch)

    async def test_count_of_an_unused_channel_ends_and_begins_anew(self, broker, ear, pass_time):
        old = await broker.publish(LOBBY, event(1), LAST_TEN)

        await pass_time(60 + 30 * 86400 + 1)
        await broker.publish("channel:another", event(1), LAST_TEN)
        new = await broker.publish(LOBBY, event(2), LAST_TEN)

        assert new.offset == 1
        assert new.epoch != old.epoch

    async def test_each_channel_counts_for_itself(self, broker, ear):
        one = await broker.publish(LOBBY, event(1), LAST_TEN)
        two = await broker.publish("channel:lobby2", event(1), LAST_TEN)

        assert (one.offset, two.offset) == (1, 1)
        assert one.epoch != two.epoch

    async def test_publishers_at_once_never_share_a_number(self, broker, other, ear, other_ear):
        await other.subscribe([LOBBY])

        positions = await asyncio.gather(
            *(side.publish(LOBBY, event(number), LAST_TEN) for number in range(200) for side in (broker, other))
        )

        assert sorted(position.offset for position in positions) == list(range(1, 401))
        await other_ear.hears(400)
        assert [Message.parse(payload).position.offset for _, payload in other_ear.payloads] == list(range(1, 401))

    # Presence

    async def test_user_joins_once_however_many_nodes_say_so(self, broker, other, ear, other_ear):
        await other.subscribe([LOBBY, "all"])

        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)
        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)
        await other.enter(LOBBY, "node2", {"42": ABOUT, "häns 7": ABOUT}, 20)
        await other.publish("all", event("marker"))

        await other_ear.hears(3)
        assert other_ear.events(LOBBY) == [
            ["joined", ["42", {"name": "Fred"}], {"channel": "lobby"}],
            ["joined", ["häns 7", {"name": "Fred"}], {"channel": "lobby"}],
        ]
        assert await broker.present(LOBBY) == {"42": ABOUT, "häns 7": ABOUT}

    async def test_user_leaves_with_the_last_node(self, broker, other, ear, other_ear):
        await broker.subscribe([LOBBY])
        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)
        await other.enter(LOBBY, "node2", {"42": ABOUT}, 20)

        await broker.leave(LOBBY, "node1", ["42"], 0)
        still_there = await other.present(LOBBY)
        await other.leave(LOBBY, "node2", ["42"], 0)
        left = await other.present(LOBBY)

        assert (still_there, left) == ({"42": ABOUT}, {})
        assert [name for name, *_ in await ear.hears(2)] == ["joined", "left"]
        assert ear.events()[1] == ["left", ["42"], {"channel": "lobby"}]

    async def test_user_within_the_grace_time_is_still_here(self, broker, ear, pass_time):
        await broker.subscribe([LOBBY, "all"])
        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)

        await broker.leave(LOBBY, "node1", ["42"], 5)
        await pass_time(4)
        due = await broker.sweep(LOBBY)
        within = await broker.present(LOBBY)
        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)
        await pass_time(4)
        await broker.sweep(LOBBY)
        await broker.publish("all", event("marker"))

        assert 0 < due <= 1
        assert within == {"42": ABOUT}
        assert [name for name, *_ in await ear.hears(2)] == ["joined", "n"]

    async def test_user_who_does_not_come_back_leaves_once_after_the_grace_time(
        self, broker, other, ear, other_ear, pass_time
    ):
        await broker.subscribe([LOBBY, "all"])
        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)
        await broker.leave(LOBBY, "node1", ["42"], 5)

        await pass_time(5.1)
        due = [await side.sweep(LOBBY) for side in (broker, other, broker)]
        await broker.publish("all", event("marker"))

        assert due == [None, None, None]
        assert [name for name, *_ in await ear.hears(3)] == ["joined", "left", "n"]

    async def test_leaving_never_makes_a_stay_longer(self, broker, ear, pass_time):
        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 2)
        await broker.leave(LOBBY, "node1", ["42"], 30)

        await pass_time(2.1)

        assert await broker.present(LOBBY) == {}

    async def test_users_of_a_node_that_says_nothing_leave_after_their_time(
        self, broker, other, ear, other_ear, pass_time
    ):
        await broker.subscribe([LOBBY])
        await other.enter(LOBBY, "dead", {str(user): ABOUT for user in range(600)}, 20)
        await broker.enter(LOBBY, "alive", {"7": ABOUT}, 20)
        await ear.hears(600)

        await pass_time(15)
        await broker.enter(LOBBY, "alive", {"7": ABOUT}, 20)
        await pass_time(6)

        assert await broker.present(LOBBY) == {"7": ABOUT}
        await ear.hears(600 + 599)
        assert {args[0] for name, args, _ in ear.events() if name == "left"} == {str(u) for u in range(600)} - {"7"}

    async def test_what_is_told_of_a_user_can_be_replaced(self, broker, ear):
        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)
        away = msgspec.msgpack.encode({"name": "Fred", "away": True})

        await broker.enter(LOBBY, "node1", {"42": away}, 20)

        assert await broker.present(LOBBY) == {"42": away}

    async def test_channel_without_anybody_is_empty(self, broker, ear):
        await broker.leave(LOBBY, "node1", ["42"], 5)

        assert await broker.present(LOBBY) == {}
        assert await broker.sweep(LOBBY) is None
