"""Presence in Redis, made older: what an hour's wait does, without the wait."""

import redis.asyncio as aioredis

__all__ = ["age", "stays"]

# At once, as nodes tell and look meanwhile.
_AGE = """
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  redis.call('ZINCRBY', KEYS[1], ARGV[1], member)
end
"""


def _key(channel: str) -> str:
    return f"sstream:until:{{sstream:channel:{channel}}}"


async def age(client: aioredis.Redis, channel: str, seconds: float) -> None:
    """Bring all who are in a channel so much nearer to the end of their time."""
    await client.eval(_AGE, 1, _key(channel), round(-seconds * 1000))


async def stays(client: aioredis.Redis, channel: str, user: str) -> list[float]:
    """The seconds for which nodes' words about a user still count, the shortest first."""
    now, microseconds = await client.time()
    members = await client.zrange(_key(channel), 0, -1, withscores=True)
    ends = [end for member, end in members if member.decode().partition(" ")[2] == user]
    return [end / 1000 - now - microseconds / 1e6 for end in ends]
