"""What is stored beside the sessions: fates, tickets, and which sessions a user has."""

import asyncio

import pytest

from sstream.errors import StoreError
from sstream.session import records as records_module
from sstream.session.options import SessionOptions
from sstream.session.records import Fate, Records, Ticket
from sstream.testing import StoreProbe
from tests.lasting import Lasting

SID, NEW = "AbC-dEf_0123", "XyZ-dEf_0123"


@pytest.fixture
async def start(new_store, clock):
    """Makes the records of separate processes on one store."""
    stores = []

    def start(**options) -> Records:
        stores.append(StoreProbe(new_store()))
        records = Records(stores[-1], SessionOptions(**options), clock)
        records.store = stores[-1]
        return records

    yield start
    for store in stores:
        await store.close()


def soon() -> float:
    return asyncio.get_running_loop().time() + 0.1


# --- fates ------------------------------------------------------------------------------------------------------------


async def test_a_session_of_which_nothing_is_known_has_expired(start):
    assert await start().fate(SID) == Fate(moved_to=None, reason="expired")


async def test_a_fate_is_known_to_every_process_for_a_minute(start):
    here, there = start(), start()
    a_minute = Lasting(60)

    await here.note_ended(SID, "banned")
    await here.note_moved("another", NEW)

    assert await there.fate(SID) == Fate(reason="banned")
    assert await there.fate("another") == Fate(moved_to=NEW)
    keys = {key for _, key in here.store.asked}
    assert [await here.store.ttl(key) for key in keys] == [a_minute, a_minute]


async def test_an_end_that_is_about_to_come_changes_no_fate_that_is_known(start):
    here = start()

    assert await here.note_ending(SID, "first") is True
    assert await here.note_ending(SID, "second") is False
    await here.note_moved("another", NEW)
    assert await here.note_ending("another", "late") is False

    assert await here.fate(SID) == Fate(reason="first")
    assert await here.fate("another") == Fate(moved_to=NEW)


async def test_the_end_of_a_move_is_waited_for(start):
    here, there = start(), start()
    await here.note_moving(SID, NEW)

    asking = asyncio.ensure_future(there.fate(SID))
    hold = there.store.hold("get")
    await hold.wait()
    hold.release()
    await here.note_moved(SID, NEW)

    assert await asking == Fate(moved_to=NEW)


async def test_a_move_that_never_ends_is_none(start, monkeypatch):
    monkeypatch.setattr(records_module, "_MOVING_TTL", 0.1)
    here = start()
    await here.note_moving(SID, NEW)

    assert await here.fate(SID) == Fate(reason="expired")


async def test_only_one_moves_a_session_at_a_time(start):
    here, there = start(), start()
    order = []

    async def move(records, name) -> None:
        async with records.moving(SID, soon() + 5):
            order.append(name)
            await asyncio.sleep(0.01)
            order.append(name)

    await asyncio.gather(*(move(records, number) for number, records in enumerate((here, there, here, there))))

    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == [0, 1, 2, 3]


async def test_a_session_that_another_process_is_moving_for_ever_is_an_error(start):
    here, there = start(), start()

    async with here.moving(SID, soon()):
        with pytest.raises(StoreError, match="being moved by another process"):
            async with there.moving(SID, soon()):
                pytest.fail("two move it")


# --- tickets ----------------------------------------------------------------------------------------------------------


async def test_a_ticket_is_good_on_every_process_until_it_is_used(start):
    here, there = start(renew_grace=20), start()

    text = await here.issue(Ticket(SID, NEW))
    first = await here.issue(Ticket(None, NEW))

    assert await there.ticket(text) == Ticket(SID, NEW)
    assert await there.ticket(text) == Ticket(SID, NEW)
    assert await there.ticket(first) == Ticket(None, NEW)
    assert await there.use(text) is True
    assert await here.use(text) is False
    assert await here.ticket(text) is None
    assert await there.ticket("forged") is None


async def test_a_ticket_lives_as_long_as_the_grace_time_and_its_text_stands_nowhere(start):
    here = start(renew_grace=20)
    grace = Lasting(20)

    text = await here.issue(Ticket(SID, NEW))

    (key,) = {key for _, key in here.store.asked}
    assert key.startswith("sstream:ticket:")
    assert text not in key
    assert text.encode() not in await here.store.get(key)
    assert await here.store.ttl(key) == grace
    assert len(text) == 32


# --- users ------------------------------------------------------------------------------------------------------------


async def test_a_users_sessions_are_listed_in_the_order_in_which_they_were_last_seen(start):
    here, there = start(), start()

    for records, sid in ((here, "a"), (there, "b"), (here, "c"), (there, "a")):
        await records.add_session("fred", sid)

    assert await here.sessions_of("fred") == ["b", "c", "a"]
    assert await here.sessions_of("anna") == []


async def test_a_process_notes_a_session_once_in_half_of_its_idle_time(start, clock):
    here = start(max_age=1000)
    await here.add_session("fred", SID)
    asked = len(here.store.asked)

    await here.add_session("fred", SID)
    clock.turn(490)
    await here.add_session("fred", SID)
    unasked = len(here.store.asked) == asked
    clock.turn(20)
    lasting = Lasting(2000)
    await here.add_session("fred", SID)

    assert unasked
    assert len(here.store.asked) > asked
    assert await here.store.ttl("sstream:user:fred") == lasting


async def test_a_process_remembers_so_many_sessions_and_no_more(start, monkeypatch):
    monkeypatch.setattr(records_module, "_REMEMBERED", 3)
    here = start()

    for number in range(10):
        await here.add_session("fred", str(number))

    assert len(here._indexed) == 3
    assert await here.sessions_of("fred") == [str(number) for number in range(10)]


async def test_dead_sessions_are_taken_out_beside_others_that_are_put_in(start):
    here, there = start(), start()
    for number in range(10):
        await here.add_session(7, str(number))

    await asyncio.gather(
        here.remove_sessions(7, ["0", "1", "2"]),
        there.remove_sessions(7, ["2", "3", "missing"]),
        there.add_session(7, "new"),
    )

    assert sorted(await here.sessions_of(7)) == ["4", "5", "6", "7", "8", "9", "new"]
    await here.remove_sessions(7, ["4", "5", "6", "7", "8", "9", "new"])
    assert await here.store.get("sstream:user:7") is None


@pytest.mark.parametrize("stored", [b"[]", b"[1,null,{}]"])
async def test_an_index_that_somebody_else_spoilt_is_used_as_far_as_it_goes(start, stored):
    here = start()
    await here.store.swap("sstream:user:fred", None, stored, 60)

    assert await here.sessions_of("fred") == []
    await here.add_session("fred", SID)
    assert await here.sessions_of("fred") == [SID]
