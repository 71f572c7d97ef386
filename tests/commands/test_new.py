"""What ``new`` writes: an application that runs and passes its own test, as it is."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sstream.__main__ import main
from sstream.testing import ToolMissing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new application, which no test changes."""
    folder = tmp_path_factory.mktemp("new") / "tea-shop"
    assert main(["new", str(folder)]) == 0
    return folder


def find_make() -> str:
    if (make := shutil.which("make")) is None:
        raise ToolMissing("no make on PATH")
    return make


def test_it_passes_its_own_test(shop: Path, need: Callable[..., str], tmp_path: Path) -> None:
    copy = shutil.copytree(shop, tmp_path / "copy")
    # Whoever would reach for the network finds nobody.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "PIP_INDEX_URL"), "http://127.0.0.1:1")

    done = subprocess.run(
        [need(find_make), "test", f"PYTHON={sys.executable}"],
        cwd=copy,
        env={**os.environ, **nowhere, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"^Ran 7 tests .*\n\nOK$", done.stderr, re.MULTILINE), done.stderr


def test_what_it_stands_on_comes_from_where_one_says(shop: Path, need: Callable[..., str]) -> None:
    def planned(*words: str) -> list[str]:
        command = [need(find_make), "--no-print-directory", "--dry-run", "install", *words]
        # Without what a make that runs the tests would hand on.
        env = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
        done = subprocess.run(command, cwd=shop, env=env, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()[-1].split()

    assert planned()[-3:] == ["--quiet", "-r", "requirements.txt"]
    assert planned("SSTREAM=../sstream.whl")[-4:] == ["--quiet", "../sstream.whl", "-r", "requirements.txt"]


def test_it_is_written_as_we_write(shop: Path) -> None:
    for words in (["format", "--check"], ["check", "--select=E,F,I,UP,B", "--line-length=120"]):
        config = ["--config=line-length=120"] if words[0] == "format" else []
        command = [sys.executable, "-m", "ruff", *words, *config, "--isolated", "--no-cache", "."]
        done = subprocess.run(command, cwd=shop, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_mark_in_the_template_is_replaced(shop: Path) -> None:
    texts = {file: file.read_text(encoding="utf-8") for file in shop.rglob("*") if file.is_file()}

    assert {file.name for file in texts} >= {"Makefile", "Dockerfile", ".gitignore", ".dockerignore", "README.md"}
    assert not [file for file, text in texts.items() if re.search(r"@[A-Z]+@", text) or file.name.endswith("-tpl")]
    assert "from tea_shop.app import make_app" in (shop / "tests/test_shop.py").read_text(encoding="utf-8")
    assert "<title>tea-shop</title>" in (shop / "tea_shop/templates/home.html").read_text(encoding="utf-8")


def test_its_methods_can_be_described(shop: Path) -> None:
    command = [sys.executable, "-m", "sstream", "describe", "tea_shop.app:make_app", "--markdown"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SSTREAM_DEBUG": "true", "USERS_FILE": ":memory:"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"

    done = subprocess.run(command, cwd=shop, env=environment, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    assert "cart.add" in done.stdout


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    there = tmp_path / "shop"
    if kind == "file":
        there.write_text("mine")
    else:
        there.mkdir()

    assert main(["new", str(there)]) == 2

    assert "is there already, and nothing is overwritten" in capsys.readouterr().err
    assert there.read_text() == "mine" if kind == "file" else not list(there.iterdir())


@pytest.mark.parametrize("name", ["Shop", "1shop", "shop!", "sho p", "shop-", "class", "json", "sstream", "tests"])
def test_a_name_that_python_cannot_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["new", str(tmp_path / name)]) == 2

    assert repr(name) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_none_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "nowhere/shop")]) == 2

    assert capsys.readouterr().err.endswith("cannot be made: No such file or directory\n")
