"""Load on a server of your own: ``python -m benchmarks load ws://127.0.0.1:8888/ws --call add 2 3``.

With ``--rate`` the requests leave on a fixed schedule, and a latency counts from when its request was due: what a
visitor feels when the server is behind. Without it each connection asks again when it has its answer.
"""

import argparse
import ipaddress
import json
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.generator import Generator, Measurement, Programs

__all__ = ["NotYours", "Target", "add_arguments", "main", "parse_target"]

BARS = " ▏▎▍▌▋▊▉█"
WIDTH = 40
PERCENTILES = (50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0)
MEANING = {
    "error -32601": "method not found",
    "error -32602": "invalid params",
    "error 4000": "timeout",
    "error 4003": "forbidden",
    "error 4029": "too many",
    "error 4040": "session gone",
    "error 4050": "unavailable",
    "closed 1001": "going away",
    "closed 1012": "restart",
    "closed 4401": "session ended",
    "closed 4408": "slow consumer",
    "closed 4429": "too fast: see Limits.message_rate",
    "connection refused": "is a server listening there?",
    "refused: HTTP 403": "forbidden: is --origin the page's?",
}


class NotYours(Exception):
    """The address is not this machine's, or cannot be used; the message says what can."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes."""

    address: str
    port: int
    host: str
    path: str
    is_page: bool


def parse_target(url: str, *, is_owned: bool = False) -> Target:
    """Read a ``ws://`` or ``http://`` URL; only this machine, unless it ``is_owned``."""
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "http"} or parts.hostname is None:
        raise NotYours(f"{url!r}: give ws://host:port/path or http://host:port/path (TLS is not spoken here)")
    port = parts.port or 80
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise NotYours(f"{parts.hostname!r} has no address: {error}") from error
    # An IPv4 address first: a server that listens on 127.0.0.1 alone is the usual one.
    address = str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])
    if not is_owned and not ipaddress.ip_address(address).is_loopback:
        raise NotYours(f"{parts.hostname} ({address}) is not this machine; if it is yours to load: --i-own-this-host")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(address, port, parts.netloc, path, parts.scheme == "http")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="ws://127.0.0.1:8888/ws to call, http://127.0.0.1:8888/ to get a page")
    parser.add_argument(
        "--call",
        nargs="+",
        metavar=("METHOD", "PARAM"),
        default=["add", "2", "3"],
        help="what to call; a parameter that is JSON is taken as such, else as text (add 2 3)",
    )
    parser.add_argument("--connections", type=int, default=50, help="how many (50)")
    parser.add_argument("--rate", type=float, help="requests a second, of all connections together, on a schedule")
    parser.add_argument("--depth", type=int, default=1, help="without --rate: requests each keeps under way (1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--cookie", action="append", default=[], help="NAME=VALUE; several are given out in turn")
    parser.add_argument("--header", action="append", default=[], help="one more line of the request")
    parser.add_argument("--origin", help="the Origin header, if it is not that of the host itself")
    parser.add_argument("--json", action="store_true", help="the summary as JSON, and nothing else, on stdout")
    parser.add_argument("--i-own-this-host", action="store_true", help="allow another machine than this one")


def read_param(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def milliseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.2f} ms" if nanoseconds < 1e9 else f"{nanoseconds / 1e9:.2f} s"


def _progress(row: Mapping[str, float], seconds: float) -> Table:
    table = Table.grid(padding=(0, 2))
    done = min(row["progress"] / seconds, 1.0)
    table.add_row(
        f"[green]{'━' * round(done * WIDTH)}[/][dim]{'━' * (WIDTH - round(done * WIDTH))}[/]",
        f"{row['progress']:.0f} of {seconds:.0f} s",
        f"{row['messages'] / row['progress']:,.0f}/s",
        f"p50 {milliseconds(row['p50'])}",
        f"p99 {milliseconds(row['p99'])}",
        f"{row['open']:,} open",
        f"[red]{row['failed']:,} failed[/]" if row["failed"] else "none failed",
    )
    return table


