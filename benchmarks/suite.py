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
from typing import Any

from benchmarks import coherence, dispatch, lost_updates, publish_processes, store_operations
from benchmarks.contenders import CONTENDERS, Contender, missing
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
START = 0.6  # seconds that a server takes to start, in the estimate
SCALING = (10, 100, 1_000, 5_000)
SCALING_CONTENDERS = ("tornado", "picows", "ws", "sstream-python", "sstream-uvloop")

Sample = dict[str, float]
# A cell's name, and its sample.
Cells = Iterator[tuple[str, Sample]]


# A server and the generator have a descriptor for each connection, and some for themselves.
MOST_OPEN = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500)
SLOWEST = 500.0  # calls a second that every server answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: Mapping[str, int]  # by phase; a phase that is not there is left out
    seconds: float  # of one cell
    warm: float = 0.1
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    settle: float = 1.0  # between the last handshake and the look at the memory
    connections: int = 50
    idle: int = IDLE
    subscribers: int = SUBSCRIBERS
    crowd: int = MOST_OPEN
    scaling: tuple[int, ...] = SCALING
    study_rounds: int = 2


FULL = Plan(
    rounds={"calls": 5, "fanout": 3, "sessions": 2, "loaded": 1, "scaling": 2, "idle": 2, "crowd": 1, "studies": 1},
    seconds=0.4,
)
# Everything once and short: is it all there, and about right?
QUICK = Plan(
    rounds={"calls": 1, "fanout": 1, "sessions": 1, "loaded": 1, "scaling": 1, "idle": 1, "studies": 1},
    seconds=0.15,
    warm=0.05,
    settle=0.2,
    idle=300,
    subscribers=200,
    scaling=(10, 100),
    study_rounds=1,
)
# What `check` compares.
SMALL = Plan(
    rounds={"calls": 5, "fanout": 3},
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
    if measured.errors or (measured.unanswered and not measured.unsent):
        raise WrongAnswer(f"errors {dict(measured.errors)}, {measured.unanswered} without an answer")
    if not measured.messages:
        raise WrongAnswer(f"no answer within {measured.seconds:.2f} s")
    percentile = measured.histogram.percentile
    return {
        "rate": round(measured.messages / max(measured.cpu, 1e-9), 1),
        "wall": round(measured.messages / max(measured.seconds, 1e-9), 1),
        "cpu": round(measured.cpu, 4),
        "seconds": round(measured.seconds, 4),
        "generator": round(measured.own / max(measured.seconds, 1e-9), 3),
        "fewest": measured.fewest,
        "most": measured.most,
        "unsent": measured.unsent,
    } | {f"p{percent:g}": round(percentile(percent) / 1e3, 1) for percent in (50, 90, 99, 99.9, 100)}


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
        paced = load.paced(RATE, bench.plan.seconds * 1.5, bench.plan.warm)
        bench.latencies.setdefault(name, Histogram()).add(paced.histogram.counts)
        yield "paced", sample_of(paced)


def measure_fanout(bench: Bench, name: str, contender: Contender) -> Cells:
    with Server(name, contender) as server, server.load(bench.programs) as load:
        load.open(bench.plan.subscribers + 1)
        load.request("publish", "x" * 20)
        for batch in (1, 16):
            yield f"fanout_{batch}", sample_of(load.fanout(batch, bench.plan.seconds, bench.plan.warm))


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
    crowd = bench.plan.crowd
    with Server(name, contender) as server, server.load(bench.programs) as load:
        load.open(bench.plan.connections)
        before = server.memory()
        _open(load, crowd)
        time.sleep(bench.plan.settle)
        yield "crowd_idle", {"bytes": round((server.memory() - before) / crowd)}
        load.drop(crowd // 2 + bench.plan.connections - 1)
        load.request("publish", "x" * 20)
        for batch in (1, 16):
            yield f"crowd_fanout_{batch}", sample_of(load.fanout(batch, 2 * bench.plan.seconds, bench.plan.warm))
        # All lose their connection at once and come back at once.
        load.drop(crowd // 2)
        yield "storm", _open(load, crowd // 2, crowd // 2)


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
            if load.closed(1, bench.plan.idle / SLOWEST).fewest < 1:
                raise WrongAnswer("not every connection loaded its session")
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
HANDSHAKES = 1_800

PHASES: dict[str, Phase] = {
    "calls": Phase(
        measure_calls,
        lambda name, contender: "calls" in contender.can,
        lambda plan, contender: START + _cell(plan) * (7.5 if "async" in contender.can else 5.5),
    ),
    "fanout": Phase(
        measure_fanout,
        lambda name, contender: "fanout" in contender.can,
        lambda plan, contender: START + plan.subscribers / HANDSHAKES + 2 * _cell(plan) + 0.3,
    ),
    "sessions": Phase(
        measure_sessions,
        lambda name, contender: "sessions" in contender.can,
        lambda plan, contender: START + 8 * _cell(plan),
    ),
    "loaded": Phase(
        measure_loaded,
        lambda name, contender: name in {"sstream", "sstream-uvloop"},
        lambda plan, contender: START + plan.settle + 1 + 2.5 * plan.idle / HANDSHAKES,
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
        lambda plan, contender: START + plan.settle + 1.5 * plan.crowd / HANDSHAKES + 4 * plan.seconds,
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
    present = {name: CONTENDERS[name] for name in plan.contenders if name not in left_out}
    steps = []
    for phase, rounds in plan.rounds.items():
        for number in range(rounds):
            if phase == "studies":
                steps += [Step(phase, number, name, cost * plan.study_rounds) for name, (_, cost) in STUDIES.items()]
                continue
            if phase == "calls":
                steps.append(Step(phase, number, "echo", 4 * _cell(plan)))
            steps += [
                Step(phase, number, name, PHASES[phase].estimate(plan, contender))
                for name, contender in present.items()
                if PHASES[phase].takes_part(name, contender)
            ]
    return steps, left_out


def run(plan: Plan, on_step: Callable[[int, Step], None]) -> dict[str, Any]:
    """Measure it all; ``on_step`` hears the number of each step before it begins."""
    began, when, quiet, where = time.monotonic(), datetime.now(UTC), Quiet(), describe()
    steps, left_out = schedule(plan)
    pin_to_load_core()
    cells: dict[str, dict[str, list[Sample]]] = {}
    studies: dict[str, Any] = {}
    failures: list[str] = []
    latencies: dict[str, Histogram] = {}
    with Programs() as programs, RedisServer() as redis:
        bench = Bench(programs, redis, plan, latencies)
        for number, step in enumerate(steps):
            on_step(number, step)
            try:
                if step.phase == "studies":
                    studies[step.contender] = STUDIES[step.contender][0](redis.url, plan.study_rounds)
                    continue
                if step.contender == "echo":
                    found = measure_echo(bench)
                else:
                    found = PHASES[step.phase].measure(bench, step.contender, CONTENDERS[step.contender])
                for cell, sample in found:
                    cells.setdefault(cell, {}).setdefault(step.contender, []).append(sample)
            except (WrongAnswer, GeneratorError, ProcessError, OSError) as error:
                failures.append(f"{step.phase}, {step.contender}, round {step.round + 1}: {error}")
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
        },
        **where,
        "noise": quiet.tell(echo, statistics.median(busy) if busy else None),
        "labels": {name: CONTENDERS[name].label for name in plan.contenders} | {"echo": "C epoll echo (the limit)"},
        "left_out": left_out,
        "failures": failures,
        "cells": cells,
        "latencies": {name: histogram.counts for name, histogram in latencies.items()},
        "studies": studies,
    }
