"""Latencies, counted as an HDR histogram does: 128 buckets an octave, so each value is known within 0.8 %.

The same buckets as in load.c. Values are nanoseconds; a percentile is the highest value of its bucket, so no latency
is told shorter than it was.
"""

import math
from collections.abc import Iterable

__all__ = ["Histogram", "bucket_of", "highest_of"]


def bucket_of(value: int) -> int:
    shift = max(value.bit_length() - 8, 0)
    return shift * 128 + (value >> shift)


def highest_of(bucket: int) -> int:
    """The highest value that is counted in a bucket."""
    shift = max(bucket // 128 - 1, 0)
    return ((bucket - shift * 128 + 1) << shift) - 1


class Histogram:
    """Counts by bucket."""

    def __init__(self, counts: Iterable[Iterable[int]] = ()) -> None:
        self._counts: dict[int, int] = {}
        self.add(counts)

    def record(self, value: int) -> None:
        self.add([(bucket_of(value), 1)])

    def add(self, counts: Iterable[Iterable[int]]) -> None:
        """Add pairs of bucket and count."""
        for bucket, count in counts:
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    @property
    def counts(self) -> list[tuple[int, int]]:
        return sorted(self._counts.items())

    @property
    def total(self) -> int:
        return sum(self._counts.values())

    def percentile(self, percent: float) -> int:
        """The value that ``percent`` of all do not exceed; 0 if there are none."""
        wanted = max(math.ceil(self.total * percent / 100), 1)
        seen = 0
        for bucket, count in self.counts:
            seen += count
            if seen >= wanted:
                return highest_of(bucket)
        return 0

    def spectrum(self) -> list[tuple[float, int]]:
        """How large a share is slower than each value, from the fastest on: the HDR picture's line."""
        total, seen, line = self.total, 0, []
        for bucket, count in self.counts:
            line.append(((total - seen) / total, highest_of(bucket)))
            seen += count
        return line
