"""Lifetimes that a store counts by its own clock, told exactly on however slow a machine."""

import time

__all__ = ["Lasting"]


class Lasting:
    """Equal to what may be left of ``seconds`` that began after this was made, and not before.

    ``lasting = Lasting(60)``, then the write, then ``assert await store.ttl(key) == lasting``: that is 60, or as much
    less as has passed meanwhile. Stores tell whole seconds, up to half a one too few.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._made = time.monotonic()

    def __eq__(self, left: object) -> bool:
        passed = time.monotonic() - self._made
        return isinstance(left, int | float) and self._seconds - passed - 0.5 <= left <= self._seconds

    def __repr__(self) -> str:
        return f"<{self._seconds:g} s, or up to {time.monotonic() - self._made:.3f} less>"
