"""A run from end to end, small; and the report on it."""

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from benchmarks import check, compare, report, suite
from benchmarks.__main__ import main
from benchmarks.figures import BEST, GOALS, Goal, median, ratio, spread
from benchmarks.generator import GeneratorError, Measurement, Opened
from benchmarks.servers import WrongAnswer

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
    steps: list[tuple[float, str]] = []
    found = suite.run(TINY, lambda done, what: steps.append((done, what)))
    assert steps == sorted(steps, key=lambda step: step[0])
    assert steps[0] == (0, "calls: echo comes")
    assert steps[-1][0] < 1
    return json.loads(report.dump(found))  # as it is read back


def test_those_whose_ratio_is_looked_at_stand_together() -> None:
    groups, left_out = suite.schedule(replace(TINY, contenders=("picows", "sstream", "tornado")))

    assert left_out == {} or list(left_out) == ["picows"]
    assert [group.phase for group in groups] == ["calls", "fanout"]
    assert groups[0].contenders[:3] == ("echo", "tornado", "sstream")
    assert all(group.estimate > 0 for group in groups)


class Clock:
    """Stands for `time`; what is measured moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeServer:
    """A server and a generator that have all they are asked for at once, but on the clock."""

    pid = 0

    def __init__(self, clock: Clock, slow: float, turns: list[tuple[str, str]], name: str = "echo") -> None:
        self.clock, self.slow, self.turns, self.name = clock, slow, turns, name
        self.asked = ""
        clock.sleep(0.9 * slow)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def load(self, *args: object, **options: object) -> Self:
        return self

    def cookies(self, count: int) -> list[str]:
        return ["a=b"] * count

    def call(self, *args: object, **options: object) -> int:
        return 1

    def page(self, *args: object) -> str:
        return "hello fred, 2"

    def memory(self) -> int:
        return 1_000_000

    def count_files(self) -> int:
        return 100

    def wait_for_files(self, at_most: int) -> None:
        pass

    def drop(self, connections: int) -> int:
        return connections

    def request(self, method: str, *params: object) -> None:
        self.asked = method

    def open(self, connections: int, window: int = 1) -> Opened:
        self.clock.sleep(connections / 1_500 * self.slow)
        return Opened(opened=connections, seconds=1.0, cpu=1.0, own=1.0)

    def closed(self, *args: float, **options: object) -> Measurement:
        self.turns.append((self.name, f"{self.asked} {args[0]}"))
        self.clock.sleep((args[1] + args[2]) * (1 + self.slow) / 2)
        errors = {"error 4050": 1} if self.name == "aiohttp" and args[0] == 16 else {}
        return Measurement(
            messages=9, seconds=1.0, cpu=1.0, own=0.5, fewest=1, most=1, unsent=0, unanswered=0, open=9, errors=errors
        )

    fanout = closed
    paced = paced_beside_events = closed


@pytest.fixture
def turns() -> list[tuple[str, str]]:
    """Who did what, in their order."""
    return []


@pytest.fixture
def dry(turns: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A whole run of a plan that measures nothing; how many times slower than usual the machine is can be said."""

    def run(plan: suite.Plan, slow: float = 1.0) -> dict[str, Any]:
        clock = Clock()
        store = {f"RedisStore.{name}": {"us": [1.0]} for name in ("get", "swap", "touch")}

        def study(redis: str, rounds: int) -> dict[str, dict[str, list[float]]]:
            clock.sleep(6.0 * slow)
            return store

        monkeypatch.setattr(suite, "time", clock)
        monkeypatch.setattr(suite, "missing", lambda contender: None)
        monkeypatch.setattr(suite, "pin_to_load_core", lambda: None)
        monkeypatch.setattr(suite, "RedisServer", lambda: nullcontext(SimpleNamespace(url="")))
        monkeypatch.setattr(suite, "BareEcho", lambda programs: FakeServer(clock, slow, turns))
        monkeypatch.setattr(suite, "Server", lambda name, contender, redis=None: FakeServer(clock, slow, turns, name))
        monkeypatch.setattr(suite, "STUDIES", {name: (study, cost) for name, (_, cost) in suite.STUDIES.items()})
        return json.loads(report.dump(suite.run(plan, lambda done, what: None)))

    return run


def test_full_run_measures_every_goal_and_every_column(dry: Callable[..., dict[str, Any]]) -> None:
    result = dry(suite.FULL)

    assert [goal.what for goal in GOALS if goal.find(result) is None] == []
    assert [
        column.cell for _, _, columns in report.TABLES for column in columns if column.cell not in result["cells"]
    ] == []
    assert "not measured" not in report.goals(result)
    assert set(result["studies"]) == set(suite.STUDIES)


