"""The life of a call: exactly one reply, whatever happens."""

import asyncio
import functools
import gc
import tracemalloc
import weakref
from time import thread_time
from typing import Any

import msgpack
import pytest

from sstream.errors import (
    CANCELLED,
    FORBIDDEN,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    SESSION_GONE,
    TIMEOUT,
    TOO_MANY,
    UNAVAILABLE,
    BrokerError,
    RPCError,
    SessionError,
    SessionGone,
    StoreError,
)
from sstream.rpc.codec import JSON
from sstream.rpc.dispatch import drain_detached, traceparent
from sstream.rpc.middleware import load_session
from sstream.rpc.registry import Actions, rpc
from tests.rpc.sockets import SessionHandler, Socket

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Cart(Actions):
    @rpc
    def add(self, item: str, count: int = 1) -> dict[str, int]:
        return {item: count}

    @rpc
    def owner(self) -> str:
        return self.handler.id


class Handler:
    actions = {"cart": Cart}

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.seen: list[Any] = []

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    async def add_async(self, a: int, b: int) -> int:
        return a + b

    @rpc
    async def add_later(self, a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    @rpc
    async def wait(self, value: Any = None) -> Any:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("finally")
        return value

    @rpc(timeout=0.01)
    async def hurry(self) -> None:
        await self.gate.wait()

    @rpc
    async def stubborn(self) -> str:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "done anyway"

    @rpc(detached=True)
    async def outlive(self) -> None:
        await self.gate.wait()
        self.seen.append("outlived")

    @rpc
    async def count(self, most: int) -> Any:
        try:
            for number in range(most):
                self.seen.append(number)
                yield number
        finally:
            self.seen.append("closed")

    @rpc
    def fail(self, kind: str) -> None:
        raise {
            "rpc": RPCError(FORBIDDEN, "not you", {"who": "you"}),
            "gone": SessionGone("secret"),
            "store": StoreError("secret"),
            "broker": BrokerError("secret"),
            "session": SessionError("secret"),
            "bug": ZeroDivisionError("secret"),
        }[kind]

    @rpc
    async def fail_later(self, kind: str) -> None:
        await asyncio.sleep(0)
        self.fail(kind)

    @rpc
    def give_object(self) -> object:
        return object()

    @rpc
    async def give_object_later(self) -> object:
        await asyncio.sleep(0)
        return object()

    @rpc
    def forget_await(self) -> Any:
        return self.add_async(1, 2)

    @rpc
    def see(self, value: Any) -> None:
        self.seen.append(value)

    @rpc
    async def confirm(self, question: str, timeout: float | None = None) -> Any:
        return await self.call("confirm", question, timeout=timeout)

    def unmarked(self) -> str:
        return "never"

    def _private(self) -> str:
        return "never"


# Plain calls


async def test_def_method_is_answered_at_once(open_socket):
    assert open_socket(Handler).call("add", 2, 3) == (None, 5)


async def test_async_method_that_does_not_wait_is_answered_at_once(open_socket):
    assert open_socket(Handler).call("add_async", 2, 3) == (None, 5)


async def test_async_method_that_waits_is_answered_later(open_socket):
    socket = open_socket(Handler)

    socket.receive(0, 7, "add_later", [2, 3])

    assert socket.sent == []
    assert await socket.wait_for(1) == [[1, 7, None, 5]]


async def test_action_is_called_by_its_dotted_name(open_socket):
    assert open_socket(Handler).call("cart.add", "tea", 2) == (None, {"tea": 2})


async def test_action_knows_its_handler(open_socket):
    assert open_socket(Handler).call("cart.owner") == (None, "socket-1")


async def test_default_argument_is_filled_in(open_socket):
    assert open_socket(Handler).call("cart.add", "tea") == (None, {"tea": 1})


@pytest.mark.parametrize("call_id", [0, 127, 2**32, 2**63 - 1, -1, -(2**63), "", "abc"])
async def test_reply_carries_the_id_of_the_call(open_socket, call_id):
    socket = open_socket(Handler)

    socket.receive(0, call_id, "add", [2, 3])

    assert socket.sent == [[1, call_id, None, 5]]


async def test_json_socket_is_answered_in_text(open_socket):
    socket = open_socket(Handler, JSON)

    socket.calls.receive('[0, 1, "add", [2, 3]]')

    assert socket.payloads == ["[1,1,null,5]"]


async def test_calls_wait_side_by_side(open_socket):
    socket = open_socket(Handler)

    for number in range(50):
        socket.receive(0, number, "wait", [number])
    assert socket.calls.in_flight == 50
    socket.handler.gate.set()

    assert sorted(await socket.wait_for(50)) == [[1, number, None, number] for number in range(50)]


# Refusals


@pytest.mark.parametrize(
    "name",
    ["nope", "unmarked", "_private", "__init__", "__class__", "seen", "cart", "cart.", "cart.nope", "cart.session", ""],
)
async def test_name_that_is_not_marked_is_not_found(open_socket, name):
    error, _ = open_socket(Handler).call(name)

    assert error == [METHOD_NOT_FOUND, f"method not found: {name}", None]


async def test_long_unknown_name_is_cut_in_the_reply(open_socket):
    error, _ = open_socket(Handler).call("x" * 60_000)

    assert error[1] == "method not found: " + "x" * 100


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (["x", 3], "params[0] (a): expected int, got str"),
        ([2, None], "params[1] (b): expected int, got null"),
        ([2, 3.5], "params[1] (b): expected int, got float"),
        ([2], "add takes 2 arguments, got 1"),
        ([2, 3, 4], "add takes 2 arguments, got 3"),
        ({"a": 2, "b": 3}, "params: expected array, got object"),
        (None, "params: expected array, got null"),
    ],
)
async def test_wrong_argument_is_named(open_socket, params, text):
    socket = open_socket(Handler)

    socket.receive(0, 1, "add", params)

    assert socket.sent == [[1, 1, [INVALID_PARAMS, text, None], None]]


