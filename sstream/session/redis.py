"""Sessions in Redis, under the keys and in the format of connect-redis."""

import asyncio
import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from sstream.errors import ConfigurationError, StoreError
from sstream.session.cluster import Cluster
from sstream.session.link import Connect, ReplyError
from sstream.session.server import Server
from sstream.session.store import Listener

__all__ = ["RedisStore"]

# Reading once more at the end makes Redis report the next change by anybody else: with NOLOOP a script's own write
# ends the tracking of its key without a word (seen in Redis 7.0 and Valkey 9.1).
_SWAP: Final = """
local stored = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then
    if stored then return stored end
elseif stored ~= ARGV[2] then
    return stored
end
if ARGV[3] == '0' or tonumber(ARGV[5]) <= 0 then
    redis.call('DEL', KEYS[1])
else
    redis.call('SET', KEYS[1], ARGV[4], 'EX', ARGV[5])
end
redis.call('EXISTS', KEYS[1])
return 1
"""

# The same for a touch: EXPIRE of our own ends the tracking too.
_TOUCH: Final = """
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXISTS', KEYS[1])
"""
_SHA: Final = {script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for script in (_SWAP, _TOUCH)}


class RedisStore:
    """Sessions shared by every process, and by Express, through one Redis.

    All operations of one turn of the event loop leave as one pipeline on one connection; none waits for the reply of
    another. Keys that were read are tracked by the server (client-side caching), so that a change by any other client
    is heard of at once.

    Args:
        redis: A URL (``redis://``, ``rediss://``, ``unix://``, or
            ``redis+sentinel://host:port,host:port/service/db``, ``redis+cluster://host:port,host:port``), or a ready
            ``redis.asyncio.Redis`` or ``RedisCluster`` whose settings are taken for connections of our own.
        deadline: Seconds one operation may take, waiting for a connection included.
        max_waiting: Operations that may be under way at once; further ones fail at once.
    """

    def __init__(
        self,
        redis: "str | aioredis.Redis | aioredis.RedisCluster" = "redis://localhost:6379/0",
        *,
        deadline: float | None = 1.0,
        max_waiting: int = 10_000,
    ) -> None:
        self._deadline = deadline
        self._max_waiting = max_waiting
        self._listeners: list[Listener] = []
        self._server: Server | None = None
        self._cluster: Cluster | None = None
        self._sentinels: list[aioredis.Redis] = []  # our own, to be closed
        if isinstance(redis, str):
            redis, self._sentinels = _client(redis)
        if isinstance(redis, aioredis.RedisCluster):
            addresses = [(str(node.host), int(node.port)) for node in redis.startup_nodes]
            options = redis.connection_kwargs
            self._cluster = Cluster(addresses, lambda address: self._make_server(*address, options), deadline=deadline)
        else:
            self._server = Server(_connector(redis.connection_pool), **self._settings())

    def _settings(self) -> dict[str, Any]:
        return {"deadline": self._deadline, "max_waiting": self._max_waiting, "on_report": self._tell}

    def _make_server(self, host: str, port: int, options: Mapping[str, Any]) -> Server:
        carried = {name: options[name] for name in options if name in _CARRIED or name.startswith("ssl_")}
        connection_class = options.get("connection_class", aioredis.Connection)
        pool = aioredis.ConnectionPool(connection_class=connection_class, host=host, port=port, **carried)
        return Server(_connector(pool), name=f"Redis at {host}:{port}", **self._settings())

    # --- the contract -------------------------------------------------------------------------------------------------

    @property
    def coherent(self) -> bool:
        return self._servers.coherent

    async def get(self, key: str) -> bytes | None:
        text: bytes | None = await self._call(key, "GET", key)
        return text

    async def swap(self, key: str, expected: bytes | None, text: bytes | None, ttl: int) -> tuple[bool, bytes | None]:
        stored = await self._run(
            _SWAP,
            key,
            b"0" if expected is None else b"1",
            expected or b"",
            b"0" if text is None else b"1",
            text or b"",
            ttl,
        )
        return (True, text if ttl > 0 else None) if stored == 1 else (False, stored)

    async def delete(self, key: str) -> bool:
        return bool(await self._call(key, "DEL", key))

    async def touch(self, key: str, ttl: int) -> None:
        await self._run(_TOUCH, key, ttl)

    async def ttl(self, key: str) -> int | None:
        milliseconds: int = await self._call(key, "PTTL", key)
        if milliseconds == -1:
            return 2**31  # somebody stored it without a lifetime
        return None if milliseconds < 0 else -(-milliseconds // 1000)

    def watch(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        """Connect. A server that is not there yet is no error: it is tried again until it is."""
        self._servers.start()

    async def close(self) -> None:
        await self._servers.close()
        for sentinel in self._sentinels:
            await sentinel.aclose()

    # --- where it goes ------------------------------------------------------------------------------------------------

    @property
    def _servers(self) -> Server | Cluster:
        servers = self._server or self._cluster
        assert servers is not None
        return servers

    async def _run(self, script: str, key: str, *arguments: bytes | int) -> Any:
        try:
            return await self._call(key, "EVALSHA", _SHA[script], 1, key, *arguments)
        except StoreError as error:
            if not str(error.__cause__).startswith("NOSCRIPT"):
                raise
            return await self._call(key, "EVAL", script, 1, key, *arguments)

    async def _call(self, key: str, command: str, *arguments: bytes | str | int) -> Any:
        try:
            if self._server is not None:
                return await self._server.call(command, *arguments)
            return await self._call_cluster(key, command, *arguments)
        except ReplyError as error:
            # Where Redis does not know a command it repeats its arguments: ids, and the session itself.
            reason = str(error).partition(", with args")[0]
            raise StoreError(f"Redis refused {command}: {reason}") from error

    async def _call_cluster(self, key: str, command: str, *arguments: bytes | str | int) -> Any:
        assert self._cluster is not None
        loop = asyncio.get_running_loop()
        end = math.inf if self._deadline is None else loop.time() + self._deadline
        while True:
            server = await self._cluster.server_of(key)
            try:
                return await server.call(command, *arguments)
            except ReplyError as error:
                # It was not carried out: the key is, or is about to be, on another server.
                if (
                    not str(error).startswith(("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY"))
                    or loop.time() > end
                ):
                    raise
            await asyncio.sleep(0.01)
            await self._cluster.look()

    def _tell(self, key: str | None) -> None:
        for listener in self._listeners:
            listener(key)


# What a connection to one server of a cluster takes of the settings for all of them.
_CARRIED: Final = frozenset(
    {
        "username",
        "password",
        "credential_provider",
        "client_name",
        "driver_info",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_connect_timeout",
        "socket_read_size",
    }
)


def _connector(pool: aioredis.ConnectionPool) -> Connect:
    options = {
        name: value for name, value in pool.connection_kwargs.items() if not name.startswith(("maint_", "orig_"))
    }
    # RESP2, for the invalidations; no retries inside, redis-py alone would take 3.9 s to say that nobody is there.
    options |= {"protocol": 2, "decode_responses": False, "socket_timeout": None, "health_check_interval": 0}
    options |= {"retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "retry_on_error": []}

    def connect() -> AbstractConnection:
        # This closure keeps the pool: a Sentinel's connection refers to it by a weak reference alone.
        return pool.connection_class(**options)

    return connect


def _login(parts: SplitResult) -> dict[str, Any]:
    return {
        "username": None if parts.username is None else unquote(parts.username),
        "password": None if parts.password is None else unquote(parts.password),
    }


def _addresses(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    found = []
    for address in parts.netloc.rpartition("@")[2].split(","):
        host, colon, port = address.rpartition(":")
        found.append((host, int(port)) if colon else (address, default_port))
    return found


def _client(url: str) -> "tuple[aioredis.Redis | aioredis.RedisCluster, list[aioredis.Redis]]":
    """A client for a URL, and those that ask the Sentinels for it.

    ``redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]``; the password is that of Redis.
    ``redis+cluster://[user:password@]host:port[,host:port...]``
    """
    try:
        parts = urlsplit(url)
        if parts.scheme == "redis+cluster":
            nodes = [ClusterNode(host, port) for host, port in _addresses(parts, 6379)]
            return aioredis.RedisCluster(startup_nodes=nodes, **_login(parts)), []
        if parts.scheme == "redis+sentinel":
            service, _, db = parts.path.strip("/").partition("/")
            if not service:
                raise ValueError("redis+sentinel:// needs the service's name as its path, like /mymaster")
            # redis-py's Sentinel has no annotations.
            sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
                _addresses(parts, 26379), socket_timeout=0.5, socket_connect_timeout=0.5
            )
            client = sentinel.master_for(service, db=int(db or 0), **_login(parts))
            return client, sentinel.sentinels
        return aioredis.Redis.from_url(url), []
    except ValueError:
        # Not the parser's own words: they may hold a part of the password.
        raise ConfigurationError(
            "not a Redis URL: legal are redis://, rediss://, unix://, redis+sentinel://host:port,.../service/db and "
            "redis+cluster://host:port,...; write / # ? @ in a password as %2F %23 %3F %40"
        ) from None
