import asyncio
import contextlib

import pytest
import redis.asyncio as aioredis
from redis.asyncio.connection import Connection as PlainConnection, SSLConnection, UnixDomainSocketConnection

from sstream.errors import ConfigurationError
from sstream.pubsub.connection import BROKEN, Backoff, Connector, Refusal


def made(redis, deadline=1.0):
    """The connection that a connector would open, and does not."""
    connector = Connector(redis, deadline)
    return connector._source.connection_class(**connector._options)


@pytest.mark.parametrize(
    ("url", "kind", "host", "port"),
    [
        ("redis://example:7000/3", PlainConnection, "example", 7000),
        ("rediss://example", SSLConnection, "example", 6379),
        ("redis+cluster://one:7000,two:7001", PlainConnection, "one", 7000),
        ("rediss+cluster://fred:secret@one:7000,two", SSLConnection, "one", 7000),
    ],
)
def test_url_leads_to_a_server(url, kind, host, port):
    connection = made(url)

    assert type(connection) is kind
    assert (connection.host, connection.port) == (host, port)


def test_url_of_a_socket_file():
    connection = made("unix:///tmp/redis.sock?db=2")

    assert isinstance(connection, UnixDomainSocketConnection)
    assert (connection.path, connection.db) == ("/tmp/redis.sock", 2)


@pytest.mark.parametrize(
    "redis",
    [
        "redis://fred:s%40cret@example/3",
        "redis+cluster://fred:s%40cret@example:7000/",
        "redis+sentinel://fred:s%40cret@example:26379/main/3",
    ],
)
def test_login_comes_from_the_url(redis):
    connection = made(redis)

    assert (connection.username, connection.password) == ("fred", "s@cret")


async def test_client_lends_its_settings_and_we_bring_ours():
    client = aioredis.Redis(host="example", password="secret", decode_responses=True, health_check_interval=3)

    connection = made(client, deadline=0.7)

    assert (connection.host, connection.password) == ("example", "secret")
    assert connection.protocol == 2
    assert connection.socket_connect_timeout == 0.7
    assert connection.health_check_interval == 0
    assert connection.retry.get_retries() == 0
    assert not connection.encoder.decode_responses


async def test_client_of_a_cluster_lends_its_addresses():
    client = aioredis.RedisCluster(host="127.0.0.1", port=7000, password="secret")
    connector = Connector(client, 1.0)

    elsewhere = connector.at(("other", 7005))

    assert connector.seeds == [("127.0.0.1", 7000)]
    assert made(client).password == "secret"
    connection = elsewhere._source.connection_class(**elsewhere._options)
    assert (connection.host, connection.port, connection.password) == ("other", 7005, "secret")


def test_addresses_of_a_cluster():
    assert Connector("redis+cluster://u:p@one:7000,two,three:7002", 1.0).seeds == [
        ("one", 7000),
        ("two", 6379),
        ("three", 7002),
    ]
    assert Connector("redis://one", 1.0).seeds == []


def test_addresses_of_sentinels():
    connector = Connector("redis+sentinel://one:26380,two/main/2", 1.0)

    sentinels = [client.connection_pool.connection_kwargs for client in connector._sentinel.sentinels]
    assert [(options["host"], options["port"]) for options in sentinels] == [("one", 26380), ("two", 26379)]
    assert connector._source.service_name == "main"
    assert connector._options["db"] == 2


@pytest.mark.parametrize("url", ["", "localhost", "redis+sentinel://one", "redis+cluster://one:port", "ftp://x"])
def test_url_that_cannot_be_read_is_refused(url):
    with pytest.raises(ConfigurationError, match="not the URL of a Redis"):
        Connector(url, 1.0)


async def test_server_that_never_answers_is_given_up_in_time():
    async def say_nothing(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        began = asyncio.get_running_loop().time()
        with pytest.raises(BROKEN):
            await Connector(f"redis://:password@127.0.0.1:{port}", 0.1).open()

        assert asyncio.get_running_loop().time() - began < 2


async def test_answers_come_as_they_are(redis_url):
    connection = await Connector(redis_url, 1.0).open()
    try:
        connection.write(("SET", "key", b"\xff\x00"), ("GET", "key"), ("NONSENSE",), ("ECHO", 7))
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
    connection = await Connector(redis_url, 1.0).open()
    connection.cut()
    for _ in range(10):
        connection.write(("PING",))  # no complaint, and no log line of asyncio's

    assert not connection.is_idle
    with pytest.raises(ConnectionError, match="closed"):
        await connection.read()
    await connection.close()
    await connection.close()


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
