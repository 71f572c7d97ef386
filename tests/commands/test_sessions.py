"""Stored sessions from the command line: shown without their secrets, ended everywhere."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from sstream import Application, RPCHandler, SessionOptions, load_session, rpc
from sstream.__main__ import main
from sstream.testing import RedisServer, serve

Run = Callable[..., str]

EXPRESS = (
    '{"cookie":{"originalMaxAge":2592000000,"expires":"2026-12-23T00:53:13.384Z","httpOnly":true,"path":"/"},'
    '"userId":"fred","cart":{"tea":1},"token":"hush"}'
)
FRED = "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
ADA = "AbCxyzGhIjKlMnOpQrStUvWxYz012345"


@pytest.fixture
def store(redis_url: str) -> redis.Redis:
    """A Redis with two sessions of Express's, and what is none."""
    client = redis.Redis.from_url(redis_url)
    client.set(f"sess:{FRED}", EXPRESS, ex=13 * 86400 + 4 * 3600 + 5)
    client.set(f"sess:{ADA}", EXPRESS.replace('"fred"', "7").replace('"userId"', '"channels":["tea"],"userId"'))
    client.set("other", "x")
    yield client
    client.close()


@pytest.fixture
def run(redis_url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("list", "--full")``: what is printed; the command must end well."""

    def run(action: str, *words: str, status: int = 0, stream: str = "out") -> str:
        assert main(["sessions", action, *words, "--redis", redis_url]) == status
        return getattr(capsys.readouterr(), stream)

    return run


def test_sessions_are_listed_with_shortened_ids(store: redis.Redis, run: Run) -> None:
    lines = sorted(run("list").splitlines(), key=str.lower)

    assert [line.split()[:4] for line in lines] == [
        ["AbCdEf…", "fred", "13", "d"],
        ["AbCxyz…", "7", "for", "ever"],
        ["id", "user", "left", "bytes"],
    ]
    assert lines[0].endswith("  cart, token")


def test_no_secret_is_shown_by_accident(store: redis.Redis, run: Run) -> None:
    shown = run("list") + run("show", FRED) + run("show", "AbCdE") + run("end", FRED, ADA)

    assert "hush" not in shown
    assert FRED not in shown and ADA not in shown


def test_whole_ids_are_shown_on_purpose(store: redis.Redis, run: Run) -> None:
    assert FRED in run("list", "--full")


def test_sessions_of_a_user_are_listed_whoever_wrote_them(store: redis.Redis, run: Run) -> None:
    assert "fred" not in run("list", "--user", "7")
    assert len(run("list", "--user", "fred").splitlines()) == 2


def test_a_list_has_an_end(store: redis.Redis, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--limit", "1", stream="err") == "there are more than 1: --limit 0 shows all\n"
    assert len(run("list", "--limit", "0").splitlines()) == 3


def test_a_list_of_less_than_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["sessions", "list", "--limit", "-1"])

    assert end.value.code == 2
    assert "invalid limit value: '-1'" in capsys.readouterr().err


def test_many_sessions_are_all_found_once(redis_url: str, store: redis.Redis, run: Run) -> None:
    store.mset({f"sess:{number}": EXPRESS for number in range(1500)})

    assert len(set(run("list", "--limit", "0", "--full").splitlines())) == 1 + 2 + 1500


def test_a_session_is_shown_without_its_values(store: redis.Redis, run: Run) -> None:
    assert run("show", "AbCx…").splitlines() == [
        "id        AbCxyz…",
        "user      7",
        "left      for ever",
        f"bytes     {len(store.get(f'sess:{ADA}'))}",
        "channels  tea",
        "[cart]    object, 9 bytes",
        "[token]   text, 6 bytes",
    ]


def test_a_session_is_shown_whole_on_purpose(store: redis.Redis, run: Run) -> None:
    shown = run("show", FRED, "--full")

    assert f"id        {FRED}" in shown
    assert '[token]   "hush"' in shown
    assert "[cookie]" in shown


def test_what_visitors_wrote_cannot_command_the_terminal(store: redis.Redis, run: Run) -> None:
    text = json.loads(EXPRESS) | {"userId": "\x1b[2Jada\n", "\x1b]0;x\x07": "\u202e"}
    store.set(f"sess:{FRED}", json.dumps(text, ensure_ascii=False))

    shown = run("list") + run("show", FRED) + run("show", FRED, "--full")

    assert not {character for character in shown if not character.isprintable()} - {"\n"}
    assert "\\x1b[2Jada\\n" in shown


def test_what_is_no_session_is_said(store: redis.Redis, run: Run) -> None:
    store.set("sess:broken", "null")
    store.lpush("sess:list", "x")

    shown = run("list", "--full")

    assert "(it has no cookie object)" in shown or "(not a" in shown
    assert "(it is no text)" in shown
    assert "problem" in run("show", "broken")


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        ("AbC", "there is 2 sessions whose id begins with AbC…"),
        ("nobody*", "there is no session whose id begins with nobody…"),
        ("…", "an empty text is no id"),
        ("*", "there is no session whose id begins with *…"),
    ],
)
@pytest.mark.parametrize("action", ["show", "end"])
def test_a_beginning_that_does_not_name_one_is_refused(
    store: redis.Redis, run: Run, action: str, beginning: str, message: str
) -> None:
    assert run(action, beginning, status=2, stream="err") == f"sstream: {message}\n"
    assert store.exists(f"sess:{FRED}", f"sess:{ADA}") == 2


def test_sessions_are_ended_by_the_beginning_of_their_id(store: redis.Redis, run: Run) -> None:
    assert run("end", "AbCd", "AbCx") == "ended 2 sessions\n"

    assert store.exists(f"sess:{FRED}", f"sess:{ADA}") == 0


def test_ending_nobodys_sessions_is_told_by_the_status(store: redis.Redis, run: Run) -> None:
    assert run("end", "--user", "nobody", status=1) == "ended 0 sessions\n"


@pytest.mark.parametrize("words", [[], [FRED, "--user", "fred"]])
def test_ending_wants_ids_or_a_user(store: redis.Redis, run: Run, words: list[str]) -> None:
    assert "Give ids, or --user" in run("end", *words, status=2, stream="err")


def test_prefix_is_taken_from_the_command_line_or_the_environment(
    store: redis.Redis, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set("shop[1]:abc", EXPRESS)

    assert "abc…" in run("list", "--prefix", "shop[1]:")

    monkeypatch.setenv("SSTREAM_SESSION_PREFIX", "shop[1]:")
    assert run("end", "abc") == "ended 1 session\n"
    assert not store.exists("shop[1]:abc")


def test_redis_is_taken_from_the_environment(
    store: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSTREAM_REDIS", "redis://127.0.0.1:1")
    monkeypatch.setenv("SSTREAM_STORE", redis_url)

    assert main(["sessions", "list"]) == 0

    assert "fred" in capsys.readouterr().out


class Live(RPCHandler):
    """A socket that writes its session."""

    middleware = [load_session]

    @rpc
    async def log_in(self) -> None:
        await self.session.set_user_id("grace")


async def test_ending_a_users_sessions_closes_their_sockets(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = Application([("/ws", Live)], redis=redis_url, session=SessionOptions(secret="a test's own secret"))
    async with serve(app) as site:
        browser = site.browser()
        socket = await browser.connect()
        await socket.call("log_in")
        await browser.settle()

        command = ["sessions", "end", "--user", "grace", "--redis", redis_url]
        assert await asyncio.to_thread(main, command) == 0

        assert (await socket.closed()).code == 4401
    assert capsys.readouterr().out == "ended 1 session\n"


# --- where there is nothing to look at --------------------------------------------------------------------------------


def test_no_redis_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sessions", "list"]) == 2

    assert capsys.readouterr().err == "sstream: which Redis? Give --redis URL, or set SSTREAM_REDIS\n"


@pytest.mark.parametrize("words", [["list"], ["show", "abc"], ["end", "abc"]])
def test_a_redis_that_is_away_is_told_in_one_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["sessions", *words, "--redis", "redis://ada:hush@127.0.0.1:1/0"]) == 1

    error = capsys.readouterr().err
    assert error.startswith("sstream: the Redis at redis://***@127.0.0.1:1/0 cannot be reached: ")
    assert error.count("\n") == 1
    assert "hush" not in error


def test_what_is_no_url_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sessions", "list", "--redis", "http://localhost"]) == 2

    assert capsys.readouterr().err.startswith("sstream: not a Redis URL")


def test_rights_that_are_missing_are_told_in_one_line(
    need: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server = need(lambda: RedisServer("user default on nopass ~* &* +@all -scan"))
    try:
        assert main(["sessions", "list", "--redis", server.url]) == 1
    finally:
        server.stop()

    error = capsys.readouterr().err
    assert error.startswith("sstream: Redis refused SCAN: NOPERM")
    assert error.count("\n") == 1
