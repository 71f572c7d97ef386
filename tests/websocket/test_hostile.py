"""What peers do wrong, by malice or by being slow, on each wire: the table "Frames" of what sstream must survive."""

import asyncio
import dataclasses
import logging
import re
import socket
import sys
import time
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from sstream.limits import Limits
from sstream.websocket.engine import Engine
from tests.websocket.conftest import QUIET, Handler, Serve
from tests.websocket.frames import compress, frame
from tests.websocket.peer import Peer, Received
from tests.websocket.test_connection import Compressing, until

DEFAULT = Limits()


class Guarded(Handler):
    """With the limits as they are by default."""

    limits = DEFAULT


class GuardedCompressing(Compressing):
    limits = DEFAULT


BAD = {
    "unmasked client frame": (frame(1, b"x", mask=None), 1002),
    "reserved opcode": (frame(3), 1002),
    "reserved control opcode": (frame(11), 1002),
    "reserved bit": (frame(1, b"x", rsv=2), 1002),
    "compression bit without compression": (frame(1, b"x", rsv=4), 1002),
    "bad UTF-8": (frame(1, b"\xce\xba\xff"), 1007),
    "bad UTF-8 in an unfinished frame": (frame(1, b"\xff" + b"x" * 100)[:8], 1007),
    "control frame over 125 bytes": (frame(9, b"x" * 126), 1002),
    "fragmented control frame": (frame(9, b"x", fin=False), 1002),
    "orphan continuation": (frame(0, b"x"), 1002),
    "message inside a fragmented message": (frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    "close code that may not be sent": (frame(8, (1005).to_bytes(2, "big")), 1002),
    "close payload of one byte": (frame(8, b"\x03"), 1002),
    "close reason that is not UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
    "length that is not minimal": (frame(2, b"x", length_bytes=2), 1002),
    "length over 2**63": (frame(2, length=1 << 63, length_bytes=8), 1002),
    "length over the limit": (frame(2, length=1 << 40, length_bytes=8), 1009),
    "message over the limit in fragments": (frame(2, b"x" * 65536, fin=False) + frame(0, b"x"), 1009),
    "endless zero-byte fragments": (frame(2, fin=False) + frame(0, fin=False) * 5000, 1008),
    "endless empty messages": (frame(2) * 5000, 4429),
    "endless pings": (frame(9) * 5000, 4429),
    "endless pongs": (frame(10) * 5000, 4429),
    "endless one-byte fragments": ((frame(2, fin=False) + frame(0, b"x", fin=False) * 4000 + frame(0)) * 2, 4429),
}


@pytest.mark.parametrize("bad", BAD)
async def test_bad_frame_is_answered_with_its_close_code(serve: Serve, caplog: Any, bad: str) -> None:
    caplog.set_level(logging.INFO, "sstream.websocket")
    data, code = BAD[bad]
    site = await serve(Guarded)
    peer, bystander = await site.connect(), await site.connect()

    peer.send(frame(1, b"before") + data)

    assert (await peer.receive()).payload == b"before"
    while (received := await peer.receive()).opcode != 8:
        pass
    assert received.close_code == code
    await peer.receive_end()
    bystander.send(frame(1, b"unharmed"))
    assert (await bystander.receive()).payload == b"unharmed"
    lines = [record for record in caplog.records if record.name == "sstream.websocket"]
    assert [record.exc_info for record in lines] == [None]
    assert len(lines[0].getMessage()) < 100


@pytest.mark.parametrize("data", [b"\xff\xff\xff", compress(b"x" * 100)[:5] + b"\x06" * 20])
async def test_invalid_deflate_data_is_1007(serve: Serve, data: bytes) -> None:
    peer = await (await serve(GuardedCompressing)).connect(Sec_WebSocket_Extensions="permessage-deflate")

    peer.send(frame(2, data, rsv=4))

    assert await peer.receive_close() == 1007


async def test_complaints_are_logged_once_in_a_while(
    serve: Serve, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "sstream.websocket")
    hour = 3600.0  # seconds, and not one: longer than any machine stands still
    monkeypatch.setattr("sstream.websocket.engine._SECONDS_PER_COMPLAINT", hour)
    site = await serve(Guarded)

    async def misbehave() -> None:
        peer = await site.connect()
        peer.send(frame(3))
        assert await peer.receive_close() == 1002

    for _ in range(5):
        await misbehave()
    Engine.of(IOLoop.current())._complained -= hour
    await misbehave()

    lines = [record.getMessage() for record in caplog.records if record.name == "sstream.websocket"]
    assert [re.findall(r"\((\d) more since the last\)", line) for line in lines] == [[], ["4"]]


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "x-webkit-deflate-frame",
        "permessage-deflate; =",
        ";;;,,,===",
    ],
)
async def test_unusual_offer_is_declined_and_the_handshake_succeeds(serve: Serve, offer: str) -> None:
    peer = await (await serve(Compressing)).connect(Sec_WebSocket_Extensions=offer)

    assert (peer.status, peer.headers.get("sec-websocket-extensions")) == (101, None)
    peer.send(frame(1, b"works"))
    assert (await peer.receive()).payload == b"works"


