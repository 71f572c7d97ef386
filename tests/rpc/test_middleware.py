"""What stands around a method."""

import asyncio
import logging
import time
from typing import Any

import pytest

from sstream.errors import FORBIDDEN, TOO_MANY, ConfigurationError, RPCError
from sstream.rpc.middleware import Request, debug, load_session, rate_limit, require_user
from sstream.rpc.registry import Actions, rpc
from sstream.testing import Clock
from tests.rpc.sockets import SessionHandler

trail: list[str] = []


@pytest.fixture(autouse=True)
def empty_trail():
    trail.clear()


def leave(name: str) -> Any:
    """A middleware that leaves its name on the trail, on the way in and on the way out."""

    async def middleware(request: Request, call_next: Any) -> Any:
        trail.append(f">{name}")
        try:
            return await call_next(request)
        finally:
            trail.append(f"<{name}")

    return middleware


outer, group, inner, own = leave("outer"), leave("group"), leave("inner"), leave("own")


class Inner(Actions):
    middleware = [inner, outer]

    @rpc(use=[own])
    def method(self) -> None:
        trail.append("method")


class Group(Actions):
    middleware = [group]
    actions = {"inner": Inner}


class Ordered:
    middleware = [outer]
    actions = {"group": Group}


async def test_middleware_runs_from_the_class_over_the_groups_to_the_method(open_socket):
    open_socket(Ordered).call("group.inner.method")

    assert trail == [">outer", ">group", ">inner", ">own", "method", "<own", "<inner", "<group", "<outer"]


async def test_request_tells_about_the_call(open_socket):
    seen = []

    async def look(request: Request, call_next: Any) -> Any:
        seen.append(request)
        return await call_next(request)

    class Holder:
        @rpc(use=[look])
        def add(self, a: int, b: int = 7) -> int:
            return a + b

    socket = open_socket(Holder)
    socket.receive(0, "x", "add", [2], {"timeout": 5, "traceparent": "t"})

    [request] = seen
    assert (request.method, request.params, request.id, request.session) == ("add", [2, 7], "x", None)
    assert (request.meta.timeout, request.meta.traceparent) == (5.0, "t")
    assert request.handler is socket.handler
    assert abs(request.received_at - time.time()) < 60
    assert socket.sent == [[1, "x", None, 9]]


def test_request_shows_no_payload_in_a_log():
    request = Request("login", ["secret"], None, 1, None, 0.0, None, {"secret": 1})

    assert repr(request) == "<Request login id=1>"


async def test_middleware_may_change_the_params(open_socket):
    async def double(request: Request, call_next: Any) -> Any:
        request.params[0] *= 2
        return await call_next(request)

    class Holder:
        @rpc(use=[double])
        def echo(self, value: int) -> int:
            return value

    assert open_socket(Holder).call("echo", 4) == (None, 8)


async def test_middleware_may_answer_itself(open_socket):
    async def answer(request: Request, call_next: Any) -> Any:
        return "answered"

    class Holder:
        @rpc(use=[answer])
        def method(self) -> str:
            raise AssertionError

    assert open_socket(Holder).call("method") == (None, "answered")


async def test_middleware_may_refuse(open_socket):
    async def refuse(request: Request, call_next: Any) -> Any:
        raise RPCError(FORBIDDEN, "no")

    class Holder:
        @rpc(use=[refuse])
        async def method(self) -> None:
            raise AssertionError

    assert open_socket(Holder).call("method") == ([FORBIDDEN, "no", None], None)


async def test_middleware_may_change_the_result_and_wait(open_socket):
    async def wrap(request: Request, call_next: Any) -> Any:
        await asyncio.sleep(0)
        result = await call_next(request)
        await asyncio.sleep(0)
        return [result]

    class Holder:
        @rpc(use=[wrap, leave("x")])
        async def method(self) -> int:
            await asyncio.sleep(0)
            return 5

    socket = open_socket(Holder)
    socket.receive(0, 1, "method", [])

    assert await socket.wait_for(1) == [[1, 1, None, [5]]]


async def test_middleware_may_be_an_object(open_socket):
    class Middleware:
        def __call__(self, request: Request, call_next: Any) -> Any:
            return call_next(request)

    class Holder:
        @rpc(use=[Middleware()])
        def method(self) -> int:
            return 5

    assert open_socket(Holder).call("method") == (None, 5)


async def test_middleware_stands_around_the_whole_stream(open_socket):
    class Holder:
        @rpc(use=[own])
        async def items(self) -> Any:
            trail.append("item")
            yield 1

    socket = open_socket(Holder)
    socket.receive(0, 1, "items", [])
    socket.receive(5, 1, 1)
    await socket.wait_for(2)

    assert trail == [">own", "item", "<own"]


# Those that are ready-made


class Shop(SessionHandler):
    middleware = [load_session]

    @rpc
    async def put(self, key: str, value: Any) -> None:
        await asyncio.sleep(0)
        self.session[key] = value

    @rpc
    async def spoil(self) -> None:
        self.session["spoilt"] = True
        raise RPCError(FORBIDDEN, "no")


async def test_load_session_stores_before_the_reply(open_socket):
    socket = open_socket(Shop)

    socket.receive(0, 1, "put", ["tea", 2])
    await socket.wait_for(1)

    assert socket.handler.stored == {"tea": 2}


