"""All sessions of an application, on one process and on two, in memory and in Redis."""

import asyncio
import contextlib
import json
import logging

import pytest

from sstream.errors import ConfigurationError, SessionError, SessionGone, StoreError
from sstream.session import cookie
from sstream.session.options import SessionOptions
from sstream.session.records import BadTicket
from sstream.session.session import Session
from sstream.session.sessions import Sessions
from sstream.testing import StoreProbe, eventually
from tests.lasting import Lasting

SID = "AbC-dEf_0123"
DAY = 86400


async def text_of(sessions, session) -> bytes | None:
    return await sessions.store.get("sess:" + (session if isinstance(session, str) else session.id))


async def ttl_of(sessions, session) -> int | None:
    return await sessions.store.ttl(f"sess:{session.id}")


def fields_of(text: bytes) -> dict:
    return json.loads(text)["cookie"]


# --- finding ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_asked_and_stored_for_a_new_session(here):
    session = here.new()
    await session.save()
    await session.reload()
    await session.touch()
    await session.destroy()

    assert here.store.asked == []


async def test_a_saved_session_is_found_by_every_process(here, there):
    session = here.new()
    session["cart"] = {"tea": 1}
    await session.save()

    found = await there.get(session.id)

    assert dict(found) == {"cart": {"tea": 1}}
    assert (session.is_new, found.is_new, found.id) == (False, False, session.id)


async def test_an_unknown_id_is_no_session(here):
    assert await here.get(SID) is None


async def test_create_makes_a_stored_session_whose_cookie_value_is_signed(here, there):
    session = await here.create({"views": 1}, user_id=42)

    sid = there.sid_of(f"connect.sid={here.cookie_value(session)}")

    assert sid == session.id
    assert dict(await there.get(sid)) == {"views": 1, "userId": 42}


async def test_what_is_stored_is_what_express_stores(start_process):
    here = await start_process(secure=False, same_site=False)
    session = await here.create({"name": "é", "n": 1.0})

    text = '{"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"},"name":"é","n":1}'
    assert await text_of(here, session) == text.encode()
    assert await ttl_of(here, session) == 30 * DAY


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b'{"a":1}', b'{"cookie":{}', b'{"cookie":{},"a":"\xff"}', b"[" * 1000, b"x" * 5_000_000],
    ids=lambda text: repr(text[:12]),
)
async def test_a_corrupt_text_is_no_session_is_logged_once_and_left_alone(here, expect_log, text):
    logged = expect_log("cannot be read and is left alone", logger="sstream.session", count=1)
    await here.store.swap(f"sess:{SID}", None, text, 60)

    assert await here.get(SID) is None
    assert await here.get(SID) is None

    assert await text_of(here, SID) == text
    assert SID not in logged.records[0].getMessage()


async def test_a_session_that_becomes_corrupt_is_gone_for_those_who_save_it(here, expect_log):
    expect_log("cannot be read", logger="sstream.session")
    session = await here.create({"a": 1})
    await here.store.swap(f"sess:{session.id}", await text_of(here, session), b"null", 60)

    session["a"] = 2
    with pytest.raises(SessionGone):
        await session.save()
    with pytest.raises(SessionGone):
        await session.reload()

    assert await text_of(here, session) == b"null"


async def test_odd_things_that_somebody_else_stored_break_nothing(here):
    for number, fields in enumerate(
        [
            '"originalMaxAge":"x","expires":5',
            '"originalMaxAge":1e300,"expires":null',
            '"originalMaxAge":-5,"expires":"never"',
            '"originalMaxAge":true,"expires":{}',
            '"originalMaxAge":[],"expires":"2020-01-01T00:00:00.000Z"',
            '"path":"\\r\\n","domain":1',
        ]
    ):
        sid = f"odd{number}"
        text = f'{{"cookie":{{{fields}}},"_sstream":{{"moves":{{"by":"x"}},"born":"x"}},"channels":5,"userId":{{}}}}'
        await here.store.swap(f"sess:{sid}", None, text.encode(), 60)

        session = await here.get(sid)
        if session is None:  # its life is over, by its own word
            continue
        session["views"] = 1
        await session.save()
        await session.touch()

        assert (await here.get(sid))["views"] == 1


# --- the cookie -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "",
        "connect.sid",
        "connect.sid=",
        "other=1",
        f"connect.sid={SID}",
        f"connect.sid=s:{SID}",
        f"connect.sid={cookie.encode(SID, ['wrong'])}",
        f"connect.sid={cookie.encode(SID, ['s'])[2:]}",
        f"connect.sid={cookie.encode('sess:*', ['s'])}",
        f"connect.sid={cookie.encode(chr(13) + chr(10), ['s'])}",
        f"connect.sid={cookie.encode('a' + chr(0), ['s'])}",
        f"connect.sid={cookie.encode('a' * 5000, ['s'])}",
        f"connect.sid={cookie.encode(SID, ['s'])}; connect.sid={cookie.encode('other', ['s'])}",
        "connect.sid=\xff\xfe; \xe9=\xe9",
    ],
    ids=lambda header: header[:40] or "nothing",
)
async def test_a_cookie_that_is_not_ours_is_no_id(start_process, header):
    here = await start_process(secret="s")

    assert here.sid_of(header) is None
    assert here.store.asked == []


