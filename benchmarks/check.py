"""Has anything become slower? A small run against the stored one, by ratio to raw Tornado, and by instructions.

The ratio is to raw Tornado *in the same run*, so it holds on another machine. It wants a quiet one: where a server has
but 60 % of its core, ratios of calls one at a time are a fifth lower.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import instructions
from benchmarks.figures import CELLS, OURS, Result, ratio
from benchmarks.report import STORED
from benchmarks.suite import SMALL, Plan
from sstream.testing import ToolMissing

__all__ = ["LOSS", "MORE", "add_arguments", "compare", "compare_instructions", "main"]

LOSS = 0.20  # of a ratio to raw Tornado
MORE = 0.05  # of a count of instructions

# What, before, now, and whether that is a loss.
Row = tuple[str, float, float, bool]


def compare(stored: Result, now: Result) -> Iterator[Row]:
    """The ratios of both runs, cell by cell."""
    for cell in CELLS:
        for contender in OURS:
            before, after = ratio(stored, cell, contender), ratio(now, cell, contender)
            if before is not None and after is not None:
                yield f"{cell}, {contender}", before, after, after < before * (1 - LOSS)


def compare_instructions(stored: dict[str, Any] | None, now: dict[str, Any]) -> Iterator[Row]:
    """The counts of both, if they come from the same Python."""
    if stored is None or (stored["python"], stored["machine"]) != (now["python"], now["machine"]):
        return
    for piece, before in stored["counts"].items():
        if piece in now["counts"]:
            after = now["counts"][piece]
            yield f"instructions: {piece}", before, after, after > before * (1 + MORE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", type=Path, default=STORED, help="the JSON to compare with")
    parser.add_argument("--only", choices=["ratios", "instructions"], help="leave the other one out")


def main(options: argparse.Namespace, run: Callable[[Plan], Result]) -> int:
    """Print both, side by side; 1 if anything was lost, or could not be measured."""
    stored = json.loads(options.against.read_text(encoding="utf-8"))
    rows: list[Row] = []
    noise: list[str] = []
    if options.only != "instructions":
        now = run(SMALL)
        if now["failures"]:
            return 1
        rows += compare(stored, now)
        noise = now["noise"]["warnings"]
    if options.only != "ratios":
        try:
            counted = instructions.count()
        except ToolMissing as error:
            print(f"instructions were not counted: {error}", file=sys.stderr)
        else:
            found = list(compare_instructions(stored.get("instructions"), counted))
            if not found:
                print(
                    f"no instructions to compare with: they were not counted on Python {counted['python']}",
                    file=sys.stderr,
                )
            rows += found
    losses = [row for row in rows if row[3]]
    for what, before, after, is_lost in rows:
        digits = 2 if before < 1000 else 0
        print(f"{what:<64}{before:>12,.{digits}f}{after:>12,.{digits}f}{'   LOST' if is_lost else ''}")
    print(f"{len(rows)} compared, {len(losses)} lost: more than {LOSS:.0%} of a ratio, or {MORE:.0%} more instructions")
    if losses and noise:
        print(f"the machine was not quiet, which may be all of it ({'; '.join(noise)}): repeat it when it is")
    return 1 if losses or not rows else 0
