"""Where a Redis is: URLs and ready clients of every kind, and connections to where they lead."""

import asyncio
import copy
from typing import Any, Final
from urllib.parse import urlsplit

import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from sstream.backend.connection import Connection
from sstream.errors import ConfigurationError

__all__ = ["Address", "Connector", "Place"]

Address = tuple[str, int]
Place = str | aioredis.Redis | aioredis.RedisCluster

# What redis-py 8 puts into its connections for RESP3 alone.
_NOT_OURS: Final = ("maint_", "orig_", "himport_", "oss_")
_LEGAL: Final = (
    "not a Redis URL: legal are redis://, rediss://, unix://, redis+sentinel://host:port,.../service/db and "
    "redis+cluster://host:port,..., the last two with rediss too; write / # ? @ in a password as %2F %23 %3F %40"
)


class Connector:
    """Opens connections to where ``redis`` leads: one server, the primary that Sentinels name, or a Cluster's servers.

    ``redis://``, ``rediss://`` and ``unix://`` are redis-py's, and so are the settings behind ``?``. Besides:

    * ``redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]``; user and password are those of Redis.
    * ``redis+cluster://[user:password@]host:port[,host:port...]``

    With ``rediss+`` all connections use TLS, those to the Sentinels as well.

    Of a ready client only the settings are taken: what listens cannot come from a pool, and what writes must not send
    twice. redis-py's own defaults would reconnect and send again behind our back, and take 3.9 s to say that nobody is
    there.

    Attributes:
        timeout: Seconds that opening a connection may take.
        seeds: The addresses of a Cluster that are known from the start; empty for a single server.

    Raises:
        ConfigurationError: The URL cannot be read.
    """

    def __init__(self, redis: Place, *, timeout: float) -> None:
        self.timeout = timeout
        self.seeds: list[Address] = []
        self._sentinels: list[aioredis.Redis] = []
        source: ConnectionPool | ClusterNode
        if isinstance(redis, str):
            try:
                source = self._pool_at(redis)
            except ValueError:
                # Not the parser's own words: they may hold a part of the password.
                raise ConfigurationError(_LEGAL) from None
        elif isinstance(redis, aioredis.RedisCluster):
            nodes = list(redis.nodes_manager.startup_nodes.values())
            self.seeds = [(str(node.host), int(node.port)) for node in nodes]
            source = nodes[0]
        else:
            source = redis.connection_pool
        self._source = source  # kept: a Sentinel's connection refers to its pool by a weak reference alone
        options = {name: value for name, value in source.connection_kwargs.items() if not name.startswith(_NOT_OURS)}
        self._options = options | {
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": None,
            "socket_connect_timeout": timeout,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "retry_on_error": [],
        }

    def at(self, address: Address) -> "Connector":
        """The same for another server of the Cluster."""
        other = copy.copy(self)
        other._options = self._options | {"host": address[0], "port": address[1]}
        return other

    async def open(self) -> Connection:
        """Connect, log in and select the database, within ``timeout``.

        Raises:
            RedisError, OSError: It did not work.
        """
        connection: AbstractConnection = self._source.connection_class(**self._options)
        try:
            async with asyncio.timeout(self.timeout):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no annotation there
            return Connection(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """End what was opened to find the server; the connections that `open` gave are their owners'."""
        for client in self._sentinels:
            await client.aclose()

    def _pool_at(self, url: str) -> ConnectionPool:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if not kind:
            return ConnectionPool.from_url(url)
        if scheme not in {"redis", "rediss"}:
            raise ValueError(url)
        # All but the addresses and the path is read by redis-py, as if it were one server's.
        login, at, addresses = parts.netloc.rpartition("@")
        server = parts._replace(scheme=scheme, netloc=login + at + addresses.partition(",")[0])
        if kind == "cluster":
            self.seeds = _addresses(addresses, 6379)
            return ConnectionPool.from_url(server.geturl())
        service, _, db = parts.path.strip("/").partition("/")
        if kind != "sentinel" or not service:
            raise ValueError(url)
        options = ConnectionPool.from_url(server._replace(path="").geturl()).connection_kwargs
        options = {"db": int(db or 0)} | {name: options[name] for name in options if name not in {"host", "port"}}
        tls = {"ssl": True} | {name: value for name, value in options.items() if name.startswith("ssl_")}
        half = self.timeout / 2  # so that there is time to ask a second one
        # redis-py's Sentinel has no annotations.
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            _addresses(addresses, 26379),
            sentinel_kwargs={"socket_timeout": half, "socket_connect_timeout": half}
            | (tls if scheme == "rediss" else {}),
        )
        self._sentinels = sentinel.sentinels
        pool: ConnectionPool = sentinel.master_for(service, ssl=scheme == "rediss", **options).connection_pool
        return pool


def _addresses(text: str, default_port: int) -> list[Address]:
    """``host[:port][,...]``, with brackets around an IPv6 address."""
    found = []
    for address in text.split(","):
        parts = urlsplit(f"//{address}")
        if not parts.hostname:
            raise ValueError(address)
        found.append((parts.hostname, parts.port or default_port))
    return found
