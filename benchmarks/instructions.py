"""How many machine instructions the inner loops take, by ``valgrind --tool=callgrind``: no mood of a machine in that.

Each piece of work runs N times and then 3 N times in one process; half the difference of the counts, by N, is what one
takes. A call of ``os.getppid`` stands between the runs, at which callgrind writes down what it has.
"""

import asyncio
import gc
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sstream.testing import ToolMissing

__all__ = ["PIECES", "count", "main"]

ROOT = Path(__file__).parent.parent
TIMES = 300
SUBSCRIBERS = 100

Run = Callable[[int], object]  # do it so many times


def _frames(payload: bytes, many: int) -> bytes:
    mask = b"\x37\xfa\x21\x3d"
    body = bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))
    return (bytes([0x82, 0x80 | len(payload)]) + mask + body) * many


def _parser(name: str) -> Run:
    from sstream.websocket import speedups

    payload = msgspec.msgpack.encode([0, 1 << 24, "add", [2, 3]])
    data = _frames(payload, 16)
    parser = getattr(speedups, name)(64 * 1024)

    def run(many: int) -> None:
        for _ in range(many):
            if parser.receive(data) != [payload] * 16:
                raise RuntimeError("a message was not seen")

    return run


def _calls(method: str) -> Run:
    from benchmarks.dispatch import Handler
    from sstream.limits import Limits
    from sstream.rpc.codec import MSGPACK
    from sstream.rpc.dispatch import Calls
    from sstream.rpc.registry import Registry

    replies: list[bytes | str] = []
    payload = MSGPACK.encode([0, 300, method, [2, 3]])
    loop = asyncio.get_event_loop()

    def run(many: int) -> None:
        calls = Calls(Handler(), Registry.of(Handler), MSGPACK, Limits(), replies.append)
        for _ in range(many):
            calls.receive(payload)
        calls.close()
        if len(replies) != many:
            raise RuntimeError("a call was not answered")
        replies.clear()

    def run_in_callback(many: int) -> None:
        # As the wire calls it: not within a task.
        done = loop.create_future()

        def callback() -> None:
            try:
                done.set_result(run(many))
            except Exception as error:
                done.set_exception(error)

        loop.call_soon(callback)
        loop.run_until_complete(done)

    return run_in_callback


def _hub(at_once: int) -> Run:
    from sstream.pubsub import Burst, Hub, MemoryBroker, Message, Publisher, fanout

    # Valgrind is fifty times slower than the machine: slices would be ended by their time, not by their number.
    fanout.SLICE_SECONDS = 3600

    class Socket:
        def __init__(self, name: str) -> None:
            self.id = name
            self.count = 0

        def deliver(self, message: Message) -> None:
            self.count += 1

        def deliver_all(self, burst: Burst) -> None:
            self.count += len(burst.messages)

    loop = asyncio.get_event_loop()
    broker = MemoryBroker()
    hub = Hub(broker)
    publish = Publisher(broker)
    sockets = [Socket(str(number)) for number in range(SUBSCRIBERS)]

    async def start() -> None:
        await hub.start()
        for socket in sockets:
            await hub.bind(socket, "channel:lobby")

    async def publish_all(many: int) -> None:
        wanted = sockets[-1].count
        for _ in range(many):
            wanted += at_once
            for _ in range(at_once):
                await publish.channel("lobby", "message", "hello")
            while sockets[-1].count < wanted:
                await asyncio.sleep(0)

    loop.run_until_complete(start())
    return lambda many: loop.run_until_complete(publish_all(many))


# What one of each is told for.
PIECES: dict[str, tuple[Callable[[], Run], int, int]] = {
    # name: (made by, how many in one piece of work, which part of TIMES)
    "a call's frame, cut and unmasked, in C": (lambda: _parser("FastParser"), 16, 1),
    "a call's frame, cut and unmasked, in Python": (lambda: _parser("TornadoParser"), 16, 1),
    "a call, dispatched": (lambda: _calls("add"), 1, 1),
    "a call of an async def": (lambda: _calls("add_async"), 1, 1),
    "a call with its session at hand": (lambda: _calls("add_with_session"), 1, 1),
    "an event to one of 100 sockets": (lambda: _hub(1), SUBSCRIBERS, 3),
    "one of 16 events to one of 100 sockets": (lambda: _hub(16), 16 * SUBSCRIBERS, 10),
}


def work_all() -> None:
    """Run every piece, with the marks, under callgrind's eyes."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    from sstream.websocket.speedups import parser_class

    for name, (make, _, part) in PIECES.items():
        if name.endswith("in C") and parser_class.__name__ != "FastParser":
            continue
        run = make()
        times = TIMES // part
        run(times // 3)  # warm: CPython specializes what runs often
        gc.collect()
        gc.disable()  # when it runs is a matter of what was before
        for many in (0, times, 3 * times):
            os.getppid()
            run(many)
        os.getppid()
        gc.enable()
        print(name, flush=True)


def count() -> dict[str, Any]:
    """Instructions, by piece; and what they depend on: the Python and the compiler."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise ToolMissing("instructions are counted by valgrind, which is not here (Debian: apt install valgrind)")
    with tempfile.TemporaryDirectory(prefix="sstream-callgrind-") as directory:
        done = subprocess.run(
            [
                valgrind,
                "--tool=callgrind",
                "--dump-before=getppid",
                f"--callgrind-out-file={directory}/out",
                sys.executable,
                "-m",
                "benchmarks.instructions",
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ToolMissing(f"valgrind failed:\n{done.stderr[-2000:]}")
        # out.N has what was between mark N-1 and mark N.
        dumps = sorted(Path(directory).glob("out.[0-9]*"), key=lambda file: int(file.suffix[1:]))
        totals = []
        for file in dumps:
            found = re.search(r"^(?:totals|summary): (\d+)", file.read_text(encoding="utf-8"), re.MULTILINE)
            totals.append(int(found[1]) if found else 0)
    figures = {}
    for number, name in enumerate(done.stdout.splitlines()):
        # Marks of a piece: before nothing, before N, before 3 N, after.
        once, thrice = totals[4 * number + 2], totals[4 * number + 3]
        _, in_one, part = PIECES[name]
        figures[name] = round((thrice - once) / (2 * (TIMES // part) * in_one))
    return {"python": platform.python_version(), "machine": platform.machine(), "counts": figures}


def main() -> int:
    """Print the table."""
    result = count()
    print(f"Python {result['python']}, {result['machine']}\n")
    for name, figure in result["counts"].items():
        print(f"{name:<46}{figure:>9,} instructions")
    return 0


if __name__ == "__main__":
    work_all()
