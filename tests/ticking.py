"""Time as an event loop has it: while the machine stands still, none passes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Ticks", "ticking"]

STEP = 0.01  # seconds


class Ticks:
    """How often the loop has come round, once in 10 ms at most."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def seconds(self) -> float:
        """What has passed at most, as far as the loop has waited for something; a pause of the machine is one step."""
        return self.count * STEP


@asynccontextmanager
async def ticking() -> AsyncIterator[Ticks]:
    """``async with ticking() as ticks``: counts until the end of the block."""
    ticks = Ticks()

    async def tick() -> None:
        while True:
            await asyncio.sleep(STEP)
            ticks.count += 1

    task = asyncio.create_task(tick())
    try:
        yield ticks
    finally:
        task.cancel()
        await asyncio.wait([task])
