"""What a call costs from payload to reply, without a socket: ``python benchmarks/dispatch.py [rounds]``.

Typed and untyped methods of sstream, beside the same by hand with msgpack, and with msgpack and pydantic if that is
installed. The contenders take turns within each round; shown are the median of all rounds and their spread.
"""

import asyncio
import platform
import statistics
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import msgpack
import msgspec

from sstream.limits import Limits
from sstream.rpc.codec import JSON, MSGPACK
from sstream.rpc.dispatch import Calls
from sstream.rpc.middleware import load_session
from sstream.rpc.registry import Actions, Registry, rpc

CALLS = 2000  # in one sample

Receive = Callable[[Any], object]


async def pass_on(request: Any, call_next: Any) -> Any:
    return await call_next(request)


class Group(Actions):
    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b


class Handler:
    id = "benchmark"
    actions = {"group": Group}

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

    touched = False

    def session_now(self) -> object:
        return self

    def session_settled(self) -> bool:
        return True


def nowhere(payload: bytes | str) -> None:
    pass


def add(a: int, b: int) -> int:
    return a + b


def by_hand(payload: bytes) -> None:
    kind, call_id, method, params = msgpack.unpackb(payload)
    if kind != 0 or method != "add" or type(params) is not list or len(params) != 2:
        raise ValueError
    for param in params:
        if type(param) is not int:
            raise TypeError
    nowhere(msgpack.packb([1, call_id, None, add(*params)]))


def unchecked(payload: bytes) -> None:
    _, call_id, _, params = msgpack.unpackb(payload)
    nowhere(msgpack.packb([1, call_id, None, add(*params)]))


def by_pydantic() -> Receive | None:
    try:
        import pydantic  # it may be missing
    except ImportError:
        return None
    adapter = pydantic.TypeAdapter(tuple[pydantic.StrictInt, pydantic.StrictInt])

    def receive(payload: bytes) -> None:
        _, call_id, _, params = msgpack.unpackb(payload)
        nowhere(msgpack.packb([1, call_id, None, add(*adapter.validate_python(params))]))

    return receive


def contenders() -> tuple[dict[str, tuple[Receive, Any]], list[Calls]]:
    """What is measured: a function and the payload it gets; and what must be closed afterwards."""
    handler, registry = Handler(), Registry.of(Handler)
    message = [0, 300, "add", [2, 3]]
    found: dict[str, tuple[Receive, Any]] = {}
    sockets = []

    def add_sstream(label: str, method: str, codec: Any = MSGPACK) -> None:
        sockets.append(Calls(handler, registry, codec, Limits(), nowhere))
        found[label] = sockets[-1].receive, codec.encode([0, 300, method, [2, 3]])

    add_sstream("sstream, typed", "add")
    add_sstream("sstream, untyped", "add_untyped")
    add_sstream("sstream, in a group", "group.add")
    add_sstream("sstream, async def", "add_async")
    add_sstream("sstream, async def behind a middleware", "add_behind_middleware")
    add_sstream("sstream, with the session at hand", "add_with_session")
    add_sstream("sstream, typed, JSON", "add", JSON)
    found["msgpack, not checked at all"] = unchecked, msgpack.packb(message)
    found["msgpack, checked by hand"] = by_hand, msgpack.packb(message)
    if pydantic := by_pydantic():
        found["msgpack, checked by pydantic"] = pydantic, msgpack.packb(message)
    return found, sockets


def sample(receive: Receive, payload: Any) -> float:
    """Nanoseconds for one call."""
    start = perf_counter_ns()
    for _ in range(CALLS):
        receive(payload)
    return (perf_counter_ns() - start) / CALLS


def run(rounds: int) -> dict[str, list[float]]:
    found, sockets = contenders()
    samples: dict[str, list[float]] = {label: [] for label in found}
    for _ in range(rounds):
        for label, (receive, payload) in found.items():
            samples[label].append(sample(receive, payload))
    for socket in sockets:
        socket.close()
    return samples


async def create_tasks(rounds: int) -> list[float]:
    """The same ``async def`` by a task for each call, as it is done elsewhere."""
    handler = Handler()
    samples = []

    async def answer(payload: bytes) -> None:
        _, call_id, _, params = msgspec.msgpack.decode(payload)
        nowhere(MSGPACK.encode((1, call_id, None, await handler.add_async(*params))))

    payload = msgpack.packb([0, 300, "add_async", [2, 3]])
    loop = asyncio.get_running_loop()
    for _ in range(rounds):
        start = perf_counter_ns()
        for _ in range(CALLS // 16):
            # 16 at once: what one read brings at depth 16.
            await asyncio.wait([loop.create_task(answer(payload)) for _ in range(16)])
        samples.append((perf_counter_ns() - start) / (CALLS // 16 * 16))
    return samples


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    loop = asyncio.new_event_loop()
    result: dict[str, list[float]] = {}

    def on_loop() -> None:
        # In a callback, as the wire calls it: not within a task.
        result.update(run(rounds))
        loop.stop()

    loop.call_soon(on_loop)
    loop.run_forever()
    result["create_task for each call, not checked"] = loop.run_until_complete(create_tasks(rounds))
    loop.close()

    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(
        f"{python}, msgspec {msgspec.__version__}, msgpack {'.'.join(map(str, msgpack.version))}, {platform.machine()}"
    )
    print(f"add(2, 3), {rounds} rounds of {CALLS} calls; nanoseconds a call\n")
    print(f"{'':42}{'median':>8}{'least':>8}{'most':>8}")
    for label, samples in result.items():
        print(f"{label:42}{statistics.median(samples):8.0f}{min(samples):8.0f}{max(samples):8.0f}")


if __name__ == "__main__":
    main()
