"""Whatever befalls Redis: no acknowledged write is lost, no session sees another's, and the dead stay dead.

    SCHEDULES=10000 pytest -s tests/consistency             a long run
    FIRST=4000 SCHEDULES=6000 pytest -s tests/consistency   the rest of one that was cut off
    SEED=17 pytest -s tests/consistency                     one schedule, twenty times over

A schedule is made from its seed alone. When one fails it is played again with fewer and fewer steps, and the shortest
that failed is shown. Two plays of one schedule differ in their timing, as real processes do; that is why this is not
left to a tool that takes such a difference for a fault of the test.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sstream.testing import RedisServer
from tests.consistency.player import House, Play
from tests.consistency.schedule import Schedule

SCHEDULES = int(os.environ.get("SCHEDULES", "200"))
FIRST = int(os.environ.get("FIRST", "0"))
SEED = os.environ.get("SEED")
LANES = 2  # schedules that are played at the same time, each with a Redis and two processes of its own
AGAIN = 20  # plays of the one schedule that SEED names
SHRINKING = float(os.environ.get("SHRINKING", "60"))  # seconds
PATIENCE = 120.0 + SCHEDULES * 3.0


# Where a proxy refuses in the very pass of the loop in which it has accepted, asyncio forgets to close what it accepted
# (base_events.py, Server._attach, read in 3.11); it says so when that is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.gen_test(timeout=PATIENCE)
async def test_random_schedules_lose_nothing_mix_nothing_and_revive_nothing(need: Callable[..., RedisServer]) -> None:
    seeds = iter([int(SEED)] * AGAIN if SEED else range(FIRST, FIRST + SCHEDULES))
    failures: list[str] = []
    lanes = [asyncio.create_task(lane(need(RedisServer), seeds, failures)) for _ in range(LANES)]
    try:
        await asyncio.gather(*lanes)
    finally:
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)

    if failures:
        pytest.fail("\n\n".join(failures), pytrace=False)


async def lane(server: RedisServer, seeds: Iterator[int], failures: list[str]) -> None:
    """Play one schedule after another in a house of its own, until one has failed in any lane."""
    with server:
        async with House(server) as house:
            for seed in seeds:
                schedule = Schedule.of(seed)
                failure = await play(house, schedule)
                if failure is not None:
                    shortest, failure = await shrink(house, schedule, failure)
                    failures.append(f"SEED={seed} fails:\n{failure}\n\nthe shortest schedule:\n{shortest}")
                if failures:
                    return
                if seed % 100 == 99:
                    print(f"{seed + 1} schedules, {datetime.now(UTC):%H:%M:%S}")


async def play(house: House, schedule: Schedule) -> str | None:
    """What is wrong, told with all that happened; ``None`` if nothing is."""
    run = Play(house, schedule)
    try:
        await run.run()
    except AssertionError as violation:  # a `Violation`, or something that was waited for did not come
        return f"{violation}\n\nwhat happened:\n{run.model.history()}"
    return None


async def shrink(house: House, schedule: Schedule, failure: str) -> tuple[Schedule, str]:
    """A schedule with fewer steps that fails too, and how."""
    until = time.monotonic() + SHRINKING
    size = len(schedule.steps) // 2
    while size:
        start = 0
        while start < len(schedule.steps) and time.monotonic() < until:
            shorter = replace(schedule, steps=schedule.steps[:start] + schedule.steps[start + size :])
            await house.restart()
            found = await play(house, shorter) or await play(house, shorter)
            if found is None:
                start += size
            else:
                schedule, failure = shorter, found
        size //= 2
    return schedule, failure