async def test_second_offer_counts_where_the_first_is_declined(serve: Serve) -> None:
    offers = 'permessage-deflate; server_max_window_bits=8, permessage-deflate; client_max_window_bits="10"'
    peer = await (await serve(Compressing)).connect(Sec_WebSocket_Extensions=offers)

    assert peer.headers["sec-websocket-extensions"] == "permessage-deflate; client_max_window_bits=10"


async def test_message_too_big_is_refused_so_that_the_sender_can_read_it(serve: Serve) -> None:
    peer = await (await serve(Guarded)).connect()

    peer.send(frame(2, length=8 << 20, length_bytes=8) + b"x" * (8 << 20))
    await peer.writer.drain()

    assert await peer.receive_close() == 1009


async def test_bomb_is_1009(serve: Serve) -> None:
    peer = await (await serve(GuardedCompressing)).connect(Sec_WebSocket_Extensions="permessage-deflate")

    peer.send(frame(2, compress(b"\0" * (10 << 20)), rsv=4))

    assert await peer.receive_close() == 1009


async def test_legal_bombs_in_a_row_leave_room_for_others(serve: Serve) -> None:
    class Counting(GuardedCompressing):
        limits = dataclasses.replace(DEFAULT, message_rate=None)

        def on_message(self, message: str | bytes) -> None:
            lengths.append(len(message))
            self.write_message(str(len(message)))

    lengths: list[int] = []
    site = await serve(Counting)
    peer = await site.connect(Sec_WebSocket_Extensions="permessage-deflate; client_no_context_takeover")
    other = await site.connect()
    peer.send(frame(2, compress(b"\0" * 65536), rsv=4) * 900)

    assert (await peer.receive()).payload == b"65536"
    other.send(frame(1, b"quick"))
    assert (await other.receive()).payload == b"5"
    assert lengths.index(5) < 900


async def test_burst_of_the_limit_passes_and_what_is_over_it_is_4429(serve: Serve) -> None:
    class Bursting(Handler):
        limits = dataclasses.replace(QUIET, message_rate=0.001, message_burst=150)

    peer = await (await serve(Bursting)).connect()
    peer.send(frame(1, b"x") * 160)

    for _ in range(150):
        assert await peer.receive() == Received(1, b"x")
    assert await peer.receive_close() == 4429


async def test_messages_at_the_sustained_rate_pass(serve: Serve) -> None:
    class Steady(Handler):
        limits = dataclasses.replace(QUIET, message_rate=500.0, message_burst=20)

    peer = await (await serve(Steady)).connect()
    for _ in range(60):
        # By the clock, for it is the clock that is tested: a little slower than the limit.
        await asyncio.sleep(1 / 450)
        peer.send(frame(1, b"x"))
        assert await peer.receive() == Received(1, b"x")


# A reader that does not read


async def test_reader_that_never_reads_is_4408_and_nobody_else_feels_it(serve: Serve) -> None:
    class Pushing(Handler):
        limits = dataclasses.replace(QUIET, send_queue=1 << 20)

    site = await serve(Pushing)
    lazy = await site.connect(receive_buffer=4096)
    handler = Pushing.last
    other = await site.connect()
    connection = handler.ws_connection
    most = 0

    while not handler.closed:
        if handler.ws_connection is not None and not connection.is_closing():
            handler.write_message(b"x" * 65536, binary=True)
        most = max(most, connection._queued)
        other.send(frame(1, b"quick"))
        assert (await other.receive()).payload == b"quick"

    assert handler.closed == [(4408, "slow consumer")]
    assert most <= (1 << 20) + 65536
    await lazy.abort()


