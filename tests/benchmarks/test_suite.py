"""A run from end to end, small; and the report on it."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check, report, suite
from benchmarks.figures import Goal, median, ratio, spread

TINY = replace(
    suite.QUICK,
    rounds={"calls": 1, "fanout": 1},
    seconds=0.05,
    warm=0.02,
    connections=4,
    contenders=("tornado", "sstream"),
    subscribers=20,
)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    steps: list[suite.Step] = []
    found = suite.run(TINY, lambda number, step: steps.append(step))
    assert steps == suite.schedule(TINY)[0]
    return json.loads(report.dump(found))  # as it is read back


def test_contenders_take_turns_within_each_round() -> None:
    steps, left_out = suite.schedule(TINY)

    turns = [(step.phase, step.round, step.contender) for step in steps if step.phase == "calls"]

    assert left_out == {}
    assert turns == [("calls", at, name) for at in (0,) for name in ("echo", "tornado", "sstream")]
    assert all(step.estimate > 0 for step in steps)


def test_full_run_is_planned_for_at_most_a_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "missing", lambda contender: None)

    assert sum(step.estimate for step in suite.schedule(suite.FULL)[0]) <= 15 * 60
    assert sum(step.estimate for step in suite.schedule(suite.QUICK)[0]) <= 2 * 60


def test_every_cell_has_a_sample_a_round(result: dict[str, Any]) -> None:
    assert result["failures"] == []
    for cell in ("small_1", "small_16", "large_1", "large_16", "paced"):
        assert len(result["cells"][cell]["tornado"]) == len(result["cells"][cell]["sstream"]) == 1
    assert all(sample["rate"] > 0 for sample in result["cells"]["fanout_16"]["sstream"])
    assert result["latencies"]["tornado"]


def test_run_says_where_and_what_it_was(result: dict[str, Any]) -> None:
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["tornado"]
    assert len(result["commit"]) == 40 or result["commit"] == "unknown"
    assert set(result["noise"]) == {"load_average", "steal", "echo_variation", "core_share", "warnings"}


def test_report_has_every_contender_and_the_goals(result: dict[str, Any]) -> None:
    text = report.markdown(result)

    assert "| raw Tornado |" in text
    assert "| **sstream** |" in text
    assert "### Goals" in text
    assert text.count("not measured") >= 1  # what compares with picows


def test_a_run_has_lost_nothing_against_itself_and_half_of_it_is_a_loss(result: dict[str, Any]) -> None:
    slower = json.loads(json.dumps(result))
    for sample in slower["cells"]["small_16"]["sstream"]:
        sample["rate"] /= 2

    assert [row for row in check.compare(result, result) if row[3]] == []
    assert [row[0] for row in check.compare(result, slower) if row[3]] == ["small_16, sstream"]


def test_check_exits_with_the_number_of_losses(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faster = json.loads(json.dumps(result))
    for sample in faster["cells"]["large_1"]["sstream"]:
        sample["rate"] *= 2
    (tmp_path / "stored.json").write_text(report.dump(faster))
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    options = parser.parse_args(["--against", str(tmp_path / "stored.json"), "--only", "ratios"])

    assert check.main(options, lambda plan: result) == 1
    assert "LOST" in capsys.readouterr().out


def test_more_instructions_are_a_loss_on_the_same_python_alone() -> None:
    before = {"python": "3.11.7", "machine": "x86_64", "counts": {"a call": 1000, "an event": 1000}}
    after = before | {"counts": {"a call": 1051, "an event": 1049}}

    assert [row[3] for row in check.compare_instructions(before, after)] == [True, False]
    assert list(check.compare_instructions(before, after | {"python": "3.12.0"})) == []
    assert list(check.compare_instructions(None, after)) == []


def test_figures_are_medians_with_half_the_range_as_spread() -> None:
    cells = {"c": {"tornado": [{"rate": 1.0}], "sstream": [{"rate": rate} for rate in (9.0, 10.0, 12.0)]}}
    found = {"cells": cells}

    assert median(found, "c", "sstream") == 10
    assert spread(found, "c", "sstream") == pytest.approx(0.15)
    assert ratio(found, "c", "sstream") == 10
    assert median(found, "c", "nobody") is ratio(found, "d", "sstream") is None


def test_goal_is_met_or_missed_by_so_much() -> None:
    least, most = Goal("x", lambda result: 1, 10), Goal("x", lambda result: 1, 10, "ms", at_most=True)

    assert least.is_met(10)
    assert not least.is_met(9)
    assert least.missed_by(9) == pytest.approx(0.1)
    assert most.is_met(10)
    assert most.missed_by(12) == pytest.approx(0.2)


def test_pictures_are_drawn(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the benchmarks' own environment: make bench")

    report.draw(result, tmp_path)

    assert {"throughput.svg", "fanout.svg", "latency.svg"} <= {file.name for file in tmp_path.iterdir()}