async def test_the_same_cookie_twice_is_one(start_process):
    here = await start_process(secret="s")
    value = cookie.encode(SID, ["s"])

    assert here.sid_of(f"a=b; connect.sid={value}; connect.sid={value}") == SID


async def test_any_number_of_cookies_can_be_told_from_forged_ones(start_process):
    here = await start_process(secret="s")

    for number in range(1100):
        sid = f"{number:032}"
        value = cookie.encode(sid, ["s"])
        for _ in range(2):
            assert here.sid_of(f"connect.sid={value}") == sid
            assert here.sid_of(f"connect.sid={value[:-1]}") is None
            assert here.sid_of(f"connect.sid={value.replace(sid, SID)}") is None


async def test_a_secret_can_be_replaced(start_process):
    old, both, new = [await start_process(secret=secret) for secret in ("old", ["new", "old"], "new")]
    session = await old.create({"a": 1})
    by_old = f"connect.sid={old.cookie_value(session)}"

    by_new = f"connect.sid={both.cookie_value(await both.get(both.sid_of(by_old)))}"

    assert by_new != by_old
    assert (new.sid_of(by_new), new.sid_of(by_old), old.sid_of(by_new)) == (session.id, None, None)


# --- two writers ------------------------------------------------------------------------------------------------------


async def test_two_writers_to_different_keys_both_win(here, there):
    session = await here.create({"a": 0, "b": 0, "gone": 1})
    other = await there.get(session.id)

    session["a"] = 1
    other["b"] = 1
    other["new"] = [1]
    del other["gone"]
    await other.save()
    await session.save()

    assert dict(await there.get(session.id)) == {"a": 1, "b": 1, "new": [1]}
    assert dict(session) == {"a": 1, "b": 1, "new": [1]}  # after the save it has the newest


async def test_to_the_same_key_the_later_save_wins(here, there):
    session = await here.create({"a": 0})
    other = await there.get(session.id)

    session["a"] = "first"
    other["a"] = "later"
    await session.save()
    await other.save()

    assert (await here.get(session.id))["a"] == "later"


async def test_a_deletion_and_a_change_of_the_same_key_the_later_wins(here, there):
    session = await here.create({"a": 0})
    other = await there.get(session.id)

    del session["a"]
    other["a"] = 1
    await other.save()
    await session.save()

    assert "a" not in await there.get(session.id)
    assert dict(session) == {}


async def test_a_read_that_ends_after_a_write_restores_nothing(here, there):
    session = await here.create({"cart": {"tea": 1}})
    reader = await here.get(session.id)
    reader["cart"]
    writer = await there.get(session.id)
    writer["cart"]["tea"] = 2
    await writer.save()

    await reader.save()
    await reader.touch()

    assert (await here.get(session.id))["cart"] == {"tea": 2}


async def test_of_a_hundred_writers_to_different_keys_none_loses(here, there):
    session = await here.create()

    async def write(number: int) -> None:
        mine = await (here, there)[number % 2].get(session.id)
        mine[f"key{number}"] = number
        await mine.save()

    await asyncio.gather(*(write(number) for number in range(100)))

    assert dict(await here.get(session.id)) == {f"key{number}": number for number in range(100)}


async def test_many_writers_of_one_process_do_not_race_each_other(here):
    session = await here.create()
    sessions = [await here.get(session.id) for _ in range(20)]
    here.store.asked.clear()
    for number, mine in enumerate(sessions):
        mine[f"key{number}"] = number

    hold = here.store.hold("swap")
    saving = [asyncio.ensure_future(mine.save()) for mine in sessions]
    await hold.wait()
    hold.release()
    await asyncio.gather(*saving)

    assert [name for name, _ in here.store.asked] == ["swap"] * 20


async def test_a_writer_who_is_always_beaten_gives_up_in_time(start_process, new_store):
    class Rival(StoreProbe):
        beating = False

        async def swap(self, key, expected, text, ttl):
            if self.beating:
                stored = await self.store.get(key)
                await self.store.swap(key, stored, stored + b" ", 60)
            return await self.store.swap(key, expected, text, ttl)

    rival = Rival(new_store())
    here = await start_process(rival, deadline=0.1)
    session = await here.create({"a": 0})
    rival.beating = True

    session["a"] = 1
    with pytest.raises(StoreError, match="others kept writing"):
        await session.save()

    assert json.loads(await text_of(here, session))["a"] == 0
    rival.beating = False
    await session.save()
    assert json.loads(await text_of(here, session))["a"] == 1


# --- transact ---------------------------------------------------------------------------------------------------------


