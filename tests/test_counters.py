"""What is counted while calls are answered, sessions saved and sockets closed."""

import asyncio
import weakref
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import pytest

from sstream import (
    Application,
    Limits,
    MemoryStore,
    RPCError,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    load_session,
    rpc,
)
from sstream.counters import BOUNDS, OTHER, CallCounts, CallWatch, Histogram, MethodCounts, SocketCounts
from sstream.rpc.codec import MSGPACK, SMALL
from sstream.rpc.dispatch import Calls
from sstream.rpc.registry import Registry
from sstream.testing import StoreProbe, eventually, serve


class Live(RPCHandler):
    release: asyncio.Event

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def end(self, how: str) -> object:
        if how == "raise":
            raise RPCError(4009, "no")
        return object() if how == "misgive" else None

    @rpc
    async def end_later(self, how: str) -> None:
        if how == "wait":
            await asyncio.sleep(0)

    @rpc
    async def wait(self) -> str:
        await asyncio.sleep(0)
        return "done"

    @rpc
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @rpc
    def refuse(self, code: int) -> None:
        raise RPCError(code, "no")

    @rpc(use=[load_session])
    async def set(self, key: str) -> None:
        self.session[key] = 1


def application(routes: Sequence[Any] = (), **options: Any) -> Application:
    options = {"store": StoreProbe(MemoryStore()), "session": SessionOptions(secret="a test's own")} | options
    return Application([("/ws", Live), *routes], **options)


def outcomes(counts: CallCounts) -> dict[str, tuple[int, dict[int, int]]]:
    used = (method for method in counts.methods if method.times.count or method.errors)
    return {method.name: (method.answered, method.errors) for method in used}


def test_a_histogram_puts_a_time_into_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram()

    histogram.observe(BOUNDS[0])
    histogram.observe(BOUNDS[0] * 1.01, 3)
    histogram.observe(BOUNDS[-1] * 2)

    assert histogram.counts == [1, 3, *[0] * (len(BOUNDS) - 2), 1]
    assert histogram.count == 5
    assert histogram.seconds == pytest.approx(4.03 * BOUNDS[0] + 2 * BOUNDS[-1])


async def test_every_call_is_counted_and_one_of_2003_timed_for_all() -> None:
    handler, counts = Live.__new__(Live), CallCounts()
    handler.id = "s"
    seen: list[tuple[Any, ...]] = []
    counts.watch.watcher = lambda *call: seen.append(call)
    calls = Calls(handler, Registry.of(Live), MSGPACK, Limits(), lambda payload: None, counts=counts)
    payload = MSGPACK.encode((0, 1, "add", (1, 2)))

    for _ in range(4007):
        calls.receive(payload)

    (add,) = (method for method in counts.methods if method.name == "add")
    assert (add.answered, add.at_once, add.later) == (4007, 4007, 0)
    assert add.times.count == 1 + 2 * 2003
    assert [(name, socket, code) for name, socket, code, _ in seen] == [("add", "s", None)] * 3
    assert 0 < add.times.seconds < 10
    calls.close()


@pytest.mark.parametrize(
    ("calls_a_second", "timed"),
    # 200 of a second are wanted, and of more calls than that at least half of it is had.
    [(50, 50), (200, 200), (1000, 200), (10_000, 104), (100_000, 101)],
)
async def test_who_looks_closer_has_enough_of_a_busy_method_timed(calls_a_second: int, timed: int) -> None:
    handler, counts = Live.__new__(Live), CallCounts()
    handler.id = "s"
    seen: list[tuple[Any, ...]] = []
    counts.watch.watcher = lambda *call: seen.append(call)
    calls = Calls(handler, Registry.of(Live), MSGPACK, Limits(), lambda payload: None, counts=counts)
    payload = MSGPACK.encode((0, 1, "add", (1, 2)))
    (add,) = (method for method in counts.methods if method.name == "add")
    counts.look_closer(200)

    def pass_second() -> int:
        seen.clear()
        for _ in range(calls_a_second):
            calls.receive(payload)
        counts.look_closer(200)
        return len(seen)

    pass_second()

    assert pass_second() == timed
    assert add.answered == 2 * calls_a_second
    counts.look_away()
    for _ in range(2003):
        calls.receive(payload)
    seen.clear()
    for _ in range(2003):
        calls.receive(payload)
    assert len(seen) == 1
    calls.close()


def test_after_time_next_a_rare_call_is_timed_and_stands_for_those_since_the_last() -> None:
    method = MethodCounts("add", CallWatch())
    method.begin()
    next(method.untimed)
    method.timed(perf_counter(), "s")
    for _ in range(3):
        next(method.untimed)

    method.time_next()
    before = method.answered
    method.begin()
    next(method.untimed)
    method.timed(perf_counter(), "s")

    assert (before, method.answered, method.times.count) == (4, 5, 5)


async def test_only_results_at_once_count_as_such_however_else_calls_end(expect_log: Any) -> None:
    expect_log("end gave a object, which cannot be sent", "sstream.rpc", count=300)
    handler, counts = Live.__new__(Live), CallCounts()
    handler.id = "s"
    calls = Calls(handler, Registry.of(Live), MSGPACK, Limits(), lambda payload: None, counts=counts)
    messages = [(0, 1, "end", (how,)) for how in ("give", "raise", "misgive")] + [
        (0, 1, "end", ()),
        (2, "end", ("give",)),
    ]
    big = (0, 1, "end", ("give" + " " * SMALL,))

    for _ in range(300):
        for message in (*messages, big):
            calls.receive(MSGPACK.encode(message))
    calls.receive(MSGPACK.encode((0, 1, "end_later", ("give",))))
    for call_id in range(10):
        calls.receive(MSGPACK.encode((0, call_id, "end_later", ("wait",))))
    await calls.drain()

    used = {method.name: method for method in counts.methods if method.answered}
    assert {name: (method.at_once, method.later) for name, method in used.items()} == {
        "end": (900, 0),
        "end_later": (1, 10),
    }
    assert used["end"].errors == {4009: 300, -32603: 300, -32602: 300}
    calls.close()


