"""Connections to Redis that fail soon, never try again by themselves, and speak RESP2: commands out, answers in."""

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import hiredis
import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sstream.errors import ConfigurationError

__all__ = ["BROKEN", "Address", "Argument", "Backoff", "Connection", "Connector", "Place", "Refusal"]

BROKEN: Final = (OSError, RedisError, hiredis.HiredisError)  # what a broken connection raises; a timeout is an OSError

Argument = str | bytes | int
Address = tuple[str, int]
Place = str | aioredis.Redis | aioredis.RedisCluster

# What redis-py 8 puts into its connections for RESP3 alone.
_NOT_OURS: Final = ("maint_", "orig_", "himport_", "oss_")

_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub wants one


class Refusal(Exception):
    """Redis answered a command with an error."""


class Connector:
    """Opens connections to where ``redis`` leads: a URL or a ready client, a Sentinel's and a Cluster's too.

    Of a client only the settings are taken: a listening connection cannot come from a pool, and what writes must not
    send twice. redis-py's own defaults would reconnect and send again behind our back, and wait 15 s for a frozen
    server.

    Attributes:
        seeds: The addresses of a Cluster that are known from the start; empty for a single server.

    Raises:
        ConfigurationError: The URL cannot be read.
    """

    def __init__(self, redis: Place, deadline: float) -> None:
        self._deadline = deadline
        self._sentinel: Sentinel | None = None
        self.seeds: list[Address] = []
        source: ConnectionPool | ClusterNode
        try:
            if isinstance(redis, str):
                source = self._pool_at(redis)
            elif isinstance(redis, aioredis.RedisCluster):
                nodes = list(redis.nodes_manager.startup_nodes.values())
                self.seeds = [(str(node.host), int(node.port)) for node in nodes]
                source = nodes[0]
            else:
                source = redis.connection_pool
        except ValueError as error:
            raise ConfigurationError(f"not the URL of a Redis: {error}") from error
        self._source = source  # kept: a Sentinel's connection refers to its pool by a weak reference alone
        options = {name: value for name, value in source.connection_kwargs.items() if not name.startswith(_NOT_OURS)}
        self._options = options | {
            "protocol": 2,
            "decode_responses": False,
            "socket_connect_timeout": deadline,
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

    async def open(self) -> "Connection":
        """Connect, log in and select the database, before the deadline.

        Raises:
            RedisError, OSError: It did not work.
        """
        connection: AbstractConnection = self._source.connection_class(**self._options)
        try:
            async with asyncio.timeout(self._deadline):
                await connection.connect()  # type: ignore[no-untyped-call]
            return Connection(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """End what was opened to find the server; the connections that `open` gave are their owners'."""
        if self._sentinel is not None:
            for client in self._sentinel.sentinels:
                await client.aclose()

    def _pool_at(self, url: str) -> ConnectionPool:
        kind, _, rest = url.partition("://")
        if kind in {"redis+cluster", "rediss+cluster"}:
            # redis+cluster://[user:password@]host:port[,host:port...]
            login, at, addresses = rest.partition("/")[0].rpartition("@")
            self.seeds = _addresses(addresses, 6379)
            host, port = self.seeds[0]
            return ConnectionPool.from_url(f"{kind.partition('+')[0]}://{login}{at}{host}:{port}")
        if kind != "redis+sentinel":
            return ConnectionPool.from_url(url)
        # redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]; the password is that of Redis.
        parts = urlsplit(url)
        service, _, db = parts.path.strip("/").partition("/")
        if not service:
            raise ValueError("redis+sentinel:// needs the service's name as its path, like /mymaster")
        sentinels = _addresses(parts.netloc.rpartition("@")[2], 26379)
        half = self._deadline / 2
        self._sentinel = Sentinel(sentinels, socket_timeout=half, socket_connect_timeout=half)  # type: ignore[no-untyped-call]
        username, password = (text and unquote(text) for text in (parts.username, parts.password))
        client = self._sentinel.master_for(service, db=int(db or 0), username=username, password=password)
        pool: ConnectionPool = client.connection_pool
        return pool


class Connection:
    """An open connection: all commands given at once leave in one write, all answers of one read come in one list."""

    def __init__(self, connection: AbstractConnection) -> None:
        # Read in redis-py 5.0 to 8.1: the connected streams. Its read_response() costs 4 to 25 µs for each answer, a
        # hiredis reader fed from the stream under 1.
        stream, writer = connection._reader, connection._writer
        assert stream is not None
        assert writer is not None
        self._connection = connection
        self._stream = stream
        self._writer = writer
        self._parser = hiredis.Reader(replyError=Refusal, protocolError=ConnectionError)

    @property
    def is_idle(self) -> bool:
        """Whether it is open, as far as can be known, and nothing unasked for has come."""
        # An end that the other side closed has read its end of file; asyncio 3.11 to 3.13, streams.py.
        return not (self._stream.at_eof() or self._writer.is_closing() or self._stream._buffer)  # type: ignore[attr-defined]

    def write(self, *commands: tuple[Argument, ...]) -> None:
        """Send commands; never waits. On a connection that has ended they are lost, which `read` tells."""
        if not self._writer.is_closing():  # else asyncio warns in the log
            self._writer.write(b"".join(map(_pack, commands)))

    async def read(self) -> list[Any]:
        """The next answers, at least one; an error that Redis answered with is a `Refusal` among them.

        Raises:
            OSError: The connection has ended.
        """
        gets, answers = self._parser.gets, []
        while True:
            while (answer := gets(False)) is not False:  # undecoded
                answers.append(answer)
            if answers:
                return answers
            data = await self._stream.read(65536)
            if not data:
                raise ConnectionError("Redis closed the connection")
            self._parser.feed(data)

    async def ask(self, *command: Argument) -> Any:
        """The answer to one command, on a connection where nothing else is asked."""
        self.write(command)
        return (await self.read())[0]

    def cut(self) -> None:
        """End it at once, also where a peer that does not read keeps it from being closed."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self.cut()
        await self._connection.disconnect(nowait=True)


class Backoff:
    """Pauses between attempts: full jitter up to a bound that doubles from ``first`` to ``last`` seconds."""

    def __init__(self, first: float, last: float, rand: Callable[[], float] = random.random) -> None:
        self._first = first
        self._last = last
        self._random = rand
        self._bound = first

    def pause(self) -> float:
        """Seconds to wait now."""
        pause = self._random() * self._bound
        self._bound = min(self._bound * 2, self._last)
        return pause

    def reset(self) -> None:
        self._bound = self._first


def _addresses(text: str, port: int) -> list[Address]:
    addresses = []
    for address in text.split(","):
        host, _, number = address.rpartition(":")
        addresses.append((host or number, int(number) if host else port))
    return addresses