async def test_a_counter_under_transact_is_right_whoever_else_counts(here, there):
    session = await here.create({"n": 0, "other": "x"})

    def count(newest) -> int:
        newest["n"] += 1
        return newest["n"]

    async def counts(number: int) -> list[int]:
        mine = await (here, there)[number % 2].get(session.id)
        return [await mine.transact(count) for _ in range(5)]

    results = await asyncio.gather(*(counts(number) for number in range(8)))

    assert sorted(count for counts in results for count in counts) == list(range(1, 41))
    assert dict(await here.get(session.id)) == {"n": 40, "other": "x"}


async def test_transact_may_wait_in_the_middle(here):
    session = await here.create({"n": 0})

    async def change(newest) -> str:
        newest["n"] += 1
        await asyncio.sleep(0)
        newest["n"] += 1
        return "done"

    assert await session.transact(change) == "done"
    assert session["n"] == (await here.get(session.id))["n"] == 2


async def test_a_transaction_that_raises_stores_nothing(here):
    session = await here.create({"n": 0, "list": [1]})

    def change(newest) -> None:
        newest["n"] = 5
        newest["list"].append(2)
        raise LookupError("no")

    with pytest.raises(LookupError):
        await session.transact(change)

    assert dict(session) == {"n": 0, "list": [1]}
    assert dict(await here.get(session.id)) == {"n": 0, "list": [1]}


async def test_a_transaction_that_stores_the_impossible_changes_nothing(here):
    session = await here.create({"n": 0})

    with pytest.raises(SessionError, match="64 deep|contains itself|'n'"):
        await session.transact(lambda newest: newest.update(n=2**60))
    with pytest.raises(SessionError, match="'blob'"):
        await session.transact(lambda newest: newest.update(blob="x" * 70_000))

    assert dict(await here.get(session.id)) == dict(session) == {"n": 0}


async def test_what_is_unsaved_stays_unsaved_beside_a_transaction(here):
    session = await here.create({"n": 0, "mine": 0})
    session["mine"] = 1

    await session.transact(lambda newest: newest.update(n=1))

    assert dict(await here.get(session.id)) == {"n": 1, "mine": 0}
    assert dict(session) == {"n": 1, "mine": 1}
    await session.save()
    assert dict(await here.get(session.id)) == {"n": 1, "mine": 1}


async def test_a_transaction_sees_the_newest_and_not_what_is_unsaved(here, there):
    session = await here.create({"n": 0})
    session["n"] = 100
    other = await there.get(session.id)
    other["n"] = 5
    await other.save()

    seen = await session.transact(lambda newest: newest["n"])

    assert seen == 5


async def test_a_new_session_can_begin_with_a_transaction(here):
    session = here.new()

    await session.transact(lambda newest: newest.update(n=1))

    assert session.is_new is False
    assert dict(await here.get(session.id)) == dict(session) == {"n": 1}


async def test_a_transaction_that_changes_nothing_writes_nothing(here):
    session = await here.create({"n": 0})
    here.store.asked.clear()

    await session.transact(lambda newest: None)

    assert [name for name, _ in here.store.asked] == ["get"]


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["destroy", "end", "delete"])
async def test_a_save_never_brings_an_ended_session_back(here, there, how):
    session = await here.create({"a": 1})
    other = await there.get(session.id)
    other["a"] = 2

    match how:
        case "destroy":
            await session.destroy()
        case "end":
            assert await here.end(session.id) is True
        case "delete":
            await here.store.delete(f"sess:{session.id}")

    for use in (other.save, other.reload, lambda: other.transact(lambda newest: newest.update(a=3))):
        with pytest.raises(SessionGone):
            await use()
    assert other.is_gone
    await other.touch() if not other.is_gone else None
    assert await text_of(here, session) is None
    assert await there.get(session.id) is None


async def test_a_touch_never_brings_an_ended_session_back(here, there):
    session = await here.create({"a": 1})
    other = await there.get(session.id)
    await session.destroy()

    await other.touch()

    assert await text_of(here, session) is None


async def test_an_end_in_the_middle_of_a_save_wins(here, there):
    session = await here.create({"a": 1})
    other = await there.get(session.id)
    other["a"] = 2
    hold = there.store.hold("swap", "sess:")
    saving = asyncio.ensure_future(other.save())
    await hold.wait()

    await session.destroy()
    hold.release()

    with pytest.raises(SessionGone):
        await saving
    assert await text_of(here, session) is None


async def test_ending_what_is_not_there_says_so(here):
    assert await here.end(SID) is False
    session = await here.create()
    assert await here.end(session.id) is True
    assert await here.end(session.id) is False


async def test_destroying_twice_is_no_error(here):
    session = await here.create()

    await session.destroy()
    await session.destroy()

    assert session.is_gone


async def test_an_end_is_an_error_where_the_store_is_away(here):
    session = await here.create()
    here.store.fail("delete")

    with pytest.raises(StoreError):
        await here.end(session.id)
    here.store.heal()

    assert await text_of(here, session) is not None


