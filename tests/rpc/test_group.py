"""Plain calls that wait for the session of their socket: one turn and one commit for all of them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sstream.errors import (
    CANCELLED,
    FORBIDDEN,
    INTERNAL_ERROR,
    SESSION_GONE,
    TIMEOUT,
    UNAVAILABLE,
    RPCError,
    StoreError,
)
from sstream.rpc import group
from sstream.rpc.codec import JSON, MSGPACK
from sstream.rpc.dispatch import drain_detached, traceparent
from sstream.rpc.middleware import load_session
from sstream.rpc.registry import rpc
from sstream.testing import eventually
from tests.rpc.sockets import SessionHandler, Socket

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OpenSocket = Callable[..., Socket]


class Shop(SessionHandler):
    """What a call has seen is in ``seen``."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    @rpc(use=[load_session])
    def read(self) -> int:
        return self.session.get("n", 0)

    @rpc(use=[load_session])
    def bump(self) -> int:
        self.session["n"] = self.session.get("n", 0) + 1
        self.seen.append(self.session["n"])
        return self.session["n"]

    @rpc(use=[load_session], timeout=0.001)
    def bump_soon(self) -> int:
        return self.bump()

    @rpc(use=[load_session], detached=True)
    def bump_detached(self) -> int:
        return self.bump()

    @rpc(use=[load_session])
    async def bump_slowly(self) -> int:
        n = self.session.get("n", 0)
        await asyncio.sleep(0)
        self.session["n"] = n + 1
        return n + 1

    @rpc(use=[load_session])
    def refuse(self) -> None:
        self.session["n"] = "spoilt"
        raise RPCError(FORBIDDEN, "no")

    @rpc(use=[load_session])
    def fail(self) -> None:
        self.session["n"] = "spoilt"
        raise ZeroDivisionError("on purpose")

    @rpc(use=[load_session])
    def cancel(self) -> None:
        self.session["n"] = "spoilt"
        raise asyncio.CancelledError

    @rpc(use=[load_session])
    def spoil(self) -> str:
        self.session["unstorable"] = True
        return "a false success"

    @rpc(use=[load_session])
    def put(self, item: str) -> list[str]:
        # Not a copy: what the reply says must not change with what comes after it.
        items: list[str] = self.session.setdefault("items", [])
        items.append(item)
        return items

    @rpc(use=[load_session])
    def bump_and_give(self) -> object:
        self.bump()
        return object()

    @rpc(use=[load_session])
    def trace(self) -> str | None:
        return traceparent.get()


@pytest.fixture
async def shop(open_socket: OpenSocket) -> Socket:
    """A socket on which the call number 0 has its change stored, for as long as that is held up."""
    return begin(open_socket(Shop))


def begin(socket: Socket) -> Socket:
    socket.handler.permits = asyncio.Semaphore(0)
    socket.receive(0, 0, "bump", [])
    return socket


def send(socket: Socket, *methods: str, first: int = 1) -> None:
    for call_id, method in enumerate(methods, first):
        socket.receive(0, call_id, method, [])


async def next_commit(socket: Socket) -> None:
    """Let one commit go on, and wait until those that came after it have run."""
    handler, seen = socket.handler, len(socket.handler.seen)
    handler.permits.release()
    await eventually(lambda: len(handler.seen) > seen, "nobody came after it")


def let_go_on(socket: Socket) -> None:
    """Hold up no commit any more."""
    for _ in range(100):
        socket.handler.permits.release()


@pytest.mark.parametrize("codec", [MSGPACK, JSON])
async def test_calls_that_wait_share_a_turn_and_a_commit(open_socket, codec):
    shop = begin(open_socket(Shop, codec))
    send(shop, *["bump"] * 9)

    let_go_on(shop)

    assert await shop.wait_for(10) == [[1, number, None, number + 1] for number in range(10)]
    assert (shop.handler.stored, shop.handler.commits, shop.handler.loads) == ({"n": 10}, 2, 1)


async def test_no_reply_leaves_before_the_commit(shop):
    send(shop, "bump", "bump")
    await next_commit(shop)

    before = list(shop.sent)
    let_go_on(shop)

    assert before == [[1, 0, None, 1]]
    assert await shop.wait_for(3) == [[1, 0, None, 1], [1, 1, None, 2], [1, 2, None, 3]]