async def test_reader_that_makes_no_progress_is_4408_after_its_time(serve: Serve) -> None:
    class Pushing(Handler):
        limits = dataclasses.replace(QUIET, send_queue=None, send_stall=0.1)

    site = await serve(Pushing)
    lazy = await site.connect(receive_buffer=4096)
    Pushing.last.ws_connection.send(b"x" * (16 << 20))

    await until(lambda: Pushing.last.closed)

    assert Pushing.last.closed == [(4408, "slow consumer")]
    await lazy.abort()


async def test_slow_reader_that_makes_progress_gets_all(serve: Serve) -> None:
    class Pushing(Handler):
        limits = dataclasses.replace(QUIET, send_queue=None, send_stall=20.0)

    site = await serve(Pushing)
    peer = await site.connect()
    connection = Pushing.last.ws_connection
    connection.send(b"x" * (16 << 20))
    got = 0

    while got < (16 << 20) + 10:
        # As if it read after a second each: in all longer than it may stall.
        connection._progress -= 1.0
        connection._check_stall()
        got += len(await peer.reader.readexactly(min(1 << 18, (16 << 20) + 10 - got)))

    assert not Pushing.last.closed
    peer.send(frame(1, b"well"))
    assert (await peer.receive()).payload == b"well"


async def test_writer_that_awaits_does_not_run_ahead(serve: Serve) -> None:
    written = 0

    class Streaming(Handler):
        limits = dataclasses.replace(QUIET, send_queue=1 << 20, send_stall=None)

        async def on_message(self, message: str | bytes) -> None:
            nonlocal written
            for _ in range(400):
                await self.write_message(b"x" * 65536, binary=True)
                written += 1

    peer = await (await serve(Streaming)).connect()
    peer.send(frame(1, b"go"))
    await until(lambda: Streaming.last.ws_connection._queue is not None)
    held = written

    assert held < 400
    for _ in range(400):
        assert len((await peer.receive()).payload) == 65536
    peer.send(frame(8))
    assert await peer.receive_close() is None


async def test_writer_that_awaits_hears_of_the_end(serve: Serve) -> None:
    heard: list[str] = []

    class Streaming(Handler):
        limits = dataclasses.replace(QUIET, send_stall=None)

        async def on_message(self, message: str | bytes) -> None:
            try:
                while True:
                    await self.write_message(b"x" * 65536, binary=True)
            except Exception as error:
                heard.append(type(error).__name__)

    peer = await (await serve(Streaming)).connect()
    peer.send(frame(1, b"go"))
    await until(lambda: Streaming.last.ws_connection._queue is not None)

    await peer.abort()

    await until(lambda: Streaming.last.closed)
    assert heard == ["WebSocketClosedError"]


async def test_socket_is_not_read_while_its_replies_are_stuck(serve: Serve) -> None:
    class Echoing(Handler):
        limits = dataclasses.replace(QUIET, send_stall=None, send_queue=None)

    peer = await (await serve(Echoing)).connect()
    count = 600
    sent = asyncio.create_task(send_all(peer, frame(2, b"x" * 60_000) * count))
    connection = Echoing.last.ws_connection
    await until(lambda: connection._queue is not None)

    assert connection._queued < 1 << 20

    for _ in range(count):
        assert len((await peer.receive()).payload) == 60_000
    await sent


async def send_all(peer: Peer, data: bytes) -> None:
    peer.send(data)
    await peer.writer.drain()


# Pings


# The peer lives on the same loop, which may well be away for 50 ms.
PINGING = dataclasses.replace(QUIET, ping_interval=0.05, ping_timeout=0.15)
PINGS = 3


async def test_silent_peer_is_freed(serve: Serve) -> None:
    class Pinging(Handler):
        limits = PINGING

    peer = await (await serve(Pinging)).connect()

    assert await peer.receive() == Received(9, b"")
    await until(lambda: Pinging.last.closed)
    assert Pinging.last.closed == [(None, "ping timed out")]
    await peer.receive_end()


