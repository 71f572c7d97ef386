"""A run from end to end, small; and the report on it."""

import argparse
import itertools
import json
import random
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from benchmarks import check, compare, report, suite
from benchmarks.__main__ import main
from benchmarks.figures import BEST, GOALS, Goal, ratio, samples, spread, value
from benchmarks.generator import GeneratorError, Measurement, Opened
from benchmarks.histogram import bucket_of
from benchmarks.servers import WrongAnswer
from benchmarks.suite import Share

TINY = replace(
    suite.QUICK,
    phases={"calls": Share(1, 300), "fanout": Share(1, 300)},
    seconds=0.02,
    timed=0.02,
    connections=4,
    contenders=("tornado", "sstream"),
    subscribers=20,
)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    steps: list[tuple[float, str]] = []
    found = suite.run(TINY, lambda done, what: steps.append((done, what)))
    assert steps == sorted(steps, key=lambda step: step[0])
    assert steps[0][1] == "calls: tornado comes"
    assert steps[-1][0] < 1
    return json.loads(report.dump(found))  # as it is read back


def test_raw_tornado_has_three_turns_among_many_and_one_among_few() -> None:
    plan = replace(suite.FULL, contenders=("tornado", "picows", "sstream", "sstream-python", "sstream-uvloop"))
    few, _ = suite.schedule(
        replace(plan, phases={"fanout": Share(9, 1), "calls": Share(9, 1)}, contenders=("tornado",))
    )

    assert [(group.phase, group.order) for group in few] == [("fanout", ("tornado",)), ("calls", ("tornado", "echo"))]
    order = list(suite._with_more_of_the_base([*"abcdef", "tornado", *"ghijkl"]))
    assert order == ["tornado", *"abcd", "tornado", *"efgh", "tornado", *"ijkl"]


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
        self.clock.sleep(0.004 + (args[1] + args[2]) * (1 + self.slow) / 2 + (0.4 if self.name == "channels" else 0))
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
        monkeypatch.setattr(suite, "STUDIES", dict.fromkeys(suite.STUDIES, study))
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


@pytest.mark.parametrize("slow", [1.0, 1.5, 2.5])
def test_full_run_has_every_cell_and_takes_a_quarter_of_an_hour_at_most(
    dry: Callable[..., dict[str, Any]], slow: float
) -> None:
    result = dry(suite.FULL, slow)

    assert result["took"] <= 15 * 60
    assert all(done["rounds"] >= 1 for done in result["phases"].values())
    assert "none, for time" not in report.machine(result)
    for cell in ("small_1", "fanout_16", "page_write", "scaling_5000", "storm"):
        assert samples(result, cell, "tornado", "round")


def test_where_there_is_time_for_all_its_rounds_a_cell_has_a_slice_in_each(dry: Callable[..., dict[str, Any]]) -> None:
    result = dry(replace(suite.FULL, phases={"calls": Share(12, 600)}, contenders=("tornado", "sstream")))

    assert result["phases"] == {"calls": {"rounds": 12, "seconds": pytest.approx(result["took"], abs=1)}}
    for cell in ("small_1", "large_16", "async_1"):
        assert samples(result, cell, "sstream", "round") == list(range(12))


def test_where_there_is_not_the_phase_ends_and_what_is_not_begun_is_told(dry: Callable[..., dict[str, Any]]) -> None:
    phases = {"calls": Share(1000, 30), "idle": Share(2, 1)}
    result = dry(replace(suite.FULL, phases=phases, contenders=("tornado", "sstream")))
    late = dry(replace(suite.FULL, phases={"idle": Share(2, 1), "loaded": Share(1, 1)}, contenders=("sstream-uvloop",)))

    assert 30 < result["took"] < 40
    assert 10 < result["phases"]["calls"]["rounds"] < 1000
    assert result["phases"]["idle"]["rounds"] == 1
    assert late["phases"]["loaded"]["rounds"] == 0
    assert "idle 1, loaded **none, for time**." in report.machine(late)


def test_who_is_slow_has_fewer_turns_all_over_the_phase_and_as_much_time(dry: Callable[..., dict[str, Any]]) -> None:
    plan = replace(suite.FULL, phases={"calls": Share(30, 600)}, contenders=("tornado", "channels", "aiohttp"))

    result = dry(plan)

    # A turn of channels takes 0.4 s more.
    slow = samples(result, "small_1", "channels", "round")
    assert len(slow) == 6
    assert {later - earlier for earlier, later in itertools.pairwise(slow)} <= {5, 6}
    assert samples(result, "small_1", "aiohttp", "round") == list(range(30))
    assert "Fewer than 8 turns, as one takes long: small_1: Django Channels + uvicorn 6;" in report.machine(result)


