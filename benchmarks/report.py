"""The tables and pages that a run's JSON fills; nobody types a figure."""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare import repeated
from benchmarks.figures import (
    BASE,
    BEST,
    CELLS,
    GOALS,
    MANY,
    OURS,
    RATES,
    Result,
    ratio,
    samples,
    spread,
    study_median,
    value,
)

__all__ = ["HERE", "PAGES", "PICTURES", "STORED", "draw", "dump", "markdown", "stale", "write_pages"]

HERE = Path(__file__).parent
ROOT = HERE.parent
STORED = HERE / "results.json"
PICTURES = ROOT / "docs" / "performance"
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")


def _p99_of_the_echo(cell: str) -> Callable[[Result], str]:
    def why(result: Result) -> str:
        floor, turns = value(result, cell, "echo", "p99"), samples(result, cell, BEST, "p99")
        if floor is None or not turns:
            return ""
        return (
            f"{min(turns) / 1e3:.2f} ms in the quietest of {len(turns)} turns; the bare echo, which does nothing, has "
            f"{floor / 1e3:.2f} ms"
        )

    return why


def _own_objects(result: Result) -> str:
    other = value(result, "idle", BASE, "bytes")
    beside = "" if other is None else f"; raw Tornado takes {other / 1024:.1f} KB"
    return f"a socket has a handler, a request, a session and its place in two topics{beside}"


def _redis_py(result: Result) -> str:
    found = [study_median(result, "store_operations", f"redis-py {name}", "us") for name in ("GET", "SET EX", "EXPIRE")]
    known = [cost for cost in found if cost is not None]
    return f"redis-py's dearest takes {max(known):.1f} µs in this run" if known else ""


def _handshakes_of_tornado(result: Result) -> str:
    other, share = value(result, "handshakes", BASE), ratio(result, "handshakes", BEST)
    if other is None or share is None:
        return ""
    return f"raw Tornado, whose handshake is a part of ours, makes {other:,.0f}/s in this run, so this is {share:.2f}×"


def _generator_late(result: Result) -> str:
    late = value(result, "beside_events", BEST, "late")
    return "" if late is None else f"the generator itself sent its calls up to {late / 1e3:.1f} ms late (p99)"


