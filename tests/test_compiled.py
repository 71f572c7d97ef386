"""Parts in C that are there, and fit, or do not."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from sstream import compiled
from sstream.websocket import core, speedups

NAME = "part_in_c"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SSTREAM_PURE_PYTHON", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)
    compiled.amiss.pop(NAME, None)


def test_one_that_fits_is_taken(folder):
    (folder / f"{NAME}.py").write_text("class Core:\n    send = 1\ncut = 2\n")

    assert compiled.load(NAME, "cut", "Core.send").cut == 2
    assert compiled.amiss == {}


def test_one_that_was_not_built_is_left_out_quietly(folder):
    assert compiled.load(NAME, "cut") is None
    assert compiled.amiss == {}


def test_one_that_is_not_wanted_is_left_out_quietly(folder, monkeypatch):
    (folder / f"{NAME}.py").write_text("cut = 2\n")
    monkeypatch.setenv("SSTREAM_PURE_PYTHON", "1")

    assert compiled.load(NAME, "cut") is None
    assert NAME not in sys.modules


def test_one_of_other_code_is_told_of_and_left_out(folder, expect_log):
    (folder / f"{NAME}.py").write_text("class Core:\n    send = 1\n")
    expect_log(f"^{NAME} was built from other code than this, without cut, Core.flush; Python does its work", count=1)

    assert compiled.load(NAME, "cut", "Core.send", "Core.flush") is None
    assert compiled.amiss == {NAME: "was built from other code than this, without cut, Core.flush"}


@pytest.mark.parametrize("wants", ["import a_module_that_is_not_there", "raise ImportError('undefined symbol: x')"])
def test_one_that_cannot_be_loaded_is_told_of_and_left_out(folder, expect_log, wants):
    (folder / f"{NAME}.py").write_text(wants)
    expect_log(f"^{NAME} cannot be loaded: ", count=1)

    assert compiled.load(NAME, "cut") is None
    assert compiled.amiss[NAME].startswith("cannot be loaded: ")


def test_the_interface_is_all_that_the_part_in_c_has_and_the_one_in_python_as_well():
    assert all(hasattr(core.Core, name) for name in speedups.INTERFACE)
    if speedups.Core is not core.Core:
        assert {name for name in vars(speedups.Core) if not name.startswith("__")} == set(speedups.INTERFACE)


@pytest.mark.parametrize("wing", ["websocket", "rpc"])
def test_sstream_works_beside_a_part_in_c_that_cannot_be_loaded_and_the_doctor_says_so(tmp_path, wing):
    # The package as it is, but for one part.
    package = tmp_path / "sstream"
    package.mkdir()
    for file in Path(compiled.__file__).parent.iterdir():
        if file.name not in (wing, "__pycache__"):
            (package / file.name).symlink_to(file)
    (package / wing).mkdir()
    for file in (Path(compiled.__file__).parent / wing).glob("*.py"):
        (package / wing / file.name).symlink_to(file)
    (package / wing / f"_speedups{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"no library")
    environment = {name: value for name, value in os.environ.items() if name != "SSTREAM_PURE_PYTHON"}

    done = subprocess.run(
        [sys.executable, "-m", "sstream", "doctor"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert f"sstream.{wing}._speedups cannot be loaded: " in done.stderr
    (line,) = (line for line in done.stdout.splitlines() if f"C part, {wing}" in line)
    assert line.startswith("! ")
    assert line.endswith("cannot be loaded:")  # why, is a long line of its own
