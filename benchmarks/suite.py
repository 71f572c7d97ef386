"""What is measured, in which order, and how: phases, rounds and cells.

A *phase* starts one contender's server and measures some *cells* on it; in each *round* the contenders take turns. A
*sample* is what one cell of one contender gave in one round. Throughput is told per second of the server's CPU time,
which on a quiet machine agrees with the clock and still says something on a noisy one.
"""

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from benchmarks import coherence, dispatch, lost_updates, publish_processes, store_operations
from benchmarks.contenders import CONTENDERS, Contender, missing
from benchmarks.figures import BASE
from benchmarks.generator import Generator, GeneratorError, Measurement, Programs
from benchmarks.histogram import Histogram
from benchmarks.machine import Quiet, describe
from benchmarks.servers import BareEcho, Server, WrongAnswer, pin_to_load_core
from sstream.testing import ProcessError, RedisServer

__all__ = ["FULL", "QUICK", "SMALL", "Plan", "Step", "run", "schedule"]

SUBSCRIBERS = 1_000
IDLE = 5_000
LARGE = "x" * 900
RATE = 5_000  # requests a second on the open schedule: what nearly all can do
START = 1.3  # seconds that a server takes to start, in the estimate
SCALING = (10, 100, 1_000, 5_000)
SCALING_CONTENDERS = ("tornado", "picows", "ws", "sstream-python", "sstream-uvloop")

# Calls while many hear events: few enough of both that a server which serves them in turn has time to spare.
BESIDE_RATE = 500.0  # calls a second
BESIDE_CALLERS = 40  # connections that make them; the others listen
BESIDE_EVERY = 0.25  # seconds from one event to the next
BESIDE_SECONDS = 2.0  # of a sample
BESIDE_SAMPLES = 5  # in a round

# Who is measured with the broker in Redis as well.
THROUGH_REDIS = ("sstream", "sstream-uvloop")

# How connections are lost; a few of many are told of and do no harm to the others' figures.
LOSSES = ("connection lost", "connection reset", "closed ")
MAY_BE_LOST = 0.01  # of all

# Rounds of a phase that are done however long they take; of the others the first round comes before any second one.
NEEDED = {"calls": 5}

Sample = dict[str, float]
# A cell's name, and its sample.
Cells = Iterator[tuple[str, Sample]]


# A server and the generator have a descriptor for each connection, and some for themselves.
MOST_OPEN = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500)
LOADS = 2_000.0  # sessions a second that are loaded where their memory is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: Mapping[str, int]  # by phase, if there is time; a phase that is not there is left out
    limit: float  # seconds of the whole; no round begins that would take longer
    seconds: float  # of one cell
    warm: float = 0.1
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    settle: float = 1.0  # between the last handshake and the look at the memory
    connections: int = 50
    idle: int = IDLE
    subscribers: int = SUBSCRIBERS
    crowd: int = MOST_OPEN
    scaling: tuple[int, ...] = SCALING


