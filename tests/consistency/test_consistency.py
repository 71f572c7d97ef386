"""Whatever befalls Redis: no acknowledged write is lost, no session sees another's, and the dead stay dead.

    SCHEDULES=10000 pytest -s tests/consistency     a long run
    SEED=17 pytest -s tests/consistency             one schedule, twenty times over

A schedule is made from its seed alone. When one fails it is played again with fewer and fewer steps, and the shortest
that failed is shown. Two plays of one schedule differ in their timing, as real processes do; that is why this is not
left to a tool that takes such a difference for a fault of the test.
"""

import os
import time
from dataclasses import replace

import pytest

from sstream.testing import RedisServer
from tests.consistency.player import House, Play
from tests.consistency.schedule import Schedule

SCHEDULES = int(os.environ.get("SCHEDULES", "200"))
SEED = os.environ.get("SEED")
AGAIN = 20  # plays of the one schedule that SEED names
SHRINKING = float(os.environ.get("SHRINKING", "60"))  # seconds
PATIENCE = 120.0 + SCHEDULES * 3.0


@pytest.mark.gen_test(timeout=PATIENCE)
async def test_random_schedules_lose_nothing_mix_nothing_and_revive_nothing(own_redis: RedisServer) -> None:
    seeds = [int(SEED)] * AGAIN if SEED else range(SCHEDULES)
    began = time.monotonic()
    async with House(own_redis) as house:
        for played, seed in enumerate(seeds):
            schedule = Schedule.of(seed)
            failure = await play(house, schedule)
            if failure is not None:
                shortest, failure = await shrink(house, schedule, failure)
                pytest.fail(f"SEED={seed} fails:\n{failure}\n\nthe shortest schedule:\n{shortest}", pytrace=False)
            if played % 100 == 99:
                print(f"{played + 1} schedules in {time.monotonic() - began:.1f} s")


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
