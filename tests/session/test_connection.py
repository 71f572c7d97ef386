"""The session of an open socket: its turns, its copy, and the tickets for its browser."""

import asyncio
import contextlib

import pytest
import redis.asyncio
from redis.asyncio.connection import parse_url

from sstream.errors import SessionError, SessionGone, StoreError
from sstream.session.connection import ConnectionSession
from sstream.session.options import SessionOptions
from sstream.session.records import BadTicket
from sstream.session.redis import RedisStore
from sstream.session.sessions import Sessions
from sstream.session.store import MemoryStore
from sstream.testing import Clock, Fault, FaultProxy, StoreProbe, eventually, within


async def use(socket, key, value) -> None:
    async with socket.turn() as session:
        session[key] = value


def store_operations(sessions) -> list[str]:
    return [name for name, _ in sessions.store.asked]


# --- opening ----------------------------------------------------------------------------------------------------------


async def test_a_socket_without_a_cookie_has_a_fresh_session_and_asks_nothing(here, open_socket):
    socket = await open_socket(here)

    assert (socket.session.is_new, dict(socket.session)) == (True, {})
    assert here.store.asked == []


async def test_a_socket_has_the_session_of_its_cookie(here, there, open_socket):
    session = await here.create({"cart": {"tea": 1}})

    socket = await open_socket(there, session.id)

    assert socket.session.id == session.id
    assert dict(socket.session) == {"cart": {"tea": 1}}
    assert there.count_sockets(session.id) == 1


async def test_a_socket_with_an_unknown_id_has_a_fresh_one(here, open_socket):
    socket = await open_socket(here, "AbC-dEf_0123")

    assert socket.session.is_new
    assert socket.session.id != "AbC-dEf_0123"
    assert here.count_sockets("AbC-dEf_0123") == 0


async def test_a_store_that_is_away_is_asked_again_until_it_is_there(here, open_socket):
    session = await here.create({"a": 1})
    here.store.fail("get")

    socket = await open_socket(here, session.id)
    was_loaded = socket.connection.is_loaded
    with pytest.raises(StoreError):
        assert socket.session
    assert socket.connection.now() is None
    here.store.heal()

    await eventually(lambda: socket.connection.is_loaded, "the session was not loaded")
    assert was_loaded is False
    assert dict(socket.session) == {"a": 1}
    assert socket.changed == [{"a"}]


async def test_a_turn_while_the_store_is_away_since_the_opening_is_an_error(here, open_socket):
    session = await here.create({"a": 1})
    here.store.fail("get")
    socket = await open_socket(here, session.id)

    with pytest.raises(StoreError):
        await use(socket, "a", 2)

    here.store.heal()
    await eventually(lambda: socket.connection.is_loaded, "the session was not loaded")
    await use(socket, "a", 2)
    assert (await here.get(session.id))["a"] == 2


async def test_closing_before_the_store_has_answered_leaves_nothing(here, open_socket):
    session = await here.create({"a": 1})
    here.store.fail("get")
    socket = await open_socket(here, session.id)

    socket.connection.close()
    here.store.heal()

    await eventually(lambda: here.count_sockets(session.id) == 0, "the socket is still counted")


