"""Several processes are kept running, replaced when they die, and end together; here they are small scripts."""

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import sys
from pathlib import Path

import pytest

from sstream.commands import supervisor
from sstream.commands.supervisor import Leash, Supervisor
from sstream.testing import eventually, within

# It gets --sockets NUMBERS --leash NUMBER, says that it is up, notes its pid, and does the rest.
SCRIPT = """
import os, signal, socket, sys, time
leash = socket.socket(fileno=int(sys.argv[-1]))
with open(sys.argv[1], "a") as notes:
    notes.write(f"{os.getpid()}\\n")
"""
UP = 'leash.send(b"up 0.1\\n")\n'
STAY = "signal.pause()\n"


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def notes(tmp_path):
    return tmp_path / "pids"


def make(script, notes, listening, count=2):
    return Supervisor([sys.executable, "-I", "-S", "-c", SCRIPT + script, str(notes)], count, [listening])


def pids(notes):
    return [int(line) for line in notes.read_text().split()] if notes.exists() else []


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_as_many_run_as_are_wanted_and_all_end_when_a_signal_asks_for_it(notes, listening):
    end = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    running = asyncio.create_task(make(end + UP + STAY, notes, listening, 3).run())
    await eventually(lambda: len(pids(notes)) == 3, "three processes did not start")

    os.kill(os.getpid(), signal.SIGTERM)

    assert await within(running, "it did not end") == 0
    assert all(map(is_gone, pids(notes)))
    assert len(pids(notes)) == 3


async def test_a_signal_in_the_turn_in_which_one_comes_up_ends_it(notes, listening, monkeypatch):
    supervised = make(UP + STAY, notes, listening, 1)

    async def one_of(*futures, timeout=None):
        await real(*futures, timeout=timeout)
        if not supervised._ending.done():
            supervised._on_signal(signal.SIGTERM)

    real = supervisor._one_of
    monkeypatch.setattr(supervisor, "_one_of", one_of)

    assert await within(asyncio.create_task(supervised.run()), "it did not end") == 0
    assert all(map(is_gone, pids(notes)))


async def test_one_that_dies_is_replaced_and_that_is_said(notes, listening, expect_log):
    line = expect_log(r"process \d+ was ended by SIGKILL after [\d.]+ s; another in 0\.1 s", count=1)
    running = asyncio.create_task(make(UP + STAY, notes, listening).run())
    await eventually(lambda: len(pids(notes)) == 2, "two processes did not start")
    dead = pids(notes)[0]

    os.kill(dead, signal.SIGKILL)

    await eventually(lambda: len(pids(notes)) == 3, "the dead one was not replaced")
    os.kill(os.getpid(), signal.SIGINT)
    assert await within(running, "it did not end") == 0
    assert str(dead) in line.records[0].getMessage()


async def test_where_no_process_can_be_started_now_it_is_tried_again(notes, listening, expect_log):
    expect_log("was ended by SIGKILL", count=1)
    refused = expect_log(r"no process can be started: .*Too many open files.*; another attempt in [\d.]+ s")
    running = asyncio.create_task(make(UP + STAY, notes, listening).run())
    await eventually(lambda: len(pids(notes)) == 2, "two processes did not start")
    dead = pids(notes)[0]

    with no_more_files():
        os.kill(dead, signal.SIGKILL)
        await eventually(lambda: refused.records, "nothing was said")

    await eventually(lambda: len(pids(notes)) == 3, "the dead one was not replaced")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await within(running, "it did not end") == 0


@contextlib.contextmanager
def no_more_files():
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_one_that_dies_is_missed_though_its_fork_holds_the_leash(notes, listening):
    fork = (
        "if not os.fork():\n"
        "    with open(sys.argv[1] + '.fork', 'a') as forks:\n"
        "        forks.write(f'{os.getpid()}\\n')\n"
        "    signal.pause()\n"
    )
    forks = notes.with_name("pids.fork")
    die = f"while not os.path.exists({str(forks)!r}): time.sleep(0.01)\nsys.exit(3)\n"

    try:
        status = await within(make(fork + die, notes, listening).run(), "the supervisor waits for the fork")
    finally:
        for pid in pids(forks):
            os.kill(pid, signal.SIGKILL)

    assert status == 3
    assert len(pids(notes)) == len(pids(forks)) == 1


async def test_one_that_dies_again_and_again_is_given_longer_pauses(notes, listening, expect_log, monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.3)
    lines = expect_log("ended with status 7")
    running = asyncio.create_task(make(UP + "sys.exit(7)\n", notes, listening, 1).run())

    await eventually(lambda: len(lines.records) >= 4, "it did not die four times")
    os.kill(os.getpid(), signal.SIGTERM)
    await within(running, "it did not end")

    pauses = [re.search(r"another in ([\d.]+) s", record.getMessage())[1] for record in lines.records]
    assert pauses[:4] == ["0.1", "0.2", "0.3", "0.3"]


async def test_if_the_first_never_comes_up_no_other_is_tried_and_its_status_is_told(notes, listening):
    status = await within(make("sys.exit(7)\n", notes, listening, 4).run(), "it did not end")

    assert status == 7
    assert len(pids(notes)) == 1


async def test_if_the_first_cannot_even_be_started_that_is_told_in_one_line(notes, listening, expect_log):
    line = expect_log("no process can be started: .*No such file or directory", count=1)

    status = await within(Supervisor(["/nowhere/python"], 2, [listening]).run(), "it did not end")

    assert status == 1
    assert line.records[0].exc_info is None
    assert pids(notes) == []


async def test_one_that_does_not_end_in_its_time_is_killed(notes, listening, expect_log, monkeypatch):
    monkeypatch.setattr(supervisor, "MARGIN", 0.1)
    line = expect_log("does not end and is killed", count=1)
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    running = asyncio.create_task(make(deaf + UP + STAY, notes, listening, 1).run())
    await eventually(lambda: pids(notes), "it did not start")
    await eventually(lambda: _ignores(pids(notes)[0], signal.SIGTERM), "it does not ignore the signal")

    os.kill(os.getpid(), signal.SIGTERM)

    assert await within(running, "it did not end") == 1
    assert str(pids(notes)[0]) in line.records[0].getMessage()


def _ignores(pid, number):
    mask = re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return int(mask, 16) >> (number - 1) & 1


async def test_the_end_is_not_held_up_by_one_that_does_not_come_up(notes, listening):
    running = asyncio.create_task(make(STAY, notes, listening).run())
    await eventually(lambda: pids(notes), "it did not start")

    os.kill(os.getpid(), signal.SIGTERM)

    assert await within(running, "it did not end") == 0
    assert len(pids(notes)) == 1


async def test_the_end_of_the_leash_asks_for_the_end(expect_log):
    expect_log("the supervisor is gone", count=1)
    ours, theirs = socket.socketpair()
    with theirs:
        leash = Leash(theirs)
        gone = leash.watch()
        leash.tell_up(None)
        told = ours.recv(64)

        ours.close()

        await within(gone.wait(), "it was not noticed")
    assert told == b"up \n"


def test_end_by_a_signal_without_a_name_can_be_told() -> None:
    assert supervisor._how(-signal.SIGKILL) == "was ended by SIGKILL"
    assert supervisor._how(-(signal.SIGRTMIN + 1)) == f"was ended by signal {signal.SIGRTMIN + 1}"
