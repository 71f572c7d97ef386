import asyncio
import sys
from pathlib import Path

import pytest

from sstream.pubsub import Publisher, RedisBroker
from sstream.testing import Process

from .listening import with_history

ROOT = Path(__file__).parents[2]
EVENTS = 500  # of each publisher


@pytest.mark.parametrize("channel", ["lobby", "kept"])
@pytest.mark.parametrize("processes", [2, 4])
async def test_every_event_reaches_every_socket_of_every_process_in_order(redis_url, processes, channel):
    command = (sys.executable, "-m", "tests.pubsub.node", redis_url, "listen", channel, "20")
    nodes = [Process(*command, cwd=ROOT) for _ in range(processes)]
    brokers = [RedisBroker(redis_url, deadline=20.0) for _ in range(2)]
    try:
        for node in nodes:
            await asyncio.to_thread(node.wait_for, "ready")

        async def publish(number):
            publisher = Publisher(brokers[number], channel_options=with_history)
            for event in range(0, EVENTS, 10):
                await asyncio.gather(*(publisher.channel(channel, "n", number, event + i) for i in range(10)))

        await asyncio.gather(publish(0), publish(1))
        await Publisher(brokers[0], channel_options=with_history).channel(channel, "end", 2, EVENTS)

        for node in nodes:
            result = await asyncio.to_thread(node.wait_for, r"wrong: (\d+)")
            assert result[1] == "0"
    finally:
        for node in nodes:
            node.stop()
        for broker in brokers:
            await broker.close()