async def test_text_that_is_no_utf8_is_refused(open_socket):
    socket = open_socket(Handler)

    socket.calls.receive(b"\x94\x00\x01\xa8cart.add\x91\xa2\xff\xff")

    assert socket.sent == [[1, 1, [INVALID_PARAMS, "params: malformed", None], None]]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("rpc", [FORBIDDEN, "not you", {"who": "you"}]),
        ("gone", [SESSION_GONE, "session gone", None]),
        ("store", [UNAVAILABLE, "unavailable", None]),
        ("broker", [UNAVAILABLE, "unavailable", None]),
    ],
)
@pytest.mark.parametrize("method", ["fail", "fail_later"])
async def test_known_error_becomes_its_code(open_socket, method, kind, error):
    socket = open_socket(Handler)

    socket.receive(0, 1, method, [kind])

    assert await socket.wait_for(1) == [[1, 1, error, None]]


@pytest.mark.parametrize("kind", ["bug", "session"])
@pytest.mark.parametrize("method", ["fail", "fail_later"])
async def test_unexpected_error_is_logged_whole_and_told_as_internal(open_socket, expect_log, method, kind):
    expected = expect_log(f"{method} raised on socket socket-1", "sstream.rpc", count=1)
    socket = open_socket(Handler)

    socket.receive(0, 1, method, [kind])

    assert await socket.wait_for(1) == [[1, 1, [INTERNAL_ERROR, "internal error", None], None]]
    assert expected.records[0].exc_info[1].args == ("secret",)


async def test_result_that_cannot_be_sent_is_an_internal_error(open_socket, expect_log):
    expect_log("give_object gave a object, which cannot be sent", "sstream.rpc", count=1)

    error, _ = open_socket(Handler).call("give_object")

    assert error == [INTERNAL_ERROR, "internal error", None]


async def test_def_method_that_forgot_an_await_is_an_internal_error(open_socket, expect_log):
    expect_log("forget_await gave a coroutine", "sstream.rpc", count=1)

    error, _ = open_socket(Handler).call("forget_await")

    assert error == [INTERNAL_ERROR, "internal error", None]


async def test_error_data_that_cannot_be_sent_is_an_internal_error(open_socket, expect_log):
    class Odd:
        @rpc
        def odd(self) -> None:
            raise RPCError(FORBIDDEN, "odd", object())

    expect_log("which cannot be sent", "sstream.rpc", count=1)

    error, _ = open_socket(Odd).call("odd")

    assert error == [INTERNAL_ERROR, "internal error", None]


async def test_validation_error_inside_of_a_method_is_not_the_callers(open_socket, expect_log):
    import msgspec

    class Inner:
        @rpc
        def parse(self) -> int:
            return msgspec.json.decode(b'"x"', type=int)

    expect_log("parse raised", "sstream.rpc", count=1)

    error, _ = open_socket(Inner).call("parse")

    assert error[0] == INTERNAL_ERROR


async def test_coroutine_hidden_by_a_decorator_is_awaited(open_socket):
    def plain(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args)

        return wrapper

    class Hidden:
        @rpc
        @plain
        async def add(self, a: int, b: int) -> int:
            return a + b

    assert open_socket(Hidden).call("add", 2, 3) == (None, 5)


# Malformed messages


