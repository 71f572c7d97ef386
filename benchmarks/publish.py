"""What publishing through Redis costs in CPU time, and how long it takes, beside redis-py alone.

python -m benchmarks.publish [URL]
"""

import asyncio
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import redis
import redis.asyncio as aioredis

from sstream.pubsub import ChannelOptions, History, Hub, Message, Publisher, RedisBroker
from sstream.testing import RedisServer

__all__ = ["main"]

ROUNDS = 5
EVENTS = 5_000
AT_ONCE = (1, 50)


class Socket:
    """Looks at the clocks with the first and the last event."""

    id = "benchmark"

    def __init__(self) -> None:
        self.count = 0
        self.began = (0.0, 0.0)
        self.done: asyncio.Future[tuple[float, float]] = asyncio.get_running_loop().create_future()

    def deliver(self, message: Message) -> None:
        self.count += 1
        if self.count == 1:
            self.began = (time.process_time(), time.perf_counter())
        if self.count == EVENTS:
            cpu, clock = self.began
            self.done.set_result(
                ((time.process_time() - cpu) / EVENTS * 1e6, (time.perf_counter() - clock) / EVENTS * 1e6)
            )


async def cost(publish: Callable[[], Awaitable[object]], at_once: int) -> tuple[float, float]:
    """Microseconds of CPU, and of time, for one event."""
    await publish()
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(EVENTS // at_once):
        if at_once == 1:
            await publish()
        else:
            await asyncio.gather(*(publish() for _ in range(at_once)))
    return (time.process_time() - cpu) / EVENTS * 1e6, (time.perf_counter() - clock) / EVENTS * 1e6


async def heard(url: str) -> tuple[float, float]:
    """Microseconds of CPU, and of time, for one event that another process publishes and a socket here gets."""
    broker = RedisBroker(url)
    hub = Hub(broker)
    await hub.start()
    socket = Socket()
    await hub.bind(socket, "all")
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", PUBLISHER, url, str(EVENTS))
    result = await socket.done
    await child.wait()
    await hub.close()
    await broker.close()
    return result


PUBLISHER = """
import sys, redis
pipeline = redis.Redis.from_url(sys.argv[1]).pipeline(transaction=False)
for _ in range(int(sys.argv[2])): pipeline.publish("sstream:all", b"\\x93\\x02\\xa7message\\x91\\xa5hello")
pipeline.execute()
"""


async def measure(url: str) -> dict[str, tuple[float, float]]:
    figures = {}
    async with aioredis.Redis.from_url(url) as client:
        broker = RedisBroker(url)
        publisher = Publisher(
            broker,
            channel_options=lambda name: ChannelOptions(history=History(100, 60) if name == "kept" else None),
        )
        for at_once in AT_ONCE:
            figures[f"redis-py, {at_once} at once"] = await cost(
                lambda: client.publish("sstream:channel:lobby", b"\x93\x02\xa7message\x91\xa5hello"), at_once
            )
            figures[f"sstream, {at_once} at once"] = await cost(
                lambda: publisher.channel("lobby", "message", "hello"), at_once
            )
            figures[f"sstream with history, {at_once} at once"] = await cost(
                lambda: publisher.channel("kept", "message", "hello"), at_once
            )
        await broker.close()
    figures["sstream, heard and handed out"] = await heard(url)
    return figures


def run(url: str) -> None:
    print(f"{platform.machine()}, CPython {platform.python_version()}, redis-py {redis.__version__}, {ROUNDS} rounds:")
    print(f"{'median (least to most)':<34}{'µs of CPU':>24}{'µs until acknowledged':>28}")
    rounds = [asyncio.run(measure(url)) for _ in range(ROUNDS)]
    for name in rounds[0]:
        row = f"{name:<34}"
        for which, width in ((0, 24), (1, 28)):
            values = sorted(figures[name][which] for figures in rounds)
            text = f"{statistics.median(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})"
            row += f"{text:>{width}}"
        print(row)


def main() -> None:
    if len(sys.argv) > 1:
        run(sys.argv[1])
    else:
        with RedisServer() as server:
            run(server.url)


if __name__ == "__main__":
    main()
