"""Events that one process publishes and the sockets of others get: through Redis, over two processes.

One visitor publishes on the first process; 200 sockets are on the second. Looked at is the second process: how many
deliveries it makes a second of its CPU time, and how long one takes from the publisher's write to a subscriber's read.
"""

from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.contenders import CONTENDERS
from benchmarks.generator import Programs
from benchmarks.servers import Server, WrongAnswer, missing

__all__ = ["study"]

SERVERS = ("socketio-asgi", "channels", "sstream-uvloop")
SUBSCRIBERS = 200
SECONDS = 0.4


def _measure(programs: Programs, name: str, redis: str, row: dict[str, list[float]]) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(Server(name, CONTENDERS[name], redis=redis)) for _ in range(2))
        load = stack.enter_context(second.load(programs, publisher=first.port))
        load.open(SUBSCRIBERS + 1)
        load.request("publish", "x" * 20)
        for batch in (1, 16):
            measured = load.fanout(batch, SECONDS, 0.1)
            if measured.errors or not measured.messages:
                raise WrongAnswer(f"{name} on two processes: {dict(measured.errors)}")
            title = "one publish" if batch == 1 else "16 at once"
            row.setdefault(f"{title}, thousand/s", []).append(measured.messages / max(measured.cpu, 1e-9) / 1e3)
            for percent in (50, 99):
                figure = measured.histogram.percentile(percent) / 1e6
                row.setdefault(f"{title}, p{percent} ms", []).append(figure)


def study(redis: str, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    """Deliveries and latencies, by server."""
    found: dict[str, dict[str, list[float]]] = {}
    with Programs() as programs:
        for _ in range(rounds):
            for name in SERVERS:
                if missing(CONTENDERS[name]) is None:
                    _measure(programs, name, redis, found.setdefault(CONTENDERS[name].label, {}))
    return found
