"""Many calls in flight over real sockets, which are cut and cancelled in every state a call may be in."""

import asyncio
import base64
import logging
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest

from sstream import Application, Limits, MemoryStore, RPCHandler, SessionOptions, load_session, rpc
from sstream.rpc.dispatch import drain_detached
from sstream.testing import Site, StoreProbe, eventually, serve, within
from sstream.websocket import upgrade
from tests.websocket.frames import frame

SOCKETS = 100
EACH = 100
CANCELLED = 4001
LIMITS = Limits(calls_in_flight=EACH, message_rate=None, sockets_per_session=None, send_queue=None, send_stall=None)


async def pass_slowly(request: Any, call_next: Any) -> Any:
    async with request.handler.counted():
        await request.handler.gate.wait()
    return await call_next(request)


class Live(RPCHandler):
    gate: asyncio.Event
    inside: Counter[str]

    def counted(self) -> "Inside":
        return Inside(self.inside)

    @rpc
    async def wait(self) -> int:
        async with self.counted():
            await self.gate.wait()
        return 1

    @rpc
    async def stubborn(self) -> int:
        async with self.counted():
            while not self.gate.is_set():
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    pass
        return 1

    @rpc(use=[pass_slowly])
    async def behind_middleware(self) -> int:
        return 1

    @rpc(use=[load_session])
    async def in_turn(self) -> int:
        async with self.counted():
            await self.gate.wait()
            self.session["count"] = self.session.get("count", 0) + 1
        return 1

    @rpc
    async def count(self) -> AsyncIterator[int]:
        async with self.counted():
            for number in range(3):
                yield number

    @rpc
    async def reply_much(self) -> bytes:
        async with self.counted():
            await self.gate.wait()
        return bytes(4 << 20)

    @rpc
    def leave(self) -> int:
        # Gone before the reply of this very pass leaves.
        self.leaver.cut()
        return 1

    leaver: "Peer"


class Inside:
    """Counts who is inside of a method, and who has left it."""

    def __init__(self, counter: "Counter[str]") -> None:
        self.counter = counter

    async def __aenter__(self) -> None:
        self.counter["entered"] += 1

    async def __aexit__(self, *_: object) -> None:
        self.counter["left"] += 1


