"""What ``doctor`` looks at, and how it says what it saw."""

import asyncio
import importlib.metadata
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

import sstream
from sstream import compiled
from sstream.__main__ import main
from sstream.commands import doctor, redis_checkup
from sstream.commands.report import Finding, Mark
from sstream.commands.servers import ask, connections_to
from sstream.testing import RedisServer

SECRET = "a test's own secret"
RIGHTS = "user default off\nuser sstream on >hush ~sess:* ~sstream:* &sstream:* &__redis__:invalidate "
HOW_TO = Path(__file__).parents[2] / "docs/how-to.md"


@pytest.fixture
def examine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, tuple[str, str]]]:
    """What ``doctor`` prints: the mark and the text of each subject, blanks made one."""
    monkeypatch.delenv("SSTREAM_FUZZ", raising=False)  # for other tests; it is no setting, and is told as none

    def examine(*words: str, status: int = 0) -> dict[str, tuple[str, str]]:
        assert main(["doctor", *words]) == status
        text = re.sub(r"\n {5,}", " ", capsys.readouterr().out)
        lines = (re.fullmatch(r"(\S+) +(\S+(?: \S+)*?)  +(.*)", line) for line in text.splitlines())
        return {match[2]: (match[1], match[3]) for match in lines if match}

    return examine


