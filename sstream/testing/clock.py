"""A clock that a test turns on: sessions expire without waiting."""

import time
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Unix time in seconds: ``Application(..., clock=clock)``, then ``clock.turn(3600)``.

    Whoever keeps sessions in memory, and is served by `serve`, finds at once that some have expired. Redis expires its
    keys by its own time, which nobody turns; what the application reckons itself (``absolute_max_age``, a cookie's
    ``expires``, the grace of an old id) follows this clock there too. Timers of the event loop do not: call timeouts,
    pings, drains.

    Args:
        now: Where it stands still until it is turned; without it, it goes with the machine's.
    """

    def __init__(self, now: float | None = None) -> None:
        self._now = now
        self._ahead = 0.0
        self._watchers: list[Callable[[], None]] = []

    def __call__(self) -> float:
        return (time.time() if self._now is None else self._now) + self._ahead

    def turn(self, seconds: float) -> None:
        """Turn it on. Nobody can turn time back.

        Raises:
            ValueError: ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"cannot turn the clock by {seconds} seconds; 0 and more is legal")
        self._ahead += seconds
        for watcher in list(self._watchers):
            watcher()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call ``watcher`` after each turn; gives what takes it back."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)
