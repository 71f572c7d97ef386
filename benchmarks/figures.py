"""Figures out of a run's JSON: totals, spreads, ratios, and the goals that they meet or miss."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.histogram import Histogram

__all__ = [
    "BASE",
    "BEST",
    "CELLS",
    "GOALS",
    "MANY",
    "OURS",
    "RATES",
    "Goal",
    "Result",
    "ratio",
    "samples",
    "spread",
    "study_median",
    "value",
]

Result = Mapping[str, Any]

BASE = "tornado"
OURS = ("sstream-python", "sstream-python-uvloop", "sstream", "sstream-uvloop")
# What is compared from run to run.
CELLS = ("small_1", "small_16", "large_1", "large_16", "fanout_1", "fanout_16")
# What is compared with the goals: everything that helps is on.
BEST, PURE = "sstream-uvloop", "sstream-python-uvloop"

# So many of one column for one of another, all slices together.
RATES = {"rate": ("messages", "cpu"), "wall": ("messages", "seconds"), "deliveries": ("events", "seconds")}
# Fewer than these have no standard error to speak of.
MANY = 8


def samples(result: Result, cell: str, contender: str, column: str) -> Sequence[float]:
    """One column of every turn."""
    found: Sequence[float] = result["cells"].get(cell, {}).get(contender, {}).get(column, ())
    return found


def value(result: Result, cell: str, contender: str, key: str = "rate") -> float | None:
    """What a cell is told as, or None if it was not measured.

    A rate is that of all slices together; a percentile that of all latencies together, in microseconds; anything else
    the median of all turns.
    """
    if key in RATES:
        many, per = (sum(samples(result, cell, contender, column)) for column in RATES[key])
        return many / per if per else None
    counts = result["latencies"].get(cell, {}).get(contender)
    if key.startswith("p") and counts:
        return Histogram(counts).percentile(float(key[1:])) / 1e3
    found = samples(result, cell, contender, key)
    return statistics.median(found) if found else None


def spread(result: Result, cell: str, contender: str, key: str = "rate") -> float:
    """How far off a figure may be, as a share of it.

    Of a rate of many slices twice its standard error, which holds for 19 of 20; of anything else half the range of its
    turns.
    """
    many, per = (samples(result, cell, contender, column) for column in RATES.get(key, (key, key)))
    if key in RATES and len(many) >= MANY:
        rate = sum(many) / sum(per)
        rest = sum((messages - rate * time) ** 2 for messages, time in zip(many, per, strict=True))
        return 2 * math.sqrt(rest * len(many) / (len(many) - 1)) / sum(many)
    found = [one / time for one, time in zip(many, per, strict=True) if time] if key in RATES else many
    told = value(result, cell, contender, key)
    return (max(found) - min(found)) / 2 / told if found and told else 0.0


def ratio(result: Result, cell: str, contender: str, base: str = BASE, base_cell: str | None = None) -> float | None:
    """A contender's rate as a multiple of another's.

    Args:
        base_cell: The other's cell, if it is another one.
    """
    own, other = value(result, cell, contender), value(result, base_cell or cell, base)
    return own / other if own and other else None


def study_median(result: Result, study: str, row: str, column: str) -> float | None:
    found = result["studies"].get(study, {}).get(row, {}).get(column)
    return statistics.median(found) if found else None


def _within(cell: str, other: str, contender: str = BEST) -> Callable[[Result], float | None]:
    """One of a contender's cells as a multiple of another one of its own."""
    return lambda result: ratio(result, cell, contender, contender, other)


def _best(cell: str, key: str, factor: float) -> Callable[[Result], float | None]:
    def find(result: Result) -> float | None:
        found = value(result, cell, BEST, key)
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
    Goal("p99 of 50 connections, D=1", _best("wait_1", "p99", 1e-3), 0.7, "ms", at_most=True),
    Goal("p99 of 50 connections, D=16", _best("wait_16", "p99", 1e-3), 2.1, "ms", at_most=True),
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
