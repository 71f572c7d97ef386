"""Plain calls of one socket that come while its session is in use: one commit stores what all of them have changed."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio as aioredis

from sstream import Limits, RedisStore, RPCError, load_session, rpc
from sstream.testing import Fault, FaultProxy, Hold, Site, Socket, StoreProbe, eventually

from .live import ENDED, ServeLive, Spoiling, refused, stored

CALLS = 12


class Counter(Spoiling):
    """Counts in its session, and shows the browser how far it is."""

    @rpc(use=[load_session])
    def bump(self) -> int:
        self.session["n"] = self.session.get("n", 0) + 1
        return int(self.session["n"])

    @rpc(use=[load_session])
    def put(self, key: str, value: Any) -> None:
        self.session[key] = value

    @rpc(use=[load_session])
    def drop(self, key: str) -> None:
        del self.session[key]

    @rpc(use=[load_session])
    def remember(self) -> None:
        self.session.max_age = 3600

    @rpc(use=[load_session])
    def how_long(self) -> int:
        return self.session.max_age

    def session_view(self) -> dict[str, Any] | None:
        return {"n": self.session.get("n")}


class Busy:
    """A browser's socket whose first change is on its way to the store, and held there."""

    def __init__(self, site: Site, store: StoreProbe) -> None:
        self.site = site
        self.store = store
        self.browser = site.browser()
        self.socket: Socket
        self.first: asyncio.Future[Any]
        self._hold: Hold

    async def begin(self) -> "Busy":
        await self.browser.get("/tea")
        self.socket = await self.browser.connect()
        await self.again()
        return self

    async def again(self) -> None:
        """Let one change be held once more."""
        self._hold = self.store.hold("swap", "sess:")
        self.first = self.socket.ask("bump")
        await self._hold.wait()

    def hold(self) -> Hold:
        """Hold what is stored next."""
        return self.store.hold("swap", "sess:")

    async def ask(self, *calls: str | tuple[Any, ...]) -> list[asyncio.Future[Any]]:
        """Ask for these, and see them arrive."""
        asked = [self.socket.ask(call) if isinstance(call, str) else self.socket.ask(*call) for call in calls]
        await self.socket.call("add", 2, 3)
        return asked

    async def replies(self, asked: list[asyncio.Future[Any]]) -> list[Any]:
        """Let the first change be stored; what all are answered, an error by its code."""
        self._hold.release()
        replies = []
        for future in [self.first, *asked]:
            try:
                replies.append(await self.socket.reply(future))
            except RPCError as error:
                replies.append(error.code)
        return replies

    async def stored(self) -> dict[str, Any] | None:
        return await stored(self.store, self.browser.sid)

    @property
    def swaps(self) -> int:
        return sum(name == "swap" and key.startswith("sess:") for name, key in self.store.asked)


@pytest.fixture
async def busy(store: StoreProbe, serve_live: ServeLive) -> Busy:
    return await Busy(await serve_live(store, Counter), store).begin()


async def test_calls_that_wait_are_stored_by_one_commit(busy: Busy) -> None:
    before = busy.swaps

    replies = await busy.replies(await busy.ask(*["bump"] * CALLS))

    assert replies == list(range(1, CALLS + 2))
    assert await busy.stored() == {"cart": {"tea": 1}, "n": CALLS + 1}
    assert busy.swaps == before + 1


async def test_their_replies_leave_after_the_store_has_all_of_it_and_so_does_what_saw_it(busy: Busy) -> None:
    asked = await busy.ask("bump", "cart.show_now", "refuse_now", "bump")
    second = busy.hold()
    answering = asyncio.ensure_future(busy.replies(asked))
    await second.wait()
    other = await busy.socket.call("add", 2, 3)  # asked for later, answered before

    before = [future.done() for future in asked]
    data_before = await busy.stored()
    second.release()

    assert (other, before, data_before) == (5, [False] * 4, {"cart": {"tea": 1}, "n": 1})
    assert await answering == [1, 2, {"cart": {"tea": 1}, "n": 2}, 4009, 3]
    assert await busy.stored() == {"cart": {"tea": 1}, "n": 3}


