"""Events that one process publishes and the sockets of others get: through Redis, over two and four processes.

One visitor publishes on the first process; each of the others has 200 sockets. Looked at is the second process: how
many deliveries it makes a second of its CPU time, and how long one takes from the publisher's write to a subscriber's
read.
"""

from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.contenders import CONTENDERS, missing
from benchmarks.generator import Generator, Programs
from benchmarks.servers import Server, WrongAnswer

__all__ = ["study"]

SERVERS = ("socketio-asgi", "channels", "sstream-uvloop")
PROCESSES = (2, 4)
SUBSCRIBERS = 200
SECONDS = 0.4


def _measure(programs: Programs, name: str, processes: int, redis: str, row: dict[str, list[float]]) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(name, CONTENDERS[name], redis=redis)) for _ in range(processes)]
        loads: list[Generator] = []
        for server in servers[1:]:
            publisher = servers[0].port if not loads else None
            loads.append(stack.enter_context(server.load(programs, publisher=publisher)))
            loads[-1].open(SUBSCRIBERS + (publisher is not None))
        loads[0].request("publish", "x" * 20)
        for batch in (1, 16):
            measured = loads[0].fanout(batch, SECONDS, 0.1)
            if measured.errors or not measured.messages:
                raise WrongAnswer(f"{name} on {processes} processes: {dict(measured.errors)}")
            title = "one publish" if batch == 1 else "16 at once"
            row.setdefault(f"{title}, thousand/s", []).append(measured.messages / max(measured.cpu, 1e-9) / 1e3)
            for percent in (50, 99):
                figure = measured.histogram.percentile(percent) / 1e6
                row.setdefault(f"{title}, p{percent} ms", []).append(figure)


def study(redis: str, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    """Deliveries and latencies, by server and number of processes."""
    found: dict[str, dict[str, list[float]]] = {}
    with Programs() as programs:
        for _ in range(rounds):
            for processes in PROCESSES:
                for name in SERVERS:
                    if missing(CONTENDERS[name]) is None:
                        row = found.setdefault(f"{CONTENDERS[name].label}, {processes} processes", {})
                        _measure(programs, name, processes, redis, row)
    return found
