"""The inner loops, in Python and in C: what they send, hand out and refuse, alike."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from sstream.websocket import speedups
from sstream.websocket.core import CLOSING, STUCK, Core as PythonCore
from sstream.websocket.frames import Event, Parser, Ping
from tests.websocket.frames import frame

CORES: list[Any] = [PythonCore]
if speedups.Core is not PythonCore:
    CORES.append(speedups.Core)


class Handler:
    def __init__(self) -> None:
        self.got: list[Any] = []
        self.react: Any = lambda message: None

    def on_message(self, message: Any) -> Any:
        self.got.append(message)
        return self.react(message)


def make_wired(core: Any) -> Any:
    class Wired(core):  # type: ignore[misc]
        """A core, and what it calls."""

        def __init__(self, sock: socket.socket) -> None:
            super().__init__()
            self.handler = Handler()
            self.receiver = None
            self.calls: list[tuple[Any, ...]] = []
            self._parser = Parser(1000)
            self._socket = sock
            self._fd = sock.fileno()
            self._limit = 1000
            self._idle = True

        def __getattr__(self, name: str) -> Any:
            if name in {"_control", "_hold", "_start_handling"}:
                return lambda argument: self.calls.append((name, argument))
            if name in {"_flush_later", "_lose", "_on_eof"}:
                return lambda: self.calls.append((name,))
            if name in {"_send_deflated", "_receive"}:
                return lambda payload: self.calls.append((name, payload))
            if name in {"_stick", "_transmit"}:
                return lambda data: self.calls.append((name, bytes(data)))
            if name == "_crash":
                return lambda error: self.calls.append((name, type(error), str(error)))
            raise AttributeError(name)

    return Wired


@pytest.fixture(params=CORES, ids=lambda core: core.__module__.rpartition(".")[2])
def wired(request: pytest.FixtureRequest) -> Iterator[tuple[Any, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield make_wired(request.param)(ours), theirs


Pair = tuple[Any, socket.socket]


# Writing


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 255, 256, 65535, 65536, 100_000])
def test_send_frames_what_it_is_given(wired: Pair, length: int) -> None:
    core, _ = wired
    core._fd = -1

    core.send(b"x" * length)
    core.send("y" * length)
    core.flush()

    sent = b"".join(data for name, data in (call for call in core.calls if call[0] == "_transmit"))
    assert sent == frame(2, b"x" * length, mask=None) + frame(1, b"y" * length, mask=None)


def test_send_encodes_text(wired: Pair) -> None:
    core, peer = wired

    core.send("grüße 𝄞")
    core.flush()

    assert peer.recv(1000) == frame(1, "grüße 𝄞".encode(), mask=None)
    with pytest.raises(UnicodeEncodeError):
        core.send("\ud800")


@pytest.mark.parametrize("payload", [None, 1, bytearray(b"x"), memoryview(b"x"), ["x"], {"a": 1}])
def test_send_refuses_what_is_no_message(wired: Pair, payload: Any) -> None:
    core, _ = wired

    with pytest.raises(TypeError, match=f"bytes or str, not {type(payload).__name__}"):
        core.send(payload)
    assert core._take() == b""


def test_flush_is_asked_for_once_and_sends_all_at_once(wired: Pair) -> None:
    core, peer = wired

    for number in range(10):
        core.send(b"%d" % number)
    assert core.calls == [("_flush_later",)]
    core.flush()
    core.flush()

    assert peer.recv(1000) == b"".join(frame(2, b"%d" % number, mask=None) for number in range(10))
    core.send(b"again")
    assert core.calls == [("_flush_later",)] * 2


def test_nothing_is_asked_for_when_somebody_is_about_to_flush(wired: Pair) -> None:
    core, _ = wired
    core._scheduled = True

    core.send(b"x")
    core._put(b"frame")
    core.send_frame(b"frame")

    assert core.calls == []
    assert core._take() == frame(2, b"x", mask=None) + b"frameframe"
    assert core._take() == b""


def test_much_leaves_without_waiting(wired: Pair) -> None:
    core, peer = wired
    core._scheduled = True

    core.send(b"x" * 70_000)

    assert len(peer.recv(200_000)) == 70_010
    assert core._take() == b""


def test_nothing_leaves_after_the_close_frame(wired: Pair) -> None:
    core, _ = wired
    core.server_terminated = True

    core.send(b"x")
    core.send("x")
    core.send_frame(b"x")

    assert core._take() == b""
    core._put(b"the Close frame itself")
    assert core._take() == b"the Close frame itself"


def test_compressed_messages_go_another_way(wired: Pair) -> None:
    core, _ = wired
    core._deflates = True

    core.send(b"x")
    core.send("y")

    assert core.calls == [("_send_deflated", b"x"), ("_send_deflated", "y")]


def test_what_the_kernel_does_not_take_is_told(wired: Pair) -> None:
    core, peer = wired
    core._scheduled = True

    core.send(b"x" * 5_000_000)
    core.send(b"y" * 70_000)

    (first, rest), (second, whole) = core.calls
    assert (first, second) == ("_stick", "_stick")
    assert whole == frame(2, b"y" * 70_000, mask=None)
    taken = b""
    while len(taken) < 5_000_010 - len(rest):
        taken += peer.recv(1 << 20)
    assert taken + rest == frame(2, b"x" * 5_000_000, mask=None)


@pytest.mark.parametrize("state", ["stuck", "no socket"])
def test_what_cannot_leave_now_is_handed_on(wired: Pair, state: str) -> None:
    core, _ = wired
    if state == "stuck":
        core._blocked = STUCK
    else:
        core._fd = -1

    core._put(b"frame")
    core.flush()

    assert core.calls == [("_flush_later",), ("_transmit", b"frame")]


def test_broken_socket_is_lost(wired: Pair) -> None:
    core, peer = wired
    peer.close()

    core._put(b"frame")
    core.flush()

    assert core.calls == [("_flush_later",), ("_lose",)]
    assert core._take() == b""


def test_exception_from_asking_for_a_flush_is_not_lost(wired: Pair) -> None:
    core, _ = wired

    def refuse() -> None:
        raise RuntimeError("no loop")

    core._flush_later = refuse
    with pytest.raises(RuntimeError, match="no loop"):
        core.send(b"x")


# Reading


def test_plain_messages_are_handed_out_and_replies_leave_together(wired: Pair) -> None:
    core, peer = wired
    core.handler.react = core.send

    peer.send(frame(2, b"1") + frame(1, b"2") + frame(2, b"x" * 1000))
    core._on_readable()

    assert core.handler.got == [b"1", "2", b"x" * 1000]
    assert peer.recv(5000) == b"".join([frame(2, b"1", mask=None), frame(1, b"2", mask=None)]) + frame(
        2, b"x" * 1000, mask=None
    )
    assert core.calls == []
    assert core.heard


def test_messages_go_to_the_receiver_where_there_is_one(wired: Pair) -> None:
    core, peer = wired
    received: list[bytes | str] = []

    core.receiver = received.append
    peer.send(frame(2, b"1") + frame(1, b"2"))
    core._on_readable()
    core.receiver = None
    peer.send(frame(2, b"3"))
    core._on_readable()

    assert (received, core.handler.got) == ([b"1", "2"], [b"3"])


@pytest.mark.parametrize(
    "data",
    [
        frame(9),
        frame(8),
        frame(2, b"x" * 1001),
        frame(2, b"x", fin=False),
        frame(2, b"x")[:-1],
        frame(2, b"x", mask=None),
        frame(1, b"\xff"),
        frame(2, b"x", rsv=4),
        frame(3),
        frame(2, b"x") * 129,
        b"\x82",
    ],
)
def test_what_is_not_plain_goes_another_way(wired: Pair, data: bytes) -> None:
    core, peer = wired

    peer.send(frame(2, b"plain") + data)
    core._on_readable()

    assert core.calls == [("_receive", frame(2, b"plain") + data)]
    assert core.handler.got == []


@pytest.mark.parametrize("state", ["blocked", "not idle"])
def test_plain_messages_go_another_way_where_something_waits(wired: Pair, state: str) -> None:
    core, peer = wired
    if state == "blocked":
        core._blocked = CLOSING
    else:
        core._idle = False

    peer.send(frame(2, b"x"))
    core._on_readable()

    assert core.calls == [("_receive", frame(2, b"x"))]


def test_nothing_is_read_while_something_waits_to_be_handed_out(wired: Pair) -> None:
    core, peer = wired
    core._more = True
    peer.send(frame(2, b"x"))

    core._on_readable()

    assert (core.calls, core.handler.got) == ([], [])


def test_nothing_to_read_is_no_event(wired: Pair) -> None:
    core, _ = wired
    core.heard = False

    core._on_readable()

    assert (core.calls, core.heard) == ([], False)


def test_end_is_told(wired: Pair) -> None:
    core, peer = wired
    peer.close()

    core._on_readable()

    assert core.calls == [("_on_eof",)]


def test_awaitables_and_control_frames_are_handed_on(wired: Pair) -> None:
    core, _ = wired
    marker = object()
    core.handler.react = lambda message: marker if message == b"2" else None

    core._dispatch([b"1", Ping(b"p"), b"2", "3"])

    assert core.handler.got == [b"1", b"2", "3"]
    assert core.calls == [("_control", Ping(b"p")), ("_start_handling", marker)]


def test_what_comes_after_a_block_is_held(wired: Pair) -> None:
    core, _ = wired

    def block(message: Any) -> None:
        core._blocked = 4

    core.handler.react = block
    core._dispatch([b"1", Ping(b"p"), "2"])
    core._blocked = 0
    core._dispatch([b"last"])

    assert core.handler.got == [b"1", b"last"]
    assert core.calls == [("_hold", [Ping(b"p"), "2"]), ("_hold", [])]


@pytest.mark.parametrize("error", [ValueError("bad"), asyncio.CancelledError("stop")])
def test_exceptions_of_the_handler_are_its_own(wired: Pair, error: BaseException) -> None:
    core, _ = wired

    def fail(message: Any) -> None:
        raise error

    core.handler.react = fail
    core._dispatch([b"1", b"2"])

    assert core.calls == [("_crash", type(error), str(error))] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_passes(wired: Pair, error: type[BaseException]) -> None:
    core, peer = wired

    def fail(message: Any) -> None:
        raise error

    core.handler.react = fail
    peer.send(frame(2, b"x"))

    with pytest.raises(error):
        core._on_readable()


def test_error_in_the_rest_of_the_connection_is_not_lost(wired: Pair) -> None:
    core, _ = wired

    def refuse(event: Event) -> None:
        raise RuntimeError("no control")

    core._control = refuse
    with pytest.raises(RuntimeError, match="no control"):
        core._dispatch([Ping(b"")])


def test_rate_is_kept(wired: Pair) -> None:
    core, peer = wired
    core._rate, core._burst, core._tokens, core._charged = 0.001, 3.0, 3.0, 0.0

    peer.send(frame(2, b"1") + frame(2, b"2"))
    core._on_readable()
    if core.calls:
        # In Python the rest of the connection counts.
        assert core.calls == [("_receive", frame(2, b"1") + frame(2, b"2"))]
        return
    peer.send(frame(2, b"3") + frame(2, b"4"))
    core._on_readable()

    assert core.handler.got == [b"1", b"2"]
    assert core._tokens == pytest.approx(1.0)
    assert core.calls == [("_receive", frame(2, b"3") + frame(2, b"4"))]


def test_members_keep_what_is_set(wired: Pair) -> None:
    core, _ = wired
    for name in ("heard", "server_terminated", "_deflates", "_idle", "_more", "_scheduled"):
        for value in (True, False):
            setattr(core, name, value)
            assert getattr(core, name) is value
    for name in ("_rate", "_burst", "_tokens", "_charged"):
        setattr(core, name, 1.5)
        assert getattr(core, name) == 1.5
    core._limit = 2**40
    assert core._limit == 2**40


# The functions in C mistrust their callers.


@pytest.mark.skipif(len(CORES) == 1, reason="the part in C is not there")
def test_functions_in_c_refuse_what_they_cannot_take() -> None:
    cut, unmask = speedups._speedups.cut, speedups._speedups.unmask
    for arguments in ((), (b"", 0, 1, 1), (b"", 0, 1, 1, ()), ("", 0, 1, 1, []), (b"", "0", 1, 1, [])):
        with pytest.raises(TypeError):
            cut(*arguments)
    for position in (-1, 4):
        with pytest.raises(ValueError, match="outside"):
            cut(b"abc", position, 1, 1, [])
    with pytest.raises(OverflowError):
        cut(b"abc", 1 << 80, 1, 1, [])
    for arguments in ((), (b"abcd",), (b"abc", b""), (b"abcd", ""), ("abcd", b"")):
        with pytest.raises(TypeError):
            unmask(*arguments)
    with pytest.raises(TypeError, match="list"):
        speedups.Core()._dispatch((b"x",))
