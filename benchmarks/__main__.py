"""The benchmarks' command line: ``python -m benchmarks run``, ``load``, ``check``, ``compare``, ``report``,
``instructions``.

All load goes to 127.0.0.1, for a bounded time.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import check, compare, instructions, own_server, report
from benchmarks.contenders import CONTENDERS
from benchmarks.generator import CompilerMissing, GeneratorError
from benchmarks.suite import FULL, QUICK, Plan, run, schedule
from sstream.testing import ToolMissing

__all__ = ["main", "run_with_progress"]

console = Console()


def run_with_progress(plan: Plan) -> dict[str, Any]:
    """Run a plan under a progress bar, after a word on how long it takes."""
    _, left_out = schedule(plan)
    rounds = ", ".join(f"{phase} {share.rounds}" for phase, share in plan.phases.items())
    console.print(f"At most {plan.limit / 60:.1f} minutes; rounds, as time allows: {rounds}", highlight=False)
    for name, why in left_out.items():
        console.print(f"[yellow]without {CONTENDERS[name].label}[/]: {why}")
    columns = (TextColumn("{task.description:<44}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=1.0)

        def on_step(done: float, what: str) -> None:
            progress.update(task, completed=done, description=what)
            if not console.is_terminal:
                print(f"{done:>4.0%} {what}", flush=True)

        result = run(plan, on_step)
        progress.update(task, completed=1.0)
    for warning in result["noise"]["warnings"]:
        console.print(f"[yellow]noisy[/]: {warning}", highlight=False)
    for failure in result["failures"]:
        console.print(f"[red]failed[/]: {escape(failure)}", highlight=False)
    return result


def command_run(options: argparse.Namespace) -> int:
    plan = QUICK if options.quick else FULL
    if options.only:
        plan = replace(plan, contenders=tuple(name for name in CONTENDERS if name in options.only.split(",")))
    if options.phases:
        chosen = options.phases.split(",")
        plan = replace(plan, phases={phase: share for phase, share in plan.phases.items() if phase in chosen})
    if not plan.contenders or not plan.phases:
        raise SystemExit(f"nothing to run: contenders are {', '.join(CONTENDERS)}; phases {', '.join(FULL.phases)}")
    result = run_with_progress(plan)
    if options.instructions:
        result["instructions"] = instructions.count()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report.dump(result), encoding="utf-8")
    print(report.markdown(result))
    console.print(f"{options.out}: everything, every round; took {result['took'] / 60:.1f} minutes", highlight=False)
    if options.pictures:
        report.draw(result, options.pictures)
        console.print(f"{options.pictures}: the pictures")
    return 1 if result["failures"] else 0


def command_report(options: argparse.Namespace) -> int:
    result = json.loads(options.json.read_text(encoding="utf-8"))
    if options.check:
        stale = report.stale(result)
        for page in stale:
            print(
                f"{page} does not say what {options.json.name} says: run `python -m benchmarks report`", file=sys.stderr
            )
        return len(stale)
    report.draw(result, report.PICTURES)
    report.write_pages(result)
    print(report.markdown(result))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What sstream costs, beside its peers.")
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("run", help="all contenders, all workloads: tables, JSON and pictures")
    command.add_argument("--quick", action="store_true", help="everything once and short; two minutes")
    command.add_argument("--only", help="contenders, with commas between them")
    command.add_argument("--phases", help="phases, with commas between them: " + ", ".join(FULL.phases))
    command.add_argument("--instructions", action="store_true", help="count instructions as well (valgrind)")
    command.add_argument("--out", type=Path, default=report.HERE / "build" / "last.json", help="the JSON")
    command.add_argument("--pictures", type=Path, help="a directory for the SVG pictures")
    command.set_defaults(do=command_run)

    command = commands.add_parser(
        "load",
        help="load on a server of your own",
        description=own_server.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    own_server.add_arguments(command)
    command.set_defaults(do=own_server.main)

    command = commands.add_parser("report", help="fill README and docs from the stored JSON, and draw its pictures")
    command.add_argument("json", type=Path, nargs="?", default=report.STORED)
    command.add_argument("--check", action="store_true", help="change nothing: do the pages say what the JSON says?")
    command.set_defaults(do=command_report)

    command = commands.add_parser(
        "check", help="has anything become slower? By ratio to raw Tornado, and by instructions"
    )
    check.add_arguments(command)
    command.set_defaults(do=lambda options: check.main(options, run_with_progress))

    command = commands.add_parser("compare", help="two stored runs: do the ratios to raw Tornado hold?")
    compare.add_arguments(command)
    command.set_defaults(do=compare.main)

    command = commands.add_parser("instructions", help="instructions of parser, dispatcher and hub, by valgrind")
    command.set_defaults(do=lambda options: instructions.main())

    options = parser.parse_args(arguments)
    try:
        return int(options.do(options))
    except (CompilerMissing, GeneratorError, ToolMissing, own_server.NotYours) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
