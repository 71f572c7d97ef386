"""The proxy between us and Redis: it passes everything on, and fails exactly as told."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio as aioredis
from hypothesis import given, strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError, ReadOnlyError, ResponseError

from sstream.testing import Fault, FaultProxy, RedisServer, within
from sstream.testing.faults import _end, _ends, _Link, _words

CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
async def proxy(own_redis: RedisServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(own_redis.port, seed=7) as proxy:
        yield proxy


def connect(url: str, **options: Any) -> aioredis.Redis:
    # One connection, no second try: each fault is seen as it is.
    return aioredis.Redis.from_url(url, single_connection_client=True, retry=None, socket_timeout=10, **options)


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def client(request: pytest.FixtureRequest, proxy: FaultProxy) -> AsyncIterator[aioredis.Redis]:
    client = connect(proxy.url, protocol=request.param)
    yield client
    await client.aclose()


@pytest.fixture
async def direct(own_redis: RedisServer) -> AsyncIterator[aioredis.Redis]:
    """Past the proxy: what Redis itself holds."""
    client = connect(own_redis.url)
    yield client
    await client.aclose()


class Wire:
    """A connection on which every byte is ours."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self, count: int) -> bytes:
        return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read()
        return b"reset"


@pytest.fixture
async def wire(proxy: FaultProxy) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield Wire(reader, writer)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_everything_passes(client: aioredis.Redis, direct: aioredis.Redis) -> None:
    value = bytes(range(256)) * 4096

    await client.set("tea", value)
    await client.rpush("list", "a", "", "c")
    await client.hset("hash", mapping={"a": 1, "b": 2})

    assert await direct.get("tea") == await client.get("tea") == value
    assert await client.lrange("list", 0, -1) == [b"a", b"", b"c"]
    assert await client.hgetall("hash") == {b"a": b"1", b"b": b"2"}
    assert await client.get("nothing") is None
    with pytest.raises(ResponseError, match="wrong kind"):
        await client.incr("list")


async def test_transactions_and_scripts_pass(client: aioredis.Redis) -> None:
    async with client.pipeline(transaction=True) as pipeline:
        assert await pipeline.set("n", 1).incr("n").get("n").execute() == [True, 2, b"2"]

    assert await client.eval("return {KEYS[1], {1, false, 'x'}}", 1, "k") == [b"k", [1, None, b"x"]]


async def test_messages_pass_to_subscribers(client: aioredis.Redis, direct: aioredis.Redis) -> None:
    async with client.pubsub(ignore_subscribe_messages=False) as pubsub:
        await pubsub.subscribe("a", "b")
        assert [(await pubsub.get_message(timeout=10))["type"] for _ in range(2)] == ["subscribe", "subscribe"]

        await direct.publish("b", "hello")

        message = await pubsub.get_message(timeout=10)
        assert (message["channel"], message["data"]) == (b"b", b"hello")
        await pubsub.unsubscribe()


async def test_commands_are_counted_by_their_first_word(proxy: FaultProxy, client: aioredis.Redis) -> None:
    await client.set("a", 1)
    await client.get("a")
    await client.get("a")

    assert proxy.commands["SET"] == 1
    assert proxy.commands["GET"] == 2


async def test_connections_are_counted(proxy: FaultProxy, wire: Wire) -> None:
    wire.send(b"PING\r\n")
    await wire.receive(7)

    assert (proxy.accepted, proxy.connections) == (1, 1)


async def test_inline_commands_pass_and_are_counted(proxy: FaultProxy, wire: Wire) -> None:
    wire.send(b"set tea green\r\nGET tea\r\n")

    assert await wire.receive(len(b"+OK\r\n$5\r\ngreen\r\n")) == b"+OK\r\n$5\r\ngreen\r\n"
    assert proxy.commands == {"SET": 1, "GET": 1}


async def test_command_in_pieces_passes_whole(proxy: FaultProxy, wire: Wire) -> None:
    for byte in b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\nb\r\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n":
        wire.send(bytes([byte]))
        await wire.writer.drain()

    assert await wire.receive(15) == b"+OK\r\n$4\r\n\r\nb\r\r\n"
    assert proxy.commands == {"SET": 1, "GET": 1}


async def test_cut_before_the_command_reaches_redis(
    proxy: FaultProxy, client: aioredis.Redis, direct: aioredis.Redis
) -> None:
    await client.ping()
    rule = proxy.on("SET", Fault.CUT_BEFORE)

    with pytest.raises(RedisConnectionError):
        await client.set("tea", "green")

    assert await direct.get("tea") is None
    assert rule.hits == 1
    assert proxy.commands["SET"] == 0


