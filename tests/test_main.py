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
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def test_describe_writes_json_to_the_terminal():
    done = run("describe", "tests.rpc.described:make_app")

    assert done.returncode == 0
    assert json.loads(done.stdout)["sockets"][0]["path"] == "/ws"


def test_command_is_required(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])

    assert caught.value.code == 2
    assert "required: command" in capsys.readouterr().err
