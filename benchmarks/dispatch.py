"""What a call costs from payload to reply, without a socket: typed, untyped, and the same by hand with msgpack.

The contenders take turns within each round. It is wall-clock time, of a process that waits for nothing.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

import msgpack
import msgspec

from sstream.limits import Limits
from sstream.rpc.codec import JSON, MSGPACK, Codec
from sstream.rpc.dispatch import Calls
from sstream.rpc.middleware import load_session
from sstream.rpc.registry import Registry, rpc

__all__ = ["study"]

CALLS = 2_000  # of each contender in a sample
SAMPLES = 20  # in a round
AT_ONCE = 16  # tasks; what one read brings at D=16

Receive = Callable[[Any], object]


async def pass_on(request: Any, call_next: Any) -> Any:
    return await call_next(request)


class Handler:
    """What dispatch asks of a socket's handler; its session is at hand and never changed."""

    id = "benchmark"
    touched = False

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def add_untyped(self, a, b):  # type: ignore[no-untyped-def]  # that is the point
        return a + b

    @rpc
    async def add_async(self, a: int, b: int) -> int:
        return a + b

    @rpc(use=[pass_on])
    async def add_behind_middleware(self, a: int, b: int) -> int:
        return a + b

    @rpc(use=[load_session])
    def add_with_session(self, a: int, b: int) -> int:
        return a + b

    def session_now(self) -> object:
        return self

    def session_settled(self) -> bool:
        return True


def nowhere(payload: bytes | str) -> None:
    pass


def unchecked(payload: bytes) -> None:
    _, call_id, _, (a, b) = msgpack.unpackb(payload)
    nowhere(msgpack.packb([1, call_id, None, a + b]))


def checked_by_hand(payload: bytes) -> None:
    kind, call_id, method, params = msgpack.unpackb(payload)
    if kind != 0 or method != "add" or type(params) is not list or len(params) != 2:
        raise ValueError
    for param in params:
        if type(param) is not int:
            raise TypeError
    nowhere(msgpack.packb([1, call_id, None, params[0] + params[1]]))


def checked_by_pydantic() -> Receive:
    import pydantic

    adapter = pydantic.TypeAdapter(tuple[pydantic.StrictInt, pydantic.StrictInt])

    def receive(payload: bytes) -> None:
        _, call_id, _, params = msgpack.unpackb(payload)
        a, b = adapter.validate_python(params)
        nowhere(msgpack.packb([1, call_id, None, a + b]))

    return receive


@contextmanager
def contenders() -> Iterator[dict[str, tuple[Receive, Any]]]:
    """What is measured: a function, and the payload it gets."""
    handler, registry = Handler(), Registry.of(Handler)
    found: dict[str, tuple[Receive, Any]] = {}
    sockets = []

    def add_sstream(label: str, method: str, codec: Codec = MSGPACK) -> None:
        sockets.append(Calls(handler, registry, codec, Limits(), nowhere))
        found[label] = sockets[-1].receive, codec.encode([0, 300, method, [2, 3]])

    add_sstream("sstream, typed", "add")
    add_sstream("sstream, untyped", "add_untyped")
    add_sstream("sstream, typed, JSON", "add", JSON)
    add_sstream("sstream, with the session at hand", "add_with_session")
    add_sstream("sstream, `async def` that does not wait", "add_async")
    add_sstream("sstream, `async def` behind a middleware", "add_behind_middleware")
    by_hand = msgpack.packb([0, 300, "add", [2, 3]])
    found["msgpack, not checked at all"] = unchecked, by_hand
    found["msgpack, checked by hand"] = checked_by_hand, by_hand
    try:
        found["msgpack, checked by pydantic"] = checked_by_pydantic(), by_hand
    except ImportError:
        pass  # a row less
    yield found
    for socket in sockets:
        socket.close()


def sample(receive: Receive, payload: Any) -> float:
    """Microseconds for one call."""
    began = perf_counter_ns()
    for _ in range(CALLS):
        receive(payload)
    return (perf_counter_ns() - began) / CALLS / 1e3


async def tasks() -> float:
    """Microseconds for one call where each gets a task, as it is done elsewhere."""
    handler = Handler()

    async def answer(payload: bytes) -> None:
        _, call_id, _, params = msgspec.msgpack.decode(payload)
        nowhere(MSGPACK.encode((1, call_id, None, await handler.add_async(*params))))

    payload = msgpack.packb([0, 300, "add_async", [2, 3]])
    loop = asyncio.get_running_loop()
    began = perf_counter_ns()
    for _ in range(CALLS // AT_ONCE):
        await asyncio.wait([loop.create_task(answer(payload)) for _ in range(AT_ONCE)])
    return (perf_counter_ns() - began) / (CALLS // AT_ONCE * AT_ONCE) / 1e3


async def measure(rounds: int) -> dict[str, list[float]]:
    """Every contender's samples."""
    loop = asyncio.get_running_loop()
    samples: dict[str, list[float]] = {}
    with contenders() as found:

        def take_turns() -> None:
            for label, (receive, payload) in found.items():
                samples.setdefault(label, []).append(sample(receive, payload))
            turn.set_result(None)

        for _ in range(rounds * SAMPLES):
            turn = loop.create_future()
            loop.call_soon(take_turns)  # in a callback, as the wire calls it: not within a task
            await turn
            samples.setdefault("a task for each call, not checked", []).append(await tasks())
    return samples


def study(redis: str, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    """Microseconds a call, by contender. ``redis`` is not needed."""
    return {name: {"us": samples} for name, samples in asyncio.run(measure(rounds)).items()}