async def test_cut_instead_of_the_reply(proxy: FaultProxy, client: aioredis.Redis, direct: aioredis.Redis) -> None:
    await client.ping()
    proxy.on("SET", Fault.CUT_REPLY)

    with pytest.raises(RedisConnectionError):
        await client.set("tea", "green")

    assert await direct.get("tea") == b"green"


async def test_cut_after_the_reply(proxy: FaultProxy, wire: Wire) -> None:
    proxy.on("SET", Fault.CUT_AFTER)

    wire.send(b"SET tea green\r\n")

    assert await wire.rest() == b"+OK\r\n"


async def test_cut_strikes_its_own_command_in_a_pipeline(proxy: FaultProxy, wire: Wire, direct: aioredis.Redis) -> None:
    proxy.on("INCR", Fault.CUT_AFTER)

    wire.send(b"SET n 1\r\nINCR n\r\nGET n\r\n")

    assert await wire.rest() == b"+OK\r\n:2\r\n"
    assert await direct.get("n") == b"2"


async def test_error_instead_of_redis(proxy: FaultProxy, client: aioredis.Redis, direct: aioredis.Redis) -> None:
    proxy.on("SET", Fault.ERROR, message="READONLY You can't write against a read only replica.")

    with pytest.raises(ReadOnlyError):
        await client.set("tea", "green")

    assert await direct.get("tea") is None
    assert proxy.commands["SET"] == 0


async def test_error_keeps_its_place_in_a_pipeline(proxy: FaultProxy, wire: Wire) -> None:
    proxy.on("INCR", Fault.ERROR, message="OOM no", times=2)

    wire.send(b"INCR n\r\nSET n 1\r\nINCR n\r\nGET n\r\n")

    expected = b"-OOM no\r\n+OK\r\n-OOM no\r\n$1\r\n1\r\n"
    assert await wire.receive(len(expected)) == expected


async def test_error_does_not_overtake_a_reply_that_is_late(
    proxy: FaultProxy, wire: Wire, direct: aioredis.Redis
) -> None:
    proxy.on("INCR", Fault.DELAY, seconds=0.2)
    proxy.on("INCR", Fault.ERROR, message="OOM no")

    wire.send(b"INCR n\r\n")
    while await direct.get("n") is None:
        await asyncio.sleep(0.001)
    await direct.ping()  # its reply is on the way by now
    wire.send(b"INCR n\r\n")

    expected = b":1\r\n-OOM no\r\n"
    assert await wire.receive(len(expected)) == expected


async def test_delay_of_one_command(proxy: FaultProxy, client: aioredis.Redis) -> None:
    await client.ping()
    rule = proxy.on("GET", Fault.DELAY, seconds=0.1)
    loop = asyncio.get_running_loop()

    await client.set("tea", "green")
    struck_before = rule.hits
    began = loop.time()
    assert await client.get("tea") == b"green"

    assert loop.time() - began >= 0.1
    assert (struck_before, rule.hits) == (0, 1)


async def test_delay_of_everything(proxy: FaultProxy, client: aioredis.Redis) -> None:
    await client.ping()
    proxy.delay = 0.05
    loop = asyncio.get_running_loop()
    began = loop.time()

    await client.ping()
    await client.ping()

    assert loop.time() - began >= 0.1


async def test_nothing_is_written_to_an_end_that_was_cut_while_we_waited(proxy: FaultProxy) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    link = _Link(proxy, client=writer, upstream=writer)
    replies, commands = asyncio.StreamReader(), asyncio.StreamReader()
    replies.feed_data(b"+PONG\r\n" * 20)
    commands.feed_data(b"*1\r\n$4\r\nPING\r\n" * 20)

    link.abort()
    await within(link._replies(replies), "it does not end")
    await within(link._commands(commands), "it does not end")

    assert proxy.commands["PING"] == 0


async def test_rule_strikes_so_often_and_no_more(proxy: FaultProxy, client: aioredis.Redis) -> None:
    rule = proxy.on("get", Fault.ERROR, times=2)

    for _ in range(2):
        with pytest.raises(ResponseError, match="injected fault"):
            await client.get("tea")

    assert await client.get("tea") is None
    assert rule.hits == 2


async def test_rule_for_any_command(proxy: FaultProxy, client: aioredis.Redis) -> None:
    await client.ping()
    proxy.on(None, Fault.ERROR, times=None)

    with pytest.raises(ResponseError):
        await client.get("tea")
    with pytest.raises(ResponseError):
        await client.set("tea", "green")

    proxy.clear()
    assert await client.set("tea", "green")


