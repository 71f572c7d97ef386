"""Counts by bucket, beside the exact values."""

import math
import random

import pytest

from benchmarks.histogram import Histogram, bucket_of, highest_of


def exact(values: list[int], percent: float) -> int:
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


@pytest.mark.parametrize("percent", [0, 1, 50, 90, 99, 99.9, 100])
def test_percentile_is_the_exact_one_within_a_bucket(percent: float) -> None:
    chance = random.Random(7)
    values = [round(10 ** chance.uniform(0, 11)) for _ in range(20_000)]
    histogram = Histogram()
    for value in values:
        histogram.record(value)

    found = histogram.percentile(percent)

    assert exact(values, percent) <= found <= exact(values, percent) * (1 + 1 / 128)


def test_every_value_lies_in_its_bucket_and_no_bucket_is_left_out() -> None:
    last = -1
    for value in [*range(5_000), 2**40 - 1, 2**40, 2**63]:
        bucket = bucket_of(value)

        assert highest_of(bucket - 1) < value <= highest_of(bucket)
        assert value > 5_000 or bucket in {last, last + 1}
        last = bucket


def test_counts_of_two_are_those_of_all() -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for value in range(1, 1_000, 7):
        (one if value % 2 else other).record(value)
        both.record(value)

    one.add(other.counts)

    assert one.counts == both.counts
    assert one.total == both.total


def test_spectrum_starts_with_all_and_ends_with_the_slowest() -> None:
    histogram = Histogram([(10, 3), (20, 1)])

    assert histogram.spectrum() == [(1.0, 10), (0.25, 20)]


def test_nothing_recorded_is_no_latency() -> None:
    assert Histogram().percentile(99) == 0
