"""Commands through one connection: together, in order, at most once, in time."""

import asyncio

import pytest
import redis as redis_py
import redis.asyncio as aioredis

from sstream.backend.connection import Refusal
from sstream.backend.connector import Connector
from sstream.backend.pipe import Pipe, Script
from sstream.errors import BrokerError
from sstream.testing import Fault, FaultProxy, eventually

PATIENCE = 20.0  # seconds; only a failure meets it

PUSH = Script("return redis.call('RPUSH', KEYS[1], ARGV[1])")


@pytest.fixture
async def proxy(redis_server, redis_url):
    async with FaultProxy(redis_py.ConnectionPool.from_url(redis_server).connection_kwargs["port"]) as proxy:
        yield proxy


@pytest.fixture
async def client(redis_url):
    async with aioredis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def open_pipe():
    """Makes pipes that are closed in the end."""
    pipes = []

    def open_pipe(url: str, *, deadline: float | None = PATIENCE, most: int = 1000, **options) -> Pipe:
        connector = Connector(url, timeout=deadline or PATIENCE)
        pipes.append(Pipe(connector, error=BrokerError, deadline=deadline, most=most, **options))
        return pipes[-1]

    yield open_pipe
    for pipe in pipes:
        await pipe.close()


@pytest.mark.parametrize("in_order", [False, True])
async def test_answers_belong_to_their_commands(redis_url, open_pipe, in_order):
    pipe = open_pipe(redis_url, in_order=in_order)

    async def ask(number):
        for turn in range(20):
            assert await pipe.send("ECHO", f"{number} {turn}") == f"{number} {turn}".encode()

    await asyncio.gather(*map(ask, range(20)))


async def test_commands_of_one_turn_leave_together_even_before_there_is_a_connection(own_redis, open_pipe):
    pipe = open_pipe(own_redis.url)
    async with aioredis.Redis.from_url(own_redis.url) as client:
        before = (await client.info("stats"))["total_reads_processed"]

        await asyncio.gather(*(pipe.send("ECHO", number) for number in range(50)))

        # INFO itself, what redis-py says of itself when it connects, and the fifty.
        assert (await client.info("stats"))["total_reads_processed"] - before < 25


async def test_second_write_waits_for_the_first_where_order_matters(proxy, open_pipe):
    pipe = open_pipe(proxy.url, in_order=True)
    await pipe.send("PING")
    proxy.on("ECHO", Fault.DELAY, seconds=0.1)
    first = pipe.send("ECHO", 1)
    await eventually(lambda: proxy.commands["ECHO"] == 1, "it was not sent")

    second = pipe.send("INCR", "after")
    await asyncio.sleep(0.02)
    sent_early = proxy.commands["INCR"]

    assert await asyncio.gather(first, second) == [b"1", 1]
    assert sent_early == 0


@pytest.mark.parametrize("in_order", [False, True])
async def test_script_that_redis_has_forgotten_is_sent_whole(redis_url, client, open_pipe, in_order):
    await client.script_flush()
    pipe = open_pipe(redis_url, in_order=in_order)

    lengths = await asyncio.gather(*(pipe.run(PUSH, ["list"], number) for number in range(5)))

    assert lengths == [1, 2, 3, 4, 5]
    assert await client.lrange("list", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]


async def test_what_is_asked_after_a_forgotten_script_runs_after_it(redis_url, client, open_pipe):
    await client.script_flush()
    pipe = open_pipe(redis_url, in_order=True)

    first = pipe.run(PUSH, ["list"], "first")
    await asyncio.sleep(0)  # the next one is of another turn
    second = pipe.send("RPUSH", "other", "second")
    third = pipe.run(PUSH, ["list"], "third")

    assert await asyncio.gather(first, second, third) == [1, 1, 2]
    assert await client.lrange("list", 0, -1) == [b"first", b"third"]


async def test_refusal_is_the_cause_of_the_error_and_hurts_one_command_alone(redis_url, open_pipe):
    pipe = open_pipe(redis_url)
    fine, wrong, fine_too = pipe.send("PING"), pipe.send("NONSENSE", "secret"), pipe.send("PING")

    with pytest.raises(BrokerError, match="Redis refused NONSENSE") as failed:
        await wrong

    assert isinstance(failed.value.__cause__, Refusal)
    assert "secret" not in str(failed.value)
    assert [await fine, await fine_too] == [b"PONG", b"PONG"]


async def test_argument_that_cannot_be_sent_hurts_one_command_alone(redis_url, open_pipe):
    pipe = open_pipe(redis_url)
    fine = pipe.send("PING")

    with pytest.raises(BrokerError, match="cannot be sent"):
        pipe.send("ECHO", "\ud800")

    assert await fine == b"PONG"


async def test_lost_answer_is_an_error_that_says_so_and_nothing_is_sent_twice(proxy, client, open_pipe):
    pipe = open_pipe(proxy.url)
    await pipe.send("PING")
    proxy.on("INCR", Fault.CUT_REPLY)

    with pytest.raises(BrokerError, match="unknown"):
        await pipe.send("INCR", "count")

    assert await pipe.send("GET", "count") == b"1"