async def test_logging_out_works_where_the_store_is_full(here):
    session = await here.create({"a": 1})
    here.store.fail("swap")

    await session.destroy()

    assert await text_of(here, session) is None


# --- a store that is away ---------------------------------------------------------------------------------------------


async def test_a_save_that_failed_can_be_tried_again(here):
    session = await here.create({"a": 0})
    session["a"] = 1
    here.store.fail("swap")

    with pytest.raises(StoreError):
        await session.save()
    here.store.heal()
    assert session["a"] == 1
    await session.save()

    assert (await here.get(session.id))["a"] == 1


async def test_a_save_whose_answer_was_lost_can_be_tried_again(here):
    session = await here.create({"a": 0, "b": 0})
    session["a"] = 1
    here.store.fail("swap", after=True)

    with pytest.raises(StoreError):
        await session.save()
    here.store.heal()
    session["b"] = 1
    await session.save()

    assert dict(await here.get(session.id)) == {"a": 1, "b": 1}


async def test_a_store_that_is_away_is_never_an_empty_session(here):
    session = await here.create({"a": 1})
    here.store.fail("get")

    with pytest.raises(StoreError):
        await here.get(session.id)
    with pytest.raises(StoreError):
        await session.reload()
    with pytest.raises(StoreError):
        await session.transact(lambda newest: newest.clear())


# --- lifetimes --------------------------------------------------------------------------------------------------------


async def test_a_session_lives_from_its_last_use(start_process):
    here = await start_process(max_age=1000)
    session = await here.create({"a": 1})
    await here.store.touch(f"sess:{session.id}", 500)
    whole = Lasting(1000)

    await session.touch()
    touched = await ttl_of(here, session)
    await here.store.touch(f"sess:{session.id}", 500)
    session["a"] = 2
    await session.save()

    assert (touched, await ttl_of(here, session)) == (whole, whole)


async def test_a_touch_leaves_the_text(start_process):
    here = await start_process(max_age=1000, persistent=True)
    session = await here.create({"a": 1})
    text = await text_of(here, session)

    await (await here.get(session.id)).touch()

    assert await text_of(here, session) == text


async def test_a_persistent_session_tells_its_end_and_moves_it_at_each_save(start_process, clock):
    here = await start_process(max_age=1000, persistent=True)
    session = await here.create({"a": 1})
    first = fields_of(await text_of(here, session))
    clock.turn(10)

    session["a"] = 2
    await session.save()

    second = fields_of(await text_of(here, session))
    assert first["originalMaxAge"] == second["originalMaxAge"] == 1_000_000
    assert list(first)[:2] == ["originalMaxAge", "expires"]
    assert first["expires"] < second["expires"]
    assert session.max_age == 1000


async def test_max_age_gives_a_session_a_lifetime_of_its_own(start_process):
    here = await start_process(max_age=1000)
    session = await here.create({"a": 1})
    before = session.max_age
    default, its_own = Lasting(1000), Lasting(14 * DAY)

    session.max_age = 14 * DAY
    await session.save()
    remembered = (fields_of(await text_of(here, session)), await ttl_of(here, session))
    again = await here.get(session.id)
    again.max_age = None
    await again.save()

    assert (before, session.max_age) == (1000, 14 * DAY)
    assert remembered[0]["originalMaxAge"] == 14 * DAY * 1000
    assert remembered[0]["expires"].endswith("Z")
    assert remembered[1] == its_own
    assert (again.max_age, await ttl_of(here, session)) == (1000, default)
    assert fields_of(await text_of(here, session))["expires"] is None


async def test_unknown_fields_of_the_cookie_survive(here):
    text = b'{"cookie":{"originalMaxAge":60000,"expires":"2020-01-01T00:00:00.000Z","partner":[1],"path":"/"},"a":1}'
    await here.store.swap(f"sess:{SID}", None, text, 60)
    session = await here.get(SID)

    session["a"] = 2
    await session.save()

    fields = fields_of(await text_of(here, SID))
    assert fields["partner"] == [1]
    assert list(fields) == ["originalMaxAge", "expires", "partner", "path"]
    assert fields["expires"] > "2026"  # an old date in the text is no end: the store knows better


async def test_absolute_max_age_bounds_the_whole_life(start_process, clock):
    here = await start_process(max_age=1000, absolute_max_age=3000)
    idle, last = Lasting(1000), (Lasting(300), Lasting(299))  # its birth is noted in whole seconds
    session = await here.create({"a": 1})
    lifetimes, touched = [], []
    for number, ahead in enumerate((0, 900, 900, 900)):
        clock.turn(ahead)
        await here.store.touch(f"sess:{session.id}", 5000)  # Express, or nobody, would have ended it
        session["a"] = [number]
        await session.save()
        lifetimes.append(await ttl_of(here, session))
        await here.store.touch(f"sess:{session.id}", 5000)
        await (await here.get(session.id)).touch()
        touched.append(await ttl_of(here, session))

    assert (lifetimes[:3], touched[:3]) == ([idle] * 3, [idle] * 3)
    assert lifetimes[3] in last
    assert touched[3] in last


