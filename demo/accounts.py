"""Who may log in: names and hashed passwords, in Redis where there is one, so that every process knows them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import redis.asyncio as aioredis
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from msgspec import Meta
from redis.exceptions import RedisError

from sstream import StoreError

__all__ = ["Accounts", "Name", "Password"]

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{1,15}(?!\n)$")]  # `$` alone lets a line end pass
Password = Annotated[str, Meta(min_length=3, max_length=128)]

KEY = "teahouse:accounts"  # outside of sess:*, where only sessions may lie
DEADLINE = 1.0  # seconds that Redis gets to answer; so long do the sessions wait for it, too
AT_ONCE = 2  # hashes take memory and time on purpose: a crowd at the door waits its turn


class Accounts:
    """The accounts of the Teahouse.

    Args:
        redis: The URL of the Redis that keeps them; ``None`` keeps them in memory.

    Attributes:
        hasher: What a password costs: 19 MiB, two passes, one lane, as OWASP's Password Storage Cheat Sheet has it.
    """

    def __init__(self, redis: str | None) -> None:
        self.hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._redis = None if redis is None else aioredis.from_url(redis, decode_responses=True)
        self._memory: dict[str, str] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def may_enter(self, name: str, password: str) -> bool:
        """Is this the password of ``name``? A name that is new opens an account with it.

        Raises:
            StoreError: Redis did not answer in time: a page says 503, a call *unavailable*.
        """
        stored = await self._get(name)
        if stored is None:
            await self._add(name, await self._hash(password))
            stored = await self._get(name)  # of two who take a name at once, one is first
        return stored is not None and await self._verify(stored, password)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    # Hashing is slow on purpose. In a thread it keeps nobody else waiting: argon2 lets go of the interpreter meanwhile.

    async def _hash(self, password: str) -> str:
        async with self._turns:
            return await asyncio.to_thread(self.hasher.hash, password)

    async def _verify(self, stored: str, password: str) -> bool:
        async with self._turns:
            try:
                return await asyncio.to_thread(self.hasher.verify, stored, password)
            except VerifyMismatchError:
                return False

    async def _get(self, name: str) -> str | None:
        if self._redis is None:
            return self._memory.get(name)
        async with _in_time():
            return await self._redis.hget(KEY, name)

    async def _add(self, name: str, hashed: str) -> None:
        if self._redis is None:
            self._memory.setdefault(name, hashed)
            return
        async with _in_time():
            await self._redis.hsetnx(KEY, name, hashed)


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(DEADLINE):
            yield
    except (RedisError, TimeoutError) as error:
        raise StoreError(f"the accounts cannot be reached: {error or 'no answer in time'}") from error