_PICOWS = "picows' row decodes and answers without names, types, limits and hooks"
_SENDS = "most of what is left is one `send` a socket, by the kernel"
_ONE_CALL = "most of what is left is the kernel's: one `recv` and one `send` a call"
_COROUTINE = "each call makes a coroutine and steps it, and where 16 come at once there is little else to a `def`"
# Why a goal is missed, where that is known, or what the same run has to judge it by; said beside the figure.
WHY: Mapping[str, Callable[[Result], str]] = {
    "calls, D=1, to raw Tornado": lambda result: _ONE_CALL,
    "calls, D=1, to picows": lambda result: _PICOWS,
    "calls, D=16, to picows": lambda result: _PICOWS,
    "an `async def` that does not wait, to a `def`, D=16": lambda result: _COROUTINE,
    "fan-out, one publish, to raw Tornado": lambda result: _SENDS,
    "fan-out, 16 publishes at once, to raw Tornado": lambda result: _SENDS,
    "fan-out through Redis, one publish, to raw Tornado": lambda result: _SENDS,
    "fan-out through Redis, 16 publishes at once, to raw Tornado": lambda result: _SENDS,
    "p99 of 50 connections, D=1": _p99_of_the_echo("wait_1"),
    "p99 of 50 connections, D=16": _p99_of_the_echo("wait_16"),
    "p99 of calls while thousands hear events": _generator_late,
    "memory of an idle connection": _own_objects,
    "memory of an idle connection, session loaded": _own_objects,
    "a store operation, 50 at once, the dearest": _redis_py,
    "handshakes, a second of CPU": _handshakes_of_tornado,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a table, and which of two is the better."""

    title: str
    cell: str
    key: str = "rate"
    factor: float = 1e-3
    digits: int = 1
    less_is_better: bool = False

    def figure(self, result: Result, contender: str) -> float | None:
        found = value(result, self.cell, contender, self.key)
        return found * self.factor if found is not None else None

    def text(self, result: Result, contender: str) -> str:
        figure = self.figure(result, contender)
        if figure is None:
            return "–"
        told = f"{figure:,.{self.digits}f}"
        if self.key in RATES:
            turns = len(samples(result, self.cell, contender, "round"))
            return f"{told} ±{spread(result, self.cell, contender, self.key):.0%}" if turns > 1 else told
        # Half their range would say little of latencies, whose worst turn may be a hundred times the best.
        turns = samples(result, self.cell, contender, self.key)
        ends = [f"{end * self.factor:,.{self.digits}f}" for end in (min(turns), max(turns))]
        return told if set(ends) == {told} else f"{told} ({ends[0]}–{ends[1]})"


def _latency(title: str, cell: str, key: str) -> Column:
    return Column(title, cell, key, 1e-3, 2, less_is_better=True)


def _memory(title: str, cell: str) -> Column:
    return Column(title, cell, "bytes", 1 / 1024, 1, less_is_better=True)


# Title, what it says, columns.
TABLES: tuple[tuple[str, str, tuple[Column, ...]], ...] = (
    (
        "Calls",
        (
            "Thousand calls a second of the server's CPU time; 50 connections, each with D calls under way. The p99 is "
            "that of all calls of some longer turns of the same, in ms."
        ),
        (
            Column("20 B, D=1", "small_1"),
            Column("D=16", "small_16"),
            Column("0.9 KB, D=1", "large_1"),
            Column("0.9 KB, D=16", "large_16"),
            _latency("p99, D=1", "wait_1", "p99"),
            _latency("p99, D=16", "wait_16", "p99"),
        ),
    ),
    (
        "By the clock",
        (
            "The same slices, in thousand calls or deliveries a second as the clock counts them, whatever share of "
            "its core a server had: on a machine that does nothing else, little less than the other tables say."
        ),
        (
            Column("20 B, D=1", "small_1", "wall"),
            Column("D=16", "small_16", "wall"),
            Column("0.9 KB, D=1", "large_1", "wall"),
            Column("0.9 KB, D=16", "large_16", "wall"),
            Column("one publish", "fanout_1", "wall"),
            Column("16 at once", "fanout_16", "wall"),
        ),
    ),
    (
        "Latency on a schedule",
        "Milliseconds from when a call was due, at {rate:,} calls a second on 50 connections.",
        tuple(
            _latency(title, "paced", key)
            for title, key in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99.9", "p99.9"), ("most", "p100"))
        ),
    ),
    (
        "Fan-out",
        (
            "Thousand deliveries a second of the server's CPU time, to {subscribers:,} sockets, and to {half:,}. "
            "Django Channels takes ten seconds for 16 at once, so it does that only once."
        ),
        (
            Column("one publish", "fanout_1"),
            Column("16 at once", "fanout_16"),
            Column("through Redis, one", "fanout_redis_1"),
            Column("through Redis, 16", "fanout_redis_16"),
            Column("many, one publish", "crowd_fanout_1"),
            Column("many, 16 at once", "crowd_fanout_16"),
        ),
    ),
    (
        "Calls while many hear events",
        (
            "Milliseconds from when a call was due: {beside[rate]:,.0f} calls a second on {beside[callers]} "
            "connections, while an event goes to all {half:,} sockets of the process every {beside[every]:g} seconds. "
            "The generator reads all these events on the core on which it times the calls; the last column is how "
            "late it sent them itself, which is within the others."
        ),
        (
            *(
                _latency(title, "beside_events", key)
                for title, key in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p99.9"), ("most", "p100"))
            ),
            Column("thousand deliveries/s", "beside_events", "deliveries"),
            _latency("generator, p99", "beside_events", "late"),
        ),
    ),
    (
        "Connections",
        (
            "KB of memory for an idle connection of {idle:,} and of {crowd:,}; handshakes a second of CPU time; and "
            "when {half:,} have lost theirs at once and come back at once: seconds until all are there. Who is not "
            "there opens them with what is in another row: Litestar and Django Channels with uvicorn, as Starlette, "
            "and python-socketio on Tornado as raw Tornado."
        ),
        (
            _memory("KB, few", "idle"),
            _memory("KB, many", "crowd_idle"),
            Column("handshakes/s", "handshakes", "rate", 1, 0),
            Column("storm, s", "storm", "seconds", 1, 1, less_is_better=True),
        ),
    ),
    (
        "Sessions",
        (
            "Thousand a second of the server's CPU time; every connection has its own session, in Redis. Pages have "
            "one request under way a connection."
        ),
        (
            Column("read, D=1", "session_read_1"),
            Column("read, D=16", "session_read_16"),
            Column("write, D=1", "session_write_1"),
            Column("write, D=16", "session_write_16"),
            Column("page that reads", "page_read", digits=2),
            Column("page that writes", "page_write", digits=2),
        ),
    ),
    (
        "More connections",
        "Thousand calls a second of the server's CPU time, D=1, of so many of {idle:,} connections; the others rest.",
        tuple(Column(f"{many:,}", f"scaling_{many}") for many in (10, 100, 1_000, 5_000)),
    ),
)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, last: str = "---:") -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 2) + f"|{last}|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _fill(result: Result, text: str) -> str:
    plan = result["plan"]
    return text.format(**plan, half=plan["crowd"] // 2)


def _cells_table(result: Result, columns: Sequence[Column]) -> str:
    present = [column for column in columns if column.cell in result["cells"]]
    rows = []
    for name, label in result["labels"].items():
        if any(column.figure(result, name) is not None for column in present):
            title = f"**{label}**" if name in OURS else label
            rows.append([title, *(column.text(result, name) for column in present)])
    return _table(["", *(column.title for column in present)], rows)


def calls_and_more(result: Result) -> str:
    """All the tables of contenders."""
    parts = []
    for title, text, columns in TABLES:
        if any(column.cell in result["cells"] for column in columns):
            parts.append(f"### {title}\n\n{_fill(result, text)}\n\n{_cells_table(result, columns)}")
    return "\n\n".join(parts)


def studies(result: Result) -> str:
    """The tables of what has a way of its own to measure."""
    found, parts = result["studies"], []
    if lost := found.get("lost_updates"):
        columns = list(next(iter(lost.values())))
        rows = [[name, *(f"{statistics.median(row[column]):.0f}" for column in columns)] for name, row in lost.items()]
        text = "Of 100 writes to different keys of one session, all answered 200: how many were gone afterwards."
        parts.append(f"### Lost updates\n\n{text}\n\n{_table(['', *columns], rows)}")
    if coherence := found.get("coherence"):
        rows = []
        for name, row in coherence.items():
            samples = sorted(row["ms"])
            late = samples[min(len(samples) * 99 // 100, len(samples) - 1)]
            rows.append([name, f"{statistics.median(samples):.1f}", f"{late:.1f}", f"{len(samples):,}"])
        text = "Milliseconds from the acknowledgement of a change or an end on one process; 500 sockets on two."
        parts.append(f"### Seen on the other process\n\n{text}\n\n{_table(['', 'median', 'p99', 'samples'], rows)}")
    if store := found.get("store_operations"):
        rows = [[name, f"{statistics.median(row['us']):.1f}"] for name, row in store.items()]
        text = "Microseconds of CPU time in our process for one operation, 50 being under way at once."
        parts.append(f"### Store and broker operations\n\n{text}\n\n{_table(['', 'µs'], rows)}")
    if calls := found.get("dispatch"):
        rows = [[name, f"{statistics.median(row['us']):.2f}", f"{min(row['us']):.2f}"] for name, row in calls.items()]
        text = "Microseconds from a call's payload to its reply, without a socket: `add(2, 3)`."
        parts.append(f"### A call without its socket\n\n{text}\n\n{_table(['', 'median', 'least'], rows)}")
    if publish := found.get("publish_processes"):
        columns = list(next(iter(publish.values())))
        rows = [
            [name, *(f"{statistics.median(row[column]):,.1f}" if column in row else "–" for column in columns)]
            for name, row in publish.items()
        ]
        text = "Publishing on one process to 200 sockets on another one, through Redis."
        parts.append(f"### Across processes\n\n{text}\n\n{_table(['', *columns], rows)}")
    if counts := result.get("instructions"):
        rows = [[name, f"{figure:,}"] for name, figure in counts["counts"].items()]
        text = (
            f"Machine instructions, by callgrind (Python {counts['python']}): they do not depend on the machine's mood."
        )
        parts.append(f"### Instructions\n\n{text}\n\n{_table(['', 'instructions'], rows)}")
    return "\n\n".join(parts)


def _figure(figure: float, unit: str) -> str:
    digits = 0 if figure >= 1000 else 1 if figure >= 10 else 2
    return f"{figure:,.{digits}f} {unit}".replace(" ×", "×").replace(" /s", "/s")


def goals(result: Result) -> str:
    """The goals and what became of them."""
    rows = []
    for goal in GOALS:
        figure = goal.find(result)
        wanted = f"{'≤' if goal.at_most else '≥'} {_figure(goal.wanted, goal.unit)}"
        if figure is None:
            rows.append([goal.what, wanted, "–", "not measured"])
            continue
        missed = goal.missed_by(figure)
        said = (
            "met" if goal.is_met(figure) else f"**missed** by {f'{missed:.0%}' if missed >= 0.01 else 'less than 1%'}"
        )
        if not goal.is_met(figure) and goal.what in WHY and (why := WHY[goal.what](result)):
            said += f": {why}"
        rows.append([goal.what, wanted, _figure(figure, goal.unit), said])
    head = ["", "goal", "reached", ""]
    return _table(head, rows, last="---")  # words


def winners(result: Result) -> str:
    """The columns that a peer wins."""
    lines = []
    for title, _, columns in TABLES:
        for column in columns:
            better: Callable[..., str] = min if column.less_is_better else max
            found = {
                name: figure
                for name in result["labels"]
                if name != "echo" and (figure := column.figure(result, name)) is not None
            }
            ours = [name for name in found if name in OURS]
            if not ours or len(ours) == len(found):
                continue
            first, best = better(found, key=found.__getitem__), better(ours, key=found.__getitem__)
            if first not in OURS:
                label = result["labels"]
                lines.append(
                    f"* *{title}, {column.title}*: {label[first]} with {found[first]:,.{column.digits}f}; the best of "
                    f"sstream is {found[best]:,.{column.digits}f} ({label[best]})."
                )
    return "\n".join(lines) or "In this run, none."


def _few_slices(result: Result) -> str:
    """Who had so few turns at a cell of rates that the spread is no standard error."""
    found: dict[str, list[str]] = {}
    for cell in CELLS:
        turns = {name: len(columns["round"]) for name, columns in result["cells"].get(cell, {}).items()}
        for name, many in turns.items():
            if many < MANY <= max(turns.values()):
                found.setdefault(cell, []).append(f"{result['labels'][name]} {many}")
    said = "; ".join(f"{cell}: {', '.join(names)}" for cell, names in found.items())
    return f" Fewer than {MANY} turns, as one takes long: {said}." if said else ""


def machine(result: Result) -> str:
    """Where and when, and how quiet it was."""
    where, noise = result["machine"], result["noise"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    warnings = "; ".join(noise["warnings"]) or "none"
    echo = value(result, "small_16", "echo", "wall")
    limit = (
        f" The generator reached {echo / 1e3:,.0f} thousand calls a second with the bare echo at D=16." if echo else ""
    )
    steady = (
        f", half of the bare echo's slices within ±{noise['echo_variation'] / 2:.0%}" if noise["echo_variation"] else ""
    )
    left_out = "".join(f"\nLeft out: {result['labels'][name]} ({why})." for name, why in result["left_out"].items())
    left_out += "".join(
        f"\nLost by {result['labels'][name]} while measured ({cell}): {lost} connections."
        for cell, row in result["lost"].items()
        for name, lost in row.items()
    )
    failed = "".join(f"\nFailed: {failure}." for failure in result["failures"])
    rounds = ", ".join(f"{title} {done['rounds'] or '**none, for time**'}" for title, done in result["phases"].items())
    return (
        f"{result['made'][:10]}, commit `{result['commit'][:12]}`; {where['cpu']}, {where['cores']} cores, "
        f"{where['system']}; {result['took'] / 60:.0f} minutes.{limit} Load average before the start "
        f"{noise['load_average']:.1f}, stolen time {noise['steal']:.1%}{steady}; "
        f"warnings: {warnings}."
        f"\n\nRounds: {rounds}.{_few_slices(result)}{left_out}{failed}\n\nVersions: {versions}."
    )


def readme(result: Result) -> str:
    """What README says."""
    columns = (
        Column("calls, D=1", "small_1"),
        Column("calls, D=16", "small_16"),
        Column("fan-out", "fanout_1"),
        Column("16 at once", "fanout_16"),
    )
    chosen = (
        "tornado",
        "starlette",
        "socketio-asgi",
        "picows",
        "ws",
        "socketio-node",
        "sstream-python",
        "sstream-uvloop",
    )
    rows = []
    for name in chosen:
        if name not in result["labels"]:
            continue
        figures = [column.figure(result, name) for column in columns]
        memory = value(result, "idle", name, "bytes")
        label = f"**{result['labels'][name]}**" if name in OURS else result["labels"][name]
        rows.append(
            [label]
            + ["–" if figure is None else f"{figure:,.0f}" for figure in figures]
            + ["–" if memory is None else f"{memory / 1024:.1f} KB"]
        )
    head = ["thousand a second of one core", *(column.title for column in columns), "idle socket"]
    one, sixteen = ratio(result, "small_1", BEST), ratio(result, "small_16", BEST)
    said = f" That is {one:.1f} and {sixteen:.0f} times raw Tornado for calls." if one and sixteen else ""
    noise = "".join(f" Noisy: {warning}." for warning in result["noise"]["warnings"])
    return (
        f"{_table(head, rows)}\n\nMeasured {result['made'][:10]}, all in one run, each server on one core.{said}{noise}"
    )


# What stands between <!-- benchmarks: NAME --> and <!-- end --> in the pages.
BLOCKS: Mapping[str, Callable[[Result], str]] = {
    "readme": readme,
    "machine": machine,
    "goals": goals,
    "winners": winners,
    "tables": calls_and_more,
    "studies": studies,
    "repeated": lambda result: repeated(result, HERE / "repeated.json"),
}
_BLOCK = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, result: Result) -> str:
    """A page with its blocks as the JSON has them."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{BLOCKS[match[2]](result)}\n\n{match[3]}", page)