def draw(measured: Measurement) -> list[str]:
    """The latencies as bars, one for each doubling."""
    octaves: dict[int, int] = {}
    for bucket, count in measured.histogram.counts:
        shift = max(bucket // 128 - 1, 0)
        octaves[shift] = octaves.get(shift, 0) + count
    if not octaves:
        return []
    most, lines = max(octaves.values()), []
    for shift in range(min(octaves), max(octaves) + 1):
        count = octaves.get(shift, 0)
        eighths = round(count / most * WIDTH * 8)
        bar = "█" * (eighths // 8) + BARS[eighths % 8].strip()
        lines.append(f"  to {milliseconds(256 << shift):>10}  {bar or ('▏' if count else ''):<{WIDTH}} {count:>10,}")
    return lines


def summarize(measured: Measurement, rate: float | None) -> dict[str, Any]:
    return {
        "seconds": round(measured.seconds, 3),
        "answers": measured.messages,
        "rate": round(measured.messages / max(measured.seconds, 1e-9), 1),
        "wanted_rate": rate,
        "open": measured.open,
        "unsent": measured.unsent,
        "unanswered": measured.unanswered,
        "errors": dict(measured.errors),
        "milliseconds": {f"p{at:g}": round(measured.histogram.percentile(at) / 1e6, 3) for at in PERCENTILES},
    }


def show(console: Console, measured: Measurement, rate: float | None) -> None:
    """Print what came of it."""
    figures = summarize(measured, rate)
    table = Table(title="What came back", title_justify="left", show_header=False)
    table.add_row("answers", f"{figures['answers']:,} in {figures['seconds']:g} s")
    table.add_row("throughput", f"{figures['rate']:,.0f}/s" + (f" of {rate:,.0f}/s wanted" if rate else ""))
    table.add_row("connections open at the end", f"{measured.open:,}")
    table.add_row("fewest and most answers of one", f"{measured.fewest:,} and {measured.most:,}")
    if measured.unsent:
        table.add_row("[red]due and not sent[/]", f"{measured.unsent:,}: too many were unanswered already")
    if measured.unanswered:
        table.add_row("[red]without an answer[/]", f"{measured.unanswered:,}")
    for what, count in measured.errors.items():
        table.add_row(f"[red]{what}[/]", f"{count:,}" + (f" ({MEANING[what]})" if what in MEANING else ""))
    console.print(table)
    if not measured.histogram.total:
        return
    latencies = Table(title="Latency" + (", from when it was due" if rate else ""), title_justify="left")
    for at in PERCENTILES:
        latencies.add_column("most" if at == 100 else f"{at:g} %", justify="right")
    latencies.add_row(*(milliseconds(measured.histogram.percentile(at)) for at in PERCENTILES))
    console.print(latencies)
    console.print("\n".join(draw(measured)), highlight=False)


@contextmanager
def _ctrl_c_ends(load: Generator) -> Iterator[None]:
    """Ctrl-C ends the measurement, not us."""
    before = signal.signal(signal.SIGINT, lambda number, frame: load.interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main(options: argparse.Namespace) -> int:
    """Load it, show the progress, print the summary; 1 if anything failed."""
    target = parse_target(options.url, is_owned=options.i_own_this_host)
    console = Console(stderr=options.json)
    headers = list(options.header)
    if not target.is_page:
        headers += [
            f"Origin: {options.origin or f'http://{target.host}'}",
            "Sec-WebSocket-Protocol: sstream.v1.msgpack",
        ]
    with Programs() as programs, Live(console=console, auto_refresh=False, transient=True) as live:
        load = Generator(
            programs.find("load"),
            target.port,
            address=target.address,
            path=target.path,
            host=target.host,
            dialect="http" if target.is_page else "msgpack",
            headers=headers,
            cookies=options.cookie,
            on_progress=lambda row: live.update(_progress(row, options.seconds), refresh=True),
        )
        with load, _ctrl_c_ends(load):
            opened = load.open(options.connections)
            for what, count in opened.errors.items():
                console.print(f"[red]{what}[/]: {count:,}" + (f" ({MEANING[what]})" if what in MEANING else ""))
            if not opened.opened:
                return 1
            slowest = milliseconds(opened.histogram.percentile(100))
            console.print(f"{opened.opened:,} connections open, the slowest after {slowest}", highlight=False)
            if not target.is_page:
                method, *params = options.call
                load.request(method, *(read_param(param) for param in params))
            if options.rate:
                measured = load.paced(options.rate, options.seconds)
            else:
                measured = load.closed(options.depth, options.seconds)
    if options.json:
        json.dump(summarize(measured, options.rate), sys.stdout, indent=2)
        print()
    else:
        show(console, measured, options.rate)
    return 1 if measured.errors or opened.errors or measured.unanswered else 0
