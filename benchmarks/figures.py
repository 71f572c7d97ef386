"""Figures out of a run's JSON: medians, spreads, ratios, and the goals that they meet or miss."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BASE",
    "BEST",
    "CELLS",
    "GOALS",
    "OURS",
    "Goal",
    "Result",
    "by_round",
    "median",
    "ratio",
    "spread",
    "study_median",
    "values",
]

Result = Mapping[str, Any]

BASE = "tornado"
OURS = ("sstream-python", "sstream-python-uvloop", "sstream", "sstream-uvloop")
# What is compared from run to run.
CELLS = ("small_1", "small_16", "large_1", "large_16", "fanout_1", "fanout_16")
# What is compared with the goals: everything that helps is on.
BEST, PURE = "sstream-uvloop", "sstream-python-uvloop"


def values(result: Result, cell: str, contender: str, key: str = "rate") -> list[float]:
    """One figure of every round."""
    return [sample[key] for sample in result["cells"].get(cell, {}).get(contender, [])]


def median(result: Result, cell: str, contender: str, key: str = "rate") -> float | None:
    """The median of all rounds, or None if it was not measured."""
    found = values(result, cell, contender, key)
    return statistics.median(found) if found else None


def spread(result: Result, cell: str, contender: str, key: str = "rate") -> float:
    """How far the rounds lie from their middle: half of their range, as a share of the median."""
    found = values(result, cell, contender, key)
    middle = statistics.median(found) if found else 0.0
    return (max(found) - min(found)) / 2 / middle if middle else 0.0


def by_round(result: Result, cell: str, contender: str, key: str = "rate") -> dict[int, float]:
    """One figure of each round; the median where a round has several samples."""
    found: dict[int, list[float]] = {}
    for sample in result["cells"].get(cell, {}).get(contender, []):
        found.setdefault(sample["round"], []).append(sample[key])
    return {number: statistics.median(figures) for number, figures in found.items()}


def ratio(
    result: Result, cell: str, contender: str, base: str = BASE, base_cell: str | None = None, key: str = "rate"
) -> float | None:
    """A contender's figure as a multiple of another's: each round's of that same round, and of these the median.

    What slows the machine for some seconds slows both of a round, and one round that was torn apart does not count.

    Args:
        base_cell: The other's cell, if it is another one.
    """
    own, other = by_round(result, cell, contender, key), by_round(result, base_cell or cell, base, key)
    found = [own[number] / other[number] for number in own if other.get(number)]
    return statistics.median(found) if found else None


def study_median(result: Result, study: str, row: str, column: str) -> float | None:
    samples = result["studies"].get(study, {}).get(row, {}).get(column)
    return statistics.median(samples) if samples else None


def _within(cell: str, other: str, contender: str = BEST) -> Callable[[Result], float | None]:
    """One of a contender's cells as a multiple of another one of its own."""
    return lambda result: ratio(result, cell, contender, contender, other)


def _best(cell: str, key: str, factor: float) -> Callable[[Result], float | None]:
    def find(result: Result) -> float | None:
        found = median(result, cell, BEST, key)
        return found * factor if found is not None else None

    return find


def _dearest_store_operation(result: Result) -> float | None:
    found = [study_median(result, "store_operations", f"RedisStore.{name}", "us") for name in ("get", "swap", "touch")]
    known = [cost for cost in found if cost is not None]
    return max(known) if known else None


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that sstream is to reach: at least, or at most, so much of a unit."""

    what: str
    find: Callable[[Result], float | None]
    wanted: float
    unit: str = "×"
    at_most: bool = False

    def is_met(self, figure: float) -> bool:
        # As it is shown, so with the same digits.
        return figure <= self.wanted if self.at_most else figure >= self.wanted

    def missed_by(self, figure: float) -> float:
        return figure / self.wanted - 1 if self.at_most else 1 - figure / self.wanted


def _of(contender: str, cell: str, base: str = BASE) -> Callable[[Result], float | None]:
    return lambda result: ratio(result, cell, contender, base)


def _to_base(cell: str, other: str) -> Callable[[Result], float | None]:
    """A cell as a multiple of another one of raw Tornado, which has no such cell."""
    return lambda result: ratio(result, cell, BEST, BASE, other)


GOALS: tuple[Goal, ...] = (
    Goal("calls, D=1, to raw Tornado", _of(BEST, "small_1"), 9),
    Goal("calls, D=16, to raw Tornado", _of(BEST, "small_16"), 25),
    Goal("calls, D=1, to picows", _of(BEST, "small_1", "picows"), 1.2),
    Goal("calls, D=16, to picows", _of(BEST, "small_16", "picows"), 5),
    Goal("calls without the C part, D=1, to raw Tornado", _of(PURE, "small_1"), 5.5),
    Goal("calls without the C part, D=16, to raw Tornado", _of(PURE, "small_16"), 11),
    Goal("an `async def` that does not wait, to a `def`, D=1", _within("async_1", "small_1"), 0.7),
    Goal("an `async def` that does not wait, to a `def`, D=16", _within("async_16", "small_16"), 0.7),
    Goal("0.9 KB calls, D=1, to raw Tornado", _of(BEST, "large_1"), 6),
    Goal("0.9 KB calls, D=16, to raw Tornado", _of(BEST, "large_16"), 8),
    Goal("fan-out, one publish, to raw Tornado", _of(BEST, "fanout_1"), 5),
    Goal("fan-out, 16 publishes at once, to raw Tornado", _of(BEST, "fanout_16"), 80),
    Goal("fan-out through Redis, one publish, to raw Tornado", _to_base("fanout_redis_1", "fanout_1"), 5),
    Goal("fan-out through Redis, 16 publishes at once, to raw Tornado", _to_base("fanout_redis_16", "fanout_16"), 80),
    Goal("p99 of 50 connections, D=1", _best("small_1", "p99", 1e-3), 0.7, "ms", at_most=True),
    Goal("p99 of 50 connections, D=16", _best("small_16", "p99", 1e-3), 2.1, "ms", at_most=True),
    Goal("p99 of calls while thousands hear events", _best("beside_events", "p99", 1e-3), 50, "ms", at_most=True),
    Goal("memory of an idle connection", _best("idle", "bytes", 1 / 1024), 5, "KB", at_most=True),
    Goal(
        "memory of an idle connection, session loaded", _best("session_idle", "bytes", 1 / 1024), 5, "KB", at_most=True
    ),
    Goal("calls that read the session, to calls without, D=1", _within("session_read_1", "session_add_1"), 0.8),
    Goal("calls that read the session, to calls without, D=16", _within("session_read_16", "session_add_16"), 0.8),
    Goal("calls that read the session, D=16, to one redis-py GET a call", _of(BEST, "session_read_16"), 20),
    Goal("a store operation, 50 at once, the dearest", _dearest_store_operation, 10, "µs", at_most=True),
    Goal("handshakes, a second of CPU", _best("handshakes", "rate", 1), 2000, "/s"),
)
