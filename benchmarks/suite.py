"""What is measured, in which order, and how: phases, rounds and cells.

A *phase* starts its contenders' servers and opens their connections once; in each of its *rounds* the contenders take
turns at one cell after the other. Where a turn is short there are many rounds: what one cell of one contender gave in
one turn is a *slice*, and its figure is that of all its slices together. The noise of a shared machine is nearly white:
the ratio of two servers varied by 4 to 7 % over forty slices of 30 ms, and by 9 to 17 % over five samples of a fifth of
a second. Throughput is told per second of the server's CPU time, which on a quiet machine agrees with the clock and
still says something on a noisy one.
"""

import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from benchmarks import coherence, dispatch, lost_updates, publish_processes, store_operations
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.figures import BASE, BEST
from benchmarks.generator import Generator, GeneratorError, Measurement, Opened, Programs
from benchmarks.histogram import Histogram
from benchmarks.machine import Quiet, describe
from benchmarks.servers import BareEcho, Server, WrongAnswer, missing, pin_to_load_core
from sstream.testing import ProcessError, RedisServer

__all__ = ["FULL", "QUICK", "SMALL", "Group", "Plan", "Share", "run", "schedule"]

SUBSCRIBERS = 1_000
IDLE = 5_000
# Title, method and parameters.
CALLS: list[tuple[str, str, tuple[Any, ...]]] = [("small", "add", (2, 3)), ("large", "echo", ("x" * 900,))]
RATE = 5_000  # requests a second on the open schedule: what nearly all can do
SCALING = (10, 100, 1_000, 5_000)  # connections of the idle ones that call

# Calls while many hear events: few enough of both that a server which serves them in turn has time to spare.
BESIDE_RATE = 500.0  # calls a second
BESIDE_CALLERS = 40  # connections that make them; the others listen
BESIDE_EVERY = 0.25  # seconds from one event to the next
BESIDE_SECONDS = 2.0  # of a turn

# Who is measured with the broker in Redis as well.
THROUGH_REDIS = ("sstream", "sstream-uvloop")

# How connections are lost; a few of many are told of and do no harm to the others' figures.
LOSSES = ("connection lost", "connection reset", "closed ", "no handshake in time", "not begun")
MAY_BE_LOST = 0.01  # of all

# One contender's turn at a cell: it measures and notes.
Turn = Callable[[], None]

# A server and the generator have a descriptor for each connection, and some for themselves.
MOST_OPEN = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500)
LOADS = 2_000.0  # sessions a second that are loaded where their memory is measured


class Share(NamedTuple):
    """What a phase has of a run: so many rounds, if there is time for them, and at least one."""

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    phases: Mapping[str, Share]  # in their order; one that is not there is left out
    seconds: float = 0.04  # of a slice: whole ticks, as often as which the kernel looks at a running server's CPU time
    warm: float = 0.01  # before it, at least a round trip of all that is under way, and more than a tick
    trips: int = 4  # round trips of all that a slice has at least: some servers answer in bursts
    turn: float = 0.09  # a round that a cell of a contender may take on the average; who is slower has fewer turns
    timed: float = 0.25  # of a turn that is for its latencies: long enough to see who stands still
    timed_turn: float = 0.045  # as `turn`
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    settle: float = 0.3  # between the last handshake and the look at the memory
    connections: int = 50
    idle: int = IDLE
    subscribers: int = SUBSCRIBERS
    crowd: int = MOST_OPEN
    scaling: tuple[int, ...] = SCALING

    @property
    def limit(self) -> float:
        """Seconds of the whole."""
        return sum(share.seconds for share in self.phases.values())


# What can be cut anywhere comes last, and so has the time that the others leave.
FULL = Plan(
    phases={
        "idle": Share(2, 120),
        "loaded": Share(1, 15),
        "crowd": Share(2, 180),
        "studies": Share(2, 72),
        "scaling": Share(12, 45),
        "sessions": Share(20, 65),
        "fanout": Share(60, 170),
        "calls": Share(60, 210),
    }
)
# Everything, and short: is it all there, and about right? Where that takes too long, the last ones are left out.
QUICK = Plan(
    phases={
        "calls": Share(1, 23),
        "fanout": Share(1, 20),
        "sessions": Share(1, 6),
        "idle": Share(1, 14),
        "loaded": Share(1, 2),
        "scaling": Share(1, 5),
        "crowd": Share(1, 12),
        "studies": Share(1, 33),
    },
    trips=1,
    timed=0.1,
    idle=300,
    subscribers=200,
    crowd=1_000,
    scaling=(10, 100),
)
# What `check` compares.
SMALL = Plan(
    phases={"fanout": Share(90, 150), "calls": Share(90, 240)},
    turn=0.18,
    timed_turn=0.0,  # no latencies but once
    contenders=("tornado", "sstream-python", "sstream", "sstream-uvloop"),
)