async def test_load_session_drops_the_changes_of_a_call_that_raises(open_socket):
    socket = open_socket(Shop)

    socket.receive(0, 1, "spoil", [])
    await socket.wait_for(1)

    assert socket.handler.stored == socket.handler.session == {}


async def test_load_session_gives_the_session_to_further_middleware(open_socket):
    seen = []

    async def look(request: Request, call_next: Any) -> Any:
        seen.append(request.session)
        return await call_next(request)

    class Holder(SessionHandler):
        @rpc(use=[load_session, look])
        def method(self) -> None: ...

    socket = open_socket(Holder)
    socket.receive(0, 1, "method", [])
    await socket.wait_for(1)

    assert seen == [socket.handler.session]


class Visitor:
    def __init__(self, user_id: Any) -> None:
        self.user_id = user_id


@pytest.mark.parametrize("session", [None, Visitor(None)])
async def test_require_user_refuses_who_has_not_logged_in(session):
    async def call_next(request: Request) -> str:
        raise AssertionError

    with pytest.raises(RPCError) as caught:
        await require_user(Request("x", [], None, 1, None, 0.0, None, session), call_next)

    assert caught.value.code == FORBIDDEN


async def test_require_user_lets_users_through():
    async def call_next(request: Request) -> str:
        return "in"

    assert await require_user(Request("x", [], None, 1, None, 0.0, None, Visitor(42)), call_next) == "in"


async def test_rate_limit_refuses_what_is_too_much(open_socket):
    clock = Clock(1000)

    class Holder:
        @rpc(use=[rate_limit(3, 1.5, clock=clock)])
        def method(self) -> int:
            return 5

    socket = open_socket(Holder)

    answers = [socket.call("method") for _ in range(4)]

    assert answers[:3] == [(None, 5)] * 3
    assert answers[3] == ([TOO_MANY, "too many calls", {"retry_after": 0.5}], None)


async def test_rate_limit_lets_calls_through_again_in_time(open_socket):
    clock = Clock(1000)

    class Holder:
        @rpc(use=[rate_limit(2, 1, clock=clock)])
        def method(self) -> int:
            return 5

    socket = open_socket(Holder)
    for _ in range(3):
        socket.call("method")

    clock.turn(0.5)

    assert socket.call("method") == (None, 5)
    assert socket.call("method")[0][0] == TOO_MANY


async def test_rate_limit_counts_each_socket_alone(open_socket):
    class Holder:
        @rpc(use=[rate_limit(1, 1, clock=Clock(1000))])
        def method(self) -> int:
            return 5

    first, second = open_socket(Holder), open_socket(Holder)

    assert first.call("method") == second.call("method") == (None, 5)
    assert first.call("method")[0][0] == second.call("method")[0][0] == TOO_MANY


async def test_rate_limit_counts_by_a_key(open_socket):
    class Holder:
        @rpc(use=[rate_limit(1, 1, key=lambda request: request.params[0], clock=Clock(1000))])
        def method(self, who: str) -> int:
            return 5

    first, second = open_socket(Holder), open_socket(Holder)

    assert first.call("method", "a") == second.call("method", "b") == (None, 5)
    assert first.call("method", "b")[0][0] == second.call("method", "a")[0][0] == TOO_MANY


async def test_rate_limit_forgets_keys_that_are_idle():
    clock = Clock(1000)
    limit = rate_limit(1, 1, key=lambda request: request.id, clock=clock)
    [keys] = [cell.cell_contents for cell in limit.__closure__ if isinstance(cell.cell_contents, dict)]

    async def call_next(request: Request) -> None: ...

    for number in range(20_000):
        clock.turn(0.01)
        await limit(Request("x", [], None, number, None, 0.0, None), call_next)

    assert len(keys) <= 4096


@pytest.mark.parametrize(("calls", "seconds"), [(0, 1), (1, 0), (-1, 1), (1, float("nan"))])
def test_rate_limit_of_nothing_is_an_error(calls, seconds):
    with pytest.raises(ConfigurationError, match="rate_limit wants calls >= 1 and seconds > 0"):
        rate_limit(calls, seconds)


class Debugged:
    middleware = [debug]

    @rpc
    def ok(self, secret: str) -> str:
        return secret

    @rpc
    def refuse(self) -> None:
        raise RPCError(FORBIDDEN, "no")

    @rpc
    def fail(self) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("method", "params", "outcome"),
    [("ok", ["password"], "ok"), ("refuse", [], "refused with 4003"), ("fail", [], "failed")],
)
async def test_debug_logs_the_outcome_and_no_payload(open_socket, caplog, expect_log, method, params, outcome):
    expect_log("fail raised", "sstream.rpc", required=method == "fail")
    caplog.set_level(logging.DEBUG, "sstream.rpc")

    open_socket(Debugged).call(method, *params)

    line = caplog.records[0].getMessage()
    assert line.startswith(f"{method} on socket socket-1: {outcome} in ")
    assert "password" not in caplog.text


async def test_debug_tells_the_trace_that_a_call_belongs_to(open_socket, caplog):
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    caplog.set_level(logging.DEBUG, "sstream.rpc")

    open_socket(Debugged).receive(0, 1, "ok", ["password"], {"traceparent": trace})

    assert caplog.records[0].getMessage().endswith(f" ms, traceparent {trace}")
