"""Where URLs and clients lead, and what they lend; opening connections there."""

import asyncio
import contextlib

import pytest
import redis.asyncio as aioredis
from redis.asyncio.connection import Connection as PlainConnection, SSLConnection, UnixDomainSocketConnection

from sstream.backend.connection import BROKEN
from sstream.backend.connector import Connector
from sstream.errors import ConfigurationError
from sstream.testing import within


def made(redis, timeout=1.0):
    """The connection that a connector would open, and does not."""
    connector = Connector(redis, timeout=timeout)
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
        "rediss+cluster://fred:s%40cret@example:7000,other",
        "rediss+sentinel://fred:s%40cret@example:26379/main/3",
    ],
)
def test_login_comes_from_the_url(redis):
    connection = made(redis)

    assert (connection.username, connection.password) == ("fred", "s@cret")


async def test_client_lends_its_settings_and_we_bring_ours():
    client = aioredis.Redis(host="example", password="secret", decode_responses=True, health_check_interval=3)

    connection = made(client, timeout=0.7)

    assert (connection.host, connection.password) == ("example", "secret")
    assert connection.protocol == 2
    assert connection.socket_connect_timeout == 0.7
    assert connection.health_check_interval == 0
    assert connection.retry.get_retries() == 0
    assert not connection.encoder.decode_responses


async def test_client_of_a_cluster_lends_its_addresses():
    client = aioredis.RedisCluster(host="127.0.0.1", port=7000, password="secret")
    connector = Connector(client, timeout=1.0)

    elsewhere = connector.at(("other", 7005))

    assert connector.seeds == [("127.0.0.1", 7000)]
    assert made(client).password == "secret"
    connection = elsewhere._source.connection_class(**elsewhere._options)
    assert (connection.host, connection.port, connection.password) == ("other", 7005, "secret")


def test_addresses_of_a_cluster():
    assert Connector("redis+cluster://u:p@one:7000,two,three:7002", timeout=1.0).seeds == [
        ("one", 7000),
        ("two", 6379),
        ("three", 7002),
    ]
    assert Connector("redis://one", timeout=1.0).seeds == []


def test_addresses_of_sentinels():
    connector = Connector("redis+sentinel://one:26380,two/main/2", timeout=1.0)

    sentinels = [client.connection_pool.connection_kwargs for client in connector._sentinels]
    assert [(options["host"], options["port"]) for options in sentinels] == [("one", 26380), ("two", 26379)]
    assert connector._source.service_name == "main"
    assert connector._options["db"] == 2


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_addresses_of_ipv6_stand_in_brackets(kind):
    connector = Connector(f"redis+{kind}://[::1]:7000,[::2]/main", timeout=1.0)

    if kind == "cluster":
        assert connector.seeds == [("::1", 7000), ("::2", 6379)]
    else:
        asked = [client.connection_pool.connection_kwargs for client in connector._sentinels]
        assert [(options["host"], options["port"]) for options in asked] == [("::1", 7000), ("::2", 26379)]


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_tls_and_its_settings_hold_for_every_server(kind):
    connector = Connector(f"rediss+{kind}://one,two/main?ssl_ca_certs=/tmp/ca.pem&client_name=tea", timeout=1.0)

    options = connector._options
    assert issubclass(connector._source.connection_class, SSLConnection)
    assert (options["ssl_ca_certs"], options["client_name"]) == ("/tmp/ca.pem", "tea")
    for client in connector._sentinels:
        assert client.connection_pool.connection_class is SSLConnection
        assert client.connection_pool.connection_kwargs["ssl_ca_certs"] == "/tmp/ca.pem"
    assert bool(connector._sentinels) is (kind == "sentinel")


async def test_client_of_a_cluster_lends_all_its_settings():
    client = aioredis.RedisCluster(
        host="127.0.0.1", port=7000, ssl=True, ssl_ca_certs="/tmp/ca.pem", username="fred", client_name="tea"
    )

    elsewhere = Connector(client, timeout=1.0).at(("other", 7005))

    connection = elsewhere._source.connection_class(**elsewhere._options)
    assert isinstance(connection, SSLConnection)
    assert (connection.host, connection.port) == ("other", 7005)
    assert (connection.username, connection.client_name) == ("fred", "tea")
    assert connection.ssl_context.ca_certs == "/tmp/ca.pem"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "ftp://x",
        "redis://:pass/word@one",
        "redis+sentinel://one",
        "redis+sentinel://one/main/first",
        "redis+cluster://one:port",
        "redis+cluster://one,,two",
        "redis+proxy://one",
        "unix+cluster://one",
        "valkey+cluster://one",
    ],
)
def test_url_that_cannot_be_read_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigurationError, match="not a Redis URL") as refused:
        Connector(url, timeout=1.0)

    assert "word" not in str(refused.value).replace("password", "")
    assert refused.value.__suppress_context__


async def test_server_that_never_answers_is_given_up_in_time():
    async def say_nothing(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(BROKEN):
            await within(Connector(f"redis://:password@127.0.0.1:{port}", timeout=0.1).open(), "it waits on")