def test_full_run_has_all_its_rounds_in_a_quarter_of_an_hour(dry: Callable[..., dict[str, Any]]) -> None:
    result = dry(suite.FULL)

    assert result["left_out_for_time"] == []
    assert result["took"] <= 15 * 60
    for cell, rounds in (("small_1", 5), ("fanout_16", 5), ("page_write", 5), ("scaling_5000", 3), ("storm", 3)):
        assert [sample["round"] for sample in result["cells"][cell]["tornado"]] == list(range(rounds))
    assert len(result["studies"]["coherence"]["RedisStore.get"]["us"]) == 3


@pytest.mark.parametrize("slow", [1.5, 2.5])
def test_where_it_is_slow_all_phases_lose_rounds_alike(dry: Callable[..., dict[str, Any]], slow: float) -> None:
    result = dry(suite.FULL, slow)

    assert 12 * 60 < result["took"] <= 15 * 60
    said = report.machine(result)
    assert "Left out for time" in said
    assert all(left in said for left in result["left_out_for_time"])
    kept = {
        phase: (len(result["cells"][cell]["tornado"]), suite.FULL.rounds[phase])
        for phase, cell in (("calls", "small_1"), ("fanout", "fanout_1"), ("sessions", "page_read"), ("idle", "idle"))
    }
    assert all(1 <= rounds <= planned for rounds, planned in kept.values())
    assert max(planned - rounds for rounds, planned in kept.values()) <= 3