async def test_a_life_that_is_over_is_over_whatever_the_store_says(start_process, clock):
    here = await start_process(max_age=1000, absolute_max_age=3000)
    session = await here.create({"a": 1})
    await here.store.touch(f"sess:{session.id}", 10_000)
    clock.turn(3001)

    session["a"] = 2
    with pytest.raises(SessionGone):
        await session.save()

    assert await here.get(session.id) is None
    assert await text_of(here, session) is None


async def test_a_new_id_does_not_prolong_the_whole_life(start_process, clock):
    here = await start_process(max_age=1000, absolute_max_age=3000)
    session = await here.create({"a": 1})
    clock.turn(900)
    await session.renew_id()
    clock.turn(900)
    await session.set_user_id("fred")
    clock.turn(900)

    session["a"] = 2
    await session.save()

    assert 290 <= await ttl_of(here, session) <= 301


async def test_regenerate_begins_a_new_life(start_process, clock):
    here = await start_process(max_age=1000, absolute_max_age=3000)
    session = await here.create({"a": 1})
    clock.turn(900)
    await session.touch()
    clock.turn(900)
    await here.store.touch(f"sess:{session.id}", 5000)

    await session.regenerate()
    session["a"] = 2
    await session.save()

    assert 990 <= await ttl_of(here, session) <= 1000
    assert session.bookkeeping["born"] >= clock() - 10


# --- new ids ----------------------------------------------------------------------------------------------------------


async def test_renew_id_keeps_the_data_and_the_old_id_is_dead(here, there):
    session = await here.create({"a": 1})
    old = session.id
    session["a"] = 2

    await session.renew_id()

    assert session.id != old
    assert dict(session) == {"a": 2}
    assert await there.get(old) is None
    assert await text_of(there, old) is None
    assert dict(await there.get(session.id)) == {"a": 2}
    assert session.is_in_browser is False


async def test_regenerate_keeps_nothing_but_the_visitor(here, there):
    session = await here.create({"a": 1}, user_id="fred")
    await session.channels.subscribe("lobby")
    old = session.id

    await session.regenerate()

    assert session.id != old
    assert (dict(session), session.user_id, session.channels.list()) == ({}, None, [])
    assert await there.get(old) is None
    session["b"] = 2
    await session.save()
    assert dict(await there.get(session.id)) == {"b": 2}


async def test_set_user_id_renews_the_id_and_is_stored_under_the_name_of_socketstream(here, there):
    session = await here.create({"a": 1})
    anonymous = session.id

    await session.set_user_id("fred")
    as_fred = session.id
    fred = await there.get(as_fred)
    await session.set_user_id(None)

    assert len({anonymous, as_fred, session.id}) == 3
    assert json.loads(await text_of(there, session)).get("userId") is None
    assert (fred.user_id, fred["userId"], fred["a"]) == ("fred", "fred", 1)
    assert await there.get(anonymous) is None
    assert await there.get(as_fred) is None
    assert session.user_id is None


async def test_a_new_session_that_logs_in_needs_no_other_id(here):
    session = here.new()
    sid = session.id

    await session.set_user_id(7)

    assert session.id == sid
    assert (await here.get(sid)).user_id == 7


async def test_whoever_saves_under_the_old_id_follows_to_the_new_one(here, there):
    session = await here.create({"a": 1})
    other = await there.get(session.id)
    other["b"] = 2

    await session.renew_id()
    await other.save()

    assert other.id == session.id
    assert dict(await here.get(session.id)) == {"a": 1, "b": 2}
    await session.renew_id()
    await other.reload()
    assert other.id == session.id
    assert await other.transact(lambda newest: newest["b"]) == 2


async def test_two_who_renew_the_id_at_once_end_with_one_session(here, there):
    session = await here.create({"a": 1})
    old = session.id
    other = await there.get(session.id)

    await asyncio.gather(session.renew_id(), other.renew_id())
    await asyncio.gather(session.reload(), other.reload())

    assert session.id == other.id != old
    assert dict(await here.get(session.id)) == {"a": 1}
    assert await text_of(here, old) is None


async def test_a_write_while_the_id_is_renewed_is_not_lost(here, there):
    session = await here.create({"a": 1})
    others = [await (here, there)[number % 2].get(session.id) for number in range(10)]
    for number, other in enumerate(others):
        other[f"key{number}"] = number

    await asyncio.gather(*(other.save() for other in others[:5]), session.renew_id(), *(o.save() for o in others[5:]))

    assert dict(await here.get(session.id)) == {"a": 1, **{f"key{number}": number for number in range(10)}}


