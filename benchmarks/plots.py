"""The pictures of a run, as SVG that can be read on a light and on a dark page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.figures import OURS, Result, spread, value
from benchmarks.histogram import Histogram

__all__ = ["draw_all"]

# Text and lines become the page's own colour; matplotlib knows none, so this stands for it.
INK = "#010203"
STYLE = """<style>svg { color: #24292f } @media (prefers-color-scheme: dark) { svg { color: #e6edf3 } }</style>"""
PEER, OUR = "#8a94a0", "#e0662b"
SHADES = dict(zip(OURS, ("#f2b79c", "#ec9469", "#d9480f", OUR), strict=True))
LINES = ("#8a94a0", "#3f8fd0", "#4aa564", "#b07cc6", "#d9a21b", "#c94f6d", "#5bb5b5", "#e0662b")
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sstream",  # the same ids every time: a picture changes only when its figures do
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None}, transparent=True)
    text = file.read_text(encoding="utf-8").replace(INK, "currentColor")
    head, svg, rest = text.partition("<svg ")
    opening, _, inside = rest.partition(">")
    file.write_text(f"{head}{svg}{opening}>\n {STYLE}{inside}", encoding="utf-8")


def _bars(axes: Any, result: Result, cell: str, key: str, factor: float, names: Sequence[str], title: str) -> None:
    figures = [(value(result, cell, name, key) or 0) * factor for name in names]
    spreads = [figure * spread(result, cell, name, key) for name, figure in zip(names, figures, strict=True)]
    colours = [OUR if name in OURS else PEER for name in names]
    whiskers = {"ecolor": INK, "elinewidth": 0.8, "alpha": 0.7}
    bars = axes.barh(range(len(names)), figures, color=colours, height=0.72, xerr=spreads, error_kw=whiskers)
    axes.bar_label(
        bars,
        [f"{figure:,.0f}" if figure >= 20 else f"{figure:.1f}" if figure else "–" for figure in figures],
        padding=3,
    )
    axes.set_yticks(range(len(names)), [result["labels"][name] for name in names])
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.14)
    axes.set_title(title, loc="left", fontsize=10)


def _bar_picture(result: Result, file: Path, panels: Sequence[tuple[str, str, float, str]]) -> None:
    cells = [cell for cell, *_ in panels]
    key = panels[0][1]
    names = [name for name in result["labels"] if name != "echo" and value(result, cells[0], name, key) is not None]
    if not names:
        return
    # What was not measured has no panel.
    panels = [panel for panel in panels if any(value(result, panel[0], name, panel[1]) is not None for name in names)]
    # The best on top: barh begins at the bottom.
    names.sort(key=lambda name: value(result, cells[0], name, key) or 0, reverse=key == "bytes")
    figure = Figure(figsize=(9.6, 0.32 * len(names) + 1.0), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (cell, key, factor, title) in zip(axes, panels, strict=True):
        _bars(panel, result, cell, key, factor, names, title)
        panel.label_outer()
    _save(figure, file)


def _latency(result: Result, file: Path) -> None:
    """Latency by percentile, the way HDR histograms are drawn: each step to the right is ten times rarer."""
    latencies = result["latencies"].get("paced")
    if not latencies:
        return
    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    axes = figure.subplots()
    names = [name for name in result["labels"] if name in latencies]
    peers = [name for name in names if name not in OURS]
    for name in names:
        line = Histogram(latencies[name]).spectrum()
        ours = name in OURS
        colour = SHADES[name] if ours else LINES[peers.index(name) % (len(LINES) - 1)]
        style = "-" if ours or peers.index(name) < len(LINES) - 1 else "--"
        axes.plot(
            [1 / share for share, _ in line],
            [value / 1e6 for _, value in line],
            style,
            color=colour,
            linewidth=2.2 if ours else 1.3,
            label=result["labels"][name],
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    shares = [50, 90, 99, 99.9, 99.99]
    axes.set_xticks([100 / (100 - share) for share in shares], [f"{share:g} %" for share in shares])
    axes.minorticks_off()
    axes.set_xlim(1, None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} ms")
    axes.grid(axis="both", color=INK, alpha=0.15)
    axes.set_title(
        "Latency by percentile, {rate:,} calls a second on {connections} connections".format(**result["plan"]),
        loc="left",
        fontsize=10,
    )
    figure.legend(loc="outside right center")
    _save(figure, file)


def _scaling(result: Result, file: Path) -> None:
    cells = sorted((cell for cell in result["cells"] if cell.startswith("scaling_")), key=lambda cell: int(cell[8:]))
    if not cells:
        return
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots()
    names = [name for name in result["labels"] if name in result["cells"][cells[0]]]
    for number, name in enumerate(names):
        known = [(int(cell[8:]), rate / 1e3) for cell in cells if (rate := value(result, cell, name)) is not None]
        colour = SHADES[name] if name in OURS else LINES[number]
        axes.plot(*zip(*known, strict=True), "o-", color=colour, label=result["labels"][name], linewidth=2)
    axes.set_xscale("log")
    axes.set_xticks([int(cell[8:]) for cell in cells], [f"{int(cell[8:]):,}" for cell in cells])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.set_xlabel(f"connections that call, of {result['plan']['idle']:,}")
    axes.set_title("Thousand calls a second of the server's CPU time, D=1", loc="left", fontsize=10)
    axes.grid(axis="y", color=INK, alpha=0.15)
    figure.legend(loc="outside right center")
    _save(figure, file)


def draw_all(result: Result, directory: Path) -> None:
    """Draw what the run has figures for."""
    directory.mkdir(parents=True, exist_ok=True)
    plan = result["plan"]
    with mpl.rc_context(SETTINGS):
        calls = [
            ("small_1", "rate", 1e-3, "thousand calls/s of CPU, D=1"),
            ("small_16", "rate", 1e-3, "thousand calls/s of CPU, D=16"),
        ]
        _bar_picture(result, directory / "throughput.svg", calls)
        fanout = [
            ("fanout_1", "rate", 1e-3, f"thousand deliveries/s, one publish to {plan['subscribers']:,}"),
            ("fanout_16", "rate", 1e-3, f"16 publishes at once to {plan['subscribers']:,}"),
        ]
        _bar_picture(result, directory / "fanout.svg", fanout)
        memory = [
            ("idle", "bytes", 1 / 1024, f"KB for an idle connection, of {plan['idle']:,}"),
            ("crowd_idle", "bytes", 1 / 1024, f"of {plan['crowd']:,}"),
        ]
        _bar_picture(result, directory / "memory.svg", memory)
        _latency(result, directory / "latency.svg")
        _scaling(result, directory / "scaling.svg")
