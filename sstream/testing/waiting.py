"""Waiting with an end: an error says what did not come, and what came instead."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["eventually", "set_patience", "within"]

T = TypeVar("T")

_POLL = 0.002  # seconds
_patience = 4.0  # seconds; below the 5 after which pytest-tornado and Tornado's AsyncTestCase give a test up


def set_patience(seconds: float) -> None:
    """Let every wait without a ``timeout`` of its own end after so many seconds, instead of 4.

    Only a failure meets it: be generous.
    """
    global _patience
    _patience = seconds


async def within(awaitable: Awaitable[T], what: str | Callable[[], str], timeout: float | None = None) -> T:
    """Wait for something, but not for ever.

    Args:
        what: What has not come, for the error: ``"no page"``, or a function that tells it then.
        timeout: Seconds.

    Raises:
        AssertionError: It did not come in time.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    seconds = _patience if timeout is None else timeout
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await awaitable
    except TimeoutError:
        if not limit.expired():
            raise
        raise AssertionError(f"{what if isinstance(what, str) else what()}: waited {seconds:g} s") from None


async def eventually(condition: Callable[[], Any], what: str, timeout: float | None = None) -> Any:
    """The first true value of ``condition``, a function or a coroutine function, asked again until it has one.

    For what announces itself to nobody; else wait for the thing.

    Raises:
        AssertionError: It had none in time; the message begins with ``what``.
    """

    async def ask() -> Any:
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(_POLL)

    __tracebackhide__ = True
    return await within(ask(), what, timeout)
