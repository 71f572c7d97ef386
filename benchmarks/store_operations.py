"""What one operation of the session store costs in CPU time while 50 are under way at once, beside redis-py alone.

    python -m benchmarks.store_operations [URL]

Without a URL a Redis is started. Fifty workers each ask, wait, and ask again; the contenders take turns within each
round. Counted is the CPU time of this process, so Redis' own is left out.
"""

import asyncio
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import hiredis
import redis
import redis.asyncio as aioredis

from sstream import RedisStore
from sstream.testing import RedisServer

__all__ = ["main"]

ROUNDS = 7
OPERATIONS = 5_000  # of each contender in a round
AT_ONCE = 50
TEXT = b'{"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/","sameSite":"lax"},"userId":"fred",'
TEXT += b'"cart":{' + b",".join(b'"tea number %d":%d' % (number, number) for number in range(20)) + b"}}"
TTL = 30 * 86400
GOAL = 10.0  # microseconds

# An operation of worker number `n`; each has a key of its own.
Operation = Callable[[int], Awaitable[object]]


async def cost(operation: Operation, in_one: int) -> float:
    """Microseconds of CPU for one operation, of which a call is ``in_one``."""
    each = OPERATIONS // AT_ONCE // in_one

    async def work(number: int) -> None:
        for _ in range(each):
            await operation(number)

    await asyncio.gather(*(operation(number) for number in range(AT_ONCE)))
    began = time.process_time()
    await asyncio.gather(*(work(number) for number in range(AT_ONCE)))
    return (time.process_time() - began) / (each * AT_ONCE * in_one) * 1e6


async def measure(url: str) -> dict[str, list[float]]:
    """The cost of each contender's operation in each round."""
    keys = [f"sess:benchmark{number}" for number in range(AT_ONCE)]
    async with AsyncExitStack() as stack:
        store = RedisStore(url)
        stack.push_async_callback(store.close)
        client = aioredis.Redis.from_url(url)
        stack.push_async_callback(client.aclose)
        await client.delete(*keys)
        await asyncio.gather(*(store.swap(key, None, TEXT, TTL) for key in keys))

        async def pipelined(_: int) -> None:
            # What redis-py can do at best: fifty of them, packed by hand, counted as one fiftieth each.
            async with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.get(key)
                await pipeline.execute()

        contenders: dict[str, tuple[Operation, int]] = {
            "RedisStore.get": (lambda number: store.get(keys[number]), 1),
            "RedisStore.swap": (lambda number: store.swap(keys[number], TEXT, TEXT, TTL), 1),
            "RedisStore.touch": (lambda number: store.touch(keys[number], TTL), 1),
            "redis-py GET": (lambda number: client.get(keys[number]), 1),
            "redis-py SET EX": (lambda number: client.set(keys[number], TEXT, ex=TTL), 1),
            "redis-py EXPIRE": (lambda number: client.expire(keys[number], TTL), 1),
            "redis-py GET, pipelines of 50": (pipelined, AT_ONCE),
        }
        results: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, (operation, in_one) in contenders.items():
                results[name].append(await cost(operation, in_one))
        await client.delete(*keys)
    return results


def report(results: dict[str, list[float]]) -> None:
    """Print the table."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{python}, redis-py {redis.__version__}, hiredis {hiredis.__version__}, {platform.platform()}")
    print(f"{AT_ONCE} operations at once, {ROUNDS} rounds, texts of {len(TEXT)} bytes; goal: {GOAL:g} µs\n")
    single = statistics.median(results["redis-py GET"])
    print(f"{'operation':32}{'µs CPU':>8}{'lowest':>8}{'highest':>9}{'of a redis-py GET':>20}")
    for name, costs in results.items():
        middle = statistics.median(costs)
        print(f"{name:32}{middle:8.1f}{min(costs):8.1f}{max(costs):9.1f}{middle / single:20.2f}")


def main() -> None:
    """Measure with the Redis at the given URL, or with one of our own."""
    if len(sys.argv) > 1:
        report(asyncio.run(measure(sys.argv[1])))
        return
    with RedisServer() as server:
        report(asyncio.run(measure(server.url)))


if __name__ == "__main__":
    main()