async def test_a_read_waits_for_the_commit_of_what_it_saw_and_for_no_other(shop):
    send(shop, "read", "bump", "read", "refuse")
    await next_commit(shop)

    before = list(shop.sent)
    let_go_on(shop)

    assert before == [[1, 0, None, 1], [1, 1, None, 1]]
    assert (await shop.wait_for(5))[2:] == [[1, 2, None, 2], [1, 3, None, 2], [1, 4, [FORBIDDEN, "no", None], None]]


async def test_calls_that_only_read_commit_nothing(shop):
    send(shop, "read", "read")

    let_go_on(shop)

    assert await shop.wait_for(3) == [[1, 0, None, 1], [1, 1, None, 1], [1, 2, None, 1]]
    assert shop.handler.commits == 1


async def test_a_call_that_may_wait_comes_in_its_place_and_no_plain_one_passes_it(shop):
    send(shop, "bump", "bump", "bump_slowly", "bump", "bump")

    let_go_on(shop)

    assert await shop.wait_for(6) == [[1, number, None, number + 1] for number in range(6)]
    assert shop.handler.commits == 4  # the first one, two, the slow one, two


@pytest.mark.parametrize("how", ["refuse", "fail", "cancel", "spoil"])
async def test_a_call_that_raises_loses_its_own_changes_alone(shop, expect_log, how):
    if how in {"fail", "spoil"}:
        expect_log(f"{how} raised", "sstream.rpc", count=1)
    send(shop, "bump", how, "bump")
    errors = {"refuse": [FORBIDDEN, "no", None], "cancel": [CANCELLED, "cancelled", None]}

    let_go_on(shop)
    replies = await shop.wait_for(4)

    error = errors.get(how, [INTERNAL_ERROR, "internal error", None])
    assert replies == [[1, 0, None, 1], [1, 1, None, 2], [1, 2, error, None], [1, 3, None, 3]]
    assert shop.handler.stored == {"n": 3}


@pytest.mark.parametrize("how", ["refuse", "fail"])
async def test_a_call_that_raises_before_anything_is_changed_is_answered_at_once(shop, expect_log, how):
    if how == "fail":
        expect_log("fail raised", "sstream.rpc", count=1)
    send(shop, how, "bump")
    await next_commit(shop)

    answered = [reply[1] for reply in shop.sent]
    let_go_on(shop)

    assert answered == [0, 1]
    assert (await shop.wait_for(3))[2] == [1, 2, None, 2]


async def test_if_the_commit_fails_all_hear_so_who_saw_any_of_it(shop, expect_log):
    expect_log("fail raised", "sstream.rpc", count=1)
    send(shop, "read", "bump", "read", "refuse", "fail", "bump")
    await next_commit(shop)
    shop.handler.fails = StoreError("away")
    let_go_on(shop)

    replies = await shop.wait_for(7)

    away, bug = [UNAVAILABLE, "unavailable", None], [INTERNAL_ERROR, "internal error", None]
    assert replies[1] == [1, 1, None, 1]  # it saw what is stored
    assert [reply[2] for reply in replies[2:]] == [away, away, away, bug, away]
    assert (shop.handler.stored, shop.handler.session) == ({"n": 1}, {"n": 1})


async def test_if_the_session_has_ended_all_hear_so(shop):
    send(shop, "bump", "read", "bump")
    await next_commit(shop)
    shop.handler.is_gone = True
    let_go_on(shop)

    replies = await shop.wait_for(4)

    assert [reply[2] for reply in replies[1:]] == [[SESSION_GONE, "session gone", None]] * 3


async def test_if_the_turn_cannot_begin_no_call_runs(shop, monkeypatch):
    def begin_in_vain() -> None:
        raise StoreError("away")

    send(shop, "bump", "bump")
    monkeypatch.setattr(shop.handler, "session_drop", begin_in_vain)
    let_go_on(shop)

    replies = await shop.wait_for(3)

    assert [reply[2] for reply in replies[1:]] == [[UNAVAILABLE, "unavailable", None]] * 2
    assert shop.handler.seen == [1]


@pytest.mark.parametrize("codec", [MSGPACK, JSON])
async def test_a_reply_says_what_was_true_when_its_call_returned(open_socket, codec):
    shop = begin(open_socket(Shop, codec))
    shop.receive(0, 1, "put", ["tea"])
    shop.receive(0, 2, "put", ["milk"])

    let_go_on(shop)

    assert (await shop.wait_for(3))[1:] == [[1, 1, None, ["tea"]], [1, 2, None, ["tea", "milk"]]]


