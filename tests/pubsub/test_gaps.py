"""No gap is silent: connections are cut in every way while numbered events are published.

``CUTS=1000 pytest tests/pubsub/test_gaps.py`` is the long run; ``SEED`` repeats one.
"""

import asyncio
import contextlib
import os
import random

import msgspec
import pytest
import redis.asyncio as aioredis

from sstream.errors import BrokerError
from sstream.pubsub import ChannelOptions, History, Hub, Position, Publisher, RedisBroker
from sstream.pubsub.message import encode_event
from sstream.testing import FaultProxy

CUTS = int(os.environ.get("CUTS", "20"))
SEED = int(os.environ.get("SEED", "1"))
PATIENCE = 20.0  # seconds; only a failure meets it
KEPT = "channel:kept"
PLAIN = "channel:plain"
SHORT = {"deadline": 0.3, "ping_interval": 0.1}


def options(name: str) -> ChannelOptions:
    # As much as is published in five seconds: a longer absence cannot be made up for.
    return ChannelOptions(history=History(5000, 60) if name == "kept" else None)


class Follower:
    """A socket that looks at every event at once: is it the next one, or was a gap told before it?"""

    def __init__(self, name: str) -> None:
        self.id = name
        self.position: Position | None = None
        self.told = False  # of a gap in the channel with history, since its last event
        self.told_plain = False  # of one in the other channel
        self.number = -1  # the last one in the channel without history
        self.holes: list[tuple[int, int]] = []
        self.errors: list[str] = []
        self.events = 0
        self.gaps = 0
        self._news = asyncio.Event()

    def deliver(self, message) -> None:
        _, event, args, *meta = msgspec.msgpack.decode(message.payload)
        if event == "sstream:gap":
            self.gaps += 1
            if args == ["kept"]:
                self.told = True
            else:
                self.told_plain = True
        elif meta[0]["channel"] == "kept":
            self._numbered(message.position)
        else:
            self._plain(args[0])
        self.events += 1
        self._news.set()

    def deliver_all(self, burst) -> None:
        for message in burst.messages:
            self.deliver(message)

    def _numbered(self, position: Position) -> None:
        last = self.position
        if last is not None and position != (last.offset + 1, last.epoch) and not self.told:
            self.errors.append(f"{position} after {last}")
        if last is not None and position.epoch == last.epoch and position.offset <= last.offset:
            self.errors.append(f"{position} after {last}, again")
        self.position, self.told = position, False

    def _plain(self, number: int) -> None:
        if number <= self.number:
            self.errors.append(f"plain {number} after {self.number}")
        if number > self.number + 1 and not self.told_plain:
            self.holes.append((self.number, number))
        self.number, self.told_plain = number, False

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()


class Stream:
    """Publishes a thousand events a second and knows which of them the broker acknowledged."""

    def __init__(self, url: str) -> None:
        self.broker = RedisBroker(url, **SHORT)
        self._patient = RedisBroker(url, deadline=PATIENCE)
        self._publisher = Publisher(self.broker, channel_options=options)
        self._tasks: set[asyncio.Task[None]] = set()
        self.number = 0
        self.acknowledged: set[int] = set()

    async def run(self) -> None:
        while True:
            for _ in range(5):  # two events each
                task = asyncio.create_task(self.publish())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0.01)

    async def publish(self) -> None:
        number = self.number
        self.number += 1
        with contextlib.suppress(BrokerError):
            await self._publisher.channel("plain", "n", number)
            self.acknowledged.add(number)
        with contextlib.suppress(BrokerError):
            await self._publisher.channel("kept", "n", number)

    async def end(self) -> Position:
        """One last event in each channel; the position of the numbered one."""
        await asyncio.gather(*self._tasks)
        await Publisher(self._patient, channel_options=options).channel("plain", "n", self.number)
        return await self._patient.publish(KEPT, encode_event("n", [self.number]), options("kept").history)

    async def close(self) -> None:
        await self.broker.close()
        await self._patient.close()


