"""What is measured, in which order, and how: phases, rounds and cells.

A *phase* starts its contenders' servers and opens their connections once; in each of its *rounds* the contenders take
turns at one cell after the other. A *sample* is what one cell of one contender gave in one round. Throughput is told
per second of the server's CPU time, which on a quiet machine agrees with the clock and still says something on a noisy
one.
"""

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from benchmarks import coherence, dispatch, lost_updates, publish_processes, store_operations
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.figures import BASE, BEST
from benchmarks.generator import Generator, GeneratorError, Measurement, Programs
from benchmarks.histogram import Histogram
from benchmarks.machine import Quiet, describe
from benchmarks.servers import BareEcho, Server, WrongAnswer, missing, pin_to_load_core
from sstream.testing import ProcessError, RedisServer

__all__ = ["FULL", "QUICK", "SMALL", "Group", "Plan", "run", "schedule"]

SUBSCRIBERS = 1_000
IDLE = 5_000
# Title, method and parameters.
CALLS: list[tuple[str, str, tuple[Any, ...]]] = [("small", "add", (2, 3)), ("large", "echo", ("x" * 900,))]
RATE = 5_000  # requests a second on the open schedule: what nearly all can do
SCALING = (10, 100, 1_000, 5_000)  # connections of the idle ones that call
SCALING_RATE = 8_000  # calls a second: each has had a turn or two

# Calls while many hear events: few enough of both that a server which serves them in turn has time to spare.
BESIDE_RATE = 500.0  # calls a second
BESIDE_CALLERS = 40  # connections that make them; the others listen
BESIDE_EVERY = 0.25  # seconds from one event to the next
BESIDE_SECONDS = 2.0  # of a sample

# Who is measured with the broker in Redis as well.
THROUGH_REDIS = ("sstream", "sstream-uvloop")

# How connections are lost; a few of many are told of and do no harm to the others' figures.
LOSSES = ("connection lost", "connection reset", "closed ", "no handshake in time", "not begun")
MAY_BE_LOST = 0.01  # of all

Sample = dict[str, float]
# One contender's turn at a cell or two: it measures and notes.
Turn = Callable[[], None]

# A server and the generator have a descriptor for each connection, and some for themselves.
MOST_OPEN = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500)
LOADS = 2_000.0  # sessions a second that are loaded where their memory is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: Mapping[str, int]  # by phase, in their order, if there is time; a phase that is not there is left out
    limit: float  # seconds of the whole; each phase has its share and leaves out the rounds that go beyond it
    seconds: float  # of one cell
    warm: float = 0.05
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    settle: float = 0.3  # between the last handshake and the look at the memory
    connections: int = 50
    idle: int = IDLE
    subscribers: int = SUBSCRIBERS
    crowd: int = MOST_OPEN
    scaling: tuple[int, ...] = SCALING


FULL = Plan(
    rounds={"calls": 5, "fanout": 5, "sessions": 5, "idle": 3, "loaded": 3, "studies": 3, "crowd": 3},
    limit=14.75 * 60,
    seconds=0.22,
)
# Everything once and short: is it all there, and about right?
QUICK = Plan(
    rounds={"calls": 1, "fanout": 1, "sessions": 1, "idle": 1, "loaded": 1, "studies": 1},
    limit=2 * 60,
    seconds=0.15,
    idle=300,
    subscribers=200,
    scaling=(10, 100),
)
# What `check` compares.
SMALL = Plan(
    rounds={"calls": 9, "fanout": 7},
    limit=15 * 60,
    seconds=0.3,
    contenders=("tornado", "sstream-python", "sstream", "sstream-uvloop"),
)


# --- samples ----------------------------------------------------------------------------------------------------------


def _lost(errors: Mapping[str, int]) -> int:
    return sum(many for what, many in errors.items() if what.startswith(LOSSES))


