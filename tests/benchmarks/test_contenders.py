"""The contenders that need nothing besides sstream's own packages do the work; the others say what they miss."""

import pytest

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.servers import Server, WrongAnswer, missing
from sstream.testing import RedisServer


@pytest.mark.parametrize("name", ["tornado", "sstream-python"])
def test_contender_answers_rightly_and_keeps_sessions(name: str) -> None:
    with RedisServer() as redis, Server(name, CONTENDERS[name], redis=redis.url) as server:
        (cookie,) = server.cookies(1)

        assert server.call("write", cookie=cookie, path="/session") == 1
        assert server.page("/count", cookie) == "hello fred, 2"
        assert server.page("/page", cookie) == "hello fred, 2"
        assert server.call("read", cookie=cookie, path="/session") == 2


def test_wrong_answer_is_no_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "call", lambda self, method, *params: 6)

    with pytest.raises(WrongAnswer, match=r"add\(2, 3\) gave 6 instead of 5"):
        Server("tornado", CONTENDERS["tornado"])


def test_missing_package_is_named_with_what_to_do() -> None:
    assert missing(CONTENDERS["tornado"]) is None
    for need in ("no-such-package", "npm:no-such-package"):
        contender = Contender(label="x", server="x:serve", needs=(need,))

        assert missing(contender) == "no-such-package is not installed: `make bench` does that"
