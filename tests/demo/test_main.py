"""``python -m demo``: what it starts, what it says, and that it leaves nothing behind."""

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
def test_it_opens_all_three_and_closes_all_three(need, node, free_port, number):
    need(find_redis_server)

    with demo("--port", str(free_port)) as process:
        process.wait_for("^Ctrl-C", timeout=30)
        addresses = [process.wait_for(rf"{name} +(\w+://[^\s,]+)")[1] for name in ("Redis", "Teahouse", "Express")]
        open_before = [is_listening(address) for address in addresses]
        with urlopen(addresses[1]) as page:
            html = page.read().decode()
        process.send(number)
        returncode = process.wait(10)

    assert open_before == [True, True, True]
    assert urlsplit(addresses[2]).netloc in html.replace("127.0.0.1", "localhost")
    assert returncode == 0
    assert [is_listening(address) for address in addresses] == [False, False, False]
    assert "Traceback" not in process.log


def test_in_memory_it_says_so_and_why_there_is_no_express(free_port):
    with demo("--port", str(free_port), "--memory") as process:
        process.wait_for("^Ctrl-C", timeout=30)
        with urlopen(f"http://127.0.0.1:{free_port}/") as page:
            html = page.read().decode()

    assert "sessions are kept in memory" in process.log
    assert "Express   not started: there is no Redis" in process.log
    assert "There is no Redis here" in html


def test_a_port_that_is_taken_is_passed_over_and_said(free_port):
    with socket.create_server(("127.0.0.1", free_port)), demo("--port", str(free_port), "--memory") as process:
        url = process.wait_for(rf"^  Teahouse +(http://localhost:\d+/) \({free_port} is taken\)$", timeout=30)[1]
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


async def test_without_its_packages_express_is_not_started_and_told_how(monkeypatch, capsys, tmp_path, node):
    monkeypatch.setattr(main, "EXPRESS", tmp_path)

    with ExitStack() as closing:
        port = await main.open_express(closing, redis="redis://127.0.0.1:1/0", secret="cat", beside=8888)

    assert port is None
    assert "npm ci --prefix" in capsys.readouterr().out


async def test_an_express_that_fails_is_told_with_what_it_said(monkeypatch, capsys, tmp_path, node):
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "server.mjs").write_text("throw new Error('no hot water');")
    monkeypatch.setattr(main, "EXPRESS", tmp_path)

    with ExitStack() as closing:
        port = await main.open_express(closing, redis="redis://127.0.0.1:1/0", secret="cat", beside=8888)

    assert port is None
    assert "no hot water" in capsys.readouterr().out
