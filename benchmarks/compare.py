"""Two runs of different days side by side, by ratio to raw Tornado in each: do the figures hold?"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import BASE, CELLS, GOALS, OURS, Result, ratio, spread

__all__ = ["WITHIN", "Pair", "add_arguments", "compare", "main", "repeated"]

WITHIN = 0.15  # of a ratio: what a second run is to give again


@dataclass(frozen=True, slots=True)
class Pair:
    """One contender's cell in both runs, as multiples of raw Tornado."""

    cell: str
    contender: str
    label: str
    first: float
    second: float
    expected: float  # of the deviation, by the spreads of the four figures

    @property
    def deviation(self) -> float:
        return self.second / self.first - 1

    @property
    def holds(self) -> bool:
        return abs(self.deviation) <= WITHIN


def compare(first: Result, second: Result) -> Iterator[Pair]:
    """The throughput of all contenders that both runs have."""
    for cell in CELLS:
        for name, label in first["labels"].items():
            before, after = ratio(first, cell, name), ratio(second, cell, name)
            if name not in {BASE, "echo"} and before is not None and after is not None:
                spreads = [spread(run, cell, who) for run in (first, second) for who in (BASE, name)]
                yield Pair(cell, name, label, before, after, math.hypot(*spreads))


def summary(pairs: list[Pair]) -> str:
    holding = sum(pair.holds for pair in pairs)
    middle = statistics.median(abs(pair.deviation) for pair in pairs)
    most = max(pairs, key=lambda pair: abs(pair.deviation))
    expected = sum(abs(pair.deviation) <= pair.expected for pair in pairs)
    return (
        f"{holding} of {len(pairs)} ratios to raw Tornado lie within {WITHIN:.0%} of each other; "
        f"the median deviation is {middle:.0%}, the largest {most.deviation:+.0%} ({most.label}, {most.cell}); "
        f"{expected} lie as near as the spreads of the tables let expect"
    )


def _when(result: Result) -> str:
    return str(result["made"])[:16].replace("T", " ")


def disputed(first: Result, second: Result) -> str:
    """The goals that one of the runs meets and the other misses: none of them is proven."""
    found = []
    for goal in GOALS:
        one, other = goal.find(first), goal.find(second)
        if one is not None and other is not None and goal.is_met(one) != goal.is_met(other):
            found.append(f"{goal.what} ({one:.2f} and {other:.2f} {goal.unit}, wanted {goal.wanted:g})")
    if not found:
        return "Both runs meet and miss the same goals."
    return f"The runs disagree on {len(found)} of {len(GOALS)} goals, which are not proven: {'; '.join(found)}."


def repeated(result: Result, file: Path) -> str:
    """What the page says of the second run; nothing where there is none."""
    if not file.exists():
        return ""
    second = json.loads(file.read_text(encoding="utf-8"))
    pairs = list(compare(result, second))
    ours = [pair for pair in pairs if pair.contender in OURS]
    if not ours:
        return ""
    lines = [
        "### A second run",
        "",
        f"Made {_when(second)} at commit `{second['commit'][:12]}`, the one above {_when(result)}: {summary(pairs)}.",
        "",
        disputed(result, second),
        "",
        "| times raw Tornado | the run above | the second one | deviation |",
        "|---|---:|---:|---:|",
        *(
            f"| {pair.label}, {pair.cell} | {pair.first:.1f} | {pair.second:.1f} | {pair.deviation:+.0%} |"
            for pair in ours
        ),
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, help="the JSON of a run")
    parser.add_argument("second", type=Path, help="that of another")


def main(options: argparse.Namespace) -> int:
    """Print the ratios of both; 1 if any of sstream's is not what it was."""
    first, second = (json.loads(file.read_text(encoding="utf-8")) for file in (options.first, options.second))
    pairs = list(compare(first, second))
    if not pairs:
        print("the two have nothing in common that could be compared with raw Tornado")
        return 1
    for pair in pairs:
        said = "" if pair.holds else f"   more than {WITHIN:.0%}"
        print(f"{pair.cell:<12}{pair.label:<32}{pair.first:>8.2f}{pair.second:>8.2f}{pair.deviation:>+7.0%}{said}")
    print(summary(pairs))
    return 0 if all(pair.holds for pair in pairs if pair.contender in OURS) else 1