@pytest.mark.parametrize(
    ("payload", "code", "call_id"),
    [
        (b"", PARSE_ERROR, None),
        (b"\xc1", PARSE_ERROR, None),
        (b"\x94\x00\x01", PARSE_ERROR, None),
        (b"\xdd\xff\xff\xff\xff", PARSE_ERROR, None),
        (b"\x94\x00\x01\xa1x\x90\x00", PARSE_ERROR, None),
        (b"\x91" * 60_000, INVALID_REQUEST, None),
        (b"\x94\x00\x01\xa1x" + b"\x91" * 60_000, PARSE_ERROR, None),
        (msgpack.packb(None), INVALID_REQUEST, None),
        (msgpack.packb([]), INVALID_REQUEST, None),
        (msgpack.packb({}), INVALID_REQUEST, None),
        (msgpack.packb(["0", 1, "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([9, 1, "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([4, 1, "item"]), INVALID_REQUEST, None),
        (msgpack.packb([0]), INVALID_REQUEST, None),
        (msgpack.packb([0, 1]), INVALID_REQUEST, 1),
        (msgpack.packb([0, "a", "add"]), INVALID_REQUEST, "a"),
        (msgpack.packb([0, 1, 2, []]), INVALID_REQUEST, 1),
        (msgpack.packb([0, 1, "add", [], None, None]), INVALID_REQUEST, 1),
        (msgpack.packb([0, 1, "add", [], {"timeout": "x"}]), INVALID_REQUEST, 1),
        (msgpack.packb([0, 1, "add", [2, 3], {"timeout": 0}]), INVALID_REQUEST, 1),
        (msgpack.packb([0, 1, "add", [2, 3], {"timeout": -1.0}]), INVALID_REQUEST, 1),
        (msgpack.packb([0, 1, "add", [2, 3], {"timeout": float("nan")}]), INVALID_REQUEST, 1),
        (msgpack.packb([0, 1, "add", [2, 3], {"timeout": float("inf")}]), INVALID_REQUEST, 1),
        (msgpack.packb([0, 1.5, "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([0, None, "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([0, True, "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([0, [], "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([0, {}, "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([0, b"1", "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([0, 2**64 - 1, "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([0, msgpack.ExtType(1, b"x"), "add", []]), INVALID_REQUEST, None),
        (msgpack.packb([1, [], None, None]), INVALID_REQUEST, None),
        (msgpack.packb([2]), INVALID_REQUEST, None),
        (msgpack.packb([3, None]), INVALID_REQUEST, None),
        (msgpack.packb([5, 1, -1]), INVALID_REQUEST, None),
        (msgpack.packb([5, 1, 0]), INVALID_REQUEST, None),
        (msgpack.packb([5, 1, 1.5]), INVALID_REQUEST, None),
        (b"\x94\x00\x01\xa2\xff\xff\x90", PARSE_ERROR, None),
    ],
)
async def test_malformed_message_gets_an_error_reply(open_socket, payload, code, call_id):
    socket = open_socket(Handler)

    socket.calls.receive(payload)

    [[kind, replied, error, result]] = socket.sent
    assert (kind, replied, error[0], result) == (1, call_id, code, None)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", PARSE_ERROR),
        ("{", INVALID_REQUEST),
        ('[0, 1, "add", [2, 3]', PARSE_ERROR),
        ("[" * 60_000, PARSE_ERROR),
        ('[0, 1, "x", ' + "[" * 60_000, PARSE_ERROR),
        ("null", INVALID_REQUEST),
        ('[0, 1e3, "add", []]', INVALID_REQUEST),
        ('[0, 123456789012345678901234567890, "add", []]', INVALID_REQUEST),
        ("[0, " + "1" * 60_000 + ', "add", []]', INVALID_REQUEST),
    ],
)
async def test_malformed_json_gets_an_error_reply(open_socket, text, code):
    socket = open_socket(Handler, JSON)

    socket.calls.receive(text)

    assert [(kind, call_id, error[0]) for kind, call_id, error, _ in socket.sent] == [(1, None, code)]


async def test_text_on_a_messagepack_socket_is_a_parse_error(open_socket):
    socket = open_socket(Handler)

    socket.calls.receive('[0, 1, "add", [2, 3]]')

    assert socket.sent[0][2][0] == PARSE_ERROR


BOMBS = {
    "empty maps": b"\x94\x00\x01\xa3see\x91\xdd\x00\x00\xff\x00" + b"\x80" * 0xFF00,
    "empty arrays": b"\x94\x00\x01\xa3see\x91\xdd\x00\x00\xff\x00" + b"\x90" * 0xFF00,
    "maps of one": b"\x94\x00\x01\xa3see\x91\xdd\x00\x00\x3f\x00" + b"\x81\xa1a\xc0" * 0x3F00,
    "deep arrays": b"\x94\x00\x01\xa3see\x91" + b"\x91" * 60_000 + b"\xc0",
    "deep maps": b"\x94\x00\x01\xa3see\x91" + b"\x81\xa1a" * 20_000 + b"\xc0",
    "33 deep": b"\x94\x00\x01\xa3see\x91" + b"\x91" * 31 + b"\xc0",
    "claims 2**32 items": b"\x94\x00\x01\xa3see\x91\xdd\xff\xff\xff\xff\xc0",
    "claims 2**32 bytes": b"\x94\x00\x01\xa3see\x91\xc6\xff\xff\xff\xff\xc0",
    "an extension": b"\x94\x00\x01\xa3see\x91\xc7\x00\x05",
    "a timestamp": b"\x94\x00\x01\xa3see\x91\xd6\xff\x00\x00\x00\x00",
    "an integer as key": b"\x94\x00\x01\xa3see\x91\x81\x01\x01",
    "nil as key": b"\x94\x00\x01\xa3see\x91\x81\xc0\x01",
    "an array as key": b"\x94\x00\x01\xa3see\x91\x81\x90\x01",
    "a map as key": b"\x94\x00\x01\xa3see\x91\x81\x80\x01",
    "a binary key": b"\x94\x00\x01\xa3see\x91\x81\xc4\x01a\x01",
    "many small maps in a typed list": b"\x94\x00\x01\xa5typed\x91\xdd\x00\x00\xff\x00" + b"\x80" * 0xFF00,
    "many arguments": b"\x94\x00\x01\xa4rest\xdd\x00\x00\xff\x00" + b"\xc0" * 0xFF00,
    "many strings": b"\x94\x00\x01\xa4rest\xdd\x00\x00\x55\x00" + b"\xa2ab" * 0x5500,
    "empty maps in an unknown field": b"\x94\x00\x01\xa6shaped\x91\x81\xa1x\xdd\x00\x00\xff\x00" + b"\x80" * 0xFF00,
}


HONEST = b"\x94\x00\x01\xa3see\x91\xdd\x00\x00\x55\x00" + b"\xa2ab" * 0x5500  # no longer than a message may be


class Target:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    @rpc
    def see(self, value: Any) -> None:
        self.seen.append(value)

    @rpc
    def typed(self, items: list[dict[str, int]]) -> None:
        self.seen.append(items)

    @rpc
    def rest(self, first: str, *rest: str) -> None:
        self.seen.append(rest)


def seconds(socket, payload):
    """The time of a processor that it takes to receive a message."""
    start = thread_time()
    socket.calls.receive(payload)
    return thread_time() - start


@pytest.mark.parametrize("bomb", BOMBS)
async def test_bomb_is_refused_at_little_cost(open_socket, bomb):
    socket, honest = open_socket(Target), open_socket(Target)
    socket.calls.receive(BOMBS[bomb])
    gc.collect()

    tracemalloc.start()
    socket.calls.receive(BOMBS[bomb])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # In turns, as what else the machine does is felt by both: a bomb gains nothing over a message that is honest.
    costs = [(seconds(socket, BOMBS[bomb]), seconds(honest, HONEST)) for _ in range(20)]

    assert all(error[0] in {PARSE_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND} for _, _, error, _ in socket.sent)
    assert socket.handler.seen == []
    assert peak <= 2 * 2**20
    assert [error for _, _, error, _ in honest.sent] == [None] * 20
    assert min(cost for cost, _ in costs) <= 1.5 * min(cost for _, cost in costs)


async def test_message_of_the_greatest_depth_is_accepted(open_socket):
    socket = open_socket(Handler)

    socket.calls.receive(b"\x94\x00\x01\xa3see\x91" + b"\x91" * 30 + b"\xc0")

    assert socket.sent == [[1, 1, None, None]]


async def test_large_message_with_few_containers_is_accepted(open_socket):
    socket = open_socket(Handler)
    value = {"text": "ü" * 20_000, "numbers": list(range(1000)), "rows": [[1, 2]] * 1000}

    socket.receive(0, 1, "see", [value])

    assert socket.handler.seen == [value]


# Ids and stray messages


async def test_id_in_flight_is_refused_and_the_first_call_goes_on(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "wait", ["first"])

    socket.receive(0, 1, "wait", ["second"])
    socket.receive(0, 1, "add", [2, 3])
    socket.handler.gate.set()

    replies = await socket.wait_for(3)
    assert [error and error[0] for _, _, error, _ in replies] == [INVALID_REQUEST, INVALID_REQUEST, None]
    assert replies[2] == [1, 1, None, "first"]


async def test_id_can_be_used_again_after_the_reply(open_socket):
    socket = open_socket(Handler)

    assert socket.call("add", 1, 1) == (None, 2)
    assert socket.call("add", 2, 2) == (None, 4)


@pytest.mark.parametrize(
    "message", [(3, 99), (3, "x"), (5, 99, 1), (5, 99, 2**62), (1, 99, None, "late"), (1, "x", None, 1)]
)
async def test_stray_message_is_ignored(open_socket, message):
    socket = open_socket(Handler)

    socket.receive(*message)

    assert socket.call("add", 2, 3) == (None, 5)


async def test_credit_for_a_call_that_is_no_stream_is_ignored(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "wait", [])

    socket.receive(5, 1, 3)
    socket.handler.gate.set()

    assert await socket.wait_for(1) == [[1, 1, None, None]]


# Calls without reply


async def test_notification_runs_without_reply(open_socket):
    socket = open_socket(Handler)

    socket.receive(2, "see", ["it"])

    assert socket.handler.seen == ["it"]
    assert socket.sent == []


@pytest.mark.parametrize("message", [(2, "nope", []), (2, "add", ["x"]), (2, "fail", ["rpc"]), (2, "count", [3])])
async def test_notification_that_fails_is_silent(open_socket, message):
    socket = open_socket(Handler)

    socket.receive(*message)

    assert socket.sent == []
    assert socket.calls.in_flight == 0


async def test_notification_with_a_bug_is_logged(open_socket, expect_log):
    expect_log("fail raised", "sstream.rpc", count=1)
    socket = open_socket(Handler)

    socket.receive(2, "fail", ["bug"])

    assert socket.sent == []


async def test_notification_may_wait(open_socket):
    socket = open_socket(Handler)
    socket.receive(2, "wait", [])
    assert socket.calls.in_flight == 1

    socket.handler.gate.set()
    await socket.calls.drain()

    assert socket.handler.seen == ["finally"]
    assert socket.sent == []


# Deadlines and cancelling


async def test_call_past_the_applications_deadline_is_answered_and_cancelled(open_socket):
    socket = open_socket(Handler, call_timeout=0.01)

    socket.receive(0, 1, "wait", [])

    assert await socket.wait_for(1) == [[1, 1, [TIMEOUT, "timeout", None], None]]
    await socket.calls.drain()
    assert socket.handler.seen == ["cancelled", "finally"]


async def test_call_past_its_methods_deadline_is_answered(open_socket):
    socket = open_socket(Handler, call_timeout=None)

    socket.receive(0, 1, "hurry", [])

    assert await socket.wait_for(1) == [[1, 1, [TIMEOUT, "timeout", None], None]]


async def test_call_past_its_own_deadline_is_answered(open_socket):
    socket = open_socket(Handler)

    socket.receive(0, 1, "wait", [], {"timeout": 0.01})

    assert await socket.wait_for(1) == [[1, 1, [TIMEOUT, "timeout", None], None]]


async def test_call_cannot_lengthen_its_methods_deadline(open_socket):
    socket = open_socket(Handler)

    socket.receive(0, 1, "hurry", [], {"timeout": 1000.0})

    assert await socket.wait_for(1) == [[1, 1, [TIMEOUT, "timeout", None], None]]


async def test_method_that_ignores_its_cancellation_is_answered_at_the_deadline_and_once(open_socket):
    socket = open_socket(Handler, call_timeout=0.01)

    socket.receive(0, 1, "stubborn", [])
    await socket.wait_for(1)
    await socket.calls.drain()

    assert socket.sent == [[1, 1, [TIMEOUT, "timeout", None], None]]


async def test_deadlines_of_many_calls_come_each_in_time(open_socket):
    socket = open_socket(Handler, call_timeout=0.02)
    socket.receive(0, 1, "wait", [])
    await asyncio.sleep(0.01)
    start = asyncio.get_running_loop().time()
    socket.receive(0, 2, "wait", [])

    await socket.wait_for(2)

    assert [reply[1] for reply in socket.sent] == [1, 2]
    assert asyncio.get_running_loop().time() - start >= 0.019


async def test_call_that_ended_in_time_meets_no_deadline(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "add_later", [2, 3], {"timeout": 1})
    await socket.wait_for(1)

    socket.receive(0, 2, "wait", [], {"timeout": 1.01})
    await socket.wait_for(2)

    assert socket.sent == [[1, 1, None, 5], [1, 2, [TIMEOUT, "timeout", None], None]]


async def test_cancel_answers_and_ends_the_call(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "wait", [])

    socket.receive(3, 1)

    assert socket.sent == [[1, 1, [CANCELLED, "cancelled", None], None]]
    await socket.calls.drain()
    assert socket.handler.seen == ["cancelled", "finally"]


async def test_cancel_twice_is_answered_once(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "stubborn", [])

    socket.receive(3, 1)
    socket.receive(3, 1)
    await socket.calls.drain()

    assert len(socket.sent) == 1


async def test_cancelled_id_may_be_used_again_at_once(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "stubborn", [])
    socket.receive(3, 1)

    socket.receive(0, 1, "wait", ["second"])
    await asyncio.sleep(0)
    socket.receive(3, 1)
    await socket.calls.drain()

    assert [error[0] for _, _, error, _ in socket.sent] == [CANCELLED, CANCELLED]


async def test_error_on_the_way_out_of_a_cancelled_call_is_logged(open_socket, expect_log):
    class Clumsy:
        @rpc
        async def fall(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    expect_log("fall raised", "sstream.rpc", count=1)
    socket = open_socket(Clumsy)
    socket.receive(0, 1, "fall", [])

    socket.receive(3, 1)
    await socket.calls.drain()

    assert [error[0] for _, _, error, _ in socket.sent] == [CANCELLED]


async def test_method_that_cancels_itself_is_answered(open_socket):
    class Quitter:
        @rpc
        async def quit(self) -> None:
            raise asyncio.CancelledError

    error, _ = open_socket(Quitter).call("quit")

    assert error == [CANCELLED, "cancelled", None]


# The end of the socket


async def test_close_cancels_the_calls_in_flight_and_sends_nothing(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "wait", [])
    socket.receive(0, 2, "count", [3])
    await asyncio.sleep(0)

    socket.calls.close()
    await socket.calls.drain()

    assert socket.sent == []
    assert socket.handler.seen == [0, "cancelled", "finally", "closed"]


async def test_close_twice_is_harmless(open_socket):
    socket = open_socket(Handler)

    socket.calls.close()
    socket.calls.close()


async def test_message_after_the_close_is_ignored(open_socket):
    socket = open_socket(Handler)
    socket.calls.close()

    socket.receive(2, "see", ["it"])

    assert socket.handler.seen == []


async def test_detached_call_outlives_its_socket(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "outlive", [])
    await asyncio.sleep(0)

    socket.calls.close()
    socket.handler.gate.set()
    await drain_detached()

    assert socket.handler.seen == ["outlived"]
    assert socket.sent == []


async def test_call_that_closes_its_own_socket_ends(open_socket):
    class Leaver:
        @rpc
        async def leave(self) -> None:
            self.calls.close()
            try:
                await asyncio.Event().wait()
            finally:
                self.left = True

    socket = open_socket(Leaver)
    socket.handler.calls = socket.calls

    socket.receive(0, 1, "leave", [])
    await socket.calls.drain()

    assert socket.handler.left
    assert socket.sent == []


async def test_closed_socket_is_not_kept_alive(open_socket):
    open_socket(Handler)  # keeps the pool of runners
    socket = Socket(Handler)
    for number, name in enumerate(["add_async", "add_later", "add"]):
        socket.receive(0, number, name, [2, 3])
    await socket.wait_for(3)
    handler = weakref.ref(socket.handler)

    socket.calls.close()
    del socket
    await asyncio.sleep(0)
    gc.collect()

    assert handler() is None


async def test_drain_waits_for_the_replies(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "add_later", [2, 3])

    await socket.calls.drain()

    assert socket.sent == [[1, 1, None, 5]]


# Many calls in flight


async def test_call_past_the_bound_is_held_and_reading_is_paused(open_socket):
    socket = open_socket(Handler, pauses=True, calls_in_flight=2)

    for number in range(4):
        socket.receive(0, number, "wait", [number])

    assert socket.is_paused
    assert socket.calls.in_flight == 2
    assert socket.sent == []


async def test_held_calls_go_on_in_order_as_others_end(open_socket):
    socket = open_socket(Handler, pauses=True, calls_in_flight=2)
    for number in range(7):
        socket.receive(0, number, "wait", [number])

    socket.handler.gate.set()

    assert [reply[1] for reply in await socket.wait_for(7)] == list(range(7))
    await asyncio.sleep(0)
    assert not socket.is_paused
    assert socket.call("add", 2, 3) == (None, 5)


async def test_call_past_the_bound_is_refused_where_reading_cannot_be_paused(open_socket):
    socket = open_socket(Handler, calls_in_flight=1)
    socket.receive(0, 1, "wait", [])

    error, _ = socket.call("wait", call_id=2)

    assert error == [TOO_MANY, "too many calls in flight: at most 1", None]


async def test_def_methods_are_answered_while_the_bound_is_reached(open_socket):
    socket = open_socket(Handler, pauses=True, calls_in_flight=1)
    socket.receive(0, 1, "wait", [])

    assert socket.call("add", 2, 3, call_id=2) == (None, 5)


async def test_call_is_refused_rather_than_held_while_the_browser_is_asked(open_socket):
    socket = open_socket(Handler, pauses=True, calls_in_flight=1)
    socket.receive(0, 1, "confirm", ["sure?"])

    socket.receive(0, 2, "wait", [])
    socket.receive(1, 1, None, "yes")

    assert await socket.wait_for(3) == [
        [0, 1, "confirm", ["sure?"]],
        [1, 2, [TOO_MANY, "too many calls in flight: at most 1", None], None],
        [1, 1, None, "yes"],
    ]


async def test_held_call_is_let_go_when_the_browser_is_asked(open_socket):
    class Asker:
        def __init__(self) -> None:
            self.gate = asyncio.Event()

        @rpc
        async def ask(self) -> Any:
            await self.gate.wait()
            return await self.call("confirm", "sure?")

    socket = open_socket(Asker, pauses=True, calls_in_flight=1)
    socket.receive(0, 1, "ask", [])
    socket.receive(0, 2, "ask", [])
    assert socket.is_paused

    socket.handler.gate.set()
    await socket.wait_for(2)

    assert not socket.is_paused
    assert socket.sent[1][2][0] == TOO_MANY


async def test_close_forgets_held_calls(open_socket):
    socket = open_socket(Handler, pauses=True, calls_in_flight=1)
    socket.receive(0, 1, "wait", [])
    socket.receive(2, "see", ["it"])
    socket.receive(0, 2, "wait", [])
    socket.receive(2, "see", ["held"])

    socket.calls.close()
    await socket.calls.drain()
    await asyncio.sleep(0)

    assert socket.handler.seen == ["it", "cancelled", "finally"]


# Streams


async def test_stream_sends_what_was_asked_for(open_socket):
    socket = open_socket(Handler)

    socket.receive(0, 1, "count", [5])
    socket.receive(5, 1, 2)

    await socket.wait_for(2)
    assert socket.sent == [[4, 1, 0], [4, 1, 1]]
    assert socket.handler.seen == [0, 1, 2]  # one ahead


async def test_stream_ends_with_an_empty_reply(open_socket):
    socket = open_socket(Handler)

    socket.receive(0, 1, "count", [2])
    socket.receive(5, 1, 2)

    assert await socket.wait_for(3) == [[4, 1, 0], [4, 1, 1], [1, 1, None, None]]
    assert socket.handler.seen == [0, 1, "closed"]


async def test_stream_without_items_ends_at_once(open_socket):
    assert open_socket(Handler).call("count", 0) == (None, None)


async def test_huge_credit_is_as_good_as_a_large_one(open_socket):
    socket = open_socket(Handler)

    socket.receive(0, 1, "count", [300])
    socket.receive(5, 1, 2**63 - 1)
    socket.receive(5, 1, 2**63 - 1)

    assert len(await socket.wait_for(301)) == 301


async def test_cancel_closes_the_stream(open_socket):
    socket = open_socket(Handler)
    socket.receive(0, 1, "count", [5])
    socket.receive(5, 1, 1)
    await socket.wait_for(1)

    socket.receive(3, 1)
    await socket.calls.drain()

    assert socket.sent == [[4, 1, 0], [1, 1, [CANCELLED, "cancelled", None], None]]
    assert socket.handler.seen[-1] == "closed"


async def test_stream_that_raises_ends_with_the_error(open_socket):
    class Broken:
        @rpc
        async def broken(self) -> Any:
            yield 1
            raise RPCError(FORBIDDEN, "enough")

    socket = open_socket(Broken)
    socket.receive(0, 1, "broken", [])
    socket.receive(5, 1, 5)

    assert await socket.wait_for(2) == [[4, 1, 1], [1, 1, [FORBIDDEN, "enough", None], None]]


async def test_stream_has_no_deadline_of_the_application(open_socket):
    socket = open_socket(Handler, call_timeout=0.005)
    socket.receive(0, 1, "count", [1])
    socket.receive(0, 2, "wait", [])
    await socket.wait_for(1)

    socket.receive(5, 1, 1)

    assert (await socket.wait_for(3))[1:] == [[4, 1, 0], [1, 1, None, None]]


async def test_stream_keeps_the_deadline_that_the_call_gives(open_socket):
    socket = open_socket(Handler)

    socket.receive(0, 1, "count", [1], {"timeout": 0.01})

    assert await socket.wait_for(1) == [[1, 1, [TIMEOUT, "timeout", None], None]]


# The other direction


async def test_server_calls_the_browser(open_socket):
    socket = open_socket(Handler)

    socket.receive(0, 7, "confirm", ["sure?"])
    assert socket.sent == [[0, 1, "confirm", ["sure?"]]]
    socket.receive(1, 1, None, {"answer": True})

    assert (await socket.wait_for(2))[1] == [1, 7, None, {"answer": True}]


async def test_error_of_the_browser_is_an_rpc_error(open_socket):
    socket = open_socket(Handler)
    task = asyncio.ensure_future(socket.calls.call("confirm"))
    await socket.wait_for(1)

    socket.receive(1, 1, [4003, "no", "data"], None)

    with pytest.raises(RPCError) as caught:
        await task
    assert (caught.value.code, caught.value.message, caught.value.data) == (4003, "no", "data")


@pytest.mark.parametrize("error", ["text", [], [1], {"code": 1}, ["x", "y"], 5])
async def test_error_of_the_browser_of_any_shape_is_an_rpc_error(open_socket, error):
    socket = open_socket(Handler)
    task = asyncio.ensure_future(socket.calls.call("confirm"))
    await socket.wait_for(1)

    socket.receive(1, 1, error, None)

    with pytest.raises(RPCError):
        await task


async def test_answer_that_cannot_be_read_is_an_rpc_error(open_socket):
    socket = open_socket(Handler)
    task = asyncio.ensure_future(socket.calls.call("confirm"))
    await socket.wait_for(1)

    socket.calls.receive(b"\x94\x01\x01\xc0" + b"\x91" * 40 + b"\xc0")

    with pytest.raises(RPCError):
        await task


async def test_browser_that_does_not_answer_is_a_timeout(open_socket):
    socket = open_socket(Handler)

    with pytest.raises(RPCError) as caught:
        await socket.calls.call("confirm", timeout=0.01)

    assert caught.value.code == TIMEOUT
    assert socket.sent == [[0, 1, "confirm", []], [3, 1]]
    socket.receive(1, 1, None, "late")


async def test_cancelled_call_to_the_browser_is_cancelled_there(open_socket):
    socket = open_socket(Handler)
    task = asyncio.ensure_future(socket.calls.call("confirm"))
    await socket.wait_for(1)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert socket.sent == [[0, 1, "confirm", []], [3, 1]]


async def test_answered_call_to_the_browser_is_not_cancelled_there(open_socket):
    socket = open_socket(Handler)
    task = asyncio.ensure_future(socket.calls.call("confirm"))
    await socket.wait_for(1)

    socket.receive(1, 1, None, "yes")

    assert await task == "yes"
    assert socket.sent == [[0, 1, "confirm", []]]


async def test_close_ends_the_calls_to_the_browser(open_socket):
    socket = open_socket(Handler)
    task = asyncio.ensure_future(socket.calls.call("confirm"))
    await socket.wait_for(1)

    socket.calls.close()

    with pytest.raises(RPCError) as caught:
        await task
    assert caught.value.code == UNAVAILABLE


async def test_call_to_a_browser_that_has_left_is_refused(open_socket):
    socket = open_socket(Handler)
    socket.calls.close()

    with pytest.raises(RPCError) as caught:
        await socket.calls.call("confirm")

    assert caught.value.code == UNAVAILABLE


# The session


class Shop(SessionHandler):
    @rpc(use=[load_session])
    def read(self) -> Any:
        return self.session.get("n", 0)

    @rpc(use=[load_session])
    def bump(self) -> int:
        self.session["n"] = self.session.get("n", 0) + 1
        return self.session["n"]

    @rpc(use=[load_session])
    def spoil(self) -> None:
        self.session["n"] = "spoilt"
        raise RPCError(FORBIDDEN, "no")

    @rpc(use=[load_session])
    async def bump_slowly(self) -> int:
        n = self.session.get("n", 0)
        await asyncio.sleep(0)
        self.session["n"] = n + 1
        return n + 1

    @rpc
    def free(self) -> str:
        return "free"


async def test_call_that_does_not_ask_loads_no_session(open_socket):
    socket = open_socket(Shop)
    socket.handler.is_loaded = False

    assert socket.call("free") == (None, "free")
    assert socket.handler.loads == 0


async def test_session_at_hand_is_read_without_waiting(open_socket):
    socket = open_socket(Shop)

    assert socket.call("read") == (None, 0)
    assert socket.handler.loads == 0


async def test_session_not_at_hand_is_loaded_first(open_socket):
    socket = open_socket(Shop)
    socket.handler.is_loaded = False
    socket.handler.stored = {"n": 5}

    socket.receive(0, 1, "read", [])

    assert await socket.wait_for(1) == [[1, 1, None, 5]]
    assert socket.handler.loads == 1


async def test_reply_waits_for_the_commit(open_socket):
    socket = open_socket(Shop)

    socket.receive(0, 1, "bump", [])

    assert socket.sent == []
    assert await socket.wait_for(1) == [[1, 1, None, 1]]
    assert socket.handler.stored == {"n": 1}


async def test_changes_of_a_call_that_raises_are_dropped(open_socket):
    socket = open_socket(Shop)

    error, _ = socket.call("spoil")

    assert error[0] == FORBIDDEN
    assert socket.handler.session == {}
    assert socket.handler.commits == 0


async def test_commit_that_fails_is_told(open_socket):
    socket = open_socket(Shop)
    socket.handler.is_gone = True

    socket.receive(0, 1, "bump", [])

    assert await socket.wait_for(1) == [[1, 1, [SESSION_GONE, "session gone", None], None]]


async def test_calls_that_load_the_session_run_in_order_of_arrival(open_socket):
    socket = open_socket(Shop)

    for number in range(20):
        socket.receive(0, number, "bump" if number % 2 else "bump_slowly", [])

    assert await socket.wait_for(20) == [[1, number, None, number + 1] for number in range(20)]
    assert socket.handler.stored == {"n": 20}


# The trace


async def test_traceparent_is_a_context_variable_of_the_call(open_socket):
    class Traced:
        @rpc
        def trace(self) -> str | None:
            return traceparent.get()

        @rpc
        async def trace_later(self) -> str | None:
            await asyncio.sleep(0)
            return traceparent.get()

    socket = open_socket(Traced)

    socket.receive(0, 1, "trace", [], {"traceparent": TRACE})
    socket.receive(0, 2, "trace_later", [], {"traceparent": TRACE})
    socket.receive(0, 3, "trace", [])
    socket.receive(0, 4, "trace", [], {"traceparent": "nonsense\n"})

    assert sorted(await socket.wait_for(4)) == [
        [1, 1, None, TRACE],
        [1, 2, None, TRACE],
        [1, 3, None, None],
        [1, 4, None, None],
    ]


@pytest.mark.parametrize("method", ["fail", "fail_later"])
async def test_traceparent_stands_in_the_log(open_socket, expect_log, method):
    expect_log(f"{method} raised on socket socket-1, traceparent {TRACE}", "sstream.rpc", count=1)
    socket = open_socket(Handler)

    socket.receive(0, 1, method, ["bug"], {"traceparent": TRACE})

    await socket.wait_for(1)


@pytest.mark.parametrize("method", ["give_object", "give_object_later"])
async def test_traceparent_stands_in_the_log_of_a_result_that_cannot_be_sent(open_socket, expect_log, method):
    expect_log(f"(socket socket-1, traceparent {TRACE})", "sstream.rpc", count=1)
    socket = open_socket(Handler)

    socket.receive(0, 1, method, [], {"traceparent": TRACE})

    await socket.wait_for(1)


# Storms


async def test_storm_of_cancels_gets_one_reply_each(open_socket):
    sockets = [open_socket(Handler) for _ in range(160)]

    for socket in sockets:
        for number in range(64):
            socket.receive(
                0, number, ["wait", "stubborn", "add_later", "count"][number % 4], [1, 2][: [0, 0, 2, 1][number % 4]]
            )
            if number % 3:
                socket.receive(3, number)
            if number % 5 == 0:
                socket.receive(3, number)
        socket.handler.gate.set()
        for number in range(64):
            socket.receive(5, number, 9)
    for socket in sockets:
        await socket.calls.drain()

    for socket in sockets:
        replied = sorted(message[1] for message in socket.sent if message[0] == 1)
        assert replied == list(range(64))


async def test_socket_cut_in_any_state_of_a_call_leaves_nothing(open_socket):
    for state in range(6):
        socket = open_socket(Handler)
        for number, name in enumerate(["wait", "stubborn", "add_later", "count", "hurry", "confirm", "outlive"]):
            socket.receive(0, number, name, [[], [], [1, 2], [9], [], ["?"], []][number])
        socket.receive(5, 3, state)
        for _ in range(state):
            await asyncio.sleep(0)
        if state % 2:
            socket.receive(3, 0)
        before = len(socket.sent)

        socket.calls.close()
        socket.handler.gate.set()
        await socket.calls.drain()
        await drain_detached()

        assert len(socket.sent) == before
        assert socket.calls.in_flight == 0