async def test_earlier_rule_comes_first(proxy: FaultProxy, client: aioredis.Redis) -> None:
    proxy.on("GET", Fault.ERROR, message="ERR first")
    proxy.on("GET", Fault.ERROR, message="ERR second")

    for text in ("first", "second"):
        with pytest.raises(ResponseError, match=text):
            await client.get("tea")


async def test_same_seed_strikes_the_same_commands(own_redis: RedisServer) -> None:
    async def strikes(seed: int) -> list[bool]:
        async with FaultProxy(own_redis.port, seed=seed) as proxy:
            proxy.on("GET", Fault.ERROR, times=None, chance=0.5)
            client = connect(proxy.url)
            replies = [await asyncio.gather(client.get("tea"), return_exceptions=True) for _ in range(40)]
            await client.aclose()
            return [isinstance(reply, ResponseError) for (reply,) in replies]

    first = await strikes(1)

    assert first == await strikes(1) != await strikes(2)
    assert 5 < sum(first) < 35


async def test_cut_ends_all_connections_and_lets_new_ones_in(proxy: FaultProxy, client: aioredis.Redis) -> None:
    await client.ping()

    assert proxy.cut() == 1

    with pytest.raises(RedisConnectionError):
        await client.ping()
    assert await client.ping()


async def test_frozen_proxy_holds_everything_until_thawed(proxy: FaultProxy, wire: Wire) -> None:
    wire.send(b"PING\r\n")
    await wire.receive(7)
    proxy.freeze()
    wire.send(b"INCR n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"PING\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.wait({asyncio.ensure_future(reader.read(1))}), 0.05)
    assert proxy.commands["INCR"] == 0

    proxy.thaw()

    assert await wire.receive(4) == b":1\r\n"
    writer.close()
    await writer.wait_closed()


async def test_refused_connections_are_refused_and_accepted_again(proxy: FaultProxy, client: aioredis.Redis) -> None:
    await client.ping()
    port = proxy.port

    proxy.refuse()
    proxy.refuse()

    with pytest.raises(RedisConnectionError):
        await client.ping()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)

    await proxy.accept()
    await proxy.accept()

    assert proxy.port == port
    assert await client.ping()


async def test_redis_that_is_down_cuts_the_client(
    proxy: FaultProxy, client: aioredis.Redis, own_redis: RedisServer
) -> None:
    await client.ping()

    own_redis.kill()

    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            await client.ping()
    own_redis.restart()
    assert await client.ping()


async def test_close_ends_connections_and_is_safe_to_call_twice(proxy: FaultProxy, wire: Wire) -> None:
    wire.send(b"PING\r\n")
    await wire.receive(7)
    proxy.freeze()

    await proxy.close()
    await proxy.close()

    assert await wire.rest() in (b"", b"reset")
    assert proxy.connections == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_tls_towards_the_client(own_redis: RedisServer) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    async with FaultProxy(own_redis.port, tls=tls) as proxy:
        assert urlsplit(proxy.url).scheme == "rediss"
        client = connect(proxy.url, ssl_ca_certs=str(CERTIFICATE))

        assert await client.ping()

        await client.aclose()


# RESP values, as the specification shows them.
VALUES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":1000\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"$6\r\na\r\n\r\nb\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"!5\r\nERR x\r\n",
    b"=6\r\ntxt:hi\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
    b"~2\r\n:1\r\n:2\r\n",
    b">2\r\n$4\r\nkind\r\n_\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n",
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.decode()[:8].strip())
def test_end_of_a_value_is_found_and_every_part_of_it_is_incomplete(value: bytes) -> None:
    assert _end(value, 0) == len(value)
    assert _end(b":1\r\n" + value + b"+more", 4) == 4 + len(value)
    for length in range(len(value)):
        assert _end(value[:length], 0) == -1


@given(st.lists(st.sampled_from(VALUES)), st.integers(0, 200))
def test_values_in_a_row_are_cut_where_they_end(values: list[bytes], kept: int) -> None:
    stream = b"".join(values)[:kept]

    ends = list(_ends(stream))

    starts = [0, *ends][: len(ends)]
    assert [stream[start:end] for start, end in zip(starts, ends, strict=True)] == values[: len(ends)]
    whole = len(ends) == len(values)
    assert whole or len(b"".join(values[: len(ends) + 1])) > len(stream)


@given(st.lists(st.binary(), min_size=1))
def test_words_of_a_command(words: list[bytes]) -> None:
    command = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    assert _words(command) == words
