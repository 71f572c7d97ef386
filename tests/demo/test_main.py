"""``python -m demo``: what it starts, what it says, and that it leaves nothing behind."""

import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from demo import __main__ as main
from sstream.testing import Process, ToolMissing, find_redis_server

ROOT = Path(__file__).parents[2]


def demo(*options: str) -> Process:
    return Process(sys.executable, "-m", "demo", *options, cwd=ROOT, env={"SSTREAM_REDIS_URL": None, "SECRET": None})


def is_listening(address: str) -> bool:
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_opens_all_doors_and_closes_them(need, node, free_port, number):
    need(find_redis_server)

    with demo("--port", str(free_port)) as process:
        process.wait_for("^Ctrl-C", timeout=60)
        names = ["Redis", "Open", "Server A", "Server B", "Express"]
        addresses = [process.wait_for(rf"{name} +(\w+://[^\s,]+)")[1] for name in names]
        open_before = [is_listening(address) for address in addresses]
        with urlopen(addresses[1]) as page:
            html = page.read().decode()
        process.send(number)
        returncode = process.wait(60)

    assert open_before == [True] * 5
    for address in addresses[1:]:
        assert urlsplit(address).netloc in html
    assert returncode == 0
    assert [is_listening(address) for address in addresses] == [False] * 5
    assert "Traceback" not in process.log


def test_a_server_that_is_killed_is_told_and_with_the_last_one_the_house_closes(need, free_port):
    need(find_redis_server)

    with demo("--port", str(free_port)) as process:
        process.wait_for("^Ctrl-C", timeout=60)
        for name in "AB":
            os.kill(int(process.wait_for(rf"Server {name} .* kill -9 (\d+)")[1]), signal.SIGKILL)
            process.wait_for(f"Server {name} +is gone, SIGKILL")
        returncode = process.wait(60)

    assert returncode == 0
    assert "Closing." in process.log


def test_in_memory_it_is_one_process_and_says_so_and_why_there_is_no_express(free_port):
    with demo("--port", str(free_port), "--memory") as process:
        process.wait_for("^Ctrl-C", timeout=60)
        process.wait_for("sessions are kept in memory")
        with urlopen(f"http://127.0.0.1:{free_port}/") as page:
            html = page.read().decode()

    assert "One process, and its memory" in process.log
    assert "Server A" not in process.log
    assert "Express   not started: there is no Redis" in process.log
    assert "There is no Redis here" in html


def test_a_port_that_is_taken_is_passed_over_and_said(free_port):
    with socket.create_server(("127.0.0.1", free_port)), demo("--port", str(free_port), "--memory") as process:
        url = process.wait_for(rf"^  Open +(http://localhost:\d+/) \({free_port} is taken\)$", timeout=60)[1]
        with urlopen(url) as page:
            assert page.status == 200

    with pytest.raises(URLError):
        urlopen(url)


def test_without_a_redis_server_it_goes_on_in_memory(monkeypatch, capsys):
    def missing() -> None:
        raise ToolMissing("no Redis server: none is on PATH")

    monkeypatch.delenv("SSTREAM_REDIS_URL", raising=False)
    monkeypatch.setattr(main, "RedisServer", missing)

    with ExitStack() as closing:
        assert main.open_redis(closing) is None

    assert "not started: no Redis server: none is on PATH" in capsys.readouterr().out


def test_the_password_of_your_own_redis_is_not_shown(monkeypatch, capsys):
    monkeypatch.setenv("SSTREAM_REDIS_URL", "redis://fred:tea-time@redis.example:6379/0")

    with ExitStack() as closing:
        assert main.open_redis(closing) == "redis://fred:tea-time@redis.example:6379/0"

    shown = capsys.readouterr().out
    assert "redis.example" in shown
    assert "tea-time" not in shown


def test_without_its_packages_express_is_not_started_and_told_how(monkeypatch, tmp_path):
    monkeypatch.setattr(main, "EXPRESS", tmp_path)

    assert "npm ci --prefix" in str(main.why_no_express("redis://127.0.0.1:1/0"))


def test_without_a_node_express_is_not_started_and_told_so(monkeypatch, tmp_path):
    def missing() -> None:
        raise ToolMissing("no node: none is on PATH")

    (tmp_path / "node_modules").mkdir()
    monkeypatch.setattr(main, "EXPRESS", tmp_path)
    monkeypatch.setattr(main, "find_node", missing)

    assert main.why_no_express("redis://127.0.0.1:1/0") == "no node: none is on PATH"


def test_an_express_that_fails_is_told_with_what_it_said(monkeypatch, capsys, tmp_path, node):
    (tmp_path / "server.mjs").write_text("throw new Error('no hot water');")
    monkeypatch.setattr(main, "EXPRESS", tmp_path)

    with ExitStack() as closing:
        house = main.House(closing, doors={"Teahouse": 1, "Express": 2}, redis="redis://127.0.0.1:1/0", secret="cat")
        house.open("Express")

    assert house.processes == {}
    assert "no hot water" in capsys.readouterr().out