def test_all_is_well_with_a_redis_and_a_secret(
    examine: Callable[..., Any], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSTREAM_REDIS", redis_url)
    monkeypatch.setenv("SSTREAM_SESSION_SECRET", SECRET)

    report = examine()

    assert {
        mark for subject, (mark, _) in report.items() if not subject.startswith("C part") and subject != "open files"
    } == {"✓"}
    assert report["tornado"][1] == importlib.metadata.version("tornado")
    assert report["secret"][1] == "one of your own"
    assert report["SSTREAM_SESSION_SECRET"][1] == "(not shown)"
    assert set(report) >= {"Python", "redis", "hiredis", "msgspec", "uvloop", "version", "clock", "sessions", "records"}
    assert set(report) >= {"history", "caching", "events"}


def test_nothing_set_is_worth_a_warning(examine: Callable[..., Any]) -> None:
    report = examine()

    assert report["secret"][0] == report["Redis"][0] == "!"


def test_nothing_is_left_in_redis(examine: Callable[..., Any], own_redis: RedisServer) -> None:
    examine("--redis", own_redis.url)

    checked = asyncio.run(_keys(own_redis.url))
    assert checked == []


async def _keys(url: str) -> Any:
    async with connections_to(url) as (connection,):
        return (await ask(connection, ("KEYS", "*")))[0]


# --- what is set ------------------------------------------------------------------------------------------------------


def test_the_public_secret_is_an_error_in_production(
    examine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSTREAM_PRODUCTION", "true")
    monkeypatch.setenv("SSTREAM_DEBUG", "true")

    report = examine(status=1)

    assert report["secret"][0] == report["debug"][0] == "✗"


def test_a_short_secret_is_doubted_and_several_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_SESSION_SECRET", "keyboard cat")
    assert _settings()["secret"] == Finding(Mark.DOUBT, "secret", "is shorter than 16 characters: it may be guessed")

    monkeypatch.setenv("SSTREAM_SESSION_SECRET", f"{SECRET},{SECRET} of yesterday")
    assert _settings()["secret"].text == "2 of your own, the first signs"


def _settings() -> dict[str, Finding]:
    return {finding.subject: finding for finding in doctor.check_settings()}


def test_a_setting_that_cannot_be_used_is_an_error(
    examine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSTREAM_LIMITS_DRAIN", "soon")

    assert examine(status=1)["settings"][1].startswith("SSTREAM_LIMITS_DRAIN='soon'; legal are")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSTREAM_LIMITS_DRAIN", "-1"),
        ("SSTREAM_PRESENCE_TTL", "1"),
        ("SSTREAM_SESSION_RENEW_GRACE", "0"),
        ("SSTREAM_WATCH_METRICS_TOKEN", "short"),
    ],
)
def test_no_application_would_start_with_it_and_that_is_an_error(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    found = _settings()["settings"]

    assert found.mark is Mark.WRONG
    assert found.text.startswith(f"{variable}: ")


def test_a_name_that_is_no_setting_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTREAM_REDDIS", "redis://localhost")
    monkeypatch.setenv("SSTREAM_REDIS_URL", "redis://localhost")

    found = _settings()

    assert found["SSTREAM_REDDIS"].text == "is no setting, and does nothing; do you mean SSTREAM_REDIS?"
    assert "SSTREAM_REDIS_URL" not in found


# --- what is installed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "mark"),
    [((3, 10, 9), Mark.WRONG), ((3, 11, 0), Mark.GOOD), ((3, 13, 9), Mark.GOOD), ((3, 14, 0), Mark.DOUBT)],
)
def test_pythons_are_judged_by_their_version(version: tuple[int, ...], mark: Mark) -> None:
    assert doctor.check_python(version).mark is mark


def test_packages_that_are_missing_or_too_old_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["tornado>=99.1", "nothing-of-this-name>=2", "redis[hiredis]>=5.0.1", 'uvloop>=1; extra == "fast"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)

    findings = {finding.subject: finding for finding in doctor.check_packages()}

    assert findings["tornado"].text.endswith("is too old: 99.1 or newer is needed")
    assert findings["nothing-of-this-name"].text == "is not installed: pip install 'nothing-of-this-name>=2'"
    assert findings["redis"].mark is findings["hiredis"].mark is Mark.GOOD
    assert "uvloop" not in findings


@pytest.mark.parametrize("wing", ["websocket", "rpc"])
def test_a_missing_c_part_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wing: str) -> None:
    def explained() -> str:
        return next(finding.text for finding in doctor.check_speedups() if finding.subject == f"C part, {wing}")

    monkeypatch.setitem(sys.modules, f"sstream.{wing}._speedups", sstream)
    assert explained() == "at work"

    monkeypatch.delitem(sys.modules, f"sstream.{wing}._speedups")
    monkeypatch.setattr(sstream, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.delenv("SSTREAM_PURE_PYTHON", raising=False)
    (tmp_path / wing).mkdir()
    assert explained().startswith("not built: ")

    (tmp_path / wing / "_speedups.cpython-39-other.so").touch()
    assert explained().startswith("built for another Python (_speedups.cpython-39-other.so)")

    monkeypatch.setitem(compiled.amiss, f"sstream.{wing}._speedups", "cannot be loaded: it is empty")
    assert explained().startswith("cannot be loaded: it is empty: install sstream anew; without it ")
    monkeypatch.delitem(compiled.amiss, f"sstream.{wing}._speedups")

    monkeypatch.setenv("SSTREAM_PURE_PYTHON", "1")
    assert explained().startswith("left out")


def test_a_missing_uvloop_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)

    assert doctor.check_uvloop().mark is Mark.NOTE


@pytest.mark.parametrize(
    ("limits", "mark"),
    [((1024, 1024), Mark.DOUBT), ((1024, 9999), Mark.DOUBT), ((4096, 4096), Mark.GOOD), ((-1, -1), Mark.GOOD)],
)
def test_few_open_files_are_doubted(monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], mark: Mark) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)

    finding = doctor.check_files()

    assert finding.mark is mark
    assert ("up to 9999" in finding.text) is (limits[1] == 9999)


# --- Redis ------------------------------------------------------------------------------------------------------------


def test_a_redis_that_is_away_is_an_error_in_one_line(examine: Callable[..., Any]) -> None:
    mark, text = examine("--redis", "redis://ada:hush@127.0.0.1:1", status=1)["Redis"]

    assert mark == "✗"
    assert text.startswith("the Redis at redis://***@127.0.0.1:1 cannot be reached: ")


