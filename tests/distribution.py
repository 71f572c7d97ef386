"""``make dist``: builds what would be published, and tries it in empty environments of every Python that is here.

It downloads what the packages need, and works at two environments at a time. Each environment gets the source
distribution, built with a compiler, without one, or without asking for the part in C; one more gets the wheel with
every extra. In each, an application is visited as a browser does, and a new shop passes its own test.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
# How it is built -> what the environment says, and whether the part in C must be there.
WAYS = {
    "with a compiler": ({}, True),
    "without a compiler": ({"CC": "false"}, False),
    "in Python alone": ({"SSTREAM_PURE_PYTHON": "1"}, False),
}
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
SMOKE = """
import asyncio, sys
from tornado.web import RequestHandler
from sstream import Application, MemoryBroker, MemoryStore, RPCHandler, SessionMixin, load_session, rpc
from sstream.testing import serve
from sstream.websocket import speedups

class Home(SessionMixin, RequestHandler):
    def get(self):
        self.write(f"{self.session.get('n', 0)} calls")

class Live(RPCHandler):
    @rpc(use=[load_session])
    async def count(self, by: int) -> int:
        self.session["n"] = self.session.get("n", 0) + by
        return self.session["n"]

async def main():
    app = Application([("/", Home), ("/ws", Live)], store=MemoryStore(), broker=MemoryBroker(), debug=True,
                      autoreload=False)
    async with serve(app) as site:
        browser = site.browser()
        socket = await browser.connect("/ws")
        assert await socket.call("count", 2) == 2
        await browser.settle()
        assert (await browser.get("/")).text == "2 calls"
        assert (await browser.get("/_sstream/client.js")).status == 200

asyncio.run(main())
assert "site-packages" in speedups.__file__, speedups.__file__
assert (speedups._speedups is not None) is (sys.argv[1] == "True"), speedups._speedups
"""


def main(versions: Sequence[str] = VERSIONS) -> int:
    """Build everything and try it; gives the exit status."""
    with tempfile.TemporaryDirectory(prefix="sstream-dist-") as folder:
        place = Path(folder)
        tree = copy_tree(place / "tree")
        source, wheel = (build(tree, hook, place) for hook in ("build_sdist", "build_wheel"))
        pythons = list(find_pythons(versions))
        jobs: list[Callable[[], str]] = [partial(check_with_twine, place, source, wheel)]
        for version, python in pythons:
            jobs += [partial(try_source, place, version, python, source, way) for way in WAYS]
            jobs.append(partial(try_wheel, place, version, python, source))
        # Much of it is waiting for what is downloaded.
        with ThreadPoolExecutor(max_workers=2) as pool:
            running = [pool.submit(job) for job in jobs]
            try:
                for done in running:
                    print(done.result(), flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    missing = set(versions) - {version for version, _ in pythons}
    if missing:
        print(f"not tried, as they are not here: Python {', '.join(sorted(missing))}")
    return 1 if missing else 0


def copy_tree(target: Path) -> Path:
    """What version control knows of, and nothing that lies around."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in names.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def find_pythons(versions: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Every Python that sstream is for: on PATH, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in versions:
        on_path = shutil.which(f"python{version}")
        candidates = [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
        for python in candidates:
            # One of pyenv's shims may be there and start nothing.
            if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
                yield version, python
                break


def build(tree: Path, hook: str, target: Path) -> Path:
    """Build with the tools of this very environment."""
    return target / run(sys.executable, "-c", BUILD, hook, target, cwd=tree).splitlines()[-1]


def build_for(python: Path, source: Path, target: Path) -> Path:
    """The wheel of another Python."""
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, source)
    (wheel,) = target.glob("*.whl")
    return wheel


def extras(wheel: Path) -> list[str]:
    """The extras that a wheel offers."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name)).get_all("Provides-Extra", [])


def check_with_twine(place: Path, *files: Path) -> str:
    """Would the index take them, and show their description?"""
    bin_ = make_environment(place / "twine", Path(sys.executable))
    run(bin_ / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "twine")
    return run(bin_ / "python", "-m", "twine", "--no-color", "check", "--strict", *files).rstrip()


def try_source(place: Path, version: str, python: Path, source: Path, way: str) -> str:
    """Install the source distribution, built in one of the `WAYS`, and use it."""
    environment, has_c_part = WAYS[way]
    try_it(place / f"{version} {way}".replace(" ", "-"), python, str(source), environment, has_c_part)
    return f"ok: Python {version}, {way}"


def try_wheel(place: Path, version: str, python: Path, source: Path) -> str:
    """Install a wheel with all its extras, and use it."""
    built = build_for(python, source, place / f"wheel-{version}")
    try_it(place / f"{version}-wheel", python, f"{built}[{','.join(extras(built))}]", {}, has_c_part=True)
    return f"ok: Python {version}, the wheel with all extras ({', '.join(extras(built))})"


def make_environment(folder: Path, python: Path) -> Path:
    """An empty environment; gives its folder of programs."""
    run(python, "-m", "venv", folder)
    return folder / "bin"


def try_it(folder: Path, python: Path, what: str, environment: dict[str, str], has_c_part: bool) -> None:
    """Install it into an empty environment, and use it."""
    bin_ = make_environment(folder, python)
    interpreter = bin_ / "python"
    run(
        interpreter,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--disable-pip-version-check",
        what,
        **environment,
    )
    run(interpreter, "-m", "pip", "check")
    run(interpreter, "-I", "-W", "error", "-c", SMOKE, has_c_part, cwd=folder)
    run(interpreter, "-m", "sstream", "doctor", cwd=folder)
    run(interpreter, "-m", "sstream", "new", "shop", cwd=folder)
    run("make", "test", f"PYTHON={interpreter}", cwd=folder / "shop")


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    """What a program prints; it must end well."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or VERSIONS))
