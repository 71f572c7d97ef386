"""Run the benchmarks: ``python -m benchmarks`` lists them, and runs those that are named, or all.

Each prints its own table. They put load on 127.0.0.1 alone, for a bounded time.
"""

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["main"]

HERE = Path(__file__).parent


def find() -> dict[str, str]:
    """The benchmarks there are, by name, with the first line of what they say about themselves."""
    found = {}
    for file in sorted(HERE.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if '__name__ == "__main__"' in file.read_text(encoding="utf-8"):
            found[file.stem] = text.partition("\n")[0]
    return found


def main() -> int:
    """Run what the command line names; the number of benchmarks that failed."""
    found = find()
    lines = [f"  {name:<18} {purpose}" for name, purpose in found.items()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure what sstream costs.",
        epilog="benchmarks:\n" + "\n".join(lines),
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which to run; all if none is named")
    names = parser.parse_args().names
    if unknown := set(names) - found.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    failed = []
    chosen = names or list(found)
    for number, name in enumerate(chosen, 1):
        print(f"\n[{number}/{len(chosen)}] {name}: {found[name]}\n", flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=HERE.parent, check=False)
        print(f"\n{name} took {time.monotonic() - began:.0f} s", flush=True)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
