"""What a ``WebSocketHandler`` may rely on, on each wire."""

import asyncio
import contextvars
import gc
import json
import os
import socket
import struct
import weakref
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from tornado.http1connection import HTTP1Connection
from tornado.web import OutputTransform
from tornado.websocket import WebSocketClosedError, WebSocketHandler, WebSocketProtocol

from sstream.limits import Limits
from sstream.websocket import Connection, SharedFrame, websocket_protocol
from tests.websocket.conftest import Handler, Serve
from tests.websocket.frames import compress, frame, message
from tests.websocket.peer import Received

ACCEPT, PROTOCOL, EXTENSIONS = (f"sec-websocket-{name}" for name in ("accept", "protocol", "extensions"))


async def until(condition: Any) -> None:
    """Wait for what has no event of its own; the test's timeout ends it."""
    while not condition():
        await asyncio.sleep(0.001)


# The handshake


async def test_text_and_binary_come_back(serve: Serve) -> None:
    peer = await (await serve()).connect()

    peer.send(frame(1, "grüße".encode()) + frame(2, b"\x00\xff") + frame(2, b"x" * 60_000))

    assert await peer.receive() == Received(1, "grüße".encode())
    assert await peer.receive() == Received(2, b"\x00\xff")
    assert await peer.receive() == Received(2, b"x" * 60_000)


def _set_cookie(handler: WebSocketHandler) -> None:
    handler.set_cookie("tea", "green")


def _ask_for_a_transform(handler: WebSocketHandler) -> None:
    handler._transforms = [OutputTransform(handler.request)]


@pytest.mark.parametrize(
    ("change", "more"), [(lambda handler: None, set()), (_set_cookie, {"set-cookie"}), (_ask_for_a_transform, set())]
)
async def test_answer_is_as_tornado_writes_it(
    serve: Serve, change: Callable[[WebSocketHandler], None], more: set[str]
) -> None:
    class Plain(Handler):
        def set_default_headers(self) -> None:
            self.set_header("X-Tea", "oolong")
            self.set_header("Content-Language", "zh")
            self.add_header("X-Cup", "one")
            self.add_header("X-Cup", "two")

        def prepare(self) -> None:
            change(self)

        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return subprotocols[0]

        def get_compression_options(self) -> dict[str, Any]:
            return {}

    class Tornados(Plain):
        def finish(self, chunk: Any = None) -> Any:
            return super().finish(chunk)

    answers = []
    for handler in (Plain, Tornados):
        peer = await (await serve(handler)).connect(
            Sec_WebSocket_Protocol="tea.v1, tea.v2", Sec_WebSocket_Extensions="permessage-deflate"
        )
        answers.append({name: value for name, value in peer.headers.items() if name not in {"date", ACCEPT}})

    assert answers[0] == answers[1]
    assert set(answers[0]) == {"server", "x-tea", "x-cup", "upgrade", "connection", PROTOCOL, EXTENSIONS, *more}