def test_what_is_no_url_is_an_error(examine: Callable[..., Any]) -> None:
    assert examine("--redis", "http://localhost", status=1)["Redis"][1].startswith("not a Redis URL")


def test_a_redis_that_does_not_answer_is_told(
    examine: Callable[..., Any], own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sstream.commands.servers._TIMEOUT", 0.2)
    own_redis.freeze()

    assert "cannot be reached: " in examine("--redis", own_redis.url, status=1)["Redis"][1]


def test_store_and_broker_are_both_looked_at(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSTREAM_STORE", redis_url)
    monkeypatch.setenv("SSTREAM_BROKER", "redis://127.0.0.1:1")

    assert main(["doctor"]) == 1

    assert re.findall(r"^(.)  Redis ", capsys.readouterr().out, re.MULTILINE) == ["✓", "✗"]


def test_rights_that_the_documentation_names_are_enough(need: Callable[..., Any], examine: Callable[..., Any]) -> None:
    (rights,) = re.findall(r"user sstream on >password .*?\n```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL)
    server = need(lambda: RedisServer("user default off\n" + " ".join(rights.removesuffix("```").split())))
    try:
        report = examine("--redis", server.url.replace("//", "//sstream:password@"))
    finally:
        server.stop()

    subjects = ("clock", "sessions", "records", "history", "caching", "events")
    assert {subject: report[subject][0] for subject in subjects} == dict.fromkeys(subjects, "✓")
    assert report["version"][0] == "·"


@pytest.mark.parametrize(
    ("rights", "subject", "mark", "text"),
    [
        ("+@all -client|tracking", "caching", "!", "CLIENT TRACKING refused"),
        ("+@all -xadd -zadd", "history", "✗", "XADD, ZADD refused: NOPERM"),
        ("+@all -eval", "sessions", "✗", "EVAL refused: NOPERM"),
        ("+@all -publish", "events", "✗", "PUBLISH refused: NOPERM"),
        ("+@all -subscribe", "events", "✗", "SUBSCRIBE sstream:doctor refused: NOPERM"),
        ("+@all -time", "clock", "·", "is not told: NOPERM"),
    ],
)
def test_rights_that_are_missing_are_named(
    own_redis: RedisServer, examine: Callable[..., Any], rights: str, subject: str, mark: str, text: str
) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.execute_command(
            *f"ACL SETUSER sstream on >hush ~sess:* ~sstream:* &sstream:* &__redis__:invalidate {rights}".split()
        )

    url = own_redis.url.replace("//", "//sstream:hush@")
    report = examine("--redis", url, status=1 if mark == "✗" else 0)

    assert report[subject][0] == mark
    assert report[subject][1].startswith(text)


def test_what_a_server_tells_of_itself_is_judged() -> None:
    old = b"redis_version:5.0.14\r\nrole:slave\r\nmaxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n"

    findings = {finding.subject.strip(): finding for finding in redis_checkup.check_info(old)}

    assert findings["version"] == Finding(Mark.WRONG, "  version", "Redis 5.0.14 is too old: 6.2 or newer is needed")
    assert findings["role"].mark is Mark.WRONG
    assert findings["memory"].mark is Mark.DOUBT


def test_a_clock_that_goes_wrong_is_doubted() -> None:
    right, wrong = ([str(second).encode(), b"500000"] for second in (1000, 1060))

    assert redis_checkup.check_clock(right, 1000.0, 1001.0).mark is Mark.GOOD
    assert "differs from this machine's by 60 s" in redis_checkup.check_clock(wrong, 1000.0, 1000.5).text


# --- the report -------------------------------------------------------------------------------------------------------


def test_report_does_without_signs_that_the_terminal_cannot_show() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sstream", "doctor"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert b"\nok Python " in done.stdout
    assert b"\n!  secret " in done.stdout
