"""The command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sstream.__main__ import main

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m sstream`` as a user does."""
    command = [sys.executable, "-W", "error", "-m", "sstream", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_describe_writes_json_to_the_terminal():
    done = run("describe", "tests.rpc.described:make_app")

    assert done.returncode == 0
    assert json.loads(done.stdout)["sockets"][0]["path"] == "/ws"


@pytest.mark.parametrize(
    ("form", "beginning"), [("--typescript", "// Written by"), ("--markdown", "# `"), ("--json", "{\n")]
)
def test_describe_writes_each_form_to_a_file(tmp_path, capsys, form, beginning):
    file = tmp_path / "description"

    assert main(["describe", "tests.rpc.described:Live", form, "--output", str(file)]) == 0

    assert file.read_text(encoding="utf-8").startswith(beginning)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nowhere", "'nowhere' is not of the form module:name"),
        ("nowhere.at_all:app", "there is no module 'nowhere.at_all'"),
        ("tests.rpc.described:nothing", "there is no 'nothing' in tests.rpc.described"),
        ("tests.rpc.described:Item", "is neither an Application nor an RPCHandler class"),
    ],
)
def test_target_that_is_none_is_told_in_one_line(capsys, target, text):
    assert main(["describe", target]) == 2

    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_application_without_sockets_is_told(capsys):
    assert main(["describe", "tornado.web:Application"]) == 2

    assert "is neither an Application nor" in capsys.readouterr().err


def test_all_routes_are_found(capsys, expect_log):
    expect_log("", required=False)

    assert main(["describe", "tests.rpc.described:make_two"]) == 0

    assert [socket["path"] for socket in json.loads(capsys.readouterr().out)["sockets"]] == ["/ws", "/admin"]


def test_command_is_required(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])

    assert caught.value.code == 2
    assert "required: command" in capsys.readouterr().err