async def test_socket_sends_the_answer_itself(serve: Serve, wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = HTTP1Connection.write_headers, []
    monkeypatch.setattr(
        HTTP1Connection, "write_headers", lambda self, *args: written.append(args) or write(self, *args)
    )

    await (await serve()).connect()

    assert len(written) == (0 if wire == "socket" else 1)


async def test_answered_handshake_is_finished_once_before_it_is_opened(serve: Serve) -> None:
    befallen: list[Any] = []

    class Telling(Handler):
        def on_finish(self) -> None:
            befallen.append("finished")

        def open(self, *args: str, **kwargs: str) -> None:
            befallen.append("opened")

    def log(handler: WebSocketHandler) -> None:
        befallen.append(handler.get_status())

    await (await serve(Telling, log_function=log)).connect()
    await until(lambda: "opened" in befallen)

    assert befallen == [101, "finished", "opened"]


async def test_frames_sent_together_with_the_handshake_are_read(serve: Serve) -> None:
    site = await serve()
    peer = await site.connect()
    again = await type(peer).connect(
        site.port, None if site.wire != "tls" else peer.writer.get_extra_info("sslcontext")
    )
    site.peers.append(again)

    again.send(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n" + frame(1, b"early")
    )

    assert (await again.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert await again.receive() == Received(1, b"early")


@pytest.mark.parametrize(
    "key", ["", "short", "AAAAAAAAAAAAAAAAAAAAAAAA", "!!!!!!!!!!!!!!!!!!!!!!==", "AAAAAAAAAAAAAAAAAAAAAA==A"]
)
async def test_handshake_without_a_key_of_16_bytes_is_400(serve: Serve, key: str) -> None:
    peer = await (await serve()).connect(Sec_WebSocket_Key=key)

    assert peer.status == 400


async def test_other_version_is_426_and_told_ours(serve: Serve) -> None:
    peer = await (await serve()).connect(Sec_WebSocket_Version="12")

    assert (peer.status, "13" in peer.headers["sec-websocket-version"]) == (426, True)


async def test_foreign_origin_is_403(serve: Serve) -> None:
    site = await serve()

    assert (await site.connect(Origin="https://evil.example")).status == 403
    assert (await site.connect(Origin="http://localhost")).status == 101


async def test_subprotocol_is_the_handlers_choice(serve: Serve) -> None:
    class Choosing(Handler):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            self.offered = subprotocols
            return "b" if "b" in subprotocols else None

    site = await serve(Choosing)
    both = await site.connect(Sec_WebSocket_Protocol="a, b")

    assert both.headers["sec-websocket-protocol"] == "b"
    assert Choosing.last.selected_subprotocol == "b"
    none = await site.connect()
    assert "sec-websocket-protocol" not in none.headers
    assert Choosing.last.offered == []
    assert Choosing.last.selected_subprotocol is None


async def test_subprotocol_that_was_not_offered_is_an_error(serve: Serve, expect_log: Any) -> None:
    class Wrong(Handler):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return "mine"

    expect_log("Uncaught exception", "tornado.application")
    expect_log("500 GET", "tornado.access")
    peer = await (await serve(Wrong)).connect(Sec_WebSocket_Protocol="a")

    assert peer.status == 500


# open, on_message, on_close


async def test_messages_wait_until_open_has_returned(serve: Serve) -> None:
    opened = asyncio.Event()

    class Slow(Handler):
        async def open(self, *args: str, **kwargs: str) -> None:
            await opened.wait()
            await self.write_message("opened")

    peer = await (await serve(Slow)).connect()
    peer.send(frame(1, b"early") + frame(9, b"alive?"))

    assert await peer.receive() == Received(10, b"alive?")
    opened.set()
    assert await peer.receive() == Received(1, b"opened")
    assert await peer.receive() == Received(1, b"early")


async def test_what_open_writes_comes_first(serve: Serve) -> None:
    class Greeting(Handler):
        def open(self, *args: str, **kwargs: str) -> None:
            self.write_message({"hello": "world"})

    peer = await (await serve(Greeting)).connect()

    assert json.loads((await peer.receive()).payload) == {"hello": "world"}


async def test_next_message_waits_for_an_awaitable_of_on_message(serve: Serve) -> None:
    events: list[str] = []
    gates = {"1": asyncio.Event(), "2": asyncio.Event()}

    class Slow(Handler):
        async def on_message(self, message: str | bytes) -> None:
            assert isinstance(message, str)
            events.append(f"{message} begins")
            await gates[message].wait()
            events.append(f"{message} ends")
            await self.write_message(message)

    peer = await (await serve(Slow)).connect()
    peer.send(frame(1, b"1") + frame(1, b"2") + frame(9, b"p"))

    assert await peer.receive() == Received(10, b"p")
    assert events == ["1 begins"]
    gates["2"].set()
    gates["1"].set()
    assert [(await peer.receive()).payload for _ in range(2)] == [b"1", b"2"]
    assert events == ["1 begins", "1 ends", "2 begins", "2 ends"]


async def test_coroutines_that_do_not_wait_answer_in_order(serve: Serve) -> None:
    class Quick(Handler):
        async def on_message(self, message: str | bytes) -> None:
            assert asyncio.current_task() is not None
            async with asyncio.timeout(5):
                self.write_message(message)

    peer = await (await serve(Quick)).connect()
    peer.send(b"".join(frame(1, b"%d" % number) for number in range(300)))

    assert [(await peer.receive()).payload for _ in range(300)] == [b"%d" % number for number in range(300)]


async def test_context_of_the_handshake_is_there_in_messages(serve: Serve) -> None:
    name = contextvars.ContextVar("name", default="nobody")

    class Named(Handler):
        async def open(self, *args: str, **kwargs: str) -> None:
            name.set("somebody")
            await asyncio.sleep(0)

        def on_message(self, message: str | bytes) -> None:
            self.write_message(name.get())

        def prepare(self) -> None:
            name.set("prepared")

    peer = await (await serve(Named)).connect()
    peer.send(frame(1, b""))

    assert (await peer.receive()).payload in {b"prepared", b"somebody"}


async def test_client_closes(serve: Serve) -> None:
    peer = await (await serve()).connect()

    peer.send(frame(1, b"last") + frame(8, (4321).to_bytes(2, "big") + "tschüß".encode()))

    assert await peer.receive() == Received(1, b"last")
    assert (await peer.receive()).close_code == 4321
    await peer.receive_end()
    await until(lambda: Handler.last.closed)
    assert Handler.last.closed == [(4321, "tschüß")]


async def test_client_closes_without_a_code(serve: Serve) -> None:
    peer = await (await serve()).connect()

    peer.send(frame(8))

    assert await peer.receive_close() is None
    await until(lambda: Handler.last.closed)
    assert Handler.last.closed == [(None, None)]


async def test_client_vanishes(serve: Serve) -> None:
    peer = await (await serve()).connect()

    await peer.abort()

    await until(lambda: Handler.last.closed)
    assert Handler.last.closed == [(None, None)]
    with pytest.raises(WebSocketClosedError):
        Handler.last.write_message("too late")


@pytest.mark.parametrize("wire", ["socket", "stream"], indirect=True)
@pytest.mark.parametrize(
    "last", [b"", frame(1, b"hello")[:4], frame(1, b"hello"), frame(2, b"x" * 60_000) * 4], ids=len
)
async def test_client_resets_the_connection_right_behind_its_last_bytes(serve: Serve, last: bytes) -> None:
    class Mute(Handler):
        def on_message(self, message: str | bytes) -> None:
            pass

    peer = await (await serve(Mute)).connect()
    raw = socket.socket(fileno=os.dup(peer.writer.get_extra_info("socket").fileno()))
    await peer.abort()  # of what is two here, the one goes

    with raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.send(last)

    await until(lambda: Mute.last.closed == [(None, None)])


async def test_client_vanishes_during_a_coroutine(serve: Serve) -> None:
    gate = asyncio.Event()
    handled = []

    class Slow(Handler):
        async def on_message(self, message: str | bytes) -> None:
            await gate.wait()
            handled.append(message)

    peer = await (await serve(Slow)).connect()
    peer.send(frame(1, b"1") + frame(1, b"2") + frame(9))
    await peer.receive()
    await peer.abort()
    gate.set()

    await until(lambda: Slow.last.closed)
    assert handled == ["1", "2"]


async def test_handler_closes(serve: Serve) -> None:
    class Closing(Handler):
        def on_message(self, message: str | bytes) -> None:
            self.write_message("bye")
            self.close(4000, "enough")
            with pytest.raises(WebSocketClosedError):
                self.write_message("nothing after it")

    peer = await (await serve(Closing)).connect()
    peer.send(frame(1, b"x") + frame(1, b"dropped") + frame(9, b"unanswered"))

    assert await peer.receive() == Received(1, b"bye")
    assert await peer.receive() == Received(8, b"\x0f\xa0enough")
    peer.send(frame(1, b"dropped too") + frame(8, b"\x0f\xa0"))
    await peer.receive_end()
    await until(lambda: Closing.last.closed)
    assert Closing.last.closed == [(4000, None)]


async def test_handler_closes_in_open(serve: Serve) -> None:
    class Refusing(Handler):
        def open(self, *args: str, **kwargs: str) -> None:
            self.close(4401, "no")

    peer = await (await serve(Refusing)).connect()

    assert await peer.receive_close() == 4401
    await until(lambda: Refusing.last.closed)


async def test_close_that_is_not_answered_ends_all_the_same(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sstream.websocket.connection._CLOSE_TIMEOUT", 0.05)
    peer = await (await serve()).connect()

    Handler.last.close(1000)

    assert (await peer.receive()).close_code == 1000
    await peer.receive_end()
    await until(lambda: Handler.last.closed)


async def test_close_refuses_what_may_not_be_sent(serve: Serve) -> None:
    peer = await (await serve()).connect()

    with pytest.raises(ValueError, match="1006"):
        Handler.last.ws_connection.close(1006)
    with pytest.raises(ValueError, match="124"):
        Handler.last.ws_connection.close(1000, "x" * 124)
    peer.send(frame(1, b"still there"))
    assert await peer.receive() == Received(1, b"still there")


@pytest.mark.parametrize("hook", ["open", "on_message", "on_ping", "on_pong"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_exception_in_the_handler_is_1011_and_logged(
    serve: Serve, expect_log: Any, hook: str, asynchronous: bool
) -> None:
    def fail(self: Handler, *args: object) -> None:
        raise RuntimeError("secret")

    async def fail_later(self: Handler, *args: object) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("secret")

    failing = type("Failing", (Handler,), {hook: fail_later if asynchronous else fail})
    expect_log("Uncaught exception", "tornado.application", count=1)
    peer = await (await serve(failing)).connect()
    peer.send(frame({"on_ping": 9, "on_pong": 10}.get(hook, 1), b"x"))

    while (received := await peer.receive()).opcode == 10:
        pass
    assert received == Received(8, (1011).to_bytes(2, "big") + b"internal error")
    await peer.receive_end()
    await until(lambda: failing.last.closed)
    assert failing.last.closed == [(1011, "internal error")]


async def test_exception_in_on_close_is_logged(serve: Serve, expect_log: Any) -> None:
    class Failing(Handler):
        def on_close(self) -> None:
            super().on_close()
            raise RuntimeError

    expect_log("Uncaught exception", "tornado.application", count=1)
    peer = await (await serve(Failing)).connect()

    await peer.abort()

    await until(lambda: Failing.last.closed)


async def test_on_close_never_runs_inside_a_write(serve: Serve) -> None:
    inside = []

    class Writing(Handler):
        limits = Limits(send_queue=1000, ping_interval=None, message_rate=None)

        def on_message(self, message: str | bytes) -> None:
            self.writing = True
            try:
                for _ in range(1000):
                    self.write_message(b"x" * 100_000, binary=True)
            except WebSocketClosedError:
                inside.append("closed")
            self.writing = False

        def on_close(self) -> None:
            inside.append(f"on_close, writing={self.writing}")

    peer = await (await serve(Writing)).connect()
    peer.send(frame(1, b"go"))

    await until(lambda: len(inside) == 2)
    assert inside == ["closed", "on_close, writing=False"]


async def test_pings_and_pongs_reach_the_handler(serve: Serve) -> None:
    heard = []

    class Hearing(Handler):
        def on_ping(self, data: bytes) -> None:
            heard.append(("ping", data))

        def on_pong(self, data: bytes) -> None:
            heard.append(("pong", data))

    peer = await (await serve(Hearing)).connect()
    Hearing.last.ping(b"from us")
    assert await peer.receive() == Received(9, b"from us")
    peer.send(frame(10, b"from us") + frame(9, b"from you"))

    assert await peer.receive() == Received(10, b"from you")
    assert heard == [("pong", b"from us"), ("ping", b"from you")]


async def test_set_nodelay_and_isinstance_hold(serve: Serve) -> None:
    await (await serve()).connect()

    connection = Handler.last.ws_connection
    assert isinstance(connection, WebSocketProtocol)
    assert isinstance(connection, Connection)
    Handler.last.set_nodelay(False)
    Handler.last.set_nodelay(True)
    assert not connection.is_closing()


async def test_nothing_is_kept_of_a_closed_connection(serve: Serve) -> None:
    class Gone(Handler):
        pass

    site = await serve(Gone)
    peer = await site.connect()
    peer.send(frame(1, b"x") + frame(8))
    await peer.receive()
    await peer.receive_close()
    await until(lambda: Gone.last.closed)
    kept = weakref.ref(Gone.last)
    del Gone.last

    gc.collect()
    await asyncio.sleep(0)
    gc.collect()

    assert kept() is None


async def test_server_that_closes_all_connections_closes_sockets(serve: Serve) -> None:
    site = await serve()
    peers = [await site.connect() for _ in range(3)]

    site.server.stop()
    await site.server.close_all_connections()

    for peer in peers:
        assert (await peer.receive()).close_code == 1001
        await peer.receive_end()


async def test_settings_of_tornado_count(serve: Serve) -> None:
    site = await serve(websocket_max_message_size=100, websocket_ping_interval=0.02, websocket_ping_timeout=0)
    peer = await site.connect()

    assert [await peer.receive() for _ in range(3)] == [Received(9, b"")] * 3
    peer.send(frame(1, b"x" * 101))
    while (received := await peer.receive()).opcode == 9:
        pass
    assert received.close_code == 1009


# Compression


class Compressing(Handler):
    def get_compression_options(self) -> dict[str, Any]:
        return {}


async def test_messages_are_compressed_with_context(serve: Serve) -> None:
    peer = await (await serve(Compressing)).connect(
        Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"
    )
    assert peer.headers["sec-websocket-extensions"] == "permessage-deflate"
    text = b"all alike " * 20
    peer.send(frame(1, compress(text), rsv=4))
    peer.send(frame(1, text))

    first, second = await peer.receive(), await peer.receive()

    stream = zlib.decompressobj(-15)
    assert first.compressed
    assert [stream.decompress(received.payload + b"\0\0\xff\xff") for received in (first, second)] == [text, text]
    assert len(second.payload) < len(first.payload)


@pytest.mark.parametrize("wbits", [9, 12])
async def test_server_keeps_to_the_window_it_agreed_to(serve: Serve, wbits: int) -> None:
    peer = await (await serve(Compressing)).connect(
        Sec_WebSocket_Extensions=f"permessage-deflate; server_max_window_bits={wbits}; server_no_context_takeover"
    )
    assert f"server_max_window_bits={wbits}" in peer.headers["sec-websocket-extensions"]
    text = bytes(range(256)) * 16
    for _ in range(2):
        peer.send(frame(2, text))

        received = await peer.receive()

        assert zlib.decompressobj(-wbits).decompress(received.payload + b"\0\0\xff\xff") == text


async def test_shared_frame_goes_to_compressed_and_other_sockets(serve: Serve) -> None:
    site = await serve(Compressing)
    plain = await site.connect()
    handlers = [Compressing.last]
    deflated = []
    for offer in ("permessage-deflate", "permessage-deflate; server_max_window_bits=10", "permessage-deflate"):
        deflated.append((await site.connect(Sec_WebSocket_Extensions=offer), zlib.decompressobj(-15)))
        handlers.append(Compressing.last)
    text = "to all of you, to all of you, to all of you"

    for number in range(3):
        shared = SharedFrame(f"{text} {number}", "short", f"{text} and more".encode())
        for handler in handlers:
            handler.ws_connection.send(f"{text} and you")
            handler.ws_connection.send_shared(shared)

    for number in range(3):
        assert (await plain.receive()).payload.decode() == f"{text} and you"
        assert await plain.receive() == Received(1, f"{text} {number}".encode())
        assert await plain.receive() == Received(1, b"short")
        assert await plain.receive() == Received(2, f"{text} and more".encode())
        for peer, stream in deflated:
            own, common, short, bytes_ = [await peer.receive() for _ in range(4)]
            assert own.compressed
            assert common.compressed
            assert short == Received(1, b"short")
            assert bytes_.opcode == 2
            assert bytes_.compressed
            assert stream.decompress(own.payload + b"\0\0\xff\xff").decode() == f"{text} and you"
            assert stream.decompress(common.payload + b"\0\0\xff\xff").decode() == f"{text} {number}"
            assert stream.decompress(bytes_.payload + b"\0\0\xff\xff").decode() == f"{text} and more"


async def test_send_takes_bytes_and_text_and_is_silent_after_the_end(serve: Serve) -> None:
    peer = await (await serve()).connect()
    connection = Handler.last.ws_connection
    assert isinstance(connection, Connection)

    connection.send(b"bytes")
    connection.send("text")
    connection.send(b"x" * 1000)
    connection.send_frame(connection.frame(b"framed"))
    connection.close()
    connection.send(b"late")
    connection.send_frame(b"late")
    connection.send_shared(SharedFrame("late"))

    assert [await peer.receive() for _ in range(4)] == [
        Received(2, b"bytes"),
        Received(1, b"text"),
        Received(2, b"x" * 1000),
        Received(2, b"framed"),
    ]
    assert await peer.receive_close() is None


# Pausing


async def test_paused_socket_gets_no_messages_but_answers_pings(serve: Serve) -> None:
    got = []

    class Pausing(Handler):
        def on_message(self, message: str | bytes) -> None:
            got.append(message)
            if message == "pause":
                self.ws_connection.pause_reading()

    peer = await (await serve(Pausing)).connect()
    peer.send(frame(1, b"pause") + frame(1, b"1") + frame(9, b"p") + frame(1, b"pause") + frame(1, b"2"))

    assert await peer.receive() == Received(10, b"p")
    peer.send(frame(9, b"q"))
    assert await peer.receive() == Received(10, b"q")
    assert got == ["pause"]
    Pausing.last.ws_connection.resume_reading()
    await until(lambda: len(got) == 3)
    assert got == ["pause", "1", "pause"]
    Pausing.last.ws_connection.resume_reading()
    await until(lambda: len(got) == 4)


async def test_paused_socket_is_not_read_without_end(serve: Serve) -> None:
    class Pausing(Handler):
        def open(self, *args: str, **kwargs: str) -> None:
            self.ws_connection.pause_reading()

        def on_message(self, message: str | bytes) -> None:
            self.write_message(b"%d" % len(message))

    peer = await (await serve(Pausing)).connect()
    count = 1000
    peer.send(frame(2, b"x" * 50_000) * count)
    connection = Pausing.last.ws_connection

    await until(lambda: not connection._reading)

    assert connection._backlog_size < 250_000
    connection.resume_reading()
    for _ in range(count):
        assert (await peer.receive()).payload == b"50000"


async def test_close_frame_of_a_paused_socket_is_answered_at_once(serve: Serve) -> None:
    got = []

    class Pausing(Handler):
        def on_message(self, message: str | bytes) -> None:
            got.append(message)
            self.ws_connection.pause_reading()

    peer = await (await serve(Pausing)).connect()
    peer.send(frame(1, b"1") + frame(1, b"put off"))
    await until(lambda: Pausing.last.ws_connection._backlog)
    peer.send(frame(9, b"p") + frame(8, b"\x03\xe9"))

    assert await peer.receive() == Received(10, b"p")
    assert await peer.receive_close() == 1001
    await until(lambda: Pausing.last.closed)
    assert got == ["1"]


async def test_close_frame_right_behind_what_pauses_is_answered_at_once(serve: Serve) -> None:
    got = []

    class Pausing(Handler):
        def on_message(self, message: str | bytes) -> None:
            got.append(message)
            self.ws_connection.pause_reading()

    peer = await (await serve(Pausing)).connect()
    peer.send(frame(1, b"1") + frame(1, b"2") + frame(8))

    assert await peer.receive_close() is None
    await until(lambda: Pausing.last.closed)
    assert got == ["1"]


async def test_close_frame_that_waited_for_a_coroutine_does_not_wait_for_the_pause_after_it(serve: Serve) -> None:
    got = []
    go_on = asyncio.Event()

    class Pausing(Handler):
        async def on_message(self, message: str | bytes) -> None:
            got.append(message)
            await go_on.wait()
            self.ws_connection.pause_reading()

    peer = await (await serve(Pausing)).connect()
    peer.send(frame(1, b"1") + frame(1, b"2") + frame(8))
    await until(lambda: Pausing.last.ws_connection._eof)
    before = list(Pausing.last.closed)
    go_on.set()

    assert await peer.receive_close() is None
    await until(lambda: Pausing.last.closed)
    assert (before, got) == ([], ["1"])


async def test_paused_socket_whose_peer_vanishes_is_told_at_once(serve: Serve) -> None:
    class Pausing(Handler):
        def on_message(self, message: str | bytes) -> None:
            self.ws_connection.pause_reading()

    peer = await (await serve(Pausing)).connect()
    peer.send(frame(1, b"1") + frame(1, b"2"))
    await until(lambda: Pausing.last.ws_connection._backlog)

    await peer.abort()

    await until(lambda: Pausing.last.closed)


async def test_version_other_than_13_has_no_protocol() -> None:
    class Request:
        headers = {"Sec-WebSocket-Version": "8"}

    class Old:
        request = Request()

    assert websocket_protocol(Old()) is None  # type: ignore[arg-type]


async def test_fragments_with_pings_between_are_one_message(serve: Serve) -> None:
    peer = await (await serve()).connect()
    data = message(1, b"a", b"b", b"c")

    peer.send(data[:7] + frame(9, b"p"))
    assert (await peer.receive()).opcode == 10
    peer.send(data[7:])

    assert await peer.receive() == Received(1, b"abc")