def test_contenders_take_turns_at_one_cell_after_the_other(
    dry: Callable[..., dict[str, Any]], turns: list[tuple[str, str]]
) -> None:
    dry(replace(suite.FULL, phases={"calls": Share(2, 60)}, contenders=("tornado", "picows", "sstream")))

    round_of_calls = [
        (name, what)
        for what in ("add 1", "add 16", "echo 1", "echo 16")
        for name in ("tornado", "picows", "sstream", "echo")
    ]
    assert turns[:16] == round_of_calls
    again = turns.index(round_of_calls[0], 16 + 8)  # after those that are timed
    assert turns[again : again + 16] == round_of_calls


def test_who_is_gone_leaves_its_other_turns_out(
    dry: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(server: FakeServer, *args: float, **options: object) -> Measurement:
        if server.name == "picows" and args[0] == 16:
            raise GeneratorError("the server is gone")
        return measured(50, {})

    monkeypatch.setattr(FakeServer, "closed", closed)

    result = dry(replace(suite.FULL, phases={"calls": Share(20, 300)}, contenders=("tornado", "picows")))

    assert result["failures"] == ["calls, picows, small_16, round 1: the server is gone"]
    assert samples(result, "small_1", "picows", "round") == [0]
    assert "picows" not in result["cells"]["large_1"]
    assert len(samples(result, "small_1", "tornado", "round")) == 20


def test_quick_run_takes_two_minutes_at_most(dry: Callable[..., dict[str, Any]]) -> None:
    result = dry(suite.QUICK)

    assert result["took"] <= 2 * 60
    assert dry(suite.QUICK, 2.5)["took"] <= 2 * 60
    assert set(result["cells"]) == set(dry(suite.FULL)["cells"]) - {"scaling_1000", "scaling_5000"}


def test_failing_cell_is_told_once_and_leaves_the_others(dry: Callable[..., dict[str, Any]]) -> None:
    result = dry(replace(suite.FULL, phases={"calls": Share(3, 300), "fanout": Share(3, 300)}))

    assert result["failures"] == [
        f"{phase}, aiohttp, {cell}, round 1: errors {{'error 4050': 1}}, 0 without an answer"
        for phase, cell in (("calls", "small_16"), ("calls", "large_16"), ("calls", "wait_16"), ("fanout", "fanout_16"))
    ]
    assert "aiohttp" in result["cells"]["small_1"]
    assert "aiohttp" not in result["cells"]["small_16"]
    assert "tornado" in result["cells"]["small_16"]


def scale(result: dict[str, Any], factor: float, cell: str, contender: str) -> None:
    """Have it done so many times as much in the same time."""
    columns = result["cells"][cell][contender]
    columns["messages"] = [factor * many for many in columns.get("messages", ())]


def measured(opened: int, errors: dict[str, int]) -> Measurement:
    return Measurement(
        messages=9, seconds=1.0, cpu=1.0, own=0.5, fewest=1, most=1, unsent=0, unanswered=0, open=opened, errors=errors
    )


def test_a_few_lost_of_many_are_told_of_and_many_or_other_errors_spoil_the_cell() -> None:
    assert suite.count_lost(measured(999, {"connection lost": 1})) == 1
    assert suite.count_lost(measured(999, {})) == 0
    for spoilt in (measured(49, {"connection lost": 1}), measured(999, {"error 4029": 1})):
        with pytest.raises(WrongAnswer):
            suite.count_lost(spoilt)


def test_every_cell_has_its_slices(result: dict[str, Any]) -> None:
    assert result["failures"] == []
    for cell in ("small_1", "small_16", "large_1", "large_16", "wait_1", "wait_16", "paced"):
        assert samples(result, cell, "tornado", "round")[0] == samples(result, cell, "sstream", "round")[0] == 0
    assert all((value(result, "fanout_16", name) or 0) > 0 for name in ("tornado", "sstream"))
    assert {cell: list(row) for cell, row in result["latencies"].items()} == {
        "wait_1": ["tornado", "sstream", "echo"],
        "wait_16": ["tornado", "sstream", "echo"],
        "paced": ["tornado", "sstream"],
    }


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
    scale(slower, 0.5, "small_16", "sstream")

    assert [row for row in check.compare(result, result) if row[3]] == []
    assert [row[0] for row in check.compare(result, slower) if row[3]] == ["small_16, sstream"]


def test_check_measures_all_that_it_compares(dry: Callable[..., dict[str, Any]]) -> None:
    result = dry(suite.SMALL)

    assert len(list(check.compare(result, result))) == 18
    assert result["took"] <= 6.5 * 60


def test_check_fails_where_something_was_lost(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faster = json.loads(json.dumps(result))
    scale(faster, 2, "large_1", "sstream")
    (tmp_path / "stored.json").write_text(report.dump(faster))
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    options = parser.parse_args(["--against", str(tmp_path / "stored.json"), "--only", "ratios"])
    plans: list[suite.Plan] = []

    def run(plan: suite.Plan) -> dict[str, Any]:
        plans.append(plan)
        return result

    assert check.main(options, run) == 1
    printed = capsys.readouterr().out
    assert printed.count("LOST") == 1
    assert ("the machine was not quiet" in printed) == bool(result["noise"]["warnings"])
    assert plans == [suite.SMALL]
    assert check.main(options, lambda plan: faster) == 0
    assert "LOST" not in capsys.readouterr().out
    assert check.main(options, lambda plan: faster | {"failures": ["calls, sstream, small_1: it is gone"]}) == 1


def test_two_runs_are_compared_by_ratio_and_the_page_says_what_the_second_gave(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = json.loads(json.dumps(result))
    for cell, row in other["cells"].items():
        for name in row:
            scale(other, 3, cell, name)  # a machine three times as fast is no deviation
    first, second = tmp_path / "first.json", tmp_path / "repeated.json"
    first.write_text(report.dump(result))
    assert compare.repeated(result, second) == ""

    second.write_text(report.dump(other))
    assert main(["compare", str(first), str(second)]) == 0
    assert "6 of 6 ratios to raw Tornado lie within 15%" in capsys.readouterr().out

    scale(other, 0.5, "small_1", "sstream")
    second.write_text(report.dump(other))
    assert main(["compare", str(first), str(second)]) == 1
    assert "5 of 6" in capsys.readouterr().out
    assert "| sstream, small_1 |" in compare.repeated(result, second)
    assert "-50%" in compare.repeated(result, second)


def test_goal_that_one_of_two_runs_misses_is_named() -> None:
    met, missed = (json.loads((report.HERE / "results.json").read_text()) for _ in range(2))
    for run, factor in ((met, 1000), (missed, 0.001)):
        scale(run, factor, "small_1", BEST)

    assert "calls, D=1, to raw Tornado (" in compare.disputed(met, missed)
    assert compare.disputed(met, met) == "Both runs meet and miss the same goals."


def test_more_instructions_are_a_loss_on_the_same_python_alone() -> None:
    before = {"python": "3.11.7", "machine": "x86_64", "counts": {"a call": 1000, "an event": 1000}}
    after = before | {"counts": {"a call": 1051, "an event": 1049}}

    assert [row[3] for row in check.compare_instructions(before, after)] == [True, False]
    assert list(check.compare_instructions(before, after | {"python": "3.12.0"})) == []
    assert list(check.compare_instructions(None, after)) == []


def run_of(cell: str, **columns: list[float]) -> dict[str, Any]:
    return {"cells": {cell: {"sstream": columns}}, "latencies": {}}


def test_rate_is_that_of_all_slices_together() -> None:
    found = run_of("c", messages=[100, 300, 500], cpu=[0.1, 0.1, 0.2], seconds=[1, 1, 1])

    assert value(found, "c", "sstream") == pytest.approx(2250)
    assert value(found, "c", "sstream", "wall") == 300
    # One of which the kernel did not look at the time is counted with the others.
    assert value(run_of("c", messages=[10, 10], cpu=[0, 2]), "c", "sstream") == 10
    assert value(found, "c", "nobody") is value(found, "d", "sstream") is None


def test_spread_is_twice_the_standard_error_of_many_slices_and_half_the_range_of_few() -> None:
    chance = random.Random(1)
    rates = [chance.lognormvariate(0, 0.3) for _ in range(4000)]
    found = run_of("c", messages=rates[:40], cpu=[1.0] * 40)
    # What it claims, looked at in a hundred runs.
    totals = [sum(rates[at : at + 40]) / 40 for at in range(0, 4000, 40)]
    near = sum(abs(total / statistics.fmean(rates) - 1) <= spread(found, "c", "sstream") for total in totals)

    assert 88 <= near <= 100
    assert spread(run_of("c", messages=[9.0, 10, 12], cpu=[1, 1, 1]), "c", "sstream") == pytest.approx(0.145, abs=1e-3)
    assert spread(run_of("c", bytes=[900, 1000, 1100]), "c", "sstream", "bytes") == pytest.approx(0.1)
    assert spread(run_of("c", bytes=[]), "c", "sstream", "bytes") == 0


def test_percentile_is_that_of_all_latencies_and_anything_else_the_median() -> None:
    found = run_of("c", p99=[1.0, 3.0], late=[1.0, 2.0, 5.0])
    found["latencies"] = {"c": {"sstream": [[bucket_of(1_000), 99], [bucket_of(500_000), 1]]}}

    assert value(found, "c", "sstream", "p99") == pytest.approx(1, rel=0.01)
    assert value(found, "c", "sstream", "p100") == pytest.approx(500, rel=0.01)
    assert value(found, "c", "sstream", "late") == 2


def test_ratio_is_that_of_two_figures() -> None:
    cells = {
        "c": {"tornado": {"messages": [2, 4], "cpu": [1, 1]}, "sstream": {"messages": [30], "cpu": [1]}},
        "d": {"sstream": {"messages": [60], "cpu": [1]}},
    }
    found = {"cells": cells}

    assert ratio(found, "c", "sstream") == 10
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