async def test_a_logout_while_the_id_is_renewed_wins(here, there):
    session = await here.create({"a": 1})
    old = session.id
    hold = here.store.hold("swap", "sess:")
    renewing = asyncio.ensure_future(session.renew_id())
    await hold.wait()

    await there.end(old, "logout")
    hold.release()

    with pytest.raises(SessionGone):
        await renewing
    assert await text_of(here, old) is None
    assert await text_of(here, session) is None


async def test_renewing_what_was_ended_says_so(here, there):
    session = await here.create({"a": 1})
    await there.end(session.id)

    for renew in (session.renew_id, session.regenerate, lambda: session.set_user_id("fred")):
        with pytest.raises(SessionGone):
            await renew()


async def test_a_renewal_that_fails_leaves_a_whole_session_under_one_of_the_ids(here, there):
    for after in (False, True):
        for operations in range(1, 7):
            session = await here.create({"a": 1})
            old = session.id
            probe, count = here.store, 0
            swap = probe.swap

            async def failing(*args, swap=swap, after=after, fails_at=operations):
                nonlocal count
                count += 1
                if count != fails_at:
                    return await swap(*args)
                if after:
                    await swap(*args)
                raise StoreError("it fails here")

            probe.swap = failing
            try:
                await session.renew_id()
            except StoreError:
                pass
            finally:
                del probe.swap

            copies = [
                await there.get(key.removeprefix("sess:"))
                for key in {f"sess:{old}", *(key for name, key in probe.asked if key.startswith("sess:"))}
            ]
            alive = [copy for copy in copies if copy is not None and copy.get("a") == 1]
            assert alive, (after, operations)
            for copy in alive:
                await there.end(copy.id)
            probe.asked.clear()


