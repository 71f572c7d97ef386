import asyncio
import sys
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from sstream.errors import BrokerError, ConfigurationError
from sstream.pubsub import Hub, MemoryBroker, Presence, PresenceOptions, Present, RedisBroker
from sstream.testing import Clock, Process, eventually as wait_until

from .ageing import age, stays
from .listening import Inbox, eventually, with_history

HERE = "channel:here"
ROOT = Path(__file__).parents[2]
FOR_EVER = 3600.0


class Node:
    """What a process has, and a socket that looks on."""

    def __init__(self, broker, **times):
        self.broker = broker
        self.hub = Hub(broker, channel_options=with_history)
        times = {"ttl": FOR_EVER, "heartbeat": FOR_EVER / 2, "grace": 0.05} | times
        self.presence = Presence(broker, self.hub, PresenceOptions(**times))
        self.onlooker = Inbox("onlooker")

    async def __aenter__(self):
        await self.hub.start()
        await self.presence.start()
        await self.hub.bind(self.onlooker, HERE)
        return self

    async def __aexit__(self, *_):
        await self.presence.close()
        await self.hub.close()
        await self.broker.close()

    @property
    def seen(self):
        return [(event, args[0]) for event, args in self.onlooker.events if event in {"joined", "left"}]

    async def sees(self, *events):
        await self.onlooker.until(lambda: len(self.seen) >= len(events))
        assert self.seen == list(events)


@pytest.fixture
async def node():
    async with Node(MemoryBroker()) as node:
        yield node


async def test_user_with_two_tabs_joins_once_and_leaves_with_the_last(node):
    one, two = Inbox("a"), Inbox("b")
    await node.presence.enter(one, "here", 42, {"name": "Fred"})
    await node.presence.enter(two, "here", "42", {"name": "Fred"})
    node.presence.drop(one)
    await node.presence.enter(Inbox("c"), "here", "marker")
    before = node.seen

    node.presence.drop(two)
    await node.sees(("joined", "42"), ("joined", "marker"), ("left", "42"))

    assert before == [("joined", "42"), ("joined", "marker")]
    assert await node.presence.list("here") == [Present("marker", {})]


async def test_list_is_by_user_with_what_is_told_of_each(node):
    await node.presence.enter(Inbox("a"), "here", "zoe", {"away": True})
    await node.presence.enter(Inbox("b"), "here", "adam")
    await node.presence.enter(Inbox("c"), "here2", "somebody else")

    assert await node.presence.list("here") == [Present("adam", {}), Present("zoe", {"away": True})]
    assert await node.presence.list("nowhere") == []


async def test_entering_again_replaces_what_is_told(node):
    inbox = Inbox()
    await node.presence.enter(inbox, "here", "42", {"away": False})
    await node.presence.enter(inbox, "here", "42", {"away": True})
    await node.presence.enter(Inbox("b"), "here", "42", {"away": True})

    assert await node.presence.list("here") == [Present("42", {"away": True})]
    assert node.seen == [("joined", "42")]


async def test_leaving_takes_the_socket_off(node):
    inbox = Inbox()
    await node.presence.enter(inbox, "here", "42")

    await node.presence.leave(inbox, "here")
    await node.presence.leave(inbox, "here")
    await node.sees(("joined", "42"), ("left", "42"))


async def test_reconnect_within_the_grace_time_is_not_noticed():
    clock = Clock(0.0)
    async with Node(MemoryBroker(clock=clock), heartbeat=0.01, grace=30) as node:
        for _ in range(10):
            inbox = Inbox()
            await node.presence.enter(inbox, "here", "42")
            node.presence.drop(inbox)
        await node.presence.enter(Inbox(), "here", "42")
        other = Inbox("other")
        await node.presence.enter(other, "here", "7")
        node.presence.drop(other)  # a marker: its grace time ends last
        await node.presence._rounds.finish()

        clock.turn(31)

        await node.sees(("joined", "42"), ("joined", "7"), ("left", "7"))