class Chaos:
    """The ways in which connections end."""

    def __init__(self, server, proxies, dice) -> None:
        self.server = server
        self.proxies = proxies
        self.dice = dice

    async def strike(self) -> str:
        name = self.dice.choice(["cut", "cut", "kill", "kill", "refuse", "stall", "freeze", "restart"])
        await getattr(self, name)()
        return name

    async def cut(self) -> None:
        self.dice.choice(self.proxies).cut()

    async def kill(self) -> None:
        async with aioredis.Redis.from_url(self.server.url) as client:
            await client.client_kill_filter(_type=self.dice.choice(["pubsub", "normal"]), skipme=True)

    async def refuse(self) -> None:
        proxy = self.dice.choice(self.proxies)
        proxy.refuse()
        await asyncio.sleep(self.dice.random() * 0.3)
        await proxy.accept()

    async def stall(self) -> None:
        proxy = self.dice.choice(self.proxies)
        proxy.freeze()
        await asyncio.sleep(self.dice.random() * 0.8)
        proxy.thaw()

    async def freeze(self) -> None:
        self.server.freeze()
        await asyncio.sleep(self.dice.random() * 0.8)
        self.server.thaw()

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.restart)


async def refollow(hub: Hub, follower: Follower) -> None:
    """What a browser does that reconnects: it says what it had last."""
    hub.drop(follower)
    follower.told_plain = True  # it knows that it was away
    while True:
        try:
            await hub.follow(follower, KEPT, follower.position)
            await hub.bind(follower, PLAIN)
        except BrokerError:
            hub.drop(follower)
            await asyncio.sleep(0.05)
        else:
            return


@contextlib.asynccontextmanager
async def house(server):
    """A stream of events, and two nodes with three followers each."""
    async with contextlib.AsyncExitStack() as stack:
        stream = Stream(server.url)
        stack.push_async_callback(stream.close)
        proxies, hubs, followers = [], [], []
        for number in range(2):
            proxy = await stack.enter_async_context(FaultProxy(server.port))
            broker = RedisBroker(proxy.url, **SHORT)
            stack.push_async_callback(broker.close)
            hub = Hub(broker, channel_options=options)
            stack.push_async_callback(hub.close)
            await hub.start()
            group = [Follower(f"{number}.{socket}") for socket in range(3)]
            for follower in group:
                await refollow(hub, follower)
            proxies.append(proxy)
            hubs.append(hub)
            followers.append(group)
        publishing = asyncio.create_task(stream.run())
        try:
            yield stream, publishing, proxies, hubs, followers
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, *stream._tasks, return_exceptions=True)


async def all_hear(followers, count):
    for follower in followers:
        end = follower.events + count
        await follower.until(lambda follower=follower, end=end: follower.events > end)


@pytest.mark.gen_test(timeout=60 + CUTS * 10)
async def test_every_subscriber_gets_all_once_in_order_or_is_told(own_redis, expect_log):
    expect_log("", "sstream.pubsub", required=False)
    expect_log("socket.send", "asyncio", required=False)  # the proxy's, to a Redis that is gone
    dice = random.Random(SEED)
    struck: dict[str, int] = {}
    async with house(own_redis) as (stream, publishing, proxies, hubs, groups):
        followers = [follower for group in groups for follower in group]
        chaos = Chaos(own_redis, proxies, dice)
        for _ in range(CUTS):
            await all_hear(followers, 5)
            name = await chaos.strike()
            struck[name] = struck.get(name, 0) + 1
            which = dice.randrange(2)
            await refollow(hubs[which], groups[which][0])
        await all_hear(followers, 20)

        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        last = await stream.end()
        for follower in followers:
            await follower.until(lambda f=follower: f.position == last and f.number == stream.number)

    silent = [
        (follower.id, before, number)
        for follower in followers
        for before, after in follower.holes
        for number in range(before + 1, after)
        if number in stream.acknowledged
    ]
    print(f"{struck}; {stream.number} events, {len(stream.acknowledged)} acknowledged")
    print(f"gaps told: {[follower.gaps for follower in followers]}, events: {[f.events for f in followers]}")
    assert [follower.errors for follower in followers] == [[]] * len(followers)
    assert silent == []
