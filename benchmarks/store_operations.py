"""What one operation of the store and the broker costs in CPU time, 50 being under way at once, beside redis-py alone.

Fifty workers each ask, wait, and ask again; the contenders take turns within each
round. Counted is the CPU time of this process, so Redis' own is left out.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import redis.asyncio as aioredis

from sstream import RedisStore
from sstream.pubsub import ChannelOptions, History, Publisher, RedisBroker

__all__ = ["study"]

OPERATIONS = 5_000  # of each contender in a round
AT_ONCE = 50
TEXT = b'{"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/","sameSite":"lax"},"userId":"fred",'
TEXT += b'"cart":{' + b",".join(b'"tea number %d":%d' % (number, number) for number in range(20)) + b"}}"
TTL = 30 * 86400
EVENT = b"\x93\x02\xa7message\x91\xa5hello"

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


async def measure(url: str, rounds: int) -> dict[str, list[float]]:
    """The cost of each contender's operation in each round."""
    keys = [f"sess:benchmark{number}" for number in range(AT_ONCE)]
    async with AsyncExitStack() as stack:
        store = RedisStore(url)
        stack.push_async_callback(store.close)
        broker = RedisBroker(url)
        stack.push_async_callback(broker.close)
        publisher = Publisher(
            broker, channel_options=lambda name: ChannelOptions(history=History(100, 60) if name == "kept" else None)
        )
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
            "publish": (lambda _: publisher.channel("lobby", "message", "hello"), 1),
            "publish with history": (lambda _: publisher.channel("kept", "message", "hello"), 1),
            "redis-py PUBLISH": (lambda _: client.publish("sstream:channel:lobby", EVENT), 1),
        }
        results: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, (operation, in_one) in contenders.items():
                results[name].append(await cost(operation, in_one))
        await client.delete(*keys)
    return results


def study(redis: str, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    """Microseconds of CPU time an operation, by operation."""
    return {name: {"us": costs} for name, costs in asyncio.run(measure(redis, rounds)).items()}