async def test_socket_that_changes_its_user_leaves_the_former(node):
    inbox = Inbox()
    await node.presence.enter(inbox, "here", "guest")
    await node.presence.enter(inbox, "here", "42")

    await node.sees(("joined", "guest"), ("joined", "42"), ("left", "guest"))


async def test_coming_and_going_in_one_turn_ends_as_it_should(node):
    inbox = Inbox()
    entering = asyncio.create_task(node.presence.enter(inbox, "here", "42"))
    await asyncio.sleep(0)
    node.presence.drop(inbox)
    await entering
    await node.presence.enter(Inbox("b"), "here", "7")

    assert [present.user for present in await node.presence.list("here")] == ["7"]


@pytest.mark.parametrize("user", [None, "", True])
async def test_what_is_no_user_is_refused(node, user):
    with pytest.raises(ValueError, match="user id"):
        await node.presence.enter(Inbox(), "here", user)


async def test_too_much_told_of_a_user_is_refused(node):
    with pytest.raises(ValueError, match="at most 1024 bytes"):
        await node.presence.enter(Inbox(), "here", "42", {"name": "x" * 1024})
    with pytest.raises(TypeError):
        await node.presence.enter(Inbox(), "here", "42", {"name": object()})

    assert await node.presence.list("here") == []


async def test_enter_that_fails_leaves_the_socket_out():
    class Away(MemoryBroker):
        async def enter(self, *_):
            raise BrokerError("away")

    async with Node(Away()) as node:
        inbox = Inbox()
        with pytest.raises(BrokerError):
            await node.presence.enter(inbox, "here", "42")
        node.presence.drop(inbox)

        assert (node.presence._here, node.presence._standing, node.presence._sockets) == ({}, {}, {})


async def test_heartbeat_keeps_those_who_stay(expect_log):
    class Counting(MemoryBroker):
        beats = 0

        async def enter(self, *arguments):
            self.beats += 1
            if self.beats == 3:
                raise BrokerError("away for a moment")
            if self.beats == 4:
                raise ZeroDivisionError
            await super().enter(*arguments)

    expect_log("a heartbeat failed")
    async with Node(Counting(), heartbeat=0.02) as node:
        await node.presence.enter(Inbox(), "here", "42")
        until = node.broker._attendances[HERE].until["42"][node.presence._node]

        await eventually(lambda: node.broker.beats >= 7)

        assert node.broker._attendances[HERE].until["42"][node.presence._node] > until
        assert node.seen == [("joined", "42")]


async def test_heartbeat_that_fails_in_one_channel_reaches_the_others():
    class Lame(MemoryBroker):
        lame = False

        async def enter(self, topic, *arguments):
            if self.lame and topic == "channel:here1":
                raise BrokerError("its shard is away")
            await super().enter(topic, *arguments)

    async with Node(Lame(), heartbeat=0.02) as node:
        for number in (1, 2):
            await node.presence.enter(Inbox(), f"here{number}", "42")
        until = node.broker._attendances["channel:here2"].until["42"]
        before = until[node.presence._node]

        node.broker.lame = True
        await eventually(lambda: node.broker._attendances["channel:here2"].until["42"][node.presence._node] > before)

        assert [present.user for present in await node.presence.list("here1")] == ["42"]


async def test_closed_node_lets_everybody_go_with_grace(node):
    async with Node(node.broker.share(), grace=30) as other:
        await other.presence.enter(Inbox(), "here", "42")
        await other.presence.close()

        assert [present.user for present in await node.presence.list("here")] == ["42"]
        assert 0 < await node.broker.sweep(HERE) <= 30


async def test_closing_twice_is_closing_once(node):
    await node.presence.enter(Inbox(), "here", "42")
    await node.presence.close()
    await node.presence.close()


async def test_onlookers_alone_see_the_users_of_a_dead_node_leave(node):
    await node.broker.enter(HERE, "dead", {"42": b"\x80"}, 0.02)
    async with Node(node.broker.share(), heartbeat=0.02) as other:
        await other.sees(("left", "42"))