async def test_a_result_that_cannot_be_sent_is_an_error_and_what_its_call_changed_is_stored(shop, expect_log):
    expect_log("bump_and_give gave a object, which cannot be sent", "sstream.rpc", count=1)
    send(shop, "bump_and_give", "bump")

    let_go_on(shop)

    error = [INTERNAL_ERROR, "internal error", None]
    assert (await shop.wait_for(3))[1:] == [[1, 1, error, None], [1, 2, None, 3]]


async def test_a_call_that_is_cancelled_as_it_waits_does_not_run(shop):
    send(shop, "bump", "bump", "bump")
    shop.receive(3, 2)
    shop.receive(3, 2)  # and once more, for nothing
    await eventually(lambda: shop.calls.in_flight == 3, "it is still in flight")

    let_go_on(shop)

    replies = await shop.wait_for(4)
    assert replies[0] == [1, 2, [CANCELLED, "cancelled", None], None]
    assert replies[1:] == [[1, 0, None, 1], [1, 1, None, 2], [1, 3, None, 3]]


async def test_a_call_that_is_cancelled_after_it_has_run_is_stored_with_the_others(shop):
    send(shop, "bump", "bump")
    await next_commit(shop)

    shop.receive(3, 1)
    let_go_on(shop)

    assert (await shop.wait_for(3))[1:] == [[1, 1, [CANCELLED, "cancelled", None], None], [1, 2, None, 3]]
    assert shop.handler.stored == {"n": 3}
    assert shop.calls.in_flight == 0


@pytest.mark.parametrize("have_run", [False, True])
async def test_if_all_are_cancelled_nothing_is_stored_and_who_comes_next_has_the_turn(shop, have_run):
    send(shop, "bump", "bump")
    if have_run:
        await next_commit(shop)

    shop.receive(3, 1)
    shop.receive(3, 2)
    send(shop, "bump", first=3)
    let_go_on(shop)

    replies = await shop.wait_for(4)
    assert replies[-1] == [1, 3, None, 2]
    assert shop.handler.stored == {"n": 2}


async def test_a_call_that_is_late_is_told_so_and_the_others_go_on(shop):
    send(shop, "bump", "bump_soon")
    await shop.wait_for(1)

    let_go_on(shop)

    assert await shop.wait_for(3) == [[1, 1 + 1, [TIMEOUT, "timeout", None], None], [1, 0, None, 1], [1, 1, None, 2]]


async def test_a_socket_that_closes_takes_its_calls_with_it(shop):
    send(shop, "bump", "bump")

    shop.calls.close()

    await eventually(lambda: not shop.calls.in_flight, "they are still in flight")
    assert (shop.handler.seen, shop.sent) == ([1], [])
    assert not shop.handler.lock.locked()


async def test_a_detached_call_outlives_its_socket_and_its_group(shop):
    send(shop, "bump", "bump_detached", "bump")

    shop.calls.close()
    let_go_on(shop)
    await drain_detached()

    assert (shop.handler.seen, shop.sent) == ([1, 1], [])  # the first one's commit was broken off
    assert shop.handler.stored == {"n": 1}
    assert shop.calls.in_flight == 0


async def test_draining_waits_for_all(shop):
    send(shop, "bump", "bump")
    draining = asyncio.ensure_future(shop.calls.drain())

    let_go_on(shop)
    await draining

    assert len(shop.sent) == 3


async def test_each_call_has_the_context_that_it_came_in(shop):
    shop.receive(0, 1, "trace", [], {"traceparent": TRACE})
    shop.receive(0, 2, "trace", [])

    let_go_on(shop)

    assert (await shop.wait_for(3))[1:] == [[1, 1, None, TRACE], [1, 2, None, None]]


async def test_a_call_without_reply_is_stored_too(shop):
    shop.receive(2, "bump", [])
    send(shop, "bump", first=1)

    let_go_on(shop)

    assert (await shop.wait_for(2))[1:] == [[1, 1, None, 3]]


async def test_a_group_has_a_bound(shop, monkeypatch):
    monkeypatch.setattr(group, "_MOST", 3)
    send(shop, *["bump"] * 7)

    let_go_on(shop)

    assert await shop.wait_for(8) == [[1, number, None, number + 1] for number in range(8)]
    assert shop.handler.commits == 1 + 3
