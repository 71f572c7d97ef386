import asyncio

import msgpack
import pytest

from sstream.errors import BrokerError
from sstream.pubsub import MemoryBroker, Publisher

from .listening import Ear, with_history


@pytest.fixture
async def ear():
    return Ear()


@pytest.fixture
async def broker(ear):
    broker = MemoryBroker()
    await broker.start(ear)
    await broker.subscribe(
        ["all", "user:1", "user:2", "user:a%20b", "socket:x", "socket:y", "channel:a", "channel:b", "channel:kept"]
    )
    yield broker
    await broker.close()


@pytest.fixture
def publish(broker):
    return Publisher(broker, channel_options=with_history)


def heard(ear):
    return [(topic, msgpack.unpackb(payload)) for topic, payload in ear.payloads]


async def test_all(publish, ear):
    await publish.all("news", 1, {"a": [2]})

    assert heard(ear) == [("all", [2, "news", [1, {"a": [2]}]])]


async def test_user_one_and_several(publish, ear):
    await publish.user(1, "news")
    await publish.user([2, "a b"], "news", None)

    assert heard(ear) == [
        ("user:1", [2, "news", []]),
        ("user:2", [2, "news", [None]]),
        ("user:a%20b", [2, "news", [None]]),
    ]


async def test_socket_one_and_several(publish, ear):
    await publish.socket("x", "news")
    await publish.socket(("y", "x"), "news")

    assert [topic for topic, _ in heard(ear)] == ["socket:x", "socket:y", "socket:x"]


async def test_channel_is_named_in_its_events(publish, ear):
    await publish.channel("a", "news", 1)
    await publish.channel(["b", "a"], "news", 2)

    assert heard(ear) == [
        ("channel:a", [2, "news", [1], {"channel": "a"}]),
        ("channel:b", [2, "news", [2], {"channel": "b"}]),
        ("channel:a", [2, "news", [2], {"channel": "a"}]),
    ]


async def test_channel_with_history_is_numbered(publish, ear):
    await publish.channel(["kept", "a", "kept"], "news")

    events = heard(ear)
    assert [(topic, event[3].get("offset")) for topic, event in events] == [
        ("channel:kept", 1),
        ("channel:a", None),
        ("channel:kept", 2),
    ]


async def test_nobody_named_means_nobody(publish, ear):
    await publish.user([], "news")
    await publish.channel((), "news")
    await publish.socket([], "news")
    await publish.all("marker")

    assert [topic for topic, _ in heard(ear)] == ["all"]


@pytest.mark.parametrize("user", [None, True, [None], ["1", None], ""])
async def test_nobody_by_mistake_is_an_error_and_nothing_is_sent(publish, ear, user):
    with pytest.raises((ValueError, TypeError)):
        await publish.user(user, "news")

    assert ear.payloads == []


@pytest.mark.parametrize("names", ["*", ["a", "b*"], [""]])
async def test_illegal_channel_is_an_error_and_nothing_is_sent(publish, ear, names):
    with pytest.raises(ValueError, match="no name for a channel"):
        await publish.channel(names, "news")

    assert ear.payloads == []


async def test_bytes_are_no_user_and_no_users(publish, ear):
    for ids in (b"42", [b"42"]):
        with pytest.raises(ValueError, match="not bytes"):
            await publish.user(ids, "news")

    assert ear.payloads == []


async def test_argument_that_cannot_be_encoded_is_an_error_and_nothing_is_sent(publish, ear):
    with pytest.raises(TypeError, match="'news': argument 1"):
        await publish.channel(["a", "kept"], "news", object())

    assert ear.payloads == []


async def test_reserved_names_are_refused(publish):
    with pytest.raises(ValueError, match="sstream's own"):
        await publish.all("sstream:gap", None)


async def test_event_that_is_too_large_is_refused(broker, ear):
    publish = Publisher(broker, event_size=100)
    await publish.all("news", "x" * 80)

    with pytest.raises(ValueError, match=r"has 1\d\d bytes, 100 are allowed"):
        await publish.all("news", "x" * 100)
    assert len(ear.payloads) == 1


async def test_bound_of_the_size_can_be_taken_off(broker, ear):
    await Publisher(broker, event_size=None).all("news", "x" * 1_000_000)

    assert len(ear.payloads) == 1


async def test_error_of_one_name_does_not_keep_the_others_from_being_sent(ear):
    class Refusing(MemoryBroker):
        async def publish(self, topic, payload, history=None):
            if topic == "user:1":
                await asyncio.sleep(0)
                raise BrokerError("refused")
            return await super().publish(topic, payload, history)

    broker = Refusing()
    await broker.start(ear)
    await broker.subscribe(["user:2"])

    with pytest.raises(BrokerError, match="refused"):
        await Publisher(broker).user([1, 2], "news")

    assert [topic for topic, _ in heard(ear)] == ["user:2"]