async def test_a_call_that_raises_loses_its_own_changes_alone(busy: Busy) -> None:
    add, refuse = ("cart.add_now", "tea"), "refuse_now"  # both change the same dict in place

    replies = await busy.replies(await busy.ask(refuse, add, refuse, add, refuse, "bump"))

    assert replies == [1, 4009, {"tea": 2}, 4009, {"tea": 3}, 4009, 2]
    assert await busy.stored() == {"cart": {"tea": 3}, "n": 2}


async def test_a_removal_and_a_lifetime_stay_when_the_next_call_raises(busy: Busy) -> None:
    replies = await busy.replies(await busy.ask("remember", ("put", "b", [1]), ("drop", "b"), "refuse_now", "bump"))

    assert replies == [1, None, None, None, 4009, 2]
    assert await busy.socket.call("how_long") == 3600
    assert await busy.stored() == {"cart": {"tea": 1}, "n": 2}


@pytest.mark.parametrize("how", ["nan", "nested nan", "object", "big", "nested big"])
async def test_a_change_that_cannot_be_stored_is_an_error_of_its_own_call_alone(
    busy: Busy, expect_log: Callable[..., Any], how: str
) -> None:
    expect_log("spoil_now raised", "sstream.rpc", count=1)

    replies = await busy.replies(await busy.ask("bump", ("spoil_now", how), "bump"))

    assert replies == [1, 2, -32603, 3]
    assert await busy.stored() == {"cart": {"tea": 1}, "n": 3}


async def test_a_big_session_is_measured_whole(busy: Busy, expect_log: Callable[..., Any]) -> None:
    expect_log("put raised", "sstream.rpc", count=1)
    half = "x" * 40_000

    replies = await busy.replies(await busy.ask(("put", "b", half), ("put", "c", half), ("put", "b", ""), "bump"))

    assert replies == [1, None, -32603, None, 2]
    assert await busy.stored() == {"cart": {"tea": 1}, "n": 2, "b": ""}


async def test_what_others_store_in_between_is_kept_and_the_later_of_two_wins(busy: Busy) -> None:
    async def be_faster() -> None:
        # As another process does it.
        text = await busy.store.store.get(f"sess:{busy.browser.sid}")
        assert text is not None
        other = json.dumps(json.loads(text) | {"c": "other", "d": "other"}).encode()
        assert await busy.store.store.swap(f"sess:{busy.browser.sid}", text, other, 100) == (True, other)

    asked = await busy.ask("bump", ("put", "b", 1), ("put", "c", 1))
    busy.store.race("swap", be_faster, "sess:")

    assert await busy.replies(asked) == [1, 2, None, None]
    assert await busy.stored() == {"cart": {"tea": 1}, "n": 2, "b": 1, "c": 1, "d": "other"}
    assert await busy.socket.call("cart.show_now") == await busy.stored()


async def test_a_session_that_ends_in_between_is_gone_for_all(busy: Busy) -> None:
    asked = await busy.ask("bump", "cart.show_now", "refuse_now")
    second = busy.hold()
    answering = asyncio.ensure_future(busy.replies(asked))
    await second.wait()

    await busy.browser.get("/logout")
    second.release()

    assert await answering == [1, 4040, 4040, 4040]
    assert await busy.socket.closed() == ENDED
    assert await busy.stored() is None


@pytest.mark.parametrize("is_stored", [False, True])
async def test_a_store_that_fails_is_an_error_for_all_and_the_next_call_sees_what_is_stored(
    busy: Busy, is_stored: bool
) -> None:
    asked = await busy.ask("cart.show_now", "bump", "cart.show_now", "refuse_now", "bump")
    second = busy.hold()
    answering = asyncio.ensure_future(busy.replies(asked))
    await second.wait()
    busy.store.fail("swap", key="sess:", times=1, after=is_stored)
    second.release()

    replies = await answering

    assert replies == [1, {"cart": {"tea": 1}, "n": 1}, 4050, 4050, 4050, 4050]
    data = {"cart": {"tea": 1}, "n": 3 if is_stored else 1}
    assert await busy.stored() == data
    assert await busy.socket.call("cart.show_now") == data
    assert await busy.socket.call("bump") == data["n"] + 1


