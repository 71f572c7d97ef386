"""What was measured, and where: the machine, the versions, the commit, and how quiet it was."""

import os
import platform
import re
import statistics
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.contenders import NODE_MODULES
from sstream.testing import ToolMissing, find_node
from sstream.websocket.speedups import parser_class

__all__ = ["Quiet", "describe"]

HERE = Path(__file__).parent
OUR_PACKAGES = ("tornado", "redis", "hiredis", "msgspec")


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.partition("\n")[0]


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "gcc": _first_line("gcc", "-dumpfullversion")}
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8")
    for name in [*OUR_PACKAGES, *re.findall(r"^([\w-]+)(?:\[\w+\])?==", lines, re.MULTILINE)]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    try:
        found["node"] = _first_line(str(find_node()), "--version").removeprefix("v")
    except ToolMissing:
        pass  # what runs on it is left out, which is said elsewhere
    for package in sorted(NODE_MODULES.glob("*/package.json")):
        text = (HERE / "package.json").read_text(encoding="utf-8")
        if f'"{package.parent.name}"' in text and (
            match := re.search(r'"version":\s*"([^"]+)"', package.read_text(encoding="utf-8"))
        ):
            found[f"npm:{package.parent.name}"] = match[1]
    return dict(sorted(found.items()))


def describe() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory": memory,
            "system": f"{platform.system()} {platform.release()}",
            "has_c_part": parser_class.__name__ == "FastParser",
        },
        "versions": _versions(),
        "commit": _first_line("git", "rev-parse", "HEAD"),
        "is_clean": _first_line("git", "status", "--porcelain", "--untracked-files=no", "--", "../sstream") == "",
    }


def _ticks() -> tuple[int, int]:
    """All, and those that another machine on the same host had."""
    numbers = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n")[0].split()[1:9]]
    return sum(numbers), numbers[7]


class Quiet:
    """Was the machine quiet? It looks at the start and at the end."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._began = time.monotonic()
        self._ticks = _ticks()

    def tell(self, echo: list[float], core_share: float | None) -> dict[str, Any]:
        """What was seen, and warnings in words.

        Args:
            echo: What the bare echo reached in each slice.
            core_share: How much of its core a server had that wanted all of it.
        """
        ticks, stolen = (now - then for now, then in zip(_ticks(), self._ticks, strict=True))
        steal = stolen / ticks if ticks else 0.0
        middle = statistics.quantiles(echo, n=4) if len(echo) > 3 else None
        variation = (middle[2] - middle[0]) / middle[1] if middle else 0.0
        warnings = []
        if self._load > 0.7:
            warnings.append(f"the load average was {self._load:.1f} before the start: something else was running")
        if steal > 0.02:
            warnings.append(f"{steal:.0%} of the processors' time was stolen by other machines on this host")
        if variation > 0.25:
            warnings.append(f"the middle half of the bare echo's slices varied by {variation:.0%}")
        if core_share is not None and core_share < 0.9:
            warnings.append(f"a busy server had only {core_share:.0%} of its core")
        if len(os.sched_getaffinity(0)) < 2 and os.cpu_count() == 1:
            warnings.append("there is one core only: load and server shared it")
        return {
            "load_average": round(self._load, 2),
            "steal": round(steal, 4),
            "echo_variation": round(variation, 3),
            "core_share": core_share and round(core_share, 3),
            "warnings": warnings,
        }
