"""Processes drain one after another while they are called: nothing acknowledged is lost, and nothing runs twice."""

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import redis.asyncio as aioredis

from sstream import ClosedError, RPCError, connect
from sstream.testing import Process, eventually
from tests.apps.ledger import LEDGER

ROOT = Path(__file__).parents[1]
SIGTERMS = 10
CALLERS = 10
PAUSE = 0.02  # seconds between two calls of one caller: 500 calls a second together
UNAVAILABLE = 4050


class Fleet:
    """What a supervisor's log says of its processes."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def up(self) -> list[int]:
        """Those that serve, the oldest first."""
        log = self._process.log
        first = re.search(r"with \d+ processes: ([\d, ]+)$", log, re.MULTILINE)
        assert first is not None
        came = [*first[1].split(", "), *re.findall(r"process (\d+) is up$", log, re.MULTILINE)]
        gone = re.findall(r"(\d+) INFO sstream: SIGTERM: going down$", log, re.MULTILINE)
        return [int(pid) for pid in came if pid not in gone]

    @property
    def gone(self) -> list[str]:
        """How processes ended."""
        return re.findall(r"process \d+ (.+) after", self._process.log)


class Caller:
    """One client, which calls without waiting for the answer to the call before."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.acknowledged: set[str] = set()
        self.refused: set[str] = set()
        self.unexpected: list[BaseException] = []
        self._url = url

    async def call_until(self, end: asyncio.Event) -> None:
        calls, most = [], asyncio.Semaphore(16)
        async with connect(self._url) as socket:
            await socket.ready()
            while not end.is_set():
                await most.acquire()  # on a machine that is too busy it calls as often as it can
                calls.append(asyncio.create_task(self._call(socket, len(calls))))
                calls[-1].add_done_callback(lambda call: most.release())
                await asyncio.sleep(PAUSE)
            await asyncio.gather(*calls)

    async def _call(self, socket, number: int) -> None:
        name = f"{self.name}.{number}"
        try:
            assert await socket.call("note" if number % 10 else "count", name) == name
        except ClosedError:
            self.refused.add(name)
        except RPCError as error:
            if error.code != UNAVAILABLE:
                self.unexpected.append(error)
            self.refused.add(name)
        else:
            self.acknowledged.add(name)


@pytest.mark.gen_test(timeout=300)
async def test_ten_drains_at_500_calls_a_second_lose_nothing_and_run_nothing_twice(redis_url: str) -> None:
    command = [sys.executable, "-m", "sstream", "run", "tests.apps.ledger:make_app", "--port", "0", "--processes", "3"]
    with Process(*command, cwd=ROOT, env={"REDIS_URL": redis_url}) as process:
        url = process.wait_for(r"listening on (http://127\.0\.0\.1:\d+)", timeout=60)[1].replace("http", "ws") + "/ws"
        fleet, end = Fleet(process), asyncio.Event()
        callers = [Caller(str(number), url) for number in range(CALLERS)]
        calling = [asyncio.create_task(caller.call_until(end)) for caller in callers]

        for drained in range(1, SIGTERMS + 1):
            oldest, *_ = await eventually(lambda: fleet.up if len(fleet.up) >= 2 else None, "no two serve", timeout=60)
            os.kill(oldest, signal.SIGTERM)
            await eventually(lambda drained=drained: len(fleet.gone) >= drained, f"{oldest} does not end", timeout=60)
        end.set()
        await asyncio.gather(*calling)
        process.send(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0

    acknowledged = set().union(*(caller.acknowledged for caller in callers))
    refused = set().union(*(caller.refused for caller in callers))
    async with aioredis.Redis.from_url(redis_url) as client:
        ran = Counter(name.decode() for name in await client.lrange(LEDGER, 0, -1))
    print(f"{len(acknowledged)} acknowledged, {len(refused)} refused, {len(ran)} ran")
    assert [error for caller in callers for error in caller.unexpected] == []
    assert set(fleet.gone) == {"ended with status 0"}
    assert [name for name, times in ran.items() if times > 1] == []
    assert acknowledged - ran.keys() == set()
    assert refused & ran.keys() == set()  # so whoever was refused may call again
    assert len(acknowledged) > len(refused)
