"""``python -m sstream publish``: what an application hears of it, and what is said where that cannot be."""

import asyncio
import functools

import pytest

from sstream.__main__ import main
from sstream.commands import publish
from sstream.pubsub import RedisBroker
from tests.pubsub.listening import LAST_TEN, Ear


@pytest.fixture
async def ear(redis_url, monkeypatch):
    # A machine that stands still for the default, a second, is no Redis that is away.
    monkeypatch.setattr(publish, "_Counting", functools.partial(publish._Counting, deadline=20.0))
    broker, ear = RedisBroker(redis_url, deadline=20.0), Ear()
    await broker.start(ear)
    await broker.subscribe(["all", "user:42", "channel:lobby", "channel:kept"])
    yield ear
    await broker.close()


async def run(*arguments):
    """The exit status; in a thread, for the command has an event loop of its own."""
    return await asyncio.to_thread(main, ["publish", *arguments])


async def test_an_event_reaches_every_topic_and_its_arguments_are_json(redis_url, ear, capsys):
    status = await run(redis_url, "channel:lobby", "message", '"hello"', '{"tea": [1, null]}', "--also", "all")

    assert status == 0
    assert await ear.hears(2) == [
        ["message", ["hello", {"tea": [1, None]}], {"channel": "lobby"}],
        ["message", ["hello", {"tea": [1, None]}]],
    ]
    assert capsys.readouterr().out == "channel:lobby: heard by 1 process\nall: heard by 1 process\n"


async def test_a_user_id_is_written_as_publishers_write_it_and_nobody_may_listen(redis_url, ear, capsys):
    assert await run(redis_url, "user:Jürgen", "hello") == 0
    assert await run(redis_url, "user:42", "hello", "--also", "socket:8f3c") == 0

    assert await ear.hears(1) == [["hello", []]]
    assert capsys.readouterr().out.splitlines() == [
        "user:Jürgen: heard by 0 processes",
        "user:42: heard by 1 process",
        "socket:8f3c: heard by 0 processes",
    ]


async def test_an_event_is_kept_where_history_is_said(redis_url, ear, capsys):
    assert await run(redis_url, "channel:kept", "n", "1", "--history", "10,60") == 0

    ((event, args, meta),) = await ear.hears(1)
    assert [event, args, meta["offset"]] == ["n", [1], 1]
    assert capsys.readouterr().out == "channel:kept: kept, number 1\n"
    broker = RedisBroker(redis_url, deadline=20.0)
    assert (await broker.history("channel:kept", None, LAST_TEN)).position == (1, meta["epoch"])
    await broker.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["lobby", "message"], "'lobby' is no topic; legal are all, user:ID, channel:NAME and socket:ID"),
        (["channel:", "message"], "'' is no name for a channel"),
        (["channel:*", "message"], "'*' is no name for a channel"),
        (["all", "message", "--also", "room:1"], "'room:1' is no topic"),
        (["all", "message", "1", "hello"], "argument 2 is no JSON: hello"),
        (["all", "sstream:gap"], "names that begin with 'sstream:' are sstream's own"),
        (["all", ""], "an event has a name"),
        (["all", "message", "--prefix", "sess:"], "cannot use the prefix 'sess:'"),
    ],
)
def test_what_cannot_be_published_is_told_in_one_line_and_nothing_is(redis_url, capsys, arguments, text):
    assert main(["publish", redis_url, *arguments]) == 2

    output = capsys.readouterr()
    assert text in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_a_redis_that_is_away_is_told_without_the_password(capsys):
    assert main(["publish", "redis://:hunter2@127.0.0.1:1/0", "all", "message"]) == 1

    error = capsys.readouterr().err
    assert error.startswith("sstream: not published: ")
    assert error.count("\n") == 1
    assert "hunter2" not in error


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost"])
def test_a_url_that_is_none_is_told(capsys, url):
    assert main(["publish", url, "all", "message"]) == 2

    assert "not a Redis URL" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["10", "10,x", "0,60"])
def test_a_history_that_is_none_is_refused(capsys, text):
    with pytest.raises(SystemExit):
        main(["publish", "redis://localhost", "channel:kept", "n", "--history", text])

    assert "argument --history: invalid" in capsys.readouterr().err
