import asyncio

import pytest

from sstream.pubsub import MemoryBroker
from sstream.pubsub.channels import History
from sstream.testing import Clock

from .contract import LOBBY, BrokerContract, event


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def clock(self):
        return Clock(1000)

    @pytest.fixture
    def broker(self, clock):
        return MemoryBroker(clock=clock)

    @pytest.fixture
    def other(self, broker):
        return broker.share()

    @pytest.fixture
    def pass_time(self, clock):
        async def pass_time(seconds):
            clock.turn(seconds)

        return pass_time

    @pytest.fixture
    def set_offset(self, broker):
        async def set_offset(topic, offset):
            broker._logs[topic].offset = offset

        return set_offset

    async def test_logs_of_forgotten_channels_are_dropped_one_by_one(self, broker, clock):
        for number in range(50):
            await broker.publish(f"channel:{number}", event(1), History(1, 1))
        clock.turn(30 * 86400 + 2)

        for _ in range(50):
            await broker.publish(LOBBY, event(1), History(1, 1))

        assert list(broker._logs) == [LOBBY]

    async def test_publisher_waits_for_a_listener_that_is_full(self, broker, ear):
        await broker.subscribe([LOBBY])
        ear.full = True

        publishing = asyncio.create_task(broker.publish(LOBBY, event(1)))
        await asyncio.sleep(0)
        waited = list(ear.payloads)
        ear.make_room()
        await publishing

        assert waited == []
        assert ear.events() == [["n", [1]]]
