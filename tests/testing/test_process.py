"""Children: heard, ended, never orphaned."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sstream.testing import Process, ProcessError

PATIENCE = 20.0  # seconds; only a failure meets it

ECHO = """
import os, signal, sys, time
print("ready", os.environ.get("COLOUR"), os.getcwd(), flush=True)
signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


def python(script: str, **options: object) -> Process:
    return Process(sys.executable, "-c", script, **options)  # type: ignore[arg-type]


@pytest.fixture
def child() -> Iterator[Process]:
    with python(ECHO) as child:
        yield child


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} lives on"
        time.sleep(0.01)


def test_wait_for_gives_the_match(child: Process) -> None:
    match = child.wait_for(r"^ready (\w+)")

    assert match[1] == "None"


def test_the_pid_is_that_of_the_command(child: Process) -> None:
    child.wait_for("ready")

    assert b"signal.pause" in Path(f"/proc/{child.pid}/cmdline").read_bytes()


def test_wait_for_after_a_match_finds_the_next_one() -> None:
    with python("for n in range(3): print('line', n)") as child:
        first = child.wait_for(r"line (\d)")
        second = child.wait_for(r"line (\d)", after=first.end())

    assert (first[1], second[1]) == ("0", "1")


def test_env_and_cwd_reach_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOVED", "1")
    script = "import os; print(os.environ['COLOUR'], 'REMOVED' in os.environ, os.getcwd())"

    with python(script, env={"COLOUR": "green", "REMOVED": None}, cwd=tmp_path) as child:
        assert child.wait() == 0

    assert child.log == f"green False {tmp_path}\n"


def test_output_and_errors_are_kept_after_the_end() -> None:
    with python("import sys; print('out', flush=True); print('err', file=sys.stderr)") as child:
        child.wait()

    assert child.log == "out\nerr\n"


def test_child_that_ends_first_is_told_with_its_log() -> None:
    with python("print('cannot open the shop'); raise SystemExit(3)") as child:
        with pytest.raises(ProcessError, match=r"ended with 3 before it wrote 'ready'.*\n    cannot open the shop"):
            child.wait_for("ready")


def test_child_that_is_late_is_told_with_its_log(child: Process) -> None:
    child.wait_for("ready")

    with pytest.raises(ProcessError, match=r"did not write 'never' within 0\.05 s; it wrote:\n    ready"):
        child.wait_for("never", timeout=0.05)


def test_wait_for_an_end_that_does_not_come_fails(child: Process) -> None:
    with pytest.raises(ProcessError, match=r"still runs after 0\.05 s"):
        child.wait(0.05)


def test_command_that_does_not_exist_is_told() -> None:
    with Process("/nowhere/at-all") as child:
        with pytest.raises(ProcessError, match="cannot run /nowhere/at-all: No such file or directory"):
            child.wait_for("ready")


def test_directory_that_does_not_exist_raises_and_leaks_nothing() -> None:
    with pytest.raises(FileNotFoundError):
        python(ECHO, cwd="/nowhere/at-all")


def test_stop_asks_with_sigterm(child: Process) -> None:
    child.wait_for("ready")

    assert child.stop(PATIENCE) == -signal.SIGTERM
    assert child.returncode == -signal.SIGTERM


def test_stop_kills_who_does_not_listen() -> None:
    with python(STUBBORN) as child:
        child.wait_for("ready")

        assert child.stop(timeout=0.05) == -signal.SIGKILL


def test_stop_ends_a_frozen_child(child: Process) -> None:
    child.wait_for("ready")
    child.freeze()

    assert child.stop(PATIENCE) == -signal.SIGTERM


def test_stop_and_kill_are_safe_to_call_twice(child: Process) -> None:
    child.wait_for("ready")
    child.stop(PATIENCE)

    assert child.stop() == child.kill() == -signal.SIGTERM


def test_frozen_child_goes_on_when_thawed() -> None:
    with python("import time, itertools\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.001)") as child:
        child.wait_for("^5$")
        child.freeze()
        deadline = time.monotonic() + PATIENCE
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline
        seen = len(child.log)

        child.thaw()

        child.wait_for(r"^\d+$", after=seen + 8)


def test_kill_takes_the_grandchildren_along() -> None:
    script = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("grandchild", child.pid, flush=True)
child.wait()
"""
    with python(script) as child:
        grandchild = int(child.wait_for(r"grandchild (\d+)")[1])
        child.kill()

        wait_until_dead(grandchild)


def test_child_gets_a_process_group_of_its_own(child: Process) -> None:
    child.wait_for("ready")

    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux'")
def test_children_die_with_a_parent_that_is_killed() -> None:
    script = f"""
import signal, sys
from sstream.testing import Process
child = Process(sys.executable, "-c", {ECHO!r})
child.wait_for("ready")
print("child", child.pid, flush=True)
signal.pause()
"""
    with python(script) as parent:
        child = int(parent.wait_for(r"child (\d+)")[1])
        assert is_alive(child)

        os.kill(parent.pid, signal.SIGKILL)

        wait_until_dead(child)
