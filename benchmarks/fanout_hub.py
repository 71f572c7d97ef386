"""What an event costs in the hub for each socket that gets it, without the socket's own work.

    python -m benchmarks.fanout_hub

CPU time of this process; the socket takes the message and does nothing. Beside it: a bare loop that calls each socket.
"""

import asyncio
import platform
import statistics
import sys
import time
from collections.abc import Callable

from sstream.pubsub import Hub, MemoryBroker, Message, Publisher

__all__ = ["main"]

ROUNDS = 7
DELIVERIES = 1_000_000
SUBSCRIBERS = (1, 100, 1_000, 10_000)


class Socket:
    __slots__ = ("id",)

    def __init__(self, name: str) -> None:
        self.id = name

    def deliver(self, message: Message) -> None:
        pass


async def run(sockets: int, at_once: int) -> float:
    """Nanoseconds of CPU for one event and socket."""
    broker = MemoryBroker()
    hub = Hub(broker)
    await hub.start()
    publish = Publisher(broker)
    await asyncio.gather(*(hub.bind(Socket(str(number)), "channel:lobby") for number in range(sockets)))
    rounds = max(1, DELIVERIES // sockets // at_once)
    began = time.process_time()
    for _ in range(rounds):
        for _ in range(at_once):
            await publish.channel("lobby", "message", "hello")
        while hub._fan_out._waiting:
            await asyncio.sleep(0)
    seconds = time.process_time() - began
    await hub.close()
    return seconds / (rounds * at_once * sockets) * 1e9


def bare(sockets: int) -> float:
    crowd = [Socket(str(number)) for number in range(sockets)]
    message = Message(b"")
    began = time.process_time()
    for _ in range(DELIVERIES // sockets):
        for socket in crowd:
            socket.deliver(message)
    return (time.process_time() - began) / DELIVERIES * 1e9


def report(name: str, measure: Callable[[], float]) -> None:
    figures = sorted(measure() for _ in range(ROUNDS))
    print(f"{name:<38} {statistics.median(figures):8.0f} ns   ({figures[0]:.0f} to {figures[-1]:.0f})")


def main() -> None:
    print(f"{platform.machine()}, CPython {platform.python_version()}, {ROUNDS} rounds: median (least to most)")
    report("a loop that calls 1000 sockets", lambda: bare(1000))
    for at_once in (1, 16):
        for sockets in SUBSCRIBERS:
            name = f"{sockets} sockets, {at_once} event{'s' * (at_once > 1)} at once"
            report(name, lambda sockets=sockets, at_once=at_once: asyncio.run(run(sockets, at_once)))


if __name__ == "__main__":
    sys.exit(main())