def stale(result: Result) -> list[str]:
    """The pages that say something else than the JSON."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if not _BLOCK.search(text) or filled(text, result) != text:
            found.append(str(page.relative_to(ROOT)))
    return found


def write_pages(result: Result) -> None:
    """Fill the blocks of README and the page on performance."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), result), encoding="utf-8")


def markdown(result: Result) -> str:
    """The whole report, for a terminal or a file."""
    parts = [machine(result), calls_and_more(result)]
    if rest := studies(result):
        parts.append(rest)
    if "tornado" in result["cells"].get("small_1", {}):
        parts += ["### Goals\n\n" + goals(result), "### Where a peer wins\n\n" + winners(result)]
    return "\n\n".join(parts)


def dump(result: Result) -> str:
    """The JSON, one contender's cell a line, so that two of them can be compared."""

    def lines(value: Any, depth: int) -> str:
        if depth == 0 or not isinstance(value, dict) or not value:
            return json.dumps(value, ensure_ascii=False)
        inner = ",\n".join(f"{json.dumps(key)}: {lines(child, depth - 1)}" for key, child in value.items())
        return f"{{\n{inner}\n}}"

    top = {key: lines(value, 2 if key in {"cells", "latencies", "studies"} else 1) for key, value in result.items()}
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {text}" for key, text in top.items()) + "\n}\n"


def draw(result: Result, directory: Path) -> None:
    """Make the pictures."""
    from benchmarks import plots  # matplotlib takes a second, and only this needs it

    plots.draw_all(result, directory)