def test_contenders_take_turns_at_one_cell_after_the_other(
    dry: Callable[..., dict[str, Any]], turns: list[tuple[str, str]]
) -> None:
    dry(replace(suite.FULL, rounds={"calls": 2}, contenders=("tornado", "picows", "sstream")))

    round_of_calls = [
        (name, what)
        for what in ("add 1", "add 16", "echo 1", "echo 16")
        for name in ("echo", "tornado", "sstream", "picows")
    ]
    assert turns[:16] == round_of_calls
    assert turns[len(turns) // 2 :][:16] == round_of_calls


def test_who_is_gone_leaves_its_other_turns_out(
    dry: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(server: FakeServer, *args: float, **options: object) -> Measurement:
        if server.name == "picows" and args[0] == 16:
            raise GeneratorError("the server is gone")
        return measured(50, {})

    monkeypatch.setattr(FakeServer, "closed", closed)

    result = dry(replace(suite.FULL, rounds={"calls": 2}, contenders=("tornado", "picows")))

    assert result["failures"] == ["calls, picows, small_16, round 1: the server is gone"]
    assert len(result["cells"]["small_1"]["picows"]) == 1
    assert len(result["cells"]["paced"]["tornado"]) == 2


def test_quick_run_takes_two_minutes_at_most(dry: Callable[..., dict[str, Any]]) -> None:
    assert dry(suite.QUICK, 2.5)["took"] <= 2 * 60


def test_failing_cell_leaves_the_others(dry: Callable[..., dict[str, Any]]) -> None:
    result = dry(replace(suite.FULL, rounds={"calls": 1, "fanout": 1}))

    assert result["failures"][0] == "calls, aiohttp, small_16, round 1: errors {'error 4050': 1}, 0 without an answer"
    assert "aiohttp" in result["cells"]["small_1"]
    assert "aiohttp" not in result["cells"]["small_16"]
    assert "tornado" in result["cells"]["small_16"]


def measured(opened: int, errors: dict[str, int]) -> Measurement:
    return Measurement(
        messages=9, seconds=1.0, cpu=1.0, own=0.5, fewest=1, most=1, unsent=0, unanswered=0, open=opened, errors=errors
    )


def test_a_few_lost_of_many_are_told_of_and_many_or_other_errors_spoil_the_cell() -> None:
    assert suite.sample_of(measured(999, {"connection lost": 1}))["lost"] == 1
    assert "lost" not in suite.sample_of(measured(999, {}))
    for spoilt in (measured(49, {"connection lost": 1}), measured(999, {"error 4029": 1})):
        with pytest.raises(WrongAnswer):
            suite.sample_of(spoilt)


def test_every_cell_has_a_sample_a_round(result: dict[str, Any]) -> None:
    assert result["failures"] == []
    for cell, samples in (("small_1", 1), ("small_16", 1), ("large_1", 1), ("large_16", 1), ("paced", 1)):
        assert len(result["cells"][cell]["tornado"]) == len(result["cells"][cell]["sstream"]) == samples
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


def test_check_fails_after_a_second_try(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faster = json.loads(json.dumps(result))
    for sample in faster["cells"]["large_1"]["sstream"]:
        sample["rate"] *= 2
    (tmp_path / "stored.json").write_text(report.dump(faster))
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    options = parser.parse_args(["--against", str(tmp_path / "stored.json"), "--only", "ratios"])

    runs: list[tuple[str, ...]] = []

    def run(plan: suite.Plan) -> dict[str, Any]:
        runs.append(plan.contenders)
        return result

    assert check.main(options, run) == 1
    assert "LOST" in capsys.readouterr().out
    assert runs == [suite.SMALL.contenders, ("tornado", "sstream")]


def test_who_does_well_when_he_tries_again_has_lost_nothing(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stored.json").write_text(report.dump(result))
    slower = json.loads(json.dumps(result))
    for sample in slower["cells"]["fanout_1"]["sstream"]:
        sample["rate"] /= 2
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    options = parser.parse_args(["--against", str(tmp_path / "stored.json"), "--only", "ratios"])
    runs = iter([slower, result])

    assert check.main(options, lambda plan: next(runs)) == 0
    assert "LOST" not in capsys.readouterr().out


def test_two_runs_are_compared_by_ratio_and_the_page_says_what_the_second_gave(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = json.loads(json.dumps(result))
    for cell in other["cells"].values():
        for samples in cell.values():
            for sample in samples:
                sample["rate"] = sample.get("rate", 0) * 3  # a machine three times as fast is no deviation
    first, second = tmp_path / "first.json", tmp_path / "repeated.json"
    first.write_text(report.dump(result))
    assert compare.repeated(result, second) == ""

    second.write_text(report.dump(other))
    assert main(["compare", str(first), str(second)]) == 0
    assert "6 of 6 ratios to raw Tornado lie within 15%" in capsys.readouterr().out

    for sample in other["cells"]["small_1"]["sstream"]:
        sample["rate"] /= 2
    second.write_text(report.dump(other))
    assert main(["compare", str(first), str(second)]) == 1
    assert "5 of 6" in capsys.readouterr().out
    assert "| sstream, small_1 |" in compare.repeated(result, second)
    assert "-50%" in compare.repeated(result, second)


def test_goal_that_one_of_two_runs_misses_is_named() -> None:
    met, missed = (json.loads((report.HERE / "results.json").read_text()) for _ in range(2))
    for run, factor in ((met, 1000), (missed, 0.001)):
        for sample in run["cells"]["small_1"][BEST]:
            sample["rate"] *= factor

    assert "calls, D=1, to raw Tornado (" in compare.disputed(met, missed)
    assert compare.disputed(met, met) == "Both runs meet and miss the same goals."


def test_more_instructions_are_a_loss_on_the_same_python_alone() -> None:
    before = {"python": "3.11.7", "machine": "x86_64", "counts": {"a call": 1000, "an event": 1000}}
    after = before | {"counts": {"a call": 1051, "an event": 1049}}

    assert [row[3] for row in check.compare_instructions(before, after)] == [True, False]
    assert list(check.compare_instructions(before, after | {"python": "3.12.0"})) == []
    assert list(check.compare_instructions(None, after)) == []


def test_figures_are_medians_with_half_the_range_as_spread() -> None:
    cells = {"c": {"sstream": [{"rate": rate} for rate in (9.0, 10.0, 12.0)]}}
    found = {"cells": cells}

    assert median(found, "c", "sstream") == 10
    assert spread(found, "c", "sstream") == pytest.approx(0.15)
    assert median(found, "c", "nobody") is ratio(found, "d", "sstream") is None


def test_ratio_is_the_median_of_what_each_round_gave() -> None:
    def rounds(*rates: tuple[int, float]) -> list[dict[str, float]]:
        return [{"round": number, "rate": rate} for number, rate in rates]

    # The machine was half as fast in the second round, and in the third one it stood still for the one alone.
    cells = {
        "c": {"tornado": rounds((0, 2.0), (1, 1.0), (2, 2.0)), "sstream": rounds((0, 20.0), (1, 10.0), (2, 4.0))},
        "d": {"sstream": rounds((0, 30.0), (0, 60.0), (0, 40.0), (3, 1.0))},
    }
    found = {"cells": cells}

    assert ratio(found, "c", "sstream") == 10
    # Several samples of a round are one figure, and a round that the other has not is none.
    assert ratio(found, "d", "sstream", base_cell="c") == 20
    assert ratio(found, "d", "sstream", "sstream", "c") == 2
    assert ratio(found, "d", "sstream") is ratio(found, "c", "nobody") is None


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