def sample_of(measured: Measurement) -> Sample:
    """A sample as it is stored; times in microseconds."""
    lost = _lost(measured.errors)
    too_many = lost > MAY_BE_LOST * (measured.open + lost)
    if too_many or sum(measured.errors.values()) > lost or (measured.unanswered and not measured.unsent):
        raise WrongAnswer(f"errors {dict(measured.errors)}, {measured.unanswered} without an answer")
    if not measured.messages or not measured.cpu:
        raise WrongAnswer(f"no answer within {measured.seconds:.2f} s")
    percentile = measured.histogram.percentile
    sample: Sample = {
        "rate": round(measured.messages / measured.cpu, 1),
        "wall": round(measured.messages / max(measured.seconds, 1e-9), 1),
        "cpu": round(measured.cpu, 4),
        "seconds": round(measured.seconds, 4),
        "generator": round(measured.own / max(measured.seconds, 1e-9), 3),
        "fewest": measured.fewest,
        "most": measured.most,
        "unsent": measured.unsent,
    } | {f"p{percent:g}": round(percentile(percent) / 1e3, 1) for percent in (50, 90, 99, 99.9, 100)}
    return sample | {"lost": lost} if lost else sample


def _open(load: Generator, connections: int, window: int = 100) -> Sample:
    opened = load.open(connections, window)
    lost = _lost(opened.errors)
    if sum(opened.errors.values()) > lost or opened.opened < connections * (1 - MAY_BE_LOST):
        raise WrongAnswer(f"{opened.opened} of {connections} connections opened: {dict(opened.errors)}")
    return {
        "rate": round(opened.opened / max(opened.cpu, 1e-9), 1),
        "wall": round(opened.opened / opened.seconds, 1),
        "seconds": round(opened.seconds, 3),
        "p99": round(opened.histogram.percentile(99) / 1e3, 1),
        "p100": round(opened.histogram.percentile(100) / 1e3, 1),
    } | ({"lost": lost} if lost else {})


# --- the phases -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bench:
    """What all phases need, and what they find."""

    programs: Programs
    redis: RedisServer
    plan: Plan
    round: int = 0
    cells: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    latencies: dict[str, Histogram] = field(default_factory=dict)
    studies: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def note(self, cell: str, name: str, sample: Sample) -> None:
        self.cells.setdefault(cell, {}).setdefault(name, []).append({"round": self.round, **sample})

    def closed(self, cell: str, name: str, load: Generator, depth: int) -> None:
        self.note(cell, name, sample_of(load.closed(depth, self.plan.seconds, self.plan.warm)))


# What a phase does for a contender before its first round: servers and connections go on the stack, and what is to be
# done in each round comes back, by cell.
Prepare = Callable[[Bench, ExitStack, str], Mapping[str, Turn]]


