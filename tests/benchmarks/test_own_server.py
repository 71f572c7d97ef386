"""``python -m benchmarks load``, as a user runs it."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from benchmarks.__main__ import main
from benchmarks.own_server import NotYours, Target, parse_target, read_param
from benchmarks.report import ROOT
from benchmarks.servers import Server
from sstream.testing import Process

# A server with the usual limits: 100 messages a second, 200 at once.
IMPATIENT = """
import asyncio
from sstream import Application, RPCHandler, SessionOptions, rpc

class Live(RPCHandler):
    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

async def main():
    server = Application([("/ws", Live)], session=SessionOptions(secret="x" * 32)).listen(0, "127.0.0.1")
    print("listening on", next(iter(server._sockets.values())).getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def load(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*words: str) -> Done:
        return Done(main(["load", *words]), *capsys.readouterr())

    return run


def test_summary_has_throughput_percentiles_and_bars(server: Server, load: Callable[..., Done]) -> None:
    url = f"ws://127.0.0.1:{server.port}/ws"

    done = load(url, "--call", "add", "2", "3", "--connections", "10", "--rate", "300", "--seconds", "0.5")

    assert done.returncode == 0, done.stderr
    assert "10 connections open" in done.stdout
    assert "of 300/s wanted" in done.stdout
    assert "99.9 %" in done.stdout
    assert "█" in done.stdout


def test_errors_are_told_by_code_and_make_it_fail(server: Server, load: Callable[..., Done]) -> None:
    done = load(
        f"ws://127.0.0.1:{server.port}/ws", "--call", "nothing", "--connections", "2", "--seconds", "0.2", "--json"
    )

    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert set(summary["errors"]) == {"error -32601"}
    assert summary["milliseconds"]["p50"] > 0


def test_who_is_closed_before_anything_was_measured_is_told_and_has_no_latency(
    load: Callable[..., Done],
) -> None:
    with Process(sys.executable, "-c", IMPATIENT, cwd=ROOT) as process:
        port = process.wait_for(r"^listening on (\d+)$", timeout=30)[1]

        done = load(f"ws://127.0.0.1:{port}/ws", "--connections", "2", "--depth", "200", "--seconds", "0.2")

    assert done.returncode == 1
    assert "closed 4429" in done.stdout
    assert "too fast: see" in done.stdout
    assert "Latency" not in done.stdout


def test_page_is_loaded_as_well(server: Server, load: Callable[..., Done]) -> None:
    url = f"http://127.0.0.1:{server.port}/_sstream/health/live"

    done = load(url, "--connections", "2", "--seconds", "0.2", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answers"] > 0


def test_ctrl_c_gives_the_summary_so_far(server: Server) -> None:
    words = ["load", f"ws://127.0.0.1:{server.port}/ws", "--connections", "2", "--rate", "100", "--seconds", "60"]
    with Process(sys.executable, "-m", "benchmarks", *words, cwd=ROOT) as process:
        process.wait_for("connections open", timeout=60)
        os.killpg(process.pid, signal.SIGINT)

        assert process.wait(10) == 0
        assert "What came back" in process.log


def test_nobody_there_is_told(server: Server, load: Callable[..., Done]) -> None:
    done = load(f"ws://127.0.0.1:{server.port}/nowhere", "--connections", "2", "--seconds", "0.1")

    assert done.returncode == 1
    assert "refused: HTTP 404" in done.stdout


@pytest.mark.parametrize("url", ["ws://192.0.2.1/ws", "http://198.51.100.7:8888/"])
def test_another_machine_is_refused_unless_it_is_said_to_be_ours(url: str) -> None:
    with pytest.raises(NotYours, match="--i-own-this-host"):
        parse_target(url)

    assert parse_target(url, is_owned=True).address in url


def test_url_is_taken_apart() -> None:
    assert parse_target("ws://127.0.0.1:8888/ws?a=1") == Target("127.0.0.1", 8888, "127.0.0.1:8888", "/ws?a=1", False)
    assert parse_target("http://127.0.0.1").port == 80
    with pytest.raises(NotYours, match="TLS"):
        parse_target("wss://127.0.0.1/ws")


@pytest.mark.parametrize(("text", "value"), [("2", 2), ('{"a": 1}', {"a": 1}), ("tea", "tea"), ("", "")])
def test_param_that_is_json_is_taken_as_such(text: str, value: object) -> None:
    assert read_param(text) == value