@pytest.mark.parametrize("after", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("place", ["sess:", "sstream:fate:", "sstream:moving:", "sstream:user:"])
async def test_a_login_that_loses_the_store_leaves_nobody_logged_in_under_the_old_id(
    start_process, there, place, after
):
    async def nothing() -> None: ...

    async def lose_store() -> None:
        here.store.fail("get", "swap", "delete", "touch")
        here.store.fail("swap", after=True)

    for earlier in range(3):
        here = await start_process(deadline=0.05)
        session = await here.create({"a": 1})
        old = session.id
        for _ in range(earlier):
            here.store.race("swap", nothing, key=place, after=after)
        here.store.race("swap", lose_store, key=place, after=after)

        with contextlib.suppress(StoreError):
            await session.set_user_id("fred")
        here.store.heal()
        if session.id == old:
            session["b"] = 2  # whoever caught the error goes on
            with contextlib.suppress(SessionGone):
                await session.save()

        under_old = await there.get(old)
        assert under_old is None or (dict(under_old), under_old.user_id) == ({"a": 1, "b": 2}, None)


async def test_a_page_that_logs_in_writes_its_other_changes_along(here, there):
    session = await here.create({"a": 1, "b": 1})
    other = await there.get(session.id)
    other["c"] = 3
    session["a"] = 2
    del session["b"]
    await other.save()
    saves = here.counts.saves

    await session.set_user_id("fred")

    assert dict(await there.get(session.id)) == dict(session) == {"a": 2, "c": 3, "userId": "fred"}
    assert not session.is_modified()
    assert here.counts.saves == saves + 1


async def test_a_login_that_makes_the_session_too_big_leaves_it_as_it_was(start_process):
    here = await start_process(max_size=300)
    session = await here.create({"a": 1})
    old = session.id

    with pytest.raises(SessionError, match="'userId' makes the session"):
        await session.set_user_id("x" * 300)

    assert session.id == old
    assert dict(await here.get(old)) == {"a": 1}


async def test_a_login_at_the_end_of_the_whole_life_ends_the_session(start_process, clock):
    here = await start_process(max_age=1000, absolute_max_age=3000)
    session = await here.create({"a": 1})
    await here.store.touch(f"sess:{session.id}", 5000)
    clock.turn(3100)

    with pytest.raises(SessionGone):
        await session.set_user_id("fred")

    assert await text_of(here, session) is None


@pytest.mark.parametrize("times", [1, 2])
async def test_a_lost_answer_of_the_step_that_removes_the_old_id_loses_no_session(here, there, open_socket, times):
    session = await here.create({"a": 1})
    old = session.id
    tab = await open_socket(there, old)
    here.store.fail("swap", key=f"sess:{old}", after=True, times=times)

    await session.set_user_id("fred")

    assert session.id != old
    assert await text_of(there, old) is None
    assert dict(await there.get(session.id)) == {"a": 1, "userId": "fred"}
    assert await ttl_of(there, session) > 60
    await eventually(lambda: tab.session.id == session.id, "the other tab has not followed")
    assert tab.ended == []


async def test_a_removal_of_the_old_id_that_never_came_to_the_store_is_made_again(here, there):
    session = await here.create({"a": 1})
    old = session.id
    here.store.fail("swap", key=f"sess:{old}", times=1)

    await session.renew_id()

    assert await text_of(there, old) is None
    assert dict(await there.get(session.id)) == {"a": 1}


async def test_what_others_write_before_a_removal_is_made_again_is_not_lost(here, there):
    session = await here.create({"a": 1})
    old = session.id
    other = await there.get(old)
    other["b"] = 2
    here.store.race("swap", other.save, key=f"sess:{old}")
    here.store.fail("swap", key=f"sess:{old}", times=1)

    await session.set_user_id("fred")

    assert await text_of(there, old) is None
    assert dict(await there.get(session.id)) == dict(session) == {"a": 1, "b": 2, "userId": "fred"}


async def test_a_logout_before_a_removal_is_made_again_wins(here, there):
    session = await here.create({"a": 1})
    old = session.id
    here.store.race("swap", lambda: there.end(old, "logout"), key=f"sess:{old}")
    here.store.fail("swap", key=f"sess:{old}", times=1)

    with pytest.raises(SessionGone):
        await session.set_user_id("fred")

    keys = {key for _, key in here.store.asked if key.startswith("sess:")}
    assert len(keys) == 2
    assert [await there.store.get(key) for key in keys] == [None, None]


@pytest.mark.parametrize("after", [False, True])
async def test_a_logout_before_the_move_is_noted_wins_though_the_removal_is_made_again(here, there, after):
    session = await here.create({"a": 1})
    old = session.id
    here.store.race("swap", lambda: there.end(old, "logout"), key="sstream:fate:")
    here.store.fail("swap", key=f"sess:{old}", after=after, times=1)

    with pytest.raises(SessionGone):
        await session.set_user_id("fred")

    keys = {key for _, key in here.store.asked if key.startswith("sess:")}
    assert len(keys) == 2
    assert [await there.store.get(key) for key in keys] == [None, None]


async def test_a_logout_that_is_only_half_done_when_the_removal_is_made_again_wins(here, there):
    session = await here.create({"a": 1})
    old = session.id
    holds = []

    async def hold_note() -> None:
        holds.append(there.store.hold("swap", "sstream:fate:"))

    async def log_out() -> None:
        there.store.race("delete", hold_note, key=f"sess:{old}", after=True)
        endings.append(asyncio.ensure_future(there.end(old, "logout")))
        await eventually(lambda: holds, "the old id is not removed yet")
        await holds[0].wait()

    endings = []
    here.store.race("swap", log_out, key=f"sess:{old}")
    here.store.fail("swap", key=f"sess:{old}", times=1)

    await session.set_user_id(
        "fred"
    )  # it finds nothing, and a move that is noted: its own doing, as far as it can know
    holds[0].release()

    assert await endings[0] is True
    assert await text_of(here, old) is None
    assert await text_of(here, session) is None
    assert there.counts.ended == 1


# --- users ------------------------------------------------------------------------------------------------------------


async def test_the_sessions_of_a_user_are_found_on_every_process(here, there):
    first = await here.create({"n": 1})
    await first.set_user_id("fred")
    second = await there.create({"n": 2}, user_id="fred")
    await here.create({"n": 3}, user_id="anna")
    await here.create({"n": 4})

    found = await there.of_user("fred")

    assert {session.id for session in found} == {first.id, second.id}
    assert sorted(session["n"] for session in found) == [1, 2]
    assert await here.of_user("nobody") == []


async def test_users_may_be_numbers(here):
    session = await here.create(user_id=42)

    assert [found.id for found in await here.of_user(42)] == [session.id]
    assert (await here.get(session.id)).user_id == 42


async def test_a_user_who_logged_in_at_express_is_found_once_seen(here, there):
    await here.store.swap(f"sess:{SID}", None, b'{"cookie":{"originalMaxAge":null,"expires":null},"userId":"fred"}', 60)

    await here.get(SID)

    assert [session.id for session in await there.of_user("fred")] == [SID]


async def test_the_index_of_a_user_cleans_itself(here, there):
    sessions = [await here.create({"n": number}, user_id="fred") for number in range(4)]
    await sessions[0].destroy()
    await here.store.delete(f"sess:{sessions[1].id}")
    await sessions[2].set_user_id("anna")

    found = await there.of_user("fred")

    assert [session.id for session in found] == [sessions[3].id]
    there.store.asked.clear()
    await there.of_user("fred")
    assert [name for name, _ in there.store.asked] == ["get", "get"]  # the index, and the one that is left


async def test_logging_in_on_two_processes_at_once_loses_neither(here, there):
    created = await asyncio.gather(
        *((here, there)[number % 2].create({"n": number}, user_id="fred") for number in range(20))
    )

    assert {session.id for session in await here.of_user("fred")} == {session.id for session in created}


async def test_end_all_ends_a_users_sessions_everywhere_but_the_one_to_keep(here, there):
    sessions = [await here.create(user_id="fred") for _ in range(3)]
    other = await here.create(user_id="anna")

    assert await there.end_all("fred", keep=sessions[0]) == 2
    assert [await text_of(here, session) is not None for session in sessions] == [True, False, False]
    assert await there.end_all("fred", keep=sessions[0].id) == 0
    assert await there.end_all("fred") == 1
    assert await there.end_all("fred") == 0
    assert await text_of(here, other) is not None


async def test_everything_but_sessions_lies_outside_their_prefix(start_process):
    # connect-redis takes whatever it finds below "sess:" for a session.
    here = await start_process()
    session = await here.create({"a": 1}, user_id="fred")
    await session.renew_id()
    await here.introduce(session)
    other = await here.create(user_id="fred")
    await other.destroy()

    below = {key for _, key in here.store.asked if key.startswith("sess:")}
    beside = {key for _, key in here.store.asked} - below

    assert all(
        set(key.removeprefix("sess:")) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        for key in below
    )
    assert beside
    assert all(key.startswith("sstream:") for key in beside)


async def test_another_prefix(start_process):
    here = await start_process(prefix="tea:")

    session = await here.create({"a": 1})

    assert await here.store.get(f"tea:{session.id}") is not None
    assert dict(await here.get(session.id)) == {"a": 1}


# --- tickets ----------------------------------------------------------------------------------------------------------


async def test_a_ticket_for_a_first_session_is_good_once(here, there):
    session = await here.create({"a": 1})
    ticket = await here.introduce(session)

    traded = await there.trade(ticket, None)

    assert (traded.id, dict(traded)) == (session.id, {"a": 1})
    with pytest.raises(BadTicket):
        await there.trade(ticket, None)
    with pytest.raises(BadTicket):
        await here.trade(ticket, session.id)


async def test_of_many_who_trade_a_ticket_at_once_one_gets_the_session(here, there):
    session = await here.create({"a": 1})
    ticket = await here.introduce(session)

    trades = ((here, there)[number % 2].trade(ticket, None) for number in range(10))
    traded = await asyncio.gather(*trades, return_exceptions=True)

    assert len([one for one in traded if isinstance(one, Session)]) == 1
    assert len([one for one in traded if isinstance(one, BadTicket)]) == 9


async def test_a_ticket_for_a_first_session_is_not_for_a_browser_that_has_another(here):
    planted, own = await here.create({"planted": 1}), await here.create({"own": 1})
    ticket = await here.introduce(planted)

    with pytest.raises(BadTicket):
        await here.trade(ticket, own.id)
    assert await here.trade(ticket, "an-id-that-is-dead") is not None


@pytest.mark.parametrize("ticket", ["", "x", "forged" * 6, "\ud800", "\x00", "*", "a" * 10_000])
async def test_a_forged_ticket_is_good_for_nothing(here, ticket):
    await here.create({"a": 1})

    with pytest.raises(BadTicket):
        await here.trade(ticket, None)


async def test_a_ticket_expires(start_process, clock):
    here = await start_process(renew_grace=30)
    session = await here.create({"a": 1})
    grace = Lasting(30)
    await here.introduce(session)

    (ticket_key,) = {key for name, key in here.store.asked if key.startswith("sstream:ticket:")}

    assert await here.store.ttl(ticket_key) == grace


async def test_a_ticket_stands_nowhere_in_the_store(here):
    session = await here.create({"a": 1})

    ticket = await here.introduce(session)

    assert not [key for _, key in here.store.asked if ticket in key]


async def test_a_ticket_for_a_session_that_ended_is_good_for_nothing(here):
    session = await here.create({"a": 1})
    ticket = await here.introduce(session)
    await session.destroy()

    assert await here.trade(ticket, None) is None


async def test_a_ticket_is_an_error_where_the_store_is_away(here):
    session = await here.create({"a": 1})
    ticket = await here.introduce(session)
    here.store.fail("get")

    with pytest.raises(StoreError):
        await here.trade(ticket, None)
    here.store.heal()

    assert await here.trade(ticket, None) is not None


# --- life -------------------------------------------------------------------------------------------------------------


async def test_sids_and_values_are_in_no_log(here, caplog):
    caplog.set_level(logging.DEBUG, logger="sstream")
    session = await here.create({"password": "hush"}, user_id="fred")
    await session.renew_id()
    await session.set_user_id("anna")
    await session.destroy()

    assert [record for record in caplog.records if record.name.startswith("sstream")] == []


async def test_a_bad_id_maker_is_told_at_once(start_process):
    here = await start_process(genid=lambda: "no good*")

    with pytest.raises((ConfigurationError, SessionError), match="genid"):
        here.new()


async def test_closing_leaves_no_task_even_while_sockets_are_open(new_store, clock, open_socket):
    store = new_store()
    sessions = Sessions(store, SessionOptions(), clock=clock)
    session = await sessions.create({"a": 1})
    socket = await open_socket(sessions, session.id)
    assert socket.session["a"] == 1

    await sessions.close()
    await store.close()

    await eventually(lambda: len(asyncio.all_tasks()) <= 1, "a task is left")