FULL = Plan(
    rounds={"calls": 5, "fanout": 3, "sessions": 2, "loaded": 1, "studies": 2, "idle": 2, "crowd": 1, "scaling": 2},
    limit=14.5 * 60,
    seconds=0.4,
)
# Everything once and short: is it all there, and about right?
QUICK = Plan(
    rounds={"calls": 1, "fanout": 1, "sessions": 1, "loaded": 1, "studies": 1, "idle": 1, "scaling": 1},
    limit=2 * 60,
    seconds=0.15,
    warm=0.05,
    settle=0.2,
    idle=300,
    subscribers=200,
    scaling=(10, 100),
)
# What `check` compares.
SMALL = Plan(
    rounds={"calls": 5, "fanout": 3},
    limit=15 * 60,
    seconds=0.4,
    contenders=("tornado", "sstream-python", "sstream", "sstream-uvloop"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One contender's turn in one round of a phase; of a study, the contender is the study's name."""

    phase: str
    round: int
    contender: str
    estimate: float  # seconds


# --- samples ----------------------------------------------------------------------------------------------------------


def sample_of(measured: Measurement) -> Sample:
    """A sample as it is stored; times in microseconds."""
    lost = sum(many for what, many in measured.errors.items() if what.startswith(LOSSES))
    too_many = lost > MAY_BE_LOST * (measured.open + lost)
    if too_many or sum(measured.errors.values()) > lost or (measured.unanswered and not measured.unsent):
        raise WrongAnswer(f"errors {dict(measured.errors)}, {measured.unanswered} without an answer")
    if not measured.messages:
        raise WrongAnswer(f"no answer within {measured.seconds:.2f} s")
    percentile = measured.histogram.percentile
    sample: Sample = {
        "rate": round(measured.messages / max(measured.cpu, 1e-9), 1),
        "wall": round(measured.messages / max(measured.seconds, 1e-9), 1),
        "cpu": round(measured.cpu, 4),
        "seconds": round(measured.seconds, 4),
        "generator": round(measured.own / max(measured.seconds, 1e-9), 3),
        "fewest": measured.fewest,
        "most": measured.most,
        "unsent": measured.unsent,
    } | {f"p{percent:g}": round(percentile(percent) / 1e3, 1) for percent in (50, 90, 99, 99.9, 100)}
    return sample | {"lost": lost} if lost else sample


# --- the phases -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bench:
    """What all phases need."""

    programs: Programs
    redis: RedisServer
    plan: Plan
    latencies: dict[str, Histogram]

    def closed(self, load: Generator, depth: int) -> Sample:
        return sample_of(load.closed(depth, self.plan.seconds, self.plan.warm))


def measure_echo(bench: Bench) -> Cells:
    """What the machine and the generator reach without a server's work."""
    with BareEcho(bench.programs) as echo, echo.load(bench.programs) as load:
        load.open(bench.plan.connections)
        for title, method, params in (("small", "add", (2, 3)), ("large", "echo", (LARGE,))):
            load.request(method, *params)
            for depth in (1, 16):
                yield f"{title}_{depth}", bench.closed(load, depth)


def measure_calls(bench: Bench, name: str, contender: Contender) -> Cells:
    with Server(name, contender) as server, server.load(bench.programs) as load:
        load.open(bench.plan.connections)
        kinds: list[tuple[str, str, tuple[Any, ...]]] = [("small", "add", (2, 3)), ("large", "echo", (LARGE,))]
        if "async" in contender.can:
            kinds.append(("async", "add_async", (2, 3)))
        for title, method, params in kinds:
            load.request(method, *params)
            for depth in (1, 16):
                yield f"{title}_{depth}", bench.closed(load, depth)
        load.request("add", 2, 3)
        # Twice: where another machine takes the core for a moment, it rules one of them.
        for _ in range(2):
            paced = load.paced(RATE, bench.plan.seconds * 1.25, bench.plan.warm)
            bench.latencies.setdefault(name, Histogram()).add(paced.histogram.counts)
            yield "paced", sample_of(paced)


def measure_fanout(bench: Bench, name: str, contender: Contender) -> Cells:
    for cell, redis in (("fanout", None), ("fanout_redis", bench.redis.url)):
        if redis is not None and name not in THROUGH_REDIS:
            return
        with Server(name, contender, redis=redis) as server, server.load(bench.programs) as load:
            load.open(bench.plan.subscribers + 1)
            load.request("publish", "x" * 20)
            for batch in (1, 16):
                yield f"{cell}_{batch}", sample_of(load.fanout(batch, bench.plan.seconds, bench.plan.warm))


def _open(load: Generator, connections: int, window: int = 100) -> Sample:
    opened = load.open(connections, window)
    if opened.errors or opened.opened < connections:
        raise WrongAnswer(f"{opened.opened} of {connections} connections opened: {dict(opened.errors)}")
    return {
        "rate": round(connections / max(opened.cpu, 1e-9), 1),
        "wall": round(connections / opened.seconds, 1),
        "seconds": round(opened.seconds, 3),
        "p99": round(opened.histogram.percentile(99) / 1e3, 1),
        "p100": round(opened.histogram.percentile(100) / 1e3, 1),
    }


def measure_idle(bench: Bench, name: str, contender: Contender) -> Cells:
    with Server(name, contender) as server, server.load(bench.programs) as load:
        load.open(bench.plan.connections)
        before = server.memory()
        yield "handshakes", _open(load, bench.plan.idle)
        time.sleep(bench.plan.settle)
        yield "idle", {"bytes": round((server.memory() - before) / bench.plan.idle)}


def measure_crowd(bench: Bench, name: str, contender: Contender) -> Cells:
    crowd, half = bench.plan.crowd, bench.plan.crowd // 2
    with Server(name, contender) as server, server.load(bench.programs) as load:
        load.open(bench.plan.connections)
        before = server.memory()
        _open(load, crowd)
        time.sleep(bench.plan.settle)
        yield "crowd_idle", {"bytes": round((server.memory() - before) / crowd)}
        files = server.count_files()
        load.drop(crowd - half + bench.plan.connections - 1)
        # Many a server fails to publish while it still holds connections that are gone.
        server.wait_for_files(files - (crowd - half))
        load.request("publish", "x" * 20)
        for batch in (1, 16):
            yield f"crowd_fanout_{batch}", sample_of(load.fanout(batch, 2 * bench.plan.seconds, bench.plan.warm))
        if contender.is_ours:
            load.request("add", 2, 3)
            for _ in range(BESIDE_SAMPLES):
                yield "beside_events", _beside_events(bench, load)
        # All lose their connection at once and come back at once.
        load.drop(half)
        yield "storm", _open(load, half, half)


def _beside_events(bench: Bench, load: Generator) -> Sample:
    measured = load.paced_beside_events(
        BESIDE_RATE,
        BESIDE_SECONDS,
        bench.plan.warm,
        callers=BESIDE_CALLERS,
        event=("publish", "x" * 20),
        every=BESIDE_EVERY,
    )
    return sample_of(measured) | {
        "late": round(measured.late / 1e3, 1),
        "deliveries": round(measured.events / measured.seconds, 1),
    }


def measure_scaling(bench: Bench, name: str, contender: Contender) -> Cells:
    with Server(name, contender) as server, server.load(bench.programs) as load:
        load.request("add", 2, 3)
        there = 0
        for connections in bench.plan.scaling:
            load.open(connections - there)
            there = connections
            yield f"scaling_{connections}", bench.closed(load, 1)


def measure_sessions(bench: Bench, name: str, contender: Contender) -> Cells:
    """Calls and pages that use a session, each connection its own, all in Redis."""
    with Server(name, contender, redis=bench.redis.url) as server:
        cookies = server.cookies(bench.plan.connections)
        path = contender.path if contender.dialect == "socketio" else "/session"
        if (count := server.call("write", cookie=cookies[0], path=path)) != 1:
            raise WrongAnswer(f"the first write of a session gave {count!r}")
        for page in ("/count", "/page"):
            if (text := server.page(page, cookies[0])) != "hello fred, 2":
                raise WrongAnswer(f"{page} of that session was {text!r}")
        methods = ["read", "write"]
        if contender.dialect == "socketio" or contender.is_ours:
            methods.insert(0, "add")
        with server.load(bench.programs, path=path, cookies=cookies) as load:
            load.open(bench.plan.connections)
            for method in methods:
                load.request(method, *((2, 3) if method == "add" else ()))
                for depth in (1, 16):
                    yield f"session_{method}_{depth}", bench.closed(load, depth)
        for title, page in (("page_read", "/page"), ("page_write", "/count")):
            with server.load(bench.programs, dialect="http", path=page, cookies=cookies) as load:
                load.open(bench.plan.connections)
                yield title, bench.closed(load, 1)


def measure_loaded(bench: Bench, name: str, contender: Contender) -> Cells:
    """Memory of idle connections that have loaded a session, each its own."""
    with Server(name, contender, redis=bench.redis.url) as server:
        cookies = server.cookies(bench.plan.idle)
        with server.load(bench.programs, path="/session", cookies=cookies) as load:
            load.open(bench.plan.connections)
            before = server.memory()
            _open(load, bench.plan.idle)
            load.request("read")
            # One call of each, in turn.
            sample_of(load.paced(LOADS, (bench.plan.connections + bench.plan.idle) / LOADS, 0.0))
            time.sleep(bench.plan.settle)
            yield "session_idle", {"bytes": round((server.memory() - before) / bench.plan.idle)}


@dataclass(frozen=True, slots=True)
class Phase:
    """How a phase is done, by whom, and how long one turn takes (seconds, about)."""

    measure: Callable[[Bench, str, Contender], Cells]
    takes_part: Callable[[str, Contender], bool]
    estimate: Callable[[Plan, Contender], float]


def _cell(plan: Plan) -> float:
    return plan.seconds + plan.warm


# Handshakes a second, in estimates.
HANDSHAKES = 1_200

PHASES: dict[str, Phase] = {
    "calls": Phase(
        measure_calls,
        lambda name, contender: "calls" in contender.can,
        lambda plan, contender: START + _cell(plan) * (9 if "async" in contender.can else 7),
    ),
    "fanout": Phase(
        measure_fanout,
        lambda name, contender: "fanout" in contender.can,
        lambda plan, contender: (
            (START + plan.subscribers / HANDSHAKES + 2 * _cell(plan) + 0.3) * (2 if contender.is_ours else 1)
        ),
    ),
    "sessions": Phase(
        measure_sessions,
        lambda name, contender: "sessions" in contender.can,
        lambda plan, contender: START + 8 * _cell(plan),
    ),
    "loaded": Phase(
        measure_loaded,
        lambda name, contender: name in {"sstream", "sstream-uvloop"},
        lambda plan, contender: START + plan.settle + 2 * plan.idle / HANDSHAKES + plan.idle / LOADS,
    ),
    "scaling": Phase(
        measure_scaling,
        lambda name, contender: name in SCALING_CONTENDERS,
        lambda plan, contender: START + len(plan.scaling) * _cell(plan) + plan.scaling[-1] / HANDSHAKES,
    ),
    "idle": Phase(
        measure_idle,
        lambda name, contender: "fanout" in contender.can,
        lambda plan, contender: START + plan.settle + plan.idle / HANDSHAKES,
    ),
    "crowd": Phase(
        measure_crowd,
        lambda name, contender: contender.crowd,
        lambda plan, contender: (
            START
            + plan.settle
            + 1.5 * plan.crowd / HANDSHAKES
            + 6 * plan.seconds
            + (BESIDE_SAMPLES * BESIDE_SECONDS if contender.is_ours else 0)
        ),
    ),
}

# What has a way of its own to measure; each gives a table of samples by row, and says how long a round takes.
STUDIES: dict[str, tuple[Callable[[str, int], Mapping[str, Mapping[str, list[float]]]], float]] = {
    "lost_updates": (lost_updates.study, 3.0),
    "coherence": (coherence.study, 8.0),
    "store_operations": (store_operations.study, 4.0),
    "dispatch": (dispatch.study, 1.5),
    "publish_processes": (publish_processes.study, 17.0),
}


# --- the run ----------------------------------------------------------------------------------------------------------


def schedule(plan: Plan) -> tuple[list[Step], dict[str, str]]:
    """The turns in their order, and who is left out and why."""
    left_out = {name: why for name in plan.contenders if (why := missing(CONTENDERS[name]))}
    # Those first whose ratio is looked at: a round may be left in the middle.
    names = sorted(plan.contenders, key=lambda name: (name != BASE, not CONTENDERS[name].is_ours))
    present = {name: CONTENDERS[name] for name in names if name not in left_out}

    def turns(phase: str, number: int) -> Iterator[Step]:
        if phase == "studies":
            yield from (Step(phase, number, name, cost) for name, (_, cost) in STUDIES.items())
            return
        if phase == "calls":
            yield Step(phase, number, "echo", START / 2 + 4 * _cell(plan))
        for name, contender in present.items():
            if PHASES[phase].takes_part(name, contender):
                yield Step(phase, number, name, PHASES[phase].estimate(plan, contender))

    # What is needed of every phase, then second and third rounds.
    rounds = [(phase, at) for phase, many in plan.rounds.items() for at in range(min(NEEDED.get(phase, 1), many))]
    rounds += [(phase, at) for phase, many in plan.rounds.items() for at in range(NEEDED.get(phase, 1), many)]
    return [step for phase, number in rounds for step in turns(phase, number)], left_out


class Budget:
    """Is there time for another round? What was seen tells better than the estimate.

    Args:
        limit: Seconds from now on.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.turns: dict[str, dict[str, list[float]]] = {}  # seconds, by phase and contender
        self.left_out: list[str] = []  # rounds
        self._began = time.monotonic()
        # Seconds that it took, and those of the estimates.
        self._all = [0.0, 0.0]
        self._by_phase: dict[str, list[float]] = {}

    def allows(self, turns: list[Step]) -> bool:
        """Look at a round's turns before its first. The first round of a phase may be left in the middle."""
        phase, number = turns[0].phase, turns[0].round
        if number < NEEDED.get(phase, 0) or self._is_time_for(turns if number else turns[:1]):
            return True
        self.left_out.append(f"{phase} {number + 1}")
        return False

    def allows_turn(self, step: Step) -> bool:
        """Look at one turn of a round that has begun."""
        if step.round or step.phase in NEEDED or self._is_time_for([step]):
            return True
        self.left_out.append(f"{step.phase} {step.round + 1} of {step.contender}")
        return False

    def note(self, step: Step, seconds: float) -> None:
        """How long a turn took."""
        self.turns.setdefault(step.phase, {}).setdefault(step.contender, []).append(round(seconds, 2))
        for sums in (self._all, self._by_phase.setdefault(step.phase, [0.0, 0.0])):
            sums[0] += seconds
            sums[1] += step.estimate

    def _is_time_for(self, turns: list[Step]) -> bool:
        return time.monotonic() - self._began + sum(map(self._expected, turns)) <= self.limit

    def _expected(self, step: Step) -> float:
        if before := self.turns.get(step.phase, {}).get(step.contender):
            return before[-1]
        slowness = [
            took / estimate for took, estimate in (self._all, self._by_phase.get(step.phase, (1, 1))) if estimate
        ]
        return step.estimate * max(slowness)


def run(plan: Plan, on_step: Callable[[int, Step], None]) -> dict[str, Any]:
    """Measure it all; ``on_step`` hears the number of each step before it begins."""
    began, when, quiet, where = time.monotonic(), datetime.now(UTC), Quiet(), describe()
    steps, left_out = schedule(plan)
    budget = Budget(plan.limit)
    pin_to_load_core()
    cells: dict[str, dict[str, list[Sample]]] = {}
    studies: dict[str, dict[str, dict[str, list[float]]]] = {}
    failures: list[str] = []
    latencies: dict[str, Histogram] = {}

    def take_turn(bench: Bench, step: Step) -> None:
        if step.phase == "studies":
            table = studies.setdefault(step.contender, {})
            for row, columns in STUDIES[step.contender][0](bench.redis.url, 1).items():
                for column, samples in columns.items():
                    table.setdefault(row, {}).setdefault(column, []).extend(samples)
            return
        if step.contender == "echo":
            found = measure_echo(bench)
        else:
            found = PHASES[step.phase].measure(bench, step.contender, CONTENDERS[step.contender])
        for cell, sample in found:
            cells.setdefault(cell, {}).setdefault(step.contender, []).append(sample)

    with Programs() as programs, RedisServer() as redis:
        bench = Bench(programs, redis, plan, latencies)
        for _, same_round in groupby(enumerate(steps), key=lambda entry: (entry[1].phase, entry[1].round)):
            turns = list(same_round)
            if not budget.allows([step for _, step in turns]):
                continue
            for number, step in turns:
                if not budget.allows_turn(step):
                    continue
                on_step(number, step)
                start = time.monotonic()
                try:
                    take_turn(bench, step)
                except (WrongAnswer, GeneratorError, ProcessError, OSError) as error:
                    failures.append(f"{step.phase}, {step.contender}, round {step.round + 1}: {error}")
                budget.note(step, time.monotonic() - start)
    echo = [sample["rate"] for sample in cells.get("small_16", {}).get("echo", [])]
    busy = [sample["cpu"] / sample["seconds"] for sample in cells.get("small_16", {}).get("tornado", [])]
    return {
        "made": when.isoformat(timespec="seconds"),
        "took": round(time.monotonic() - began),
        "plan": {
            "rounds": dict(plan.rounds),
            "seconds": plan.seconds,
            "connections": plan.connections,
            "subscribers": plan.subscribers,
            "idle": plan.idle,
            "crowd": plan.crowd,
            "rate": RATE,
            "beside": {
                "rate": BESIDE_RATE,
                "callers": BESIDE_CALLERS,
                "every": BESIDE_EVERY,
            },
        },
        **where,
        "noise": quiet.tell(echo, statistics.median(busy) if busy else None),
        "labels": {name: CONTENDERS[name].label for name in plan.contenders} | {"echo": "C epoll echo (the limit)"},
        "left_out": left_out,
        "left_out_for_time": budget.left_out,
        "failures": failures,
        "cells": cells,
        "latencies": {name: histogram.counts for name, histogram in latencies.items()},
        "studies": studies,
        "turns": budget.turns,
    }