async def test_peer_that_answers_lives_though_its_handler_takes_long(serve: Serve) -> None:
    gate = asyncio.Event()

    class Slow(Handler):
        limits = PINGING

        async def on_message(self, message: str | bytes) -> None:
            await gate.wait()
            self.write_message("done")

    peer = await (await serve(Slow)).connect()
    peer.send(frame(1, b"work"))
    for _ in range(PINGS):
        assert (await peer.receive()).opcode == 9
        peer.send(frame(10))
    gate.set()
    while (received := await peer.receive()).opcode == 9:
        peer.send(frame(10))

    assert received.payload == b"done"


async def test_peer_that_answers_lives_though_the_loop_was_blocked(serve: Serve) -> None:
    class Blocking(Handler):
        limits = PINGING

        def on_message(self, message: str | bytes) -> None:
            time.sleep(0.3)
            self.write_message("done")

    peer = await (await serve(Blocking)).connect()
    assert (await peer.receive()).opcode == 9
    peer.send(frame(1, b"block") + frame(10))

    while (received := await peer.receive()).opcode == 9:
        peer.send(frame(10))
    assert received.payload == b"done"
    assert (await peer.receive()).opcode == 9


async def test_any_sign_of_life_counts(serve: Serve) -> None:
    class Pinging(Handler):
        limits = PINGING

    peer = await (await serve(Pinging)).connect()
    for _ in range(PINGS):
        while (await peer.receive()).opcode != 9:
            pass
        peer.send(frame(1, b"no pong, but here"))

    assert not Pinging.last.closed


async def test_paused_peer_with_something_unread_is_not_taken_for_dead(serve: Serve) -> None:
    class Pausing(Handler):
        limits = PINGING

        def open(self, *args: str, **kwargs: str) -> None:
            self.ws_connection.pause_reading()

    peer = await (await serve(Pausing)).connect()
    peer.send(frame(2, b"x" * 60_000) * 20)
    await until(lambda: not Pausing.last.ws_connection._reading)

    for _ in range(PINGS):
        assert (await peer.receive()).opcode == 9
    assert not Pausing.last.closed


# Fairness


async def test_greedy_peer_does_not_starve_others(serve: Serve) -> None:
    order = []

    class Ordered(Handler):
        def on_message(self, message: str | bytes) -> None:
            order.append(message)
            self.write_message(message)

    site = await serve(Ordered)
    greedy, modest = await site.connect(), await site.connect()
    greedy.send(frame(1, b"g") * 8000)
    modest.send(frame(1, b"m"))

    assert (await modest.receive()).payload == b"m"
    assert order.index("m") < 4000


async def test_others_wait_for_few_messages_of_a_greedy_peer(serve: Serve) -> None:
    # Counted in messages of the greedy one that are handled between another's message and its answer: 2,048 are 16
    # passes, 3 ms of calls that need not wait. A clock would measure the machine.
    handled = 0
    waits: list[int] = []

    class Counting(Handler):
        def on_message(self, message: str | bytes) -> None:
            nonlocal handled
            if message == "g":
                handled += 1
            else:
                waits.append(handled - int(message))
                self.write_message("served")

    async def flood(peer: Peer) -> None:
        while True:
            peer.send(frame(1, b"g") * 4000)
            await peer.writer.drain()

    site = await serve(Counting)
    flooding = asyncio.create_task(flood(await site.connect()))
    modest = [await site.connect() for _ in range(5)]
    await until(lambda: handled > 1000)
    for _ in range(20):
        for peer in modest:
            peer.send(frame(1, str(handled).encode()))
        for peer in modest:
            assert (await peer.receive()).payload == b"served"
    flooding.cancel()
    await asyncio.wait([flooding])

    assert handled > 5000
    assert sorted(waits)[98] < 2048


def segments(peer: Peer) -> int:
    """How many TCP segments with data came: Linux' tcp_info, tcpi_data_segs_in."""
    sock = peer.writer.get_extra_info("socket")
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)[152:156], sys.byteorder)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' tcp_info")
async def test_replies_of_a_pass_leave_in_one_send(serve: Serve) -> None:
    peer = await (await serve()).connect()
    before = segments(peer)

    peer.send(frame(1, b"x") * 100)

    for _ in range(100):
        await peer.receive()
    assert segments(peer) - before == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' tcp_info")
async def test_writes_of_one_turn_leave_in_one_send(serve: Serve) -> None:
    peer = await (await serve()).connect()
    before = segments(peer)

    for _ in range(16):
        Handler.last.write_message("event")

    for _ in range(16):
        await peer.receive()
    assert segments(peer) - before == 1
