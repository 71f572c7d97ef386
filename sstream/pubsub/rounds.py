"""Tells somebody slow what changed: many changes in one round, one round at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

from sstream.errors import BrokerError

__all__ = ["Rounds"]

log = logging.getLogger("sstream.pubsub")

Key = TypeVar("Key")


class Rounds(Generic[Key]):
    """Collects keys whose state has changed, and hands them to ``tell``, which asks anew what is true of each.

    So what came and went, or went and came, while the last round was on its way cannot end up the wrong way round.
    """

    def __init__(self, tell: Callable[[Collection[Key]], Awaitable[None]]) -> None:
        self._tell = tell
        self._changed: dict[Key, None] = {}
        self._done: asyncio.Future[None] | None = None  # of the round that is being collected
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._task is not None

    def add(self, key: Key) -> "asyncio.Future[None]":
        """Put ``key`` into the next round. The future ends with that round, and has the error of ``tell``.

        It is shared: shield it.
        """
        loop = asyncio.get_running_loop()
        self._changed[key] = None
        if self._done is None:
            self._done = loop.create_future()
        if self._task is None:
            # It begins in the next turn of the loop; until then others join the first round.
            self._task = loop.create_task(self._run())
        return self._done

    async def finish(self) -> None:
        """Return when everything was told."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def close(self) -> None:
        """Tell nothing more; whoever waits gets a `BrokerError`."""
        if self._task is not None:
            self._task.cancel()
            await self.finish()
        if self._done is not None:
            _fail(self._done, BrokerError("the hub was closed"))
            self._done = None
        self._changed.clear()

    async def _run(self) -> None:
        try:
            while (done := self._done) is not None:
                changed, self._changed, self._done = self._changed, {}, None
                try:
                    await self._tell(changed)
                except asyncio.CancelledError:
                    _fail(done, BrokerError("the hub was closed"))
                    raise
                except BrokerError as error:
                    _fail(done, error)
                except Exception as error:
                    log.exception("the broker failed")
                    _fail(done, error)
                else:
                    done.set_result(None)
        finally:
            self._task = None


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # seen: perhaps nobody waits for it