async def test_a_thread_that_looks_on_while_a_call_is_under_way_is_told_nothing_that_is_taken_back() -> None:
    class Looking(RPCHandler):
        @rpc
        def fail(self, wanted: bool) -> None:
            told.append(method.answered)
            if wanted:
                raise RPCError(4009, "no")

    told: list[int] = []
    handler, counts = Looking.__new__(Looking), CallCounts()
    handler.id = "s"
    calls = Calls(handler, Registry.of(Looking), MSGPACK, Limits(), lambda payload: None, counts=counts)
    method = next(method for method in counts.methods if method.name == "fail")

    for call_id, wanted in enumerate([False, False, True, True, False, False]):
        calls.receive(MSGPACK.encode((0, call_id, "fail", (wanted,))))

    assert told == sorted(told)
    assert method.answered == 4
    calls.close()


async def test_what_waits_is_timed_each_time_and_errors_are_counted_by_code() -> None:
    async with serve(application()) as site:
        socket = await site.browser().connect()

        assert await socket.call("wait") == "done"
        assert await socket.call("wait") == "done"
        for method, params in [("refuse", [4009]), ("add", ["x", 1]), ("nonsense", []), ("add", [])]:
            with pytest.raises(RPCError):
                await socket.call(method, *params)
        with pytest.raises(RPCError):
            await socket.reply(socket.ask("hang", meta={"timeout": 0.05}))

        counts = site.app.counters.calls
        assert outcomes(counts) == {
            "wait": (2, {}),
            "refuse": (0, {4009: 1}),
            "add": (0, {-32602: 2}),
            "hang": (0, {4000: 1}),
        }
        assert counts.unknown.errors == {-32601: 1}


def test_codes_that_callers_make_up_do_not_grow_without_a_bound() -> None:
    method = MethodCounts("refuse", CallWatch())

    for code in range(1, 1000):
        method.fail(code, "s")

    assert len(method.errors) == 33
    assert method.errors[OTHER] == 999 - 32


async def test_a_call_that_its_socket_left_counts_as_cancelled() -> None:
    async with serve(application()) as site:
        socket = await site.browser().connect()
        socket.send([0, "far", "hang", []])
        await socket.call("wait")

        await socket.close()

        await eventually(lambda: outcomes(site.app.counters.calls).get("hang"), "no end of the call")
        assert outcomes(site.app.counters.calls)["hang"] == (0, {4001: 1})


def test_close_codes_of_the_application_or_the_peer_are_one() -> None:
    sockets = SocketCounts()

    for code in (1000, 1000, 4408, None, 3000, 4999):
        sockets.close(code)

    assert sockets.closed == {1000: 2, 4408: 1, 1006: 1, OTHER: 2}


async def test_sockets_are_counted_when_they_come_and_when_they_go() -> None:
    async with serve(application()) as site:
        first = await site.browser().connect()
        await site.browser().connect()

        await first.close()

        await eventually(lambda: site.app.counters.sockets.closed, "no close")
        assert site.app.counters.sockets.opened == 2
        assert sum(site.app.counters.sockets.closed.values()) == 1


async def test_loads_saves_conflicts_and_retries_of_sessions_are_counted() -> None:
    store = StoreProbe(MemoryStore())
    async with serve(application(store=store)) as site:
        sessions, counts = site.app.sessions, site.app.counters.sessions
        session = await sessions.create({"a": 1})
        rival = await sessions.get(session.id)
        assert rival is not None
        hold = store.hold("swap")
        session["b"] = 2
        saving = asyncio.ensure_future(session.save())
        await hold.wait()
        text = await store.store.get(sessions.options.prefix + session.id)
        assert text is not None
        await store.store.swap(sessions.options.prefix + session.id, text, text.replace(b'"a":1', b'"a":7'), 60)

        hold.release()
        await saving
        await session.destroy()

        assert (counts.loads, counts.saves, counts.conflicts, counts.retries, counts.ended) == (1, 2, 1, 1, 1)


async def test_whoever_watches_sessions_hears_who_changed_which_key() -> None:
    class Page(SessionMixin):
        async def get(self) -> None:
            self.session["page"] = 1

    seen = []
    memory = MemoryStore()
    async with serve(application([("/", Page)], store=StoreProbe(memory))) as site:
        site.app.counters.sessions.watcher = lambda sid, keys, how, socket: seen.append((sid, set(keys), how))
        browser = site.browser()
        await browser.get("/")
        socket = await browser.connect()

        await socket.call("set", "socket")
        other = application([("/", Page)], store=StoreProbe(memory.share()))
        async with serve(other) as elsewhere:
            foreign = await other.sessions.get(browser.sid or "")
            assert foreign is not None
            foreign["foreign"] = 1
            await foreign.save()
            await eventually(lambda: len(seen) == 3, "not all was told")
            assert elsewhere.app is other

        assert seen == [
            (browser.sid, {"page"}, "page"),
            (browser.sid, {"socket"}, "socket"),
            (browser.sid, {"foreign"}, "elsewhere"),
        ]


async def test_the_counts_of_an_application_go_with_it() -> None:
    counts = CallCounts()
    handler = Live.__new__(Live)
    calls = Calls(handler, Live.registry, MSGPACK, Limits(), lambda payload: None, counts=counts)
    calls.close()
    gone = weakref.ref(counts)

    del counts, calls

    assert gone() is None