# --- samples ----------------------------------------------------------------------------------------------------------


def count_lost(measured: Measurement) -> int:
    """The connections that were lost, if they are few and nothing else failed.

    Raises:
        WrongAnswer: It cannot be told of as a figure.
    """
    lost = _lost(measured.errors)
    too_many = lost > MAY_BE_LOST * (measured.open + lost)
    if too_many or sum(measured.errors.values()) > lost or (measured.unanswered and not measured.unsent):
        raise WrongAnswer(f"errors {dict(measured.errors)}, {measured.unanswered} without an answer")
    if not measured.messages:
        raise WrongAnswer(f"no answer within {measured.seconds:.2f} s")
    return lost


def _lost(errors: Mapping[str, int]) -> int:
    return sum(many for what, many in errors.items() if what.startswith(LOSSES))


def _open(load: Generator, connections: int, window: int = 100) -> Opened:
    opened = load.open(connections, window)
    lost = _lost(opened.errors)
    if sum(opened.errors.values()) > lost or opened.opened < connections * (1 - MAY_BE_LOST):
        raise WrongAnswer(f"{opened.opened} of {connections} connections opened: {dict(opened.errors)}")
    return opened


# --- the phases -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bench:
    """What all phases need, and what they find."""

    programs: Programs
    redis: RedisServer
    plan: Plan
    round: int = 0
    # By cell, contender and column: one figure of each turn. Times of a percentile are microseconds, others seconds.
    cells: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    latencies: dict[str, dict[str, Histogram]] = field(default_factory=dict)  # of all turns, by cell and contender
    lost: dict[str, dict[str, int]] = field(default_factory=dict)  # connections, likewise
    studies: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def note(self, cell: str, name: str, *, lost: int = 0, **figures: float) -> None:
        row = self.cells.setdefault(cell, {}).setdefault(name, {})
        for column, figure in {"round": self.round, **figures}.items():
            row.setdefault(column, []).append(round(figure, 6))
        if lost:
            cells = self.lost.setdefault(cell, {})
            cells[name] = cells.get(name, 0) + lost

    def count(self, cell: str, name: str, measured: Measurement, **more: float) -> None:
        """Note a slice."""
        lost = count_lost(measured)
        counted = {"messages": measured.messages, "cpu": measured.cpu, "seconds": measured.seconds}
        self.note(cell, name, lost=lost, **counted, **more)

    def time(self, cell: str, name: str, measured: Measurement, **more: float) -> None:
        """Note a turn with its latencies: those of this turn by percentile, and all of them together."""
        found = {f"p{percent:g}": measured.histogram.percentile(percent) / 1e3 for percent in (50, 90, 99, 99.9, 100)}
        others = {"fewest": measured.fewest, "most": measured.most, "unsent": measured.unsent, "own": measured.own}
        self.count(cell, name, measured, **others, **found, **more)
        self.latencies.setdefault(cell, {}).setdefault(name, Histogram()).add(measured.histogram.counts)

    def closed(self, cell: str, name: str, load: Generator, depth: int) -> None:
        self.count(cell, name, load.closed(depth, self.plan.seconds, self.plan.warm, trips=self.plan.trips))

    def open(self, cell: str, name: str, load: Generator, connections: int, window: int = 100) -> None:
        opened = _open(load, connections, window)
        counted = {"messages": opened.opened, "cpu": opened.cpu, "seconds": opened.seconds}
        self.note(cell, name, lost=_lost(opened.errors), **counted)


# What a phase does for a contender before its first round: servers and connections go on the stack, and what is to be
# done in each round comes back, by cell.
Prepare = Callable[[Bench, ExitStack, str], Mapping[str, Turn]]

# These turns are long, for latencies: a short one would not show who stands still, or lets some wait for long.
TIMED = ("wait_1", "wait_16", "paced")