# With Redis


async def test_user_on_two_nodes(redis_url):
    async with Node(RedisBroker(redis_url, deadline=20.0)) as one, Node(RedisBroker(redis_url, deadline=20.0)) as two:
        first, second = Inbox("a"), Inbox("b")
        await one.presence.enter(first, "here", "42", {"name": "Fred"})
        await two.presence.enter(second, "here", "42", {"name": "Fred"})
        await two.presence.enter(Inbox("c"), "here", "7")
        one.presence.drop(first)
        await two.onlooker.gets_event("joined", 2)
        assert await one.presence.list("here") == [Present("42", {"name": "Fred"}), Present("7", {})]

        two.presence.drop(second)
        await one.sees(("joined", "42"), ("joined", "7"), ("left", "42"))
        await two.sees(("joined", "42"), ("joined", "7"), ("left", "42"))


async def test_reconnect_storm_between_nodes_makes_no_flicker(redis_url):
    async with (
        Node(RedisBroker(redis_url, deadline=20.0), heartbeat=0.05, grace=60) as one,
        Node(RedisBroker(redis_url, deadline=20.0), heartbeat=0.05, grace=60) as two,
        aioredis.Redis.from_url(redis_url) as client,
    ):
        users = [str(number) for number in range(100)]
        inboxes = [Inbox(user) for user in users]
        nodes = [one, two]
        await asyncio.gather(*(one.presence.enter(inbox, "here", inbox.id) for inbox in inboxes))
        for turn in range(1, 6):
            for inbox in inboxes:
                nodes[(turn - 1) % 2].presence.drop(inbox)
            inboxes = [Inbox(user) for user in users]
            await asyncio.gather(*(nodes[turn % 2].presence.enter(inbox, "here", inbox.id) for inbox in inboxes))
        marker = Inbox("marker")
        await one.presence.enter(marker, "here", "marker")
        one.presence.drop(marker)
        await one.presence._rounds.finish()
        await two.presence._rounds.finish()

        await age(client, "here", 61)  # whoever is away by now has been away for too long

        await two.onlooker.gets_event("left")

        assert sorted(two.seen) == sorted([("joined", user) for user in [*users, "marker"]] + [("left", "marker")])


async def is_renewed(client, user):
    return max(await stays(client, "here", user)) > FOR_EVER / 2


async def test_killed_process_loses_its_users_and_no_others(redis_url):
    command = (sys.executable, "-m", "tests.pubsub.node", redis_url, "attend", "here", "42", "7")
    async with (
        Node(RedisBroker(redis_url, deadline=20.0), heartbeat=0.05) as node,
        aioredis.Redis.from_url(redis_url) as client,
    ):
        with Process(*command, cwd=ROOT) as process:
            await asyncio.to_thread(process.wait_for, "ready")
            await node.presence.enter(Inbox(), "here", "7")
            await node.onlooker.gets_event("joined", 2)

            process.kill()
            # Twice two thirds of its time: who is alive says so in between.
            await age(client, "here", FOR_EVER * 2 / 3)
            await wait_until(lambda: is_renewed(client, "7"), "nobody says that 7 is there")
            await age(client, "here", FOR_EVER * 2 / 3)
            await node.onlooker.gets_event("left")

        assert [user for event, user in node.seen if event == "left"] == ["42"]
        assert await node.presence.list("here") == [Present("7", {})]


def test_dead_node_is_forgotten_within_thirty_seconds_by_default():
    times = PresenceOptions()

    assert times.ttl + times.heartbeat < 30


@pytest.mark.parametrize("times", [{"ttl": 5.0}, {"heartbeat": 0.0}, {"grace": -1.0}])
def test_times_that_cannot_work_are_refused(times):
    with pytest.raises(ConfigurationError, match="legal are a heartbeat of more than 0 and less than ttl"):
        PresenceOptions(**times)
