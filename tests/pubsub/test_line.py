"""The listening connection, before a Redis that acknowledges when the test wants it to."""

import asyncio
import contextlib

import hiredis
import pytest

from sstream.backend.connector import Connector
from sstream.pubsub.line import Line
from sstream.testing import eventually, within

from .listening import Ear


class SlowRedis:
    """Keeps what it is asked to subscribe to, and to leave, until `acknowledge`; to all else it says OK."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser, self._writer = hiredis.Reader(), writer
        with contextlib.closing(writer):
            while data := await reader.read(65536):
                parser.feed(data)
                while (words := parser.gets()) is not False:
                    if words[0].endswith(b"SUBSCRIBE"):
                        self.asked += [(words[0].lower(), name) for name in words[1:]]
                    else:
                        writer.write(b"+OK\r\n")

    def acknowledge(self) -> None:
        """Do the first of what it was asked for."""
        (kind, name), *self.asked = self.asked
        self._writer.write(
            b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (kind, name)) + b":1\r\n"
        )

    def publish(self, name: bytes, payload: bytes) -> None:
        words = (b"message", name, payload)
        self._writer.write(b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))


@pytest.fixture
async def redis():
    redis = SlowRedis()
    async with await asyncio.start_server(redis.serve, "127.0.0.1", 0) as server:
        redis.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        yield redis


@pytest.fixture
async def ear():
    return Ear()


@pytest.fixture
async def line(redis, ear):
    line = Line(Connector(redis.url, timeout=20.0), ear, deadline=20.0, ping_interval=60.0)
    line.start()
    await eventually(lambda: line.connected, "it did not connect")
    yield line
    await line.close()


async def test_an_acknowledgement_settles_the_subscription_that_it_is_for(redis, line, ear):
    first = asyncio.create_task(line.subscribe(["tea"]))
    await eventually(lambda: len(redis.asked) == 1, "it was not asked for")
    line.unsubscribe(["tea"])
    second = asyncio.create_task(line.subscribe(["tea"]))
    await eventually(lambda: len(redis.asked) == 3, "it was not asked for again")
    assert [kind for kind, _ in redis.asked] == [b"subscribe", b"unsubscribe", b"subscribe"]

    redis.acknowledge()
    redis.publish(b"tea", b"marker")
    await ear.until(lambda: ear.payloads)

    await within(first, "who gave it up waits still")
    assert not second.done()
    assert not line.hears("tea")
    redis.acknowledge()
    redis.acknowledge()
    await within(second, "it was not settled")
    assert line.hears("tea")


async def test_who_subscribes_twice_is_settled_by_both_acknowledgements(redis, line):
    both = [asyncio.create_task(line.subscribe(["tea"])) for _ in range(2)]
    await eventually(lambda: len(redis.asked) == 2, "it was not asked for")

    redis.acknowledge()
    redis.acknowledge()

    await within(asyncio.gather(*both), "it was not settled")
    assert line.hears("tea")
