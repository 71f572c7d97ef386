"""One connection: what is written, what is read, and how it ends."""

import pytest

from sstream.backend.connection import Backoff, Refusal, pack
from sstream.backend.connector import Connector
from sstream.testing import eventually

PATIENCE = 20.0  # seconds; only a failure meets it


async def test_answers_come_as_they_are(redis_url):
    connection = await Connector(redis_url, timeout=PATIENCE).open()
    try:
        connection.write(pack("SET", "key", b"\xff\x00") + pack("GET", "key") + pack("NONSENSE") + pack("ECHO", 7))
        answers = []
        while len(answers) < 4:
            answers += await connection.read()

        assert answers[:2] == [b"OK", b"\xff\x00"]
        assert isinstance(answers[2], Refusal)
        assert answers[3] == b"7"
        assert connection.is_idle
    finally:
        await connection.close()


async def test_connection_that_was_cut_says_so(redis_url):
    connection = await Connector(redis_url, timeout=PATIENCE).open()
    connection.cut(ConnectionError("it was enough"))
    for _ in range(10):
        connection.write(pack("PING"))  # no complaint, and no log line of asyncio's

    assert not connection.is_idle
    with pytest.raises(ConnectionError, match="it was enough"):
        await connection.read()
    await connection.close()
    await connection.close()


async def test_what_came_before_a_cut_is_read_by_nobody(redis_url):
    connection = await Connector(redis_url, timeout=PATIENCE).open()
    connection.write(pack("PING"))
    await eventually(lambda: not connection.is_idle, "no answer came")

    connection.cut(ConnectionError("it was enough"))

    with pytest.raises(ConnectionError, match="it was enough"):
        await connection.read()
    await connection.close()


async def test_end_from_the_other_side_is_seen_while_idle_and_read(own_redis):
    connection = await Connector(own_redis.url, timeout=PATIENCE).open()
    own_redis.kill()

    await eventually(lambda: not connection.is_idle, "it seems to be open")
    with pytest.raises(OSError):
        await connection.read()
    await connection.close()


async def test_quiet_connection_is_pinged_and_kept(own_redis):
    connection = await Connector(own_redis.url, timeout=PATIENCE).open()
    async with connection.watched(0.01, 1.0):
        answers = [*await connection.read(), *await connection.read()]

    assert answers == [b"PONG", b"PONG"]
    await connection.close()


async def test_connection_without_a_sign_of_life_is_cut(own_redis):
    connection = await Connector(own_redis.url, timeout=PATIENCE).open()
    own_redis.freeze()
    async with connection.watched(0.01, 0.05):
        with pytest.raises(TimeoutError, match="no sign of life"):
            await connection.read()
    await connection.close()
    own_redis.thaw()


async def test_connection_that_nobody_reads_is_excused(own_redis):
    connection = await Connector(own_redis.url, timeout=PATIENCE).open()
    own_redis.freeze()
    looks = 0

    def is_excused():
        nonlocal looks
        looks += 1
        return looks < 10

    async with connection.watched(0.01, 0.01, is_excused):
        with pytest.raises(TimeoutError):
            await connection.read()

    assert looks >= 10
    await connection.close()
    own_redis.thaw()


def test_refusal_does_not_repeat_what_was_asked():
    refusal = Refusal("ERR unknown command 'EVALSHA', with args beginning with: 'sha' 'the session itself'")

    assert str(refusal) == "ERR unknown command 'EVALSHA'"


def test_pauses_grow_to_a_bound_and_begin_anew():
    backoff = Backoff(0.1, 0.5, rand=lambda: 1.0)

    assert [backoff.pause() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.pause() == 0.1


def test_pauses_have_full_jitter():
    backoff = Backoff(1.0, 1.0)

    pauses = [backoff.pause() for _ in range(200)]

    assert 0 <= min(pauses) < 0.2
    assert 0.8 < max(pauses) <= 1