def prepare_echo(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    """What the machine and the generator reach without a server's work."""
    load = stack.enter_context(stack.enter_context(BareEcho(bench.programs)).load(bench.programs))
    load.open(bench.plan.connections)

    def measure(title: str, method: str, params: tuple[Any, ...], depth: int) -> None:
        load.request(method, *params)
        bench.closed(f"{title}_{depth}", name, load, depth)

    return {f"{kind[0]}_{depth}": partial(measure, *kind, depth) for kind in CALLS for depth in (1, 16)}


def prepare_calls(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    load = stack.enter_context(stack.enter_context(Server(name, CONTENDERS[name])).load(bench.programs))
    load.open(bench.plan.connections)

    def measure(title: str, method: str, params: tuple[Any, ...], depth: int) -> None:
        load.request(method, *params)
        bench.closed(f"{title}_{depth}", name, load, depth)

    def pace() -> None:
        load.request("add", 2, 3)
        paced = load.paced(RATE, bench.plan.seconds * 1.5, bench.plan.warm)
        bench.latencies.setdefault(name, Histogram()).add(paced.histogram.counts)
        bench.note("paced", name, sample_of(paced))

    kinds = [*CALLS, ("async", "add_async", (2, 3))] if "async" in CONTENDERS[name].can else CALLS
    turns: dict[str, Turn] = {
        f"{kind[0]}_{depth}": partial(measure, *kind, depth) for kind in kinds for depth in (1, 16)
    }
    return turns | {"paced": pace}


def prepare_fanout(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    turns: dict[str, Turn] = {}

    def measure(cell: str, load: Generator, batch: int) -> None:
        bench.note(cell, name, sample_of(load.fanout(batch, bench.plan.seconds, bench.plan.warm)))

    def prepare(title: str, redis: str | None) -> None:
        load = stack.enter_context(
            stack.enter_context(Server(name, CONTENDERS[name], redis=redis)).load(bench.programs)
        )
        load.open(bench.plan.subscribers + 1)
        load.request("publish", "x" * 20)
        batches = (1, 16) if "batches" in CONTENDERS[name].can else (1,)
        turns.update({f"{title}_{batch}": partial(measure, f"{title}_{batch}", load, batch) for batch in batches})

    prepare("fanout", None)
    if name in THROUGH_REDIS:
        # Its own: what one publishes for everybody would reach the other's sockets as well.
        prepare("fanout_redis", stack.enter_context(RedisServer()).url)
    return turns


def prepare_sessions(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    """Calls and pages that use a session, each connection its own, all in Redis."""
    contender = CONTENDERS[name]
    server = stack.enter_context(Server(name, contender, redis=bench.redis.url))
    cookies = server.cookies(bench.plan.connections)
    path = contender.path if contender.dialect == "socketio" else "/session"
    if (count := server.call("write", cookie=cookies[0], path=path)) != 1:
        raise WrongAnswer(f"the first write of a session gave {count!r}")
    for page in ("/count", "/page"):
        if (text := server.page(page, cookies[0])) != "hello fred, 2":
            raise WrongAnswer(f"{page} of that session was {text!r}")
    calls = stack.enter_context(server.load(bench.programs, path=path, cookies=cookies))
    calls.open(bench.plan.connections)

    def call(method: str, depth: int) -> None:
        calls.request(method, *((2, 3) if method == "add" else ()))
        bench.closed(f"session_{method}_{depth}", name, calls, depth)

    methods = ("add", "read", "write") if contender.is_ours else ("read", "write")
    turns: dict[str, Turn] = {
        f"session_{method}_{depth}": partial(call, method, depth) for method in methods for depth in (1, 16)
    }

    def load_page(title: str, page: str) -> None:
        # Opened anew: a server may close what rests between two requests.
        with server.load(bench.programs, dialect="http", path=page, cookies=cookies) as pages:
            pages.open(bench.plan.connections)
            bench.closed(title, name, pages, 1)

    for title, page in (("page_read", "/page"), ("page_write", "/count")):
        turns[title] = partial(load_page, title, page)
    return turns


def prepare_idle(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    """Each round in a new process: one that had as many before has the memory already."""

    def measure() -> None:
        with Server(name, CONTENDERS[name]) as server, server.load(bench.programs) as load:
            load.open(bench.plan.connections)
            before = server.memory()
            bench.note("handshakes", name, _open(load, bench.plan.idle))
            time.sleep(bench.plan.settle)
            bench.note("idle", name, {"bytes": round((server.memory() - before) / bench.plan.idle)})
            if "scaling" in CONTENDERS[name].can:
                scale(load)

    def scale(load: Generator) -> None:
        # So many of them call, and the others rest. What each has under way is to be little of what is counted.
        load.request("add", 2, 3)
        for callers in bench.plan.scaling:
            seconds = bench.plan.seconds + callers / SCALING_RATE
            measured = load.closed(1, seconds, bench.plan.warm + seconds / 5, callers=callers)
            bench.note(f"scaling_{callers}", name, sample_of(measured))

    return {"idle": measure}


def prepare_loaded(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    """Memory of idle connections that have loaded a session, each its own."""

    def measure() -> None:
        with Server(name, CONTENDERS[name], redis=bench.redis.url) as server:
            cookies = server.cookies(bench.plan.idle)
            with server.load(bench.programs, path="/session", cookies=cookies) as load:
                load.open(bench.plan.connections)
                before = server.memory()
                _open(load, bench.plan.idle)
                load.request("read")
                # One call of each, in turn.
                sample_of(load.paced(LOADS, (bench.plan.connections + bench.plan.idle) / LOADS, 0.0))
                time.sleep(bench.plan.settle)
                bench.note("session_idle", name, {"bytes": round((server.memory() - before) / bench.plan.idle)})

    return {"loaded": measure}


def prepare_crowd(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    crowd, half = bench.plan.crowd, bench.plan.crowd // 2
    server = stack.enter_context(Server(name, CONTENDERS[name]))
    load = stack.enter_context(server.load(bench.programs))
    load.open(bench.plan.connections)
    before = server.memory()
    _open(load, crowd)
    time.sleep(bench.plan.settle)
    bench.note("crowd_idle", name, {"bytes": round((server.memory() - before) / crowd)})

    def drop(many: int) -> None:
        files = server.count_files()
        # Many a server fails to publish while it still holds connections that are gone.
        server.wait_for_files(files - load.drop(many))

    drop(crowd - half + bench.plan.connections - 1)

    def fan_out(batch: int) -> None:
        load.request("publish", "x" * 20)
        bench.note(f"crowd_fanout_{batch}", name, sample_of(load.fanout(batch, bench.plan.seconds, bench.plan.warm)))

    def call_beside_events() -> None:
        load.request("add", 2, 3)
        measured = load.paced_beside_events(
            BESIDE_RATE,
            BESIDE_SECONDS,
            bench.plan.warm,
            callers=BESIDE_CALLERS,
            event=("publish", "x" * 20),
            every=BESIDE_EVERY,
        )
        figures = {"late": round(measured.late / 1e3, 1), "deliveries": round(measured.events / measured.seconds, 1)}
        bench.note("beside_events", name, sample_of(measured) | figures)

    def storm() -> None:
        # All lose their connection at once and come back at once.
        drop(half)
        bench.note("storm", name, _open(load, half, half))

    turns: dict[str, Turn] = {f"crowd_fanout_{batch}": partial(fan_out, batch) for batch in (1, 16)}
    if CONTENDERS[name].is_ours:
        turns["beside_events"] = call_beside_events
    return turns | {"storm": storm}


def prepare_study(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    """What has a way of its own to measure gives a table of samples by row; its name stands for a contender's."""

    def measure() -> None:
        table = bench.studies.setdefault(name, {})
        for row, columns in STUDIES[name][0](bench.redis.url, 1).items():
            for column, samples in columns.items():
                table.setdefault(row, {}).setdefault(column, []).extend(samples)

    return {name: measure}


# Gives a table of samples by row; and how long a round takes (seconds, about).
STUDIES: dict[str, tuple[Callable[[str, int], Mapping[str, Mapping[str, list[float]]]], float]] = {
    "lost_updates": (lost_updates.study, 4.5),
    "coherence": (coherence.study, 6.0),
    "store_operations": (store_operations.study, 4.0),
    "dispatch": (dispatch.study, 1.0),
    "publish_processes": (publish_processes.study, 16.0),
}

# In estimates: seconds that a server takes to start, and handshakes a second.
START = 1.0
HANDSHAKES = 1_200


@dataclass(frozen=True, slots=True)
class Phase:
    """How a phase is done, by whom, and how long that takes (seconds, about)."""

    prepare: Prepare
    takes_part: Callable[[str, Contender], bool]
    preparing: Callable[[Plan], float]  # for one contender
    in_a_round: Callable[[Plan], float]  # likewise
    takes_turns: bool = True  # or one contender is done with before the next one begins: they need too much at once
    slowness: Mapping[str, float] = field(default_factory=dict)  # of one contender, where it is known


PHASES: dict[str, Phase] = {
    "calls": Phase(
        prepare_calls,
        lambda name, contender: "calls" in contender.can,
        lambda plan: START,
        lambda plan: 6.3 * (plan.seconds + plan.warm),
    ),
    "fanout": Phase(
        prepare_fanout,
        lambda name, contender: "fanout" in contender.can,
        lambda plan: 1.1 * (START + plan.subscribers / HANDSHAKES),
        lambda plan: 2.3 * (plan.seconds + plan.warm) + plan.subscribers / 3_000,  # some are slow at 16 publishes
    ),
    "sessions": Phase(
        prepare_sessions,
        lambda name, contender: "sessions" in contender.can,
        lambda plan: START + 0.3,
        lambda plan: 8 * (plan.seconds + plan.warm),
    ),
    "idle": Phase(
        prepare_idle,
        lambda name, contender: "idle" in contender.can,
        lambda plan: 0.0,
        lambda plan: START + plan.settle + 0.8 * plan.idle / HANDSHAKES + 3 * plan.seconds + plan.scaling[-1] / 6_000,
    ),
    "loaded": Phase(
        prepare_loaded,
        lambda name, contender: name == BEST,
        lambda plan: 0.0,
        lambda plan: START + plan.settle + 2 * plan.idle / HANDSHAKES + plan.idle / LOADS,
    ),
    "crowd": Phase(
        prepare_crowd,
        lambda name, contender: "crowd" in contender.can,
        lambda plan: START + plan.settle + 0.7 * plan.crowd / HANDSHAKES,
        lambda plan: 2 * plan.seconds + plan.crowd / 5_000 + BESIDE_SECONDS / 4 + 0.35 * plan.crowd / HANDSHAKES,
        takes_turns=False,
        slowness={BASE: 2.2, BEST: 1.75, "picows": 0.6, "ws": 0.7},
    ),
}


# --- the run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Contenders that take turns at a phase."""

    phase: str
    contenders: tuple[str, ...]
    rounds: int
    preparing: float  # seconds, about
    in_a_round: float

    @property
    def title(self) -> str:
        alone = self.phase in PHASES and not PHASES[self.phase].takes_turns
        return f"{self.phase} of {self.contenders[0]}" if alone else self.phase

    @property
    def estimate(self) -> float:
        return self.preparing + self.rounds * self.in_a_round

    def prepare(self, bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
        if self.phase == "studies":
            return prepare_study(bench, stack, name)
        return (prepare_echo if name == "echo" else PHASES[self.phase].prepare)(bench, stack, name)


def schedule(plan: Plan) -> tuple[list[Group], dict[str, str]]:
    """Who takes turns at what, in the order of the run, and who is left out and why."""
    left_out = {name: why for name in plan.contenders if (why := missing(CONTENDERS[name]))}
    # Those whose ratio is looked at stand together.
    names = sorted(plan.contenders, key=lambda name: (name != BASE, not CONTENDERS[name].is_ours))

    def groups(title: str, rounds: int) -> Iterator[Group]:
        if title == "studies":
            yield Group(title, tuple(STUDIES), rounds, 0.0, sum(seconds for _, seconds in STUDIES.values()))
            return
        phase = PHASES[title]
        present = [name for name in names if name not in left_out and phase.takes_part(name, CONTENDERS[name])]
        if title == "calls":
            present.insert(0, "echo")
        for some in (present,) if phase.takes_turns else ([name] for name in present):
            weight = sum(phase.slowness.get(name, 1.0) for name in some)
            if some:
                yield Group(title, tuple(some), rounds, weight * phase.preparing(plan), weight * phase.in_a_round(plan))

    return [group for title, rounds in plan.rounds.items() for group in groups(title, rounds)], left_out


class Budget:
    """The time of a run. Where it is short, each group has a share of it as it was estimated, so all lose rounds alike.

    Args:
        groups: All of the run.
        limit: Seconds from now on.
    """

    def __init__(self, groups: list[Group], limit: float) -> None:
        self.left_out: list[str] = []  # rounds
        self._limit = limit
        self._began = time.monotonic()
        # By the estimates: what is done, and what comes after the present group.
        self._done = 0.0
        self._left = sum(group.estimate for group in groups)
        self._share_ends = 0.0
        self._round_began = 0.0

    def allows(self, group: Group) -> bool:
        """Begin a group: is there time for a round of it?"""
        now = self._passed()
        self._share_ends = now + (self._limit - now) * group.estimate / self._left
        self._left -= group.estimate
        if now + self._slowness(now) * (group.preparing + group.in_a_round) > self._limit:
            self.left_out.append(group.title)
            return False
        self._done += group.preparing
        return True

    def allows_round(self, group: Group, number: int) -> bool:
        """Begin a round: is there time for another one like the last?"""
        now = self._passed()
        took, self._round_began = now - self._round_began, now
        if number:
            all_of_it = now + took * (group.rounds - number) + self._slowness(now) * self._left
            if now + took > self._share_ends and all_of_it > self._limit:
                self.left_out += [f"{group.title} {left + 1}" for left in range(number, group.rounds)]
                return False
        self._done += group.in_a_round
        return True

    def _passed(self) -> float:
        return time.monotonic() - self._began

    def _slowness(self, now: float) -> float:
        # What was seen tells better than the estimate.
        return now / self._done if self._done else 1.0


def run(plan: Plan, on_step: Callable[[float, str], None]) -> dict[str, Any]:
    """Measure it all; ``on_step`` hears how much of it is done (a share of 1) and what comes next."""
    began, when, quiet, where = time.monotonic(), datetime.now(UTC), Quiet(), describe()
    groups, left_out = schedule(plan)
    total, done = sum(group.estimate for group in groups), 0.0
    budget = Budget(groups, plan.limit)
    pin_to_load_core()
    failures: list[str] = []
    took: dict[str, dict[str, list[float]]] = {}  # seconds that preparing and each round took, by phase and contender

    def attempt(group: Group, name: str, doing: str, what: Callable[[], object]) -> bool:
        """Do it; False if nothing more can be expected of this contender here."""
        start = time.monotonic()
        seconds = took.setdefault(group.phase, {}).setdefault(name, [])
        seconds += [0.0] * (1 + (bench.round + 1) - len(seconds))
        try:
            what()
        except (WrongAnswer, GeneratorError, ProcessError, OSError) as error:
            failures.append(f"{group.phase}, {name}, {doing}: {error}")
            return isinstance(error, WrongAnswer)
        finally:
            seconds[-1] = round(seconds[-1] + time.monotonic() - start, 2)
        return True

    def do(group: Group, stack: ExitStack) -> None:
        turns: dict[str, Mapping[str, Turn]] = {}
        bench.round = -1
        for number, name in enumerate(group.contenders):
            on_step((done + group.preparing * number / len(group.contenders)) / total, f"{group.phase}: {name} comes")
            own = stack.enter_context(ExitStack())

            def prepare(own: ExitStack = own, name: str = name) -> None:
                turns[name] = group.prepare(bench, own, name)

            attempt(group, name, "before the first round", prepare)
        for number in range(group.rounds):
            if not budget.allows_round(group, number):
                break
            bench.round = number
            # All take turns at one cell, and then at the next: so they are compared within seconds.
            cells = list(dict.fromkeys(cell for cells in turns.values() for cell in cells))
            for at, cell in enumerate(cells):
                so_far = group.preparing + group.in_a_round * (number + at / len(cells))
                on_step((done + so_far) / total, f"{group.title} {number + 1}: {cell}")
                for name in [name for name in turns if cell in turns[name]]:
                    if not attempt(group, name, f"{cell}, round {number + 1}", turns[name][cell]):
                        del turns[name]

    with Programs() as programs, RedisServer() as redis:
        bench = Bench(programs, redis, plan)
        for group in groups:
            if budget.allows(group):
                with ExitStack() as stack:
                    do(group, stack)
            done += group.estimate
    cells = bench.cells
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
        "latencies": {name: histogram.counts for name, histogram in bench.latencies.items()},
        "studies": bench.studies,
        "turns": took,
    }