async def test_what_was_not_sent_waits_for_the_next_connection(proxy, open_pipe):
    pipe = open_pipe(proxy.url, in_order=True)
    await pipe.send("PING")
    proxy.on("ECHO", Fault.CUT_REPLY)
    lost = pipe.send("ECHO", 1)
    await asyncio.sleep(0)
    waits = pipe.send("INCR", "count")

    with pytest.raises(BrokerError, match="unknown"):
        await lost
    assert await waits == 1


async def test_late_answer_costs_the_connection_and_reaches_nobody(proxy, open_pipe):
    pipe = open_pipe(proxy.url, deadline=1.0)
    await pipe.send("PING")
    proxy.on("ECHO", Fault.DELAY, seconds=1.2)

    with pytest.raises(BrokerError, match="no answer in time"):
        await pipe.send("ECHO", "late")

    assert await asyncio.gather(*(pipe.send("ECHO", number) for number in range(3))) == [b"0", b"1", b"2"]


async def test_deadline_says_what_is_wrong_with_the_server(proxy, open_pipe):
    proxy.refuse()
    pipe = open_pipe(proxy.url, deadline=0.1)

    with pytest.raises(BrokerError, match="Redis: Error .*Connect"):
        await pipe.send("PING")


async def test_without_a_deadline_it_waits_for_redis(proxy, open_pipe):
    proxy.refuse()
    pipe = open_pipe(proxy.url, deadline=None)
    waiting = pipe.send("PING")
    await asyncio.sleep(0.05)
    await proxy.accept()

    assert await waiting == b"PONG"


async def test_whoever_gave_up_before_the_write_is_not_sent(proxy, client, open_pipe):
    proxy.refuse()
    pipe = open_pipe(proxy.url)
    gone, stays = pipe.send("INCR", "gone"), pipe.send("INCR", "stays")
    await asyncio.sleep(0.01)
    gone.cancel()
    await proxy.accept()

    assert await stays == 1
    assert await client.get("gone") is None


async def test_guard_is_asked_before_each_write_and_stops_it(redis_url, client, open_pipe):
    judged = []

    def judge(answer):
        judged.append(answer)
        if answer == b"no":
            raise ConnectionError("the guard says no")

    async def prepare(connection):
        return ("GET", "guard"), judge

    await client.set("guard", "yes")
    pipe = open_pipe(redis_url, in_order=True, prepare=prepare)
    assert await asyncio.gather(pipe.send("PING"), pipe.send("PING")) == [b"PONG", b"PONG"]
    await client.set("guard", "no")

    with pytest.raises(BrokerError, match="the guard says no"):
        await pipe.send("PING")

    assert judged == [b"yes", b"no"]


async def test_server_that_will_not_do_is_tried_again_until_it_does(redis_url, open_pipe):
    tried = []

    async def prepare(connection):
        tried.append(connection)
        if len(tried) < 3:
            raise ConnectionError("not yet")

    pipe = open_pipe(redis_url, prepare=prepare)

    assert await pipe.send("PING") == b"PONG"
    assert len(tried) == 3
    assert not tried[0].is_idle


async def test_it_tells_of_connections_and_comes_back_by_itself_where_it_keeps_one(own_redis, open_pipe):
    told = []
    pipe = open_pipe(
        own_redis.url,
        keeps=True,
        on_connected=lambda: told.append("connected"),
        on_lost=lambda error: told.append("lost"),
    )
    pipe.connect()
    await eventually(lambda: told == ["connected"], "it did not connect")

    async with aioredis.Redis.from_url(own_redis.url) as client:
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    await eventually(lambda: told == ["connected", "lost", "connected"], "it did not come back")


async def test_too_many_are_refused_at_once(proxy, open_pipe):
    proxy.freeze()
    pipe = open_pipe(proxy.url, deadline=0.1, most=2)
    waiting = [pipe.send("PING"), pipe.send("PING")]

    with pytest.raises(BrokerError, match="2 commands wait"):
        pipe.send("PING")

    assert all(isinstance(result, BrokerError) for result in await asyncio.gather(*waiting, return_exceptions=True))
    proxy.thaw()


async def test_drain_answers_what_was_asked_and_takes_no_more(redis_url, client, open_pipe):
    pipe = open_pipe(redis_url, in_order=True)
    waiting = pipe.send("INCR", "count")

    await pipe.drain()

    assert waiting.result() == 1
    with pytest.raises(BrokerError, match="closed"):
        pipe.send("PING")


async def test_close_fails_what_waits(proxy, open_pipe):
    pipe = open_pipe(proxy.url)
    await pipe.send("PING")
    proxy.freeze()
    sent = pipe.send("PING")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    fresh = pipe.send("PING")

    await pipe.close()
    await pipe.close()

    for waiting in (sent, fresh):
        with pytest.raises(BrokerError, match="closed"):
            await waiting
    proxy.thaw()