async def test_closing_writes_nothing(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    socket.session["a"] = 2
    here.store.asked.clear()

    socket.connection.close()

    assert here.store.asked == []
    assert here.count_sockets(session.id) == 0
    assert (await here.get(session.id))["a"] == 1


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_what_a_turn_changes_is_stored_when_it_ends(here, there, open_socket):
    session = await here.create({"cart": {}})
    socket = await open_socket(here, session.id)

    async with socket.turn() as mine:
        mine["cart"]["tea"] = 1

    assert (await there.get(session.id))["cart"] == {"tea": 1}
    assert socket.saved == [{"cart"}]
    assert socket.changed == []


async def test_turns_that_only_read_ask_the_store_nothing(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    here.store.asked.clear()

    for _ in range(5):
        async with socket.turn() as mine:
            assert mine["a"] == 1

    assert here.store.asked == []


async def test_turns_that_write_ask_for_one_swap_each(here, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)
    here.store.asked.clear()

    for number in range(5):
        await use(socket, "a", number + 1)

    assert store_operations(here) == ["swap"] * 5


async def test_a_turn_that_raises_stores_nothing(here, open_socket):
    session = await here.create({"a": 1, "list": [1]})
    socket = await open_socket(here, session.id)

    async def fail() -> None:
        async with socket.turn() as mine:
            mine["a"] = 2
            mine["list"].append(2)
            raise LookupError("no")

    with pytest.raises(LookupError):
        await fail()

    assert dict(socket.session) == {"a": 1, "list": [1]}
    assert dict(await here.get(session.id)) == {"a": 1, "list": [1]}
    async with socket.turn() as mine:
        assert mine["list"] == [1]


async def test_a_turn_that_cannot_be_stored_leaves_the_copy_as_it_was(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    here.store.fail("swap")

    with pytest.raises(StoreError):
        await use(socket, "a", 2)
    here.store.heal()

    async with socket.turn() as mine:
        assert mine["a"] == 1


async def test_a_turn_whose_acknowledgement_was_lost_is_read_anew(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    here.store.fail("swap", after=True)

    with pytest.raises(StoreError):
        await use(socket, "a", 2)
    here.store.heal()

    async with socket.turn() as mine:
        assert mine["a"] == 2


async def test_turns_come_in_the_order_in_which_they_were_asked_for(here, open_socket):
    session = await here.create({"n": 0})
    socket = await open_socket(here, session.id)
    order = []

    async def take(number: int) -> None:
        async with socket.turn() as mine:
            order.append(number)
            n = mine["n"]
            await asyncio.sleep(0)
            mine["n"] = n + 1

    await asyncio.gather(*(take(number) for number in range(20)))

    assert order == list(range(20))
    assert (await here.get(session.id))["n"] == 20


async def test_a_waiting_turn_that_is_cancelled_holds_nobody_up(here, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)
    go = asyncio.Event()
    order = []

    async def take(number: int) -> None:
        async with socket.turn():
            order.append(number)
            await go.wait()

    tasks = [asyncio.ensure_future(take(number)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[3].cancel()
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert order == [0, 2, 4]
    assert socket.connection.now() is socket.session


async def test_a_running_turn_that_is_cancelled_drops_its_changes_and_lets_the_next_one_in(here, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)
    never = asyncio.Event()

    async def stay() -> None:
        async with socket.turn() as mine:
            mine["a"] = 1
            await never.wait()

    staying = asyncio.ensure_future(stay())
    await asyncio.sleep(0)
    following = asyncio.ensure_future(use(socket, "b", 1))
    await asyncio.sleep(0)
    staying.cancel()
    await following

    assert dict(await here.get(session.id)) == {"a": 0, "b": 1}


async def test_a_turn_that_is_cancelled_as_it_is_given_passes_it_on(here, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)
    go = asyncio.Event()

    async def first() -> None:
        async with socket.turn():
            await go.wait()
        tasks[1].cancel()  # in the very pass of the loop in which its turn has come

    tasks = [asyncio.ensure_future(first())]
    await asyncio.sleep(0)
    tasks += [asyncio.ensure_future(use(socket, "never", 1)), asyncio.ensure_future(use(socket, "b", 1))]
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None)]
    assert dict(await here.get(session.id)) == {"a": 0, "b": 1}
    assert socket.connection.now() is socket.session


async def test_a_turn_cancelled_while_it_is_stored_leaves_the_newest_for_the_next(here, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)
    hold = here.store.hold("swap")
    storing = asyncio.ensure_future(use(socket, "a", 1))
    await hold.wait()

    storing.cancel()
    hold.release()
    await asyncio.gather(storing, return_exceptions=True)
    await use(socket, "b", 1)

    stored = dict(await here.get(session.id))
    assert stored["b"] == 1
    assert dict(socket.session) == stored


# --- the fast way -----------------------------------------------------------------------------------------------------


async def test_what_is_kept_in_a_turn_is_stored_whatever_is_dropped_after_it(here, there, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)

    turn = socket.turn()
    async with turn as mine:
        turn.keep()
        told = [turn.has_changes]
        mine["a"] = 1
        turn.keep()
        told.append(turn.has_changes)
        mine["b"] = 1
        turn.drop()

    assert told == [False, True]
    assert dict(await there.get(session.id)) == {"a": 1}


async def test_what_cannot_be_stored_is_told_when_it_is_to_be_kept(here, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)

    turn = socket.turn()
    async with turn as mine:
        mine["a"] = 1
        turn.keep()
        mine["b"] = "x" * 70_000
        with pytest.raises(SessionError, match="session key 'b' makes the session 70"):
            turn.keep()
        turn.drop()

    assert dict(await here.get(session.id)) == {"a": 1}


async def test_a_new_session_is_measured_before_it_is_stored_too(here, open_socket):
    socket = await open_socket(here)

    turn = socket.turn()
    async with turn as mine:
        mine["a"] = 1
        turn.keep()
        mine["b"] = "x" * 65_500
        with pytest.raises(SessionError, match="session key 'b' makes the session 65"):
            turn.keep()
        turn.drop()

    assert dict(await here.get(socket.session.id)) == {"a": 1}


async def test_a_turn_is_the_latest_until_it_begins_or_another_is_asked_for(here, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)
    go = asyncio.Event()

    async def use_slowly(turn) -> None:
        async with turn:
            await go.wait()

    turns = [socket.turn() for _ in range(3)]
    before = socket.connection.is_busy
    tasks, told = [], []
    for turn in turns:
        tasks.append(asyncio.ensure_future(use_slowly(turn)))
        await asyncio.sleep(0)
        told.append([turn.is_latest for turn in turns])
    busy = socket.connection.is_busy
    go.set()
    await asyncio.gather(*tasks)

    # The first one has begun at once.
    assert told == [[False, False, False], [False, True, False], [False, False, True]]
    assert [turn.is_latest for turn in turns] == [False] * 3
    assert (before, busy, socket.connection.is_busy) == (False, True, False)


async def test_now_gives_the_session_at_once_and_settled_tells_that_it_was_only_read(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)

    mine = socket.connection.now()

    assert mine["a"] == 1
    assert socket.connection.settled() is True
    assert socket.connection.now() is mine


async def test_what_was_changed_now_is_committed_and_nobody_else_has_the_turn_meanwhile(here, there, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    hold = here.store.hold("swap")

    socket.connection.now()["a"] = 2
    assert socket.connection.settled() is False
    committing = asyncio.ensure_future(socket.connection.commit())
    await hold.wait()
    during = socket.connection.now()
    waiting = asyncio.ensure_future(use(socket, "b", 1))
    await asyncio.sleep(0)
    hold.release()
    await committing
    await waiting

    assert during is None
    assert dict(await there.get(session.id)) == {"a": 2, "b": 1}
    assert socket.connection.now()["a"] == 2


async def test_there_is_no_now_while_anybody_has_or_awaits_the_turn(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)

    async with socket.turn():
        assert socket.connection.now() is None

    assert socket.connection.now() is not None


async def test_what_was_changed_now_can_be_dropped(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)

    socket.connection.now()["a"] = 2
    socket.connection.rollback()

    assert socket.connection.settled() is True
    assert socket.session["a"] == 1


async def test_a_commit_that_fails_gives_the_turn_back(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    here.store.fail("swap")
    socket.connection.now()["a"] = 2
    assert socket.connection.settled() is False

    with pytest.raises(StoreError):
        await socket.connection.commit()
    here.store.heal()

    await use(socket, "b", 1)
    assert dict(await here.get(session.id)) == {"a": 1, "b": 1}


# --- coherence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["a page", "a socket", "anybody"])
async def test_a_change_by_others_is_heard_and_seen_by_the_next_turn(here, there, open_socket, writer):
    session = await here.create({"a": 1, "b": 1})
    socket = await open_socket(here, session.id)

    match writer:
        case "a page":
            page = await there.get(session.id)
            page["a"] = 2
            await page.save()
        case "a socket":
            await use(await open_socket(there, session.id), "a", 2)
        case "anybody":
            text = await there.store.get(f"sess:{session.id}")
            await there.store.swap(f"sess:{session.id}", text, text.replace(b'"a":1', b'"a":2'), 60)

    await eventually(lambda: socket.changed, "the socket has not heard of it")
    assert socket.changed == [{"a"}]
    assert socket.session["a"] == 2
    assert socket.connection.now()["a"] == 2
    async with socket.turn() as mine:
        assert dict(mine) == {"a": 2, "b": 1}


async def test_sockets_of_one_process_are_of_one_mind_at_once(here, open_socket):
    session = await here.create({"a": 1})
    one, two = await open_socket(here, session.id), await open_socket(here, session.id)

    await use(one, "a", 2)

    assert (one.changed, one.saved) == ([], [{"a"}])
    assert (two.changed, two.saved) == ([{"a"}], [])
    assert two.connection.now()["a"] == 2


async def test_a_page_of_the_same_process_is_heard_at_once(here, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    page = await here.get(session.id)

    page["a"] = 2
    await page.save()

    assert socket.changed == [{"a"}]
    assert socket.connection.now()["a"] == 2


async def test_two_sockets_on_two_processes_count_right(here, there, open_socket):
    session = await here.create({"n": 0})
    sockets = [await open_socket(sessions, session.id) for sessions in (here, there, here, there)]

    async def count(socket) -> None:
        for _ in range(5):
            await socket.session.transact(lambda newest: newest.update(n=newest["n"] + 1))

    await asyncio.gather(*(count(socket) for socket in sockets))

    assert (await here.get(session.id))["n"] == 20
    await eventually(lambda: [s.session["n"] for s in sockets] == [20] * 4, "the sockets are not of one mind")


async def test_writes_of_two_sockets_to_different_keys_both_win(here, there, open_socket):
    session = await here.create()
    sockets = [await open_socket(sessions, session.id) for sessions in (here, there)]

    await asyncio.gather(*(use(sockets[number % 2], f"key{number}", number) for number in range(40)))

    expected = {f"key{number}": number for number in range(40)}
    assert dict(await here.get(session.id)) == expected
    await eventually(lambda: [dict(s.session) for s in sockets] == [expected] * 2, "the sockets are not of one mind")


async def test_a_change_during_a_turn_is_kept_beside_what_the_turn_changes(here, there, open_socket):
    session = await here.create({"a": 1, "b": 1})
    socket = await open_socket(here, session.id)

    async with socket.turn() as mine:
        mine["a"] = 2
        page = await there.get(session.id)
        page["b"] = 2
        await page.save()
        await eventually(lambda: socket.changed, "the socket has not heard of it")
        assert mine["a"] == 2

    assert dict(await there.get(session.id)) == {"a": 2, "b": 2}
    assert dict(socket.session) == {"a": 2, "b": 2}


async def test_a_foreign_change_back_and_forth_is_not_missed(here, there, open_socket):
    session = await here.create({"a": 0})
    socket = await open_socket(here, session.id)
    page = await there.get(session.id)
    for number in range(1, 30):
        page["a"] = number
        await page.save()

    await eventually(lambda: socket.session["a"] == 29, "the last change is not there")
    async with socket.turn() as mine:
        assert mine["a"] == 29


class Deafening(StoreProbe):
    """A store that can lose what tells it of changes by others, as a store in Redis can."""

    deaf = False

    def __init__(self, store) -> None:
        super().__init__(store)
        self.listeners = []

    @property
    def coherent(self) -> bool:
        return not self.deaf and super().coherent

    def watch(self, listener) -> None:
        self.listeners.append(listener)
        super().watch(lambda key: None if self.deaf else listener(key))

    def turn(self, *, deaf: bool) -> None:
        self.deaf = deaf
        for listener in self.listeners:
            listener(None)


async def test_while_nothing_is_reported_every_turn_reads(start_process, there, new_store, open_socket):
    here = await start_process(Deafening(new_store()))
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    here.store.turn(deaf=True)
    page = await there.get(session.id)

    for number in range(5):
        page["a"] = number
        await page.save()
        assert socket.connection.now() is None
        async with socket.turn() as mine:
            assert mine["a"] == number

    here.store.turn(deaf=False)
    await eventually(lambda: socket.connection.now() is not None, "the copy is never fresh again")
    here.store.asked.clear()
    async with socket.turn() as mine:
        assert mine["a"] == 4
    assert here.store.asked == []


async def test_what_changed_while_nothing_was_reported_is_heard_afterwards(
    start_process, there, new_store, open_socket
):
    here = await start_process(Deafening(new_store()))
    session, ending = await here.create({"a": 1}), await here.create({"a": 1})
    socket, other = await open_socket(here, session.id), await open_socket(here, ending.id)
    here.store.fail("get")
    here.store.turn(deaf=True)

    page = await there.get(session.id)
    page["a"] = 2
    await page.save()
    await there.end(ending.id, "logout")
    here.store.heal()
    here.store.turn(deaf=False)

    await eventually(lambda: socket.changed == [{"a"}], "the socket has not heard of the change")
    await eventually(lambda: other.ended == ["logout"], "the socket has not heard of the end")


async def test_a_stale_copy_is_an_error_where_the_store_is_away(start_process, new_store, open_socket):
    here = await start_process(Deafening(new_store()))
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    here.store.fail("get")
    here.store.turn(deaf=True)

    with pytest.raises(StoreError):
        await use(socket, "a", 2)

    here.store.heal()
    await use(socket, "a", 2)
    assert (await here.get(session.id))["a"] == 2


# --- a Redis that is away ---------------------------------------------------------------------------------------------


in_redis = pytest.mark.parametrize("new_store", ["redis"], indirect=True)


@pytest.fixture
async def proxy(redis_url):
    """Stands between the first process and Redis."""
    async with FaultProxy(parse_url(redis_url)["port"]) as proxy:
        yield proxy


@pytest.fixture
async def behind(start_process, proxy, redis_url, expect_log):
    """The registry of a process that reaches Redis through ``proxy``."""
    expect_log("Redis (cannot be reached|is back)", logger="sstream.session", required=False)
    behind = await start_process(StoreProbe(RedisStore(proxy.url)))
    yield behind
    await behind.close()
    await behind.store.close()


@pytest.fixture
async def beside(start_process, behind, redis_url):
    """The registry of another process, with a way to Redis of its own."""
    return await start_process(StoreProbe(RedisStore(redis_url, deadline=20.0)))


@in_redis
async def test_what_happened_while_redis_was_out_of_reach_is_heard_afterwards(behind, beside, proxy, open_socket):
    session, ending = await beside.create({"a": 1}), await beside.create({"a": 1})
    socket, other = await open_socket(behind, session.id), await open_socket(behind, ending.id)
    proxy.refuse()

    page = await beside.get(session.id)
    page["a"] = 2
    await page.save()
    await beside.end(ending.id, "logout")
    with pytest.raises(StoreError):
        await use(socket, "b", 1)
    assert socket.connection.now() is None
    await proxy.accept()

    await eventually(lambda: socket.changed == [{"a"}], "the socket has not heard of the change")
    await eventually(lambda: other.ended == ["logout"], "the socket has not heard of the end")
    await use(socket, "b", 1)
    assert dict(await beside.get(session.id)) == {"a": 2, "b": 1}


@in_redis
async def test_a_frozen_redis_is_an_error_for_every_turn_and_nothing_is_lost(behind, beside, proxy, open_socket):
    session = await beside.create({"n": 0})
    socket = await open_socket(behind, session.id)
    proxy.freeze()

    for _ in range(2):
        with pytest.raises(StoreError):
            await use(socket, "a", 1)
    proxy.thaw()

    await eventually(lambda: socket.connection.now() is not None, "the copy is never fresh again")
    await use(socket, "b", 1)
    assert (await beside.get(session.id))["b"] == 1


@in_redis
async def test_a_flushed_redis_ends_every_socket(behind, beside, open_socket, redis_url):
    session = await beside.create({"a": 1})
    sockets = [await open_socket(behind, session.id), await open_socket(beside, session.id)]

    client = redis.asyncio.Redis.from_url(redis_url)
    await client.flushall()
    await client.aclose()

    await eventually(lambda: [s.ended for s in sockets] == [["expired"]] * 2, "a socket has not heard of the end")


@in_redis
@pytest.mark.parametrize("command", ["EVALSHA", "GET"])
@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_REPLY, Fault.CUT_AFTER])
async def test_no_acknowledged_write_is_lost_where_connections_are_cut(
    behind, beside, proxy, open_socket, command, fault
):
    session = await beside.create()
    socket = await open_socket(behind, session.id)
    acknowledged = {}
    proxy.on(command, fault, chance=0.3, times=None)
    for number in range(20):
        with contextlib.suppress(StoreError):
            await use(socket, f"key{number}", number)
            acknowledged[f"key{number}"] = number
    proxy.clear()

    stored = dict(await beside.get(session.id))
    assert acknowledged.items() <= stored.items()
    assert socket.ended == []
    await eventually(lambda: dict(socket.session) == stored, "the copy is not the newest")


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("destroy", "destroyed"),
        ("end", "ended"),
        ("end for a reason", "banned"),
        ("delete", "expired"),
        ("spoil", "corrupt"),
    ],
)
async def test_every_socket_hears_of_the_end_and_why(here, there, open_socket, expect_log, how, reason):
    session = await here.create({"a": 1})
    sockets = [await open_socket(sessions, session.id) for sessions in (here, here, there)]
    if how == "spoil":
        expect_log("cannot be read", logger="sstream.session")

    match how:
        case "destroy":
            await (await there.get(session.id)).destroy()
        case "end":
            await there.end(session.id)
        case "end for a reason":
            await there.end(session.id, "banned")
        case "delete":
            await there.store.delete(f"sess:{session.id}")
        case "spoil":
            text = await there.store.get(f"sess:{session.id}")
            await there.store.swap(f"sess:{session.id}", text, b"null", 60)

    if how == "delete":
        # A store reports what others did; a `delete` that is not an end is somebody else's.
        sockets.pop()
    elif how == "spoil":
        sockets.pop()
    await eventually(lambda: all(socket.ended for socket in sockets), "a socket has not heard of the end")
    assert [socket.ended for socket in sockets] == [[reason]] * len(sockets)
    for socket in sockets:
        assert socket.session.is_gone
        assert socket.connection.now() is None
        with pytest.raises(SessionGone):
            await use(socket, "a", 2)
    assert here.count_sockets(session.id) == 0


async def test_a_session_that_expires_ends_its_sockets(start_process, open_socket, clock):
    here = await start_process(max_age=1)
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)

    clock.turn(1)

    await eventually(lambda: socket.ended == ["expired"], "the socket has not heard of the end")


async def test_a_touch_after_the_whole_life_ends_the_session_for_its_sockets_too(start_process, open_socket, clock):
    here = await start_process(max_age=1000, absolute_max_age=3000)
    session = await here.create({"a": 1})
    await here.store.touch(f"sess:{session.id}", 10_000)  # the store would keep it
    socket = await open_socket(here, session.id)
    clock.turn(3001)

    await session.touch()

    assert socket.ended == ["expired"]
    assert await here.store.get(f"sess:{session.id}") is None


async def test_a_socket_may_end_its_own_session(here, there, open_socket):
    session = await here.create({"a": 1})
    socket, other = await open_socket(here, session.id), await open_socket(there, session.id)

    async with socket.turn() as mine:
        await mine.destroy()

    await eventually(lambda: socket.ended and other.ended, "a socket has not heard of the end")
    assert (socket.ended, other.ended) == (["destroyed"], ["destroyed"])
    assert await here.get(session.id) is None


async def write_while_it_ends(socket, there) -> None:
    async with socket.turn() as session:
        session["a"] = 2
        await there.end(session.id)
        await eventually(lambda: socket.ended, "the socket has not heard of the end")


async def test_a_turn_that_writes_while_its_session_is_ended_says_so(here, there, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)

    with pytest.raises(SessionGone):
        await write_while_it_ends(socket, there)

    assert await here.get(session.id) is None


async def test_a_turn_that_writes_while_its_session_is_ended_says_so_even_if_the_socket_goes_on(
    here, there, open_socket
):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    socket.restarts = True

    with pytest.raises(SessionGone):
        await write_while_it_ends(socket, there)

    assert dict(socket.session) == {}
    assert socket.session.id != session.id


async def test_a_call_that_writes_at_once_while_its_session_is_ended_says_so(here, there, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    socket.connection.now()["a"] = 2
    assert socket.connection.settled() is False
    await there.end(session.id)

    with pytest.raises(SessionGone):
        await socket.connection.commit()

    assert await here.get(session.id) is None


async def test_a_socket_that_goes_on_after_the_end_has_a_fresh_session(here, there, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    socket.restarts = True

    await there.end(session.id)
    await eventually(lambda: socket.ended, "the socket has not heard of the end")

    assert (socket.session.is_new, dict(socket.session)) == (True, {})
    await use(socket, "b", 1)
    assert socket.session.id != session.id
    assert dict(await there.get(socket.session.id)) == {"b": 1}
    assert len(socket.offered) == 1


async def test_an_end_that_was_missed_is_heard_once_the_store_reports_again(here, there, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    here.store.fail("get")
    await there.end(session.id, "logout")
    # The report has come, and the store does not say what became of the session.
    await eventually(lambda: ("get", f"sess:{session.id}") in here.store.asked[1:], "nobody has asked")

    here.store.heal()

    await eventually(lambda: socket.ended == ["logout"], "the socket has not heard of the end")


# --- first writes and new ids -----------------------------------------------------------------------------------------


async def test_the_first_write_on_a_socket_offers_one_ticket_for_the_browsers_cookie(here, there, open_socket):
    socket = await open_socket(here)

    await use(socket, "a", 1)
    await use(socket, "b", 2)

    assert len(socket.offered) == 1
    traded = await there.trade(socket.offered[0], None)
    assert traded.id == socket.session.id
    assert dict(traded) == {"a": 1, "b": 2}


async def test_a_session_that_began_on_a_socket_is_coherent_too(here, there, open_socket):
    socket = await open_socket(here)
    await use(socket, "a", 1)

    page = await there.get(socket.session.id)
    page["a"] = 2
    await page.save()

    await eventually(lambda: socket.changed == [{"a"}], "the socket has not heard of it")
    await there.end(socket.session.id)
    await eventually(lambda: socket.ended == ["ended"], "the socket has not heard of the end")


async def store_goes_away_before_the_ticket(here, work) -> None:
    hold = here.store.hold("swap", "sstream:ticket:")
    task = asyncio.create_task(work)
    await hold.reached.wait()
    here.store.fail("swap")
    hold.release()
    await task


async def test_a_first_write_whose_ticket_cannot_be_stored_offers_it_when_the_store_is_back(here, there, open_socket):
    socket = await open_socket(here)

    await store_goes_away_before_the_ticket(here, use(socket, "a", 1))
    offered = list(socket.offered)
    here.store.heal()

    assert offered == []
    await eventually(lambda: len(socket.offered) == 1, "no ticket was offered")
    assert (await there.trade(socket.offered[0], None))["a"] == 1


async def test_a_socket_whose_ticket_cannot_be_stored_hears_of_the_end(here, there, open_socket):
    socket = await open_socket(here)
    await store_goes_away_before_the_ticket(here, use(socket, "a", 1))

    await there.end(socket.session.id)

    await eventually(lambda: socket.ended == ["ended"], "the socket has not heard of the end")


async def test_a_socket_whose_login_fails_behind_the_write_hears_of_the_end(here, there, open_socket):
    socket = await open_socket(here)
    hold = here.store.hold("swap", "sstream:user:")

    async def log_in() -> None:
        async with socket.turn() as session:
            await session.set_user_id("fred")

    task = asyncio.create_task(log_in())
    await hold.reached.wait()
    here.store.fail("swap")
    hold.release()
    with pytest.raises(StoreError):
        await task
    await there.end(socket.session.id)

    await eventually(lambda: socket.ended == ["ended"], "the socket has not heard of the end")


async def test_a_first_write_after_the_socket_was_closed_leaves_nothing(here, open_socket):
    socket = await open_socket(here)

    async with socket.turn() as session:
        session["a"] = 1
        socket.connection.close()

    assert here.count_sockets(socket.session.id) == 0
    assert socket.offered == []


async def test_a_first_write_that_fails_offers_nothing(here, open_socket):
    socket = await open_socket(here)
    here.store.fail("swap")

    with pytest.raises(StoreError):
        await use(socket, "a", 1)
    here.store.heal()

    assert socket.offered == []
    await use(socket, "a", 2)
    assert len(socket.offered) == 1


async def test_a_login_on_a_socket_keeps_the_old_id_until_the_browser_has_the_new_one(here, there, open_socket):
    session = await here.create({"a": 1})
    old = session.id
    socket, other = await open_socket(here, old), await open_socket(there, old)

    async with socket.turn() as mine:
        await mine.set_user_id("fred")
    before = (socket.session.id, (await there.get(old)).user_id)
    traded = await there.trade(socket.offered[0], old)

    assert before == (old, "fred")
    assert traded.id != old
    assert (traded.user_id, traded["a"]) == ("fred", 1)
    assert await here.get(old) is None
    await eventually(lambda: {socket.session.id, other.session.id} == {traded.id}, "a socket has not followed")
    await use(other, "b", 2)
    await eventually(lambda: socket.session.get("b") == 2, "the sockets are not of one mind")
    assert (socket.ended, other.ended) == ([], [])


@pytest.mark.parametrize("foreign", ["nobody", "another session", "the new id"])
async def test_the_ticket_of_a_login_is_for_the_browser_of_that_session_alone(here, open_socket, foreign):
    session, stranger = await here.create({"a": 1}), await here.create({"b": 1})
    socket = await open_socket(here, session.id)
    async with socket.turn() as mine:
        await mine.set_user_id("fred")
        new = mine.bookkeeping["moves"]["to"]

    sid = {"nobody": None, "another session": stranger.id, "the new id": new}[foreign]

    with pytest.raises(BadTicket):
        await here.trade(socket.offered[0], sid)
    assert (await here.get(session.id)).user_id == "fred"
    traded = await here.trade(socket.offered[0], session.id)
    assert traded.id == new
    for late in (session.id, new):
        with pytest.raises(BadTicket):
            await here.trade(socket.offered[0], late)


async def test_a_login_on_a_socket_whose_browser_fetches_nothing_ends_the_old_id_after_the_grace_time(
    start_process, open_socket
):
    here = await start_process(renew_grace=1)
    session = await here.create({"a": 1})
    old = session.id
    socket = await open_socket(here, old)

    async with socket.turn() as mine:
        await mine.set_user_id("fred")
    # Where nobody lives to end the grace time, the store does, a second later: not where a machine only stood still.
    await here.store.touch(f"sess:{old}", 60)

    await eventually(lambda: socket.session.id != old, "the old id is still good")
    assert await here.get(old) is None
    assert (await here.get(socket.session.id)).user_id == "fred"
    assert socket.ended == []


async def test_the_grace_time_ends_even_if_the_process_that_announced_it_is_gone(start_process, open_socket, clock):
    dying, there = await start_process(renew_grace=30), await start_process(renew_grace=30)
    session = await dying.create({"a": 1})
    socket = await open_socket(dying, session.id)
    async with socket.turn() as mine:
        await mine.set_user_id("fred")
        new = mine.bookkeeping["moves"]["to"]
    socket.connection.close()
    await dying.close()
    assert 0 < await there.store.ttl(f"sess:{session.id}") <= 60

    clock.turn(31)

    assert await there.get(session.id) is None
    assert (await there.get(new)).user_id == "fred"
    assert await there.store.ttl(f"sess:{new}") > 60


@pytest.mark.parametrize("turned", [31, 3600], ids=["soon", "much later"])
@pytest.mark.parametrize("is_ended", [False, True], ids=["goes on", "was ended"])
async def test_what_express_writes_under_the_old_id_after_the_move_touches_nothing_at_the_new_one(
    here, there, open_socket, clock, turned, is_ended
):
    session = await here.create({"a": 1})
    old = session.id
    socket = await open_socket(here, old)
    async with socket.turn() as session:
        await session.set_user_id("fred")
    read_by_express = await there.store.get(f"sess:{old}")
    new = await there.trade(socket.offered[0], old)
    new["b"] = 2
    await new.save()
    if is_ended:
        await there.end(new.id)
    await there.store.swap(f"sess:{old}", None, read_by_express, 86400)
    stray = await open_socket(there, old)  # of whoever has the old cookie still
    clock.turn(turned)

    assert await there.get(old) is None

    assert await there.store.get(f"sess:{old}") is None
    await eventually(lambda: stray.ended, "who came under the old id goes on")
    found = await there.get(new.id)
    assert (dict(found) if found is not None else None) == (None if is_ended else {"a": 1, "b": 2, "userId": "fred"})
    assert is_ended or await there.store.ttl(f"sess:{new.id}") > 60


async def test_a_second_login_on_a_socket_replaces_the_first(here, there, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    async with socket.turn() as mine:
        await mine.set_user_id("fred")
    async with socket.turn() as mine:
        await mine.set_user_id("anna")

    assert len(socket.offered) == 2
    assert await there.trade(socket.offered[0], session.id) is None
    traded = await there.trade(socket.offered[1], session.id)
    assert traded.user_id == "anna"


async def test_a_login_during_the_hand_over_of_the_one_before_ends_with_the_process(open_socket):
    store = StoreProbe(MemoryStore(clock=Clock(0.0)))  # it ends nothing by itself
    here = Sessions(store, SessionOptions(secret="a test's own secret", renew_grace=1))
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    async with socket.turn() as mine:
        await mine.set_user_id("fred")
    first = here._handovers[session.id]
    await store.hold("get", f"sess:{session.id}").wait()
    async with socket.turn() as mine:
        await mine.set_user_id("anna")
    second = here._handovers[session.id]
    await asyncio.wait([first])

    await here.close()

    assert second.cancelled()
    await store.close()


@pytest.mark.parametrize("operation", ["get", "touch"])
async def test_a_hand_over_that_has_begun_is_finished_before_the_store_is_closed(open_socket, operation):
    store = StoreProbe(MemoryStore(clock=Clock(0.0)))  # it ends nothing by itself
    here = Sessions(store, SessionOptions(secret="a test's own secret", renew_grace=1))
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    async with socket.turn() as mine:
        await mine.set_user_id("fred")
    hold = store.hold(operation, "sess:")
    await hold.wait()

    closing = asyncio.create_task(here.close())
    await asyncio.sleep(0)
    hold.release()
    await within(closing, "the hand-over did not end")

    assert await store.get(f"sess:{session.id}") is None
    (key,) = {key for name, key in store.asked if name == "touch" and key.startswith("sess:")}
    assert await store.get(key) is not None
    assert await store.ttl(key) > 60
    await store.close()


async def test_regenerate_on_a_socket_empties_at_once_and_renews_by_ticket(here, there, open_socket):
    session = await here.create({"a": 1}, user_id="fred")
    socket = await open_socket(here, session.id)

    async with socket.turn() as mine:
        await mine.regenerate()
        mine["b"] = 2

    assert dict(await there.get(session.id)) == {"b": 2}
    traded = await there.trade(socket.offered[0], session.id)
    assert dict(traded) == {"b": 2}
    assert await there.get(session.id) is None


async def test_a_page_that_renews_the_id_takes_the_sockets_with_it(here, there, open_socket):
    session = await here.create({"a": 1})
    old = session.id
    sockets = [await open_socket(sessions, old) for sessions in (here, there)]

    page = await there.get(old)
    await page.set_user_id("fred")

    await eventually(lambda: {socket.session.id for socket in sockets} == {page.id}, "a socket has not followed")
    await eventually(lambda: all(s.session.user_id == "fred" for s in sockets), "a socket does not know the user")
    assert [socket.ended for socket in sockets] == [[], []]
    assert all("userId" in socket.changed[-1] for socket in sockets)
    await use(sockets[0], "b", 1)
    assert dict(await there.get(page.id)) == {"a": 1, "b": 1, "userId": "fred"}


async def test_a_socket_that_follows_to_where_another_one_is_already_hears_what_that_one_knows(
    here, there, open_socket
):
    session = await here.create({"a": 1, "b": 1})
    old = session.id
    tab = await open_socket(here, old)
    slow = here.store.hold("get", key=f"sess:{old}")
    page = await there.get(old)
    page["a"] = 2
    await page.set_user_id("fred")
    await slow.wait()

    await open_socket(here, page.id)
    slow.release()

    await eventually(lambda: tab.session.id == page.id, "the socket has not followed")
    await eventually(lambda: {"a", "userId"} in tab.changed, "the socket was not told")
    async with tab.turn() as newest:
        assert dict(newest) == {"a": 2, "b": 1, "userId": "fred"}


async def test_a_socket_that_opens_with_the_old_id_after_a_hand_over_is_anonymous(here, open_socket):
    session = await here.create({"a": 1})
    old = session.id
    await session.renew_id()

    socket = await open_socket(here, old)

    assert socket.session.is_new
    assert socket.session.id not in {old, session.id}
    assert here._copies._copies == {}


async def test_a_logout_during_the_grace_time_ends_both_ids(here, there, open_socket):
    session = await here.create({"a": 1})
    socket = await open_socket(here, session.id)
    async with socket.turn() as mine:
        await mine.set_user_id("fred")

    await there.end(session.id, "logout")

    await eventually(lambda: socket.ended == ["logout"], "the socket has not heard of the end")
    assert await there.trade(socket.offered[0], session.id) is None


# --- life -------------------------------------------------------------------------------------------------------------


async def test_many_sockets_come_and_go_and_leave_nothing(here, open_socket):
    session = await here.create({"a": 1})

    for _ in range(50):
        socket = await open_socket(here, session.id)
        socket.connection.close()

    assert here.count_sockets(session.id) == 0
    assert here._copies._copies == {}


async def test_many_sockets_of_a_session_read_it_once(here, there, open_socket):
    session = await there.create({"a": 1})
    await open_socket(here, session.id)
    here.store.asked.clear()

    for _ in range(10):
        await open_socket(here, session.id)

    assert here.store.asked == []
    assert here.count_sockets(session.id) == 11


def test_it_takes_little_memory():
    assert not hasattr(ConnectionSession, "__dict__") or "__dict__" not in dir(
        ConnectionSession.__new__(ConnectionSession)
    )