class Peer:
    """A socket that says what it is told to, and counts its replies by id."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.replies: Counter[int] = Counter()
        self.codes: Counter[int | None] = Counter()
        self._data = b""

    @classmethod
    async def open(cls, site: Site, *, receive_buffer: int | None = None) -> "Peer":
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await loop.sock_connect(sock, site.address)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET /ws HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        await loop.sock_sendall(sock, "\r\n".join(lines).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await loop.sock_recv(sock, 1)
        return cls(sock)

    async def say(self, *messages: list[Any]) -> None:
        data = b"".join(frame(2, msgpack.packb(message)) for message in messages)
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hear(self, count: int) -> None:
        """Read until ``count`` calls have been answered."""
        while self.replies.total() < count:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
            assert data, f"closed after {self.replies.total()} replies"
            self._data += data
            while (size := self._frame_size()) is not None:
                header, payload = size
                message = msgpack.unpackb(self._data[header : header + payload])
                self._data = self._data[header + payload :]
                if message[0] == 1:
                    self.replies[message[1]] += 1
                    self.codes[message[2] and message[2][0]] += 1

    def _frame_size(self) -> tuple[int, int] | None:
        if len(self._data) < 4:
            return None
        length = self._data[1]
        header = 4 if length == 126 else 2
        payload = int.from_bytes(self._data[2:4], "big") if length == 126 else length
        assert length < 127
        return (header, payload) if len(self._data) >= header + payload else None

    def cut(self) -> None:
        """Vanish with a reset; nothing happens to one that is gone."""
        if self.sock.fileno() < 0:
            return
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


@pytest.fixture
async def site(store: StoreProbe) -> AsyncIterator[Site]:
    Live.gate = asyncio.Event()
    Live.inside = Counter()
    async with serve(
        Application([("/ws", Live)], store=store, session=SessionOptions(secret="x" * 32), limits=LIMITS)
    ) as site:
        yield site


@pytest.fixture
def store() -> StoreProbe:
    return StoreProbe(MemoryStore())


async def nobody_is_left(site: Site) -> None:
    """No socket, no task of a call, nobody inside of a method."""

    def is_empty() -> bool:
        calls = [task for task in asyncio.all_tasks() if task.get_name() == "sstream call"]
        return not site.app.sockets and len(calls) <= 1 and Live.inside["entered"] == Live.inside["left"]

    await eventually(is_empty, "the end of all calls")


async def test_ten_thousand_calls_in_flight_get_one_reply_each_or_their_socket_is_gone(site: Site) -> None:
    peers = [await Peer.open(site) for _ in range(SOCKETS)]
    names = ["wait", "stubborn", "behind_middleware", "wait"]
    for peer in peers:
        await peer.say(*([0, number, names[number % 4], []] for number in range(EACH)))
    await eventually(lambda: Live.inside["entered"] == SOCKETS * EACH, "ten thousand calls in flight")

    cut, kept = peers[::4], [peer for index, peer in enumerate(peers) if index % 4]
    for peer in cut:
        peer.cut()
    for peer in kept:
        # A storm: a third of the calls, some twice, and some that were never made.
        await peer.say(*([3, number] for number in [*range(0, EACH, 3), *range(0, EACH, 9), EACH + 1]))
    for peer in kept:
        await within(peer.hear(len(range(0, EACH, 3))), "the replies to what was cancelled")
    Live.gate.set()
    for peer in kept:
        await within(peer.hear(EACH), "a reply to each call")
        await peer.say([0, "last", "wait", []])
        await within(peer.hear(EACH + 1), "a marker after all replies")

    cancelled = len(range(0, EACH, 3))
    for peer in kept:
        assert peer.replies == dict.fromkeys([*range(EACH), "last"], 1)
        assert peer.codes == {CANCELLED: cancelled, None: EACH - cancelled + 1}
        peer.cut()
    await nobody_is_left(site)


@pytest.mark.parametrize(
    "state", ["running", "stubborn", "turn", "middleware", "stream", "replying", "reply", "cancelled", "loading"]
)
async def test_a_socket_cut_in_this_state_of_its_calls_leaves_nothing(
    site: Site, store: StoreProbe, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sstream")
    peer = await Peer.open(site, receive_buffer=4096)
    entered = 3

    match state:
        case "running" | "cancelled":
            await peer.say(*([0, number, "wait", []] for number in range(3)))
        case "stubborn":
            await peer.say(*([0, number, "stubborn", []] for number in range(3)))
        case "middleware":
            await peer.say(*([0, number, "behind_middleware", []] for number in range(3)))
        case "turn":
            # One has its turn, two wait for it.
            await peer.say(*([0, number, "in_turn", []] for number in range(3)))
            entered = 1
        case "stream":
            # One has had no credit, one waits for more, one is at its end.
            await peer.say(*([0, number, "count", []] for number in range(3)), [5, 1, 1], [5, 2, 9])
        case "replying":
            # More than the kernel takes: the replies wait in the send queue.
            await peer.say(*([0, number, "reply_much", []] for number in range(3)))
            await eventually(lambda: Live.inside["entered"] == 3, "three calls")
            Live.gate.set()
            await eventually(lambda: is_stuck(site), "replies that wait")
        case "reply":
            Live.leaver = peer
            await peer.say([0, 1, "wait", []], [0, 2, "leave", []])
            entered = 1
        case "loading":
            # The store is asked for what another call has written.
            Live.gate.set()
            await peer.say([0, 1, "in_turn", []])
            await peer.hear(1)
            entered = 1
            hold = store.hold("swap")
            await peer.say([0, 2, "in_turn", []])
            await within(hold.wait(), "the store to be asked")
            entered = 2
    await eventually(lambda: Live.inside["entered"] >= entered, "the calls to be in that state")
    if state == "cancelled":
        await peer.say(*([3, number] for number in range(3)))
    peer.cut()
    await eventually(lambda: not site.app.sockets, "the end of the socket")
    if state == "loading":
        hold.release()
    Live.gate.set()

    await nobody_is_left(site)
    assert caplog.messages == []


def is_stuck(site: Site) -> bool:
    (handler,) = site.app.sockets.values()
    return handler.ws_connection._queue is not None


class Kept(Live):
    ended: list[str]

    @rpc(detached=True)
    async def detached(self) -> None:
        await self.gate.wait()
        self.ended.append("detached")

    @rpc
    async def late(self) -> None:
        self.ended.append("late")


@pytest.mark.parametrize("wire", ["socket", "stream"])
async def test_client_that_closes_with_calls_held_is_answered_at_once(
    wire: str, store: StoreProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wire == "stream":
        monkeypatch.setattr(upgrade, "may_take", lambda stream: False)
        monkeypatch.setattr(upgrade, "_tell_once", lambda: None)
    Live.gate, Live.inside, Kept.ended = asyncio.Event(), Counter(), []
    limits = Limits(calls_in_flight=2)
    app = Application([("/ws", Kept)], store=store, session=SessionOptions(secret="x" * 32), limits=limits)
    async with serve(app) as site:
        peer = await Peer.open(site)
        await peer.say([0, 1, "wait", []], [0, 2, "detached", []], [0, 3, "late", []], [0, 4, "late", []])
        await eventually(lambda: Live.inside["entered"], "the call that waits")

        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer.sock, frame(9, b"there?") + frame(8, b"\x03\xe8"))
        answer = b""
        while data := await within(loop.sock_recv(peer.sock, 65536), "the answer to the Close frame"):
            answer += data

        assert answer == b"\x8a\x06there?\x88\x02\x03\xe8"
        await eventually(lambda: not app.sockets and Live.inside["left"], "the end of the call that waited")
        assert Kept.ended == []
        Live.gate.set()
        await within(drain_detached(), "the end of the detached call")
        assert Kept.ended == ["detached"]
    peer.cut()
