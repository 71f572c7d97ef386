"""Messages that are wrong, by accident or on purpose."""

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from sstream import RPCHandler, rpc
from sstream.testing import StoreProbe

from .live import Live, ServeLive, nothing_else, refused


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="the one byte that MessagePack never has"),
        pytest.param(b"\x94\x00\x01", id="half a call"),
        pytest.param(b"\xff" * 100, id="noise"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="four thousand million elements"),
        pytest.param(b"\x91" * 10_000, id="10,000 deep"),
        pytest.param(b"\xdf\x00\x01\x00\x00" + b"\x80" * 60_000, id="many empty maps"),
        pytest.param(msgpack.packb(7), id="a number"),
        pytest.param(msgpack.packb({}), id="a map"),
        pytest.param(msgpack.packb([]), id="an empty array"),
        pytest.param(msgpack.packb([9, 1, "add", []]), id="an unknown kind"),
        pytest.param(msgpack.packb([-1, 1, "add", []]), id="a kind below zero"),
        pytest.param(msgpack.packb(["0", 1, "add", []]), id="a kind that is text"),
        pytest.param(msgpack.packb([0]), id="a call that says nothing"),
        pytest.param(msgpack.packb([0, 7]), id="a call without method"),
        pytest.param(msgpack.packb([0, 7, 5, []]), id="a method that is a number"),
        pytest.param(msgpack.packb([0, 7, "add", {}]), id="params that are a map"),
        pytest.param(msgpack.packb([0, 7, "add", "xy"]), id="params that are a text"),
        pytest.param(msgpack.packb([0, 7, b"\xff\xfe", []]), id="a method that is bytes"),
        pytest.param(b"\x94\x00\x07\xa2\xff\xfe\x90", id="a method that is no UTF-8"),
        pytest.param(msgpack.packb([0, 1.5, "add", [1, 2]]), id="an id that is a fraction"),
        pytest.param(msgpack.packb([0, None, "add", [1, 2]]), id="an id that is nil"),
        pytest.param(msgpack.packb([0, [7], "add", [1, 2]]), id="an id that is an array"),
        pytest.param(msgpack.packb([0, 7, "add", [1, 2], 5]), id="meta that is a number"),
        pytest.param(msgpack.packb([0, 7, "add", [1, 2], {}, 6, 7]), id="too many elements"),
    ],
)
async def test_a_message_that_is_none_is_answered_with_an_error_and_the_socket_goes_on(
    payload: bytes, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    socket.send_raw(payload)
    kind, call_id, error, result = await socket.receive_message()

    assert (kind, result) == (1, None)
    assert call_id in {None, 7}
    assert error[0] in {-32700, -32600, -32601, -32602}
    assert await socket.call("add", 2, 3) == 5


@pytest.mark.parametrize(
    "message",
    [
        pytest.param([1, 99, None, "a reply that nobody waits for"], id="reply"),
        pytest.param([1, "x", [1, "a", None], None], id="refusal"),
        pytest.param([3, 99], id="cancel"),
        pytest.param([5, 99, 5], id="credit"),
        pytest.param([2, "no.such.method", []], id="notification of an unknown method"),
        pytest.param([2, "add", ["x"]], id="notification with wrong arguments"),
    ],
)
async def test_what_refers_to_nothing_is_passed_over_in_silence(
    message: list[Any], memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    socket.send(message)

    assert await nothing_else(socket) == [[]]


async def test_a_text_message_under_the_binary_subprotocol_is_an_error(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    socket.send_raw('[0,1,"add",[2,3]]')

    assert (await socket.receive_message())[2][0] == -32700
    assert await socket.call("add", 2, 3) == 5


@pytest.mark.parametrize(
    "name",
    [
        "",
        "no_such_method",
        "cart",
        "cart.",
        ".add",
        "cart.no_such",
        "cart.add.x",
        "Cart.add",
        "__init__",
        "__class__",
        "cart.__class__",
        "_tell",
        "_push_view",
        "open",
        "close",
        "on_message",
        "on_close",
        "write_message",
        "get",
        "prepare",
        "finish",
        "subscribe",
        "call",
        "publish",
        "session",
        "session_turn",
        "may_subscribe",
        "cart.session",
        "cart.handler",
        "application.settings",
        "add\0",
        "add ",
        "x" * 10_000,
        "\U0001f375",
    ],
)
async def test_only_marked_methods_can_be_called(name: str, memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    error = await refused(socket.call(name, 1, 2))

    assert error.code == -32601
    assert error.message.startswith("method not found")
    assert len(error.message) < 200
    assert await socket.call("add", 2, 3) == 5


@pytest.mark.parametrize(
    ("params", "words"),
    [
        pytest.param((), "takes 2 arguments", id="none"),
        pytest.param((1,), "takes 2 arguments", id="one"),
        pytest.param((1, 2, 3), "takes 2 arguments", id="three"),
        pytest.param(("1", 2), "params[0] (a): expected int, got str", id="text for a number"),
        pytest.param((1, None), "params[1] (b): expected int, got null", id="nil for a number"),
        pytest.param((1, 2.5), "params[1] (b): expected int, got float", id="a fraction"),
        pytest.param((True, 2), "params[0] (a): expected int, got bool", id="a boolean"),
        pytest.param(([1], 2), "params[0] (a): expected int, got array", id="an array"),
    ],
)
async def test_wrong_types_and_counts_are_answered_with_the_arguments_name(
    params: tuple[Any, ...], words: str, memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    error = await refused(socket.call("add", *params))

    assert error.code == -32602
    assert words in error.message


async def test_a_message_over_the_limit_closes_the_socket_with_1009(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    socket.send_raw(b"\x00" * (64 * 1024 + 1))

    assert (await socket.closed()).code == 1009


async def test_a_hundred_bad_messages_in_a_row_are_each_answered(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    for number in range(100):
        socket.send([0, f"id-{number}", "no_such", []])

    ids = [(await socket.receive_message())[1] for _ in range(100)]
    assert ids == [f"id-{number}" for number in range(100)]


async def test_an_id_may_be_text_and_may_be_used_again_when_it_is_answered(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory)
    socket = await site.browser().connect()

    results = [await socket.reply(socket.send_call([0, "the same", "add", [number, 1]])) for number in range(3)]

    assert results == [1, 2, 3]


async def test_a_result_that_cannot_be_sent_is_logged_and_told_as_internal_error(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Odd(Live):
        @rpc
        def odd(self) -> Any:
            return object()

    site = await serve_live(memory, Odd)
    socket = await site.browser().connect()
    expect_log("odd gave a object, which cannot be sent", logger="sstream.rpc", count=1)

    error = await refused(socket.call("odd"))

    assert (error.code, error.message) == (-32603, "internal error")
    assert await socket.call("add", 2, 3) == 5


async def test_a_handler_has_the_methods_of_pages_until_its_socket_is_open(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    class Strict(Live):
        def initialize(self) -> None:
            super().initialize()
            self.set_header("X-Tea", "green")

        @rpc
        def misuse(self, name: str) -> str:
            try:
                getattr(self, name)("x")
            except RuntimeError as error:
                return str(error)
            return "done"

    site = await serve_live(memory, Strict)
    socket = await site.browser().connect()

    answers = {
        await socket.call("misuse", name)
        for name in ("write", "redirect", "set_header", "set_cookie", "set_status", "flush", "finish")
    }

    assert answers == {"Method not supported for Web Sockets"}
    assert Strict.write is RPCHandler.write