async def test_others_hear_of_it_once_and_this_socket_not_at_all(busy: Busy) -> None:
    other = await busy.browser.connect()
    await busy.replies(await busy.ask("bump", ("put", "b", 1), "bump"))

    await other.receive("changed")  # of the first one
    keys = await other.receive("changed")

    assert keys == [["b", "n"]]
    assert [event for event in busy.socket.events if event[0] == "changed"] == []
    assert [event[1] for event in busy.socket.events if event[0] == "session"] == [[{"n": n}] for n in (None, 1, 3)]


async def test_calls_of_two_processes_lose_nothing(redis_url: str, serve_live: ServeLive) -> None:
    stores = [StoreProbe(RedisStore(redis_url)) for _ in range(2)]
    sites = [await serve_live(store, Counter, limits=Limits(store_deadline=None)) for store in stores]
    browser = sites[0].browser()
    await browser.get("/tea")
    assert browser.sid is not None
    elsewhere = sites[1].browser()
    elsewhere.jar = browser.jar
    sockets = [await browser.connect(), await elsewhere.connect()]

    asked = [
        (socket, socket.ask("put", f"{who}-{number}", number))
        for number in range(100)
        for who, socket in enumerate(sockets)
    ]
    replies = [await socket.reply(future) for socket, future in asked]

    data = await stored(stores[0], browser.sid)
    assert replies == [None] * 200
    assert data == {"cart": {"tea": 1}} | {f"{who}-{number}": number for number in range(100) for who in range(2)}
    assert sum(name == "swap" for store in stores for name, _ in store.asked) < 200


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_REPLY, Fault.CUT_AFTER, Fault.ERROR])
async def test_no_acknowledged_change_is_lost_where_redis_fails(
    redis_url: str, proxy: FaultProxy, serve_live: ServeLive, expect_log: Callable[..., Any], fault: Fault
) -> None:
    store = StoreProbe(RedisStore(proxy.url, deadline=20.0))
    busy = await Busy(await serve_live(store, Counter), store).begin()
    asked = await busy.ask("bump", ("put", "b", 1), "cart.show_now", "bump")
    second = busy.hold()
    answering = asyncio.ensure_future(busy.replies(asked))
    await second.wait()
    expect_log("Redis", required=False)
    rule = proxy.on("EVALSHA", fault)
    second.release()

    replies = await answering

    assert rule.hits == 1
    assert replies[0] == 1
    told = {4050} if fault is not Fault.CUT_AFTER else {4050, 2}
    assert replies[1] in told
    # All or none: there is one commit.
    if replies[1] == 4050:
        assert replies[1:] == [4050] * 4
    async with aioredis.Redis.from_url(redis_url) as client:
        text = await client.get(f"sess:{busy.browser.sid}")
    is_stored = b'"n":3' in text
    assert is_stored == (b'"b":1' in text) == (fault in {Fault.CUT_REPLY, Fault.CUT_AFTER})
    assert (await busy.socket.call("cart.show_now"))["n"] == (3 if is_stored else 1)


async def test_redis_that_dies_in_the_midst_of_it_is_an_error_for_all(
    proxy: FaultProxy, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    store = StoreProbe(RedisStore(proxy.url, deadline=2.0))
    busy = await Busy(await serve_live(store, Counter), store).begin()
    asked = await busy.ask("bump", "bump")
    expect_log("Redis cannot be reached")
    expect_log("Redis is back")

    proxy.refuse()
    replies = await busy.replies(asked)
    await refused(busy.socket.call("bump"))
    await proxy.accept()
    await eventually(lambda: store.coherent, "Redis is not back")

    assert replies == [4050] * 3
    await busy.socket.receive("session")
    assert await busy.stored() == {"cart": {"tea": 1}}
