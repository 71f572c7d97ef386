"""The command line."""

import json
import os
import signal
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


@pytest.mark.parametrize("command", ["doctor", "settings"])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(command):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "sstream", command],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=240,
            check=False,
        )

    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_command_is_required(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])

    assert caught.value.code == 2
    assert "required: command" in capsys.readouterr().err
