"""Sessions in Redis, under the keys and in the format of connect-redis."""

from functools import partial
from typing import Final

from sstream.backend.connector import Connector, Place
from sstream.backend.pipe import Script
from sstream.session.cluster import Cluster
from sstream.session.server import Server
from sstream.session.store import Listener

__all__ = ["RedisStore"]

# Reading once more at the end makes Redis report the next change by anybody else: with NOLOOP a script's own write
# ends the tracking of its key without a word (seen in Redis 7.0 and Valkey 9.1).
_SWAP: Final = Script("""
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
""")

# The same for a touch: EXPIRE of our own ends the tracking too.
_TOUCH: Final = Script("""
redis.call('EXPIRE', KEYS[1], ARGV[1])
return redis.call('EXISTS', KEYS[1])
""")


class RedisStore:
    """Sessions shared by every process, and by Express, through one Redis.

    All operations of one turn of the event loop leave as one pipeline on one connection; none waits for the reply of
    another. Keys that were read are tracked by the server (client-side caching), so that a change by any other client
    is heard of at once.

    Args:
        redis: A URL (``redis://``, ``rediss://``, ``unix://``, or
            ``redis+sentinel://host:port,host:port/service/db``, ``redis+cluster://host:port,host:port``, with
            ``rediss+`` over TLS), or a ready ``redis.asyncio.Redis`` or ``RedisCluster`` whose settings are taken for
            connections of our own.
        deadline: Seconds one operation may take, waiting for a connection included.
        max_waiting: Operations that may be under way at once; further ones fail at once.
    """

    def __init__(
        self,
        redis: Place = "redis://localhost:6379/0",
        *,
        deadline: float | None = 1.0,
        max_waiting: int = 10_000,
    ) -> None:
        self._listeners: list[Listener] = []
        self._connector = Connector(redis, timeout=deadline or 5.0)
        make = partial(Server, deadline=deadline, max_waiting=max_waiting, on_report=self._tell)
        self._place = Cluster(self._connector, make) if self._connector.seeds else make(self._connector)

    # --- the contract -------------------------------------------------------------------------------------------------

    @property
    def coherent(self) -> bool:
        return self._place.coherent

    async def get(self, key: str) -> bytes | None:
        text: bytes | None = await self._place.send(key, "GET", key)
        if text is None:
            self._missed(key)
        return text

    async def swap(self, key: str, expected: bytes | None, text: bytes | None, ttl: int) -> tuple[bool, bytes | None]:
        stored = await self._place.run(
            key,
            _SWAP,
            b"0" if expected is None else b"1",
            expected or b"",
            b"0" if text is None else b"1",
            text or b"",
            ttl,
        )
        if stored == 1:
            return True, text if ttl > 0 else None
        if stored is None:
            self._missed(key)
        return False, stored

    async def delete(self, key: str) -> bool:
        removed = bool(await self._place.send(key, "DEL", key))
        if not removed:
            self._missed(key)
        return removed

    async def touch(self, key: str, ttl: int) -> None:
        if not await self._place.run(key, _TOUCH, ttl):
            self._missed(key)

    async def ttl(self, key: str) -> int | None:
        milliseconds: int = await self._place.send(key, "PTTL", key)
        if milliseconds == -1:
            return 2**31  # somebody stored it without a lifetime
        if milliseconds < 0:
            self._missed(key)
            return None
        return -(-milliseconds // 1000)

    def watch(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def start(self) -> None:
        """Connect. A server that is not there yet is no error: it is tried again until it is."""
        self._place.start()

    async def close(self) -> None:
        await self._place.close()
        await self._connector.close()

    def _missed(self, key: str) -> None:
        # Redis removes what has expired when somebody looks for it, and with NOLOOP it is silent if that is us.
        self._tell(key)

    def _tell(self, key: str | None) -> None:
        for listener in self._listeners:
            listener(key)
