"""``python -m sstream run`` with a real application: what it listens to, how it goes down, and in several processes."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis

from sstream.__main__ import main
from sstream.commands.run import count
from sstream.serving import loop_factory
from sstream.testing import Browser, Closed, Process, SocketClosed, eventually

ROOT = Path(__file__).parents[2]
APP = "tests.apps.running:make_app"

Run = Callable[..., tuple[Process, Browser]]

# The command, whose supervisor gives processes a minute where it gives them a second to say what they cut.
PATIENT = """
import sys
from sstream.__main__ import main
from sstream.commands import supervisor

supervisor.LAST = 60.0
sys.exit(main())
"""


@pytest.fixture
def run(redis_url: str) -> Iterator[Run]:
    """``run("--processes", "2", DRAIN="1")``: a process and a visitor of it; keywords are its environment."""
    with ExitStack() as processes:

        def run(*options: str, app: str = APP, patient: bool = False, **env: str) -> tuple[Process, Browser]:
            program = ["-c", PATIENT] if patient else ["-m", "sstream"]
            command = [sys.executable, "-W", "error", *program, "run", app, "--port", "0", *options]
            process = processes.enter_context(Process(*command, cwd=ROOT, env={"REDIS_URL": redis_url, **env}))
            url = process.wait_for(r"listening on (http://127\.0\.0\.1:\d+)", timeout=60)[1]
            return process, Browser(url)

        yield run


def workers(process: Process) -> list[int]:
    """The processes of a supervisor that came up first."""
    return [int(pid) for pid in process.wait_for(r"with \d+ processes: ([\d, ]+)$")[1].split(", ")]


async def test_a_process_that_is_asked_to_end_answers_its_calls_and_exits_with_0(run: Run, redis_url: str) -> None:
    process, browser = run(app="tests.apps.running:make_async")
    assert (await browser.get("/")).json["visits"] == 1
    socket = await browser.connect()
    reply = socket.ask("until_draining")
    await socket.receive("begun")

    process.send(signal.SIGTERM)

    assert await socket.reply(reply) == "answered"
    assert await socket.closed() == Closed(1012, "restart")
    assert await asyncio.to_thread(process.wait) == 0
    assert "Traceback" not in process.log
    async with aioredis.Redis.from_url(redis_url) as client:
        stored = await client.get(f"sess:{browser.sid}")
    assert isinstance(stored, bytes)
    assert b'"late":"stored"' in stored
    await browser.close()


async def test_a_process_that_is_asked_twice_ends_at_once_and_says_what_is_cut(run: Run) -> None:
    process, browser = run("--loop", "asyncio")
    socket = await browser.connect()
    reply = socket.ask("for_ever")
    await socket.receive("begun")
    process.send(signal.SIGINT)
    await asyncio.to_thread(process.wait_for, "SIGINT: going down")

    process.send(signal.SIGTERM)

    assert await asyncio.to_thread(process.wait, 20.0) == -signal.SIGTERM
    with pytest.raises(SocketClosed):
        await socket.reply(reply)
    assert "SIGTERM came again: ending at once, which cuts 1 call, 0 pages, 1 socket" in process.log
    await browser.close()


async def test_a_program_that_ends_with_app_run_says_where_it_listens_and_goes_down_gently() -> None:
    program = "import tests.apps.running; tests.apps.running.make_app().run(0, '127.0.0.1')"
    with Process(sys.executable, "-W", "error", "-c", program, cwd=ROOT, env={"DEBUG": "1"}) as process:
        line = await asyncio.to_thread(process.wait_for, r"^Listening on (http://.*); Ctrl-C ends it\.$", timeout=60)
        browser = Browser(line[1])
        assert (await browser.get("/")).json == {"pid": process.pid, "visits": 1}

        process.send(signal.SIGINT)

        assert await asyncio.to_thread(process.wait) == 0
        assert "Traceback" not in process.log


async def test_several_processes_share_a_port_and_end_together(run: Run) -> None:
    process, browser = run("--processes", "2")
    pids = workers(process)
    await browser.get("/")
    visited = []

    async def all_have_answered() -> bool:
        visited.append((await browser.get("/")).json)
        return {visit["pid"] for visit in visited} == {*pids}

    assert await eventually(all_have_answered, "one of the processes is never visited")
    assert [visit["visits"] for visit in visited] == [*range(2, 2 + len(visited))]  # one session, whoever answers
    sockets = [await browser.connect() for _ in range(4)]
    replies = [socket.ask("until_draining") for socket in sockets]
    for tab in sockets:
        await tab.receive("begun")

    process.send(signal.SIGTERM)

    for tab, reply in zip(sockets, replies, strict=True):
        assert await tab.reply(reply) == "answered"
        assert await tab.closed() == Closed(1012, "restart")
    assert await asyncio.to_thread(process.wait) == 0
    with pytest.raises(OSError):
        await browser.get("/")
    assert "Traceback" not in process.log
    await browser.close()


async def test_who_waits_to_be_accepted_loses_nothing_when_one_of_the_processes_drains_and_is_replaced(
    run: Run,
) -> None:
    process, browser = run("--processes", "2")
    pids = workers(process)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    visits = [asyncio.ensure_future(browser.copy().get("/")) for _ in range(40)]
    await eventually(lambda: _waiting(browser) == 40, "forty do not wait to be accepted")

    os.kill(pids[0], signal.SIGTERM)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)

    assert {(await visit).status for visit in visits} == {200}
    await asyncio.to_thread(process.wait_for, rf"process {pids[0]} ended with status 0 .*; another in 0\.1 s")
    replaced = await asyncio.to_thread(process.wait_for, r"process (\d+) is up", timeout=60)
    assert int(replaced[1]) not in pids


def _waiting(browser: Browser) -> int:
    """How many connections have not been accepted yet: the receive queue of the listening socket."""
    port = int(browser.url.rpartition(":")[2])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if state == "0A" and local == f"0100007F:{port:04X}":
            return int(queues.partition(":")[2], 16)
    return 0


async def test_a_second_signal_ends_several_processes_at_once_and_each_says_what_is_cut(run: Run) -> None:
    process, browser = run("--processes", "2", patient=True)
    sockets = [await browser.connect() for _ in range(2)]
    for tab in sockets:
        tab.ask("for_ever")
        await tab.receive("begun")
    process.send(signal.SIGTERM)
    await asyncio.to_thread(process.wait_for, "(?s)SIGTERM: going down.*SIGTERM: going down")

    process.send(signal.SIGTERM)

    assert await asyncio.to_thread(process.wait, 60.0) == -signal.SIGTERM
    cut = re.findall(r"which cuts (\d) calls?, 0 pages, (\d) sockets?", process.log)
    assert [sum(map(int, counts)) for counts in zip(*cut, strict=True)] == [2, 2]
    await browser.close()


async def test_a_signal_that_goes_to_all_processes_cuts_nothing(run: Run) -> None:
    process, browser = run("--processes", "2", DRAIN="0.5")
    socket = await browser.connect()
    socket.ask("for_ever")
    await socket.receive("begun")

    # As systemd does without KillMode=mixed; the supervisor's own comes on top.
    for pid in workers(process):
        os.kill(pid, signal.SIGTERM)
    process.send(signal.SIGTERM)

    assert await asyncio.to_thread(process.wait) == 0
    assert "came again" not in process.log
    assert "after 0.5 s the drain ends and cuts 1 call" in process.log
    await browser.close()


async def test_processes_whose_supervisor_was_killed_end_by_themselves(run: Run) -> None:
    process, browser = run("--processes", "2")
    pids = workers(process)
    socket = await browser.connect()
    busy = await socket.call("pid")
    socket.ask("for_ever")
    await socket.receive("begun")

    os.kill(process.pid, signal.SIGKILL)

    await eventually(lambda: process.log.count("the supervisor is gone") == 2, "they do not notice")
    # Whoever cleans up behind it says so for the first time: that cuts nothing.
    os.kill(busy, signal.SIGTERM)
    await eventually(lambda: "SIGTERM: going down" in process.log, "the signal was no first one")
    assert Path(f"/proc/{busy}").exists()
    os.kill(busy, signal.SIGINT)
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), f"they still run; {process.log}")
    with pytest.raises(OSError):
        await browser.get("/")
    await browser.close()


async def test_with_debug_it_begins_anew_when_a_file_was_changed(run: Run, tmp_path: Path) -> None:
    module = tmp_path / "reloaded.py"
    text = "from tests.apps.running import make_app\nword = 'before'\n"
    module.write_text(text + "print(word, flush=True)\n")
    process, _ = run(app="reloaded:make_app", DEBUG="1", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert "before" in process.log

    module.write_text(text + "print('it is', 'after', flush=True)\n")

    while "it is after" not in process.log:
        module.touch()  # Tornado looks twice a second, and the first time remembers how things are
        await asyncio.sleep(0.05)
    await asyncio.to_thread(process.wait_for, r"(?s)it is after.*listening on", timeout=60)
    process.send(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["tests.apps.running:make_nothing"], "'tests.apps.running:make_nothing' is a str, not a sstream.Application"),
        (["tests.apps.running:nothing"], "there is no 'nothing' in tests.apps.running"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(capfd: pytest.CaptureFixture[str], arguments, text) -> None:
    assert main(["run", *arguments, "--port", "0"]) == 2

    error = capfd.readouterr().err
    assert text in error
    assert error.count("\n") == 1


# Tornado's bind_sockets does not close the socket that it could not bind.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_port_that_is_taken_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert main(["run", APP, "--address", "127.0.0.1", "--port", str(port)]) == 2

    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in capfd.readouterr().err


def test_several_processes_cannot_share_a_memory(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, expect_log: Callable[..., Any]
) -> None:
    expect_log("sessions are kept in memory")
    monkeypatch.delenv("REDIS_URL", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours, theirs = socket.socketpair()
        numbers = ["--sockets", str(listening.detach()), "--leash", str(theirs.detach())]

        assert main(["run", APP, *numbers]) == 2  # as a supervisor starts it

    assert ours.recv(64) == b""
    ours.close()
    assert "sessions are kept in memory, where no other process sees them; several processes" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["70000", "-1", "http"])
def test_a_port_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "no.such:app", f"--port={text}"])

    assert f"invalid port value: '{text}'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_a_number_of_processes_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SystemExit):
        main(["run", APP, "--processes", text])


def test_auto_is_a_process_for_each_core() -> None:
    assert count("auto") == len(os.sched_getaffinity(0))


def test_auto_is_a_process_for_each_core_also_where_the_system_does_not_say_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")

    assert count("auto") == os.cpu_count()


def test_the_event_loop_can_be_chosen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    uvloop = pytest.importorskip("uvloop")
    assert loop_factory("auto") is loop_factory("uvloop") is uvloop.new_event_loop
    assert loop_factory("asyncio") is asyncio.new_event_loop
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert loop_factory("auto") is asyncio.new_event_loop
    assert main(["run", APP, "--loop", "uvloop"]) == 2
    assert "uvloop is not installed: pip install uvloop" in capsys.readouterr().err