def _calls(bench: Bench, name: str, load: Generator, kinds: list[tuple[str, str, tuple[Any, ...]]]) -> dict[str, Turn]:
    def measure(title: str, method: str, params: tuple[Any, ...], depth: int) -> None:
        load.request(method, *params)
        bench.closed(f"{title}_{depth}", name, load, depth)

    def wait(depth: int) -> None:
        load.request("add", 2, 3)
        bench.time(f"wait_{depth}", name, load.closed(depth, bench.plan.timed, bench.plan.warm, trips=1))

    turns: dict[str, Turn] = {
        f"{kind[0]}_{depth}": partial(measure, *kind, depth) for kind in kinds for depth in (1, 16)
    }
    return turns | {f"wait_{depth}": partial(wait, depth) for depth in (1, 16)}


def prepare_echo(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    """What the machine and the generator reach without a server's work."""
    load = stack.enter_context(stack.enter_context(BareEcho(bench.programs)).load(bench.programs))
    load.open(bench.plan.connections)
    return _calls(bench, name, load, CALLS)


def prepare_calls(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    load = stack.enter_context(stack.enter_context(Server(name, CONTENDERS[name])).load(bench.programs))
    load.open(bench.plan.connections)

    def pace() -> None:
        load.request("add", 2, 3)
        bench.time("paced", name, load.paced(RATE, bench.plan.timed, bench.plan.warm))

    kinds = [*CALLS, ("async", "add_async", (2, 3))] if "async" in CONTENDERS[name].can else CALLS
    return _calls(bench, name, load, kinds) | {"paced": pace}


def prepare_fanout(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    turns: dict[str, Turn] = {}

    def measure(cell: str, load: Generator, batch: int) -> None:
        bench.count(cell, name, load.fanout(batch, bench.plan.seconds, bench.plan.warm))

    def prepare(title: str, redis: str | None) -> None:
        load = stack.enter_context(
            stack.enter_context(Server(name, CONTENDERS[name], redis=redis)).load(bench.programs)
        )
        load.open(bench.plan.subscribers + 1)
        load.request("publish", "x" * 20)
        turns.update({f"{title}_{batch}": partial(measure, f"{title}_{batch}", load, batch) for batch in (1, 16)})

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
            bench.open("handshakes", name, load, bench.plan.idle)
            time.sleep(bench.plan.settle)
            bench.note("idle", name, bytes=round((server.memory() - before) / bench.plan.idle))

    return {"idle": measure}


def prepare_scaling(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    """So many of thousands call, and the others rest."""
    load = stack.enter_context(stack.enter_context(Server(name, CONTENDERS[name])).load(bench.programs))
    _open(load, bench.plan.idle)
    load.request("add", 2, 3)

    def measure(callers: int) -> None:
        measured = load.closed(1, bench.plan.seconds, bench.plan.warm, callers=callers, trips=bench.plan.trips)
        bench.count(f"scaling_{callers}", name, measured)

    return {f"scaling_{callers}": partial(measure, callers) for callers in bench.plan.scaling}


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
                count_lost(load.paced(LOADS, (bench.plan.connections + bench.plan.idle) / LOADS, 0.0))
                time.sleep(bench.plan.settle)
                bench.note("session_idle", name, bytes=round((server.memory() - before) / bench.plan.idle))

    return {"loaded": measure}


def prepare_crowd(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    crowd, half = bench.plan.crowd, bench.plan.crowd // 2
    server = stack.enter_context(Server(name, CONTENDERS[name]))
    load = stack.enter_context(server.load(bench.programs))
    load.open(bench.plan.connections)
    before = server.memory()
    _open(load, crowd)
    time.sleep(bench.plan.settle)
    bench.note("crowd_idle", name, bytes=round((server.memory() - before) / crowd))

    def drop(many: int) -> None:
        files = server.count_files()
        # Many a server fails to publish while it still holds connections that are gone.
        server.wait_for_files(files - load.drop(many))

    drop(crowd - half + bench.plan.connections - 1)

    def fan_out(batch: int) -> None:
        load.request("publish", "x" * 20)
        bench.count(f"crowd_fanout_{batch}", name, load.fanout(batch, bench.plan.timed, bench.plan.warm))

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
        bench.time("beside_events", name, measured, events=measured.events, late=measured.late / 1e3)

    def storm() -> None:
        # All lose their connection at once and come back at once.
        drop(half)
        bench.open("storm", name, load, half, half)

    turns: dict[str, Turn] = {f"crowd_fanout_{batch}": partial(fan_out, batch) for batch in (1, 16)}
    if CONTENDERS[name].is_ours:
        turns["beside_events"] = call_beside_events
    return turns | {"storm": storm}


def prepare_study(bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
    """What has a way of its own to measure gives a table of samples by row; its name stands for a contender's."""

    def measure() -> None:
        table = bench.studies.setdefault(name, {})
        for row, columns in STUDIES[name](bench.redis.url, 1).items():
            for column, samples in columns.items():
                table.setdefault(row, {}).setdefault(column, []).extend(samples)

    return {name: measure}


# Each gives a table of samples by row.
STUDIES: dict[str, Callable[[str, int], Mapping[str, Mapping[str, list[float]]]]] = {
    "lost_updates": lost_updates.study,
    "coherence": coherence.study,
    "store_operations": store_operations.study,
    "dispatch": dispatch.study,
    "publish_processes": publish_processes.study,
}


@dataclass(frozen=True, slots=True)
class Phase:
    """How a phase is done, and by whom."""

    prepare: Prepare
    takes_part: Callable[[str, Contender], bool]
    is_sliced: bool = True  # many rounds of short turns; else few of long ones
    takes_turns: bool = True  # or one contender is done with before the next one begins: they need too much at once


PHASES: dict[str, Phase] = {
    "idle": Phase(prepare_idle, lambda name, contender: "idle" in contender.can, is_sliced=False),
    "loaded": Phase(prepare_loaded, lambda name, contender: name == BEST, is_sliced=False),
    "crowd": Phase(prepare_crowd, lambda name, contender: "crowd" in contender.can, is_sliced=False, takes_turns=False),
    "scaling": Phase(prepare_scaling, lambda name, contender: "scaling" in contender.can),
    "sessions": Phase(prepare_sessions, lambda name, contender: "sessions" in contender.can),
    "fanout": Phase(prepare_fanout, lambda name, contender: "fanout" in contender.can),
    "calls": Phase(prepare_calls, lambda name, contender: "calls" in contender.can),
}


# What a contender can do to a run.
FAILURES = (WrongAnswer, GeneratorError, ProcessError, OSError)


# --- the run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Contenders that take turns at a phase.

    Attributes:
        order: Who has a turn at a cell after whom, in each round; some come more than once.
    """

    phase: str
    order: tuple[str, ...]
    share: Share
    is_sliced: bool = False

    @property
    def contenders(self) -> list[str]:
        return list(dict.fromkeys(self.order))

    @property
    def title(self) -> str:
        alone = self.phase in PHASES and not PHASES[self.phase].takes_turns
        return f"{self.phase} of {self.order[0]}" if alone else self.phase

    def prepare(self, bench: Bench, stack: ExitStack, name: str) -> Mapping[str, Turn]:
        if self.phase == "studies":
            return prepare_study(bench, stack, name)
        return (prepare_echo if name == "echo" else PHASES[self.phase].prepare)(bench, stack, name)


def _with_more_of_the_base(names: Sequence[str]) -> Iterator[str]:
    """All ratios lean on one contender: where many take turns it has up to three in a round."""
    others = [name for name in names if name != BASE]
    times = min(max(len(others) // 4, 1), 3)
    for at in range(times):
        yield from (BASE, *others[len(others) * at // times : len(others) * (at + 1) // times])


def schedule(plan: Plan) -> tuple[list[Group], dict[str, str]]:
    """Who takes turns at what, in the order of the run, and who is left out and why."""
    left_out = {name: why for name in plan.contenders if (why := missing(CONTENDERS[name]))}
    names = [name for name in plan.contenders if name not in left_out]

    def groups(title: str, share: Share) -> Iterator[Group]:
        if title == "studies":
            yield Group(title, tuple(STUDIES), share)
            return
        phase = PHASES[title]
        present = [name for name in names if phase.takes_part(name, CONTENDERS[name])]
        if title == "calls":
            present.append("echo")
        if phase.is_sliced and BASE in present and len(present) > 1:
            present = list(_with_more_of_the_base(present))
        if phase.takes_turns:
            yield Group(title, tuple(present), share, phase.is_sliced)
        else:
            # The fast ones leave their time to the others.
            for name in sorted(present, key=lambda name: (name == BASE, CONTENDERS[name].is_ours)):
                yield Group(title, (name,), Share(share.rounds, share.seconds / len(present)))

    found = [group for title, share in plan.phases.items() for group in groups(title, share) if group.order]
    return found, left_out


def run(plan: Plan, on_step: Callable[[float, str], None]) -> dict[str, Any]:
    """Measure it all; ``on_step`` hears how much of it is done (a share of 1) and what comes next."""
    began, when, quiet, where = time.monotonic(), datetime.now(UTC), Quiet(), describe()
    groups, left_out = schedule(plan)
    pin_to_load_core()
    failures: list[str] = []
    done: dict[str, Share] = {}  # the rounds that each group had, and the time that it took

    def passed() -> float:
        return time.monotonic() - began

    def do(group: Group, stack: ExitStack, start: float, end: float) -> int:
        """How many rounds it had."""
        turns: dict[str, dict[str, Turn]] = {}
        spent: dict[tuple[str, str], float] = {}

        def tell(rounds: float, what: str) -> None:
            # As the time passes, or faster.
            share = max((passed() - start) / (end - start), rounds / group.share.rounds)
            on_step((start + min(share, 1.0) * (end - start)) / plan.limit, f"{group.title}{what}")

        def prepare(name: str) -> None:
            try:
                turns[name] = dict(group.prepare(bench, stack, name))
            except FAILURES as error:
                failures.append(f"{group.phase}, {name}, before the first round: {error}")

        def take_turn(name: str, cell: str) -> None:
            share = plan.timed_turn if cell in TIMED else plan.turn
            so_far = spent.get((name, cell), 0.0)
            if group.is_sliced and so_far > bench.round * share * group.order.count(name):
                return
            before = passed()
            try:
                turns[name][cell]()
            except FAILURES as error:
                failures.append(f"{group.phase}, {name}, {cell}, round {bench.round + 1}: {error}")
                # Who gives a wrong answer there may do well elsewhere; of who is gone nothing more can be expected.
                del turns[name][cell]
                if not isinstance(error, WrongAnswer):
                    turns[name].clear()
            spent[name, cell] = so_far + passed() - before

        bench.round = 0
        for name in group.contenders:
            tell(0, f": {name} comes")
            prepare(name)
        last = 0.0  # seconds of a round
        for number in range(group.share.rounds):
            bench.round, before = number, passed()
            if number and before + last > end:
                return number
            # All take turns at one cell, and then at the next: so they are compared within seconds.
            cells = list(dict.fromkeys(cell for cells in turns.values() for cell in cells))
            for at, cell in enumerate(cells):
                tell(number + at / len(cells), f" {number + 1}: {cell}")
                for name in group.order:
                    if cell in turns.get(name, ()):
                        take_turn(name, cell)
            last = passed() - before
        return group.share.rounds

    end = 0.0
    with Programs() as programs, RedisServer() as redis:
        bench = Bench(programs, redis, plan)
        for group in groups:
            start, end = end, end + group.share.seconds
            before = passed()
            with ExitStack() as stack:
                rounds = do(group, stack, start, end) if before < plan.limit else 0
            done[group.title] = Share(rounds, round(passed() - before, 1))
    echo, busy = (bench.cells.get("small_16", {}).get(name, {}) for name in ("echo", BASE))
    return {
        "made": when.isoformat(timespec="seconds"),
        "took": round(passed()),
        "plan": {
            "seconds": plan.seconds,
            "timed": plan.timed,
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
        "noise": quiet.tell(
            [many / cpu for many, cpu in zip(echo.get("messages", ()), echo.get("cpu", ()), strict=True) if cpu],
            sum(busy["cpu"]) / sum(busy["seconds"]) if busy else None,
        ),
        "labels": {name: CONTENDERS[name].label for name in plan.contenders} | {"echo": "C epoll echo (the limit)"},
        "left_out": left_out,
        "phases": {title: share._asdict() for title, share in done.items()},
        "failures": failures,
        "lost": bench.lost,
        "cells": bench.cells,
        "latencies": {
            cell: {name: histogram.counts for name, histogram in row.items()} for cell, row in bench.latencies.items()
        },
        "studies": bench.studies,
    }
