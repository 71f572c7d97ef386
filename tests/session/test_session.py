"""A session as a mapping, and what of it has changed."""

import asyncio
import collections
import re

import pytest
from hypothesis import given, strategies as st

from sstream.errors import SessionError, SessionGone
from sstream.session.options import SessionOptions
from sstream.session.session import Session
from sstream.session.sessions import Sessions
from sstream.session.store import MemoryStore

from .vectors import VECTORS

EXPRESS_TEXT = (
    b'{"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/","unknown":[1]},'
    b'"views":1, "cart":{ "tea" : [1, 2.0] },"user":null,"_other":{"x":"\\u00e4"}}'
)


@pytest.fixture
async def sessions():
    sessions = Sessions(MemoryStore(), SessionOptions())
    yield sessions
    await sessions.close()
    await sessions.store.close()


@pytest.fixture
async def session(sessions):
    """A session as Express has stored it, freshly loaded."""
    await sessions.store.swap("sess:express", None, EXPRESS_TEXT, 60)
    session = await sessions.get("express")
    assert session is not None
    return session


async def text_of(sessions, session) -> bytes:
    return await sessions.store.get(f"sess:{session.id}")


# --- the mapping ------------------------------------------------------------------------------------------------------


async def test_a_new_session_is_empty_and_has_a_fresh_id(sessions):
    session = sessions.new()

    assert (dict(session), len(session), session.is_new, session.user_id) == ({}, 0, True, None)
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", session.id)
    assert session.id != sessions.new().id


async def test_it_is_a_mutable_mapping(session):
    assert isinstance(session, collections.abc.MutableMapping)
    assert list(session) == ["views", "cart", "user", "_other"]
    assert len(session) == 4
    assert session["views"] == 1
    assert session["cart"] == {"tea": [1, 2.0]}
    assert session["_other"] == {"x": "ä"}
    assert session["user"] is None
    assert "views" in session
    assert "cookie" not in session
    assert session.get("missing", 5) == 5
    assert next(iter(session.items())) == ("views", 1)

    session["new"] = "value"
    session.update(views=2, other=[])
    del session["user"]
    assert session.pop("cart") == {"tea": [1, 2.0]}
    assert session.setdefault("list", []) == []
    session["list"].append(1)

    assert dict(session) == {"views": 2, "_other": {"x": "ä"}, "new": "value", "other": [], "list": [1]}


@pytest.mark.parametrize("key", ["missing", "cookie", "_sstream", 5, None])
async def test_a_key_that_is_not_there_raises_as_in_a_dict(session, key):
    with pytest.raises(KeyError):
        session[key]
    assert key not in session
    assert session.get(key) is None


async def test_a_deleted_key_is_gone_until_it_is_set_again(session):
    del session["views"]

    with pytest.raises(KeyError):
        session["views"]
    with pytest.raises(KeyError):
        del session["views"]
    assert "views" not in list(session)
    session["views"] = 5
    assert session["views"] == 5
    assert list(session).count("views") == 1


async def test_a_value_is_the_same_object_each_time(session):
    assert session["cart"] is session["cart"]


async def test_clear_leaves_the_user_and_the_channels(sessions):
    session = await sessions.create({"a": 1, "b": [2]}, user_id="fred")
    await session.channels.subscribe("lobby")

    session.clear()
    await session.save()

    again = await sessions.get(session.id)
    assert dict(again) == {"userId": "fred", "channels": ["lobby"]}


async def test_a_session_equals_itself_alone(sessions, session):
    other = await sessions.get(session.id)

    assert session == session
    assert session != other
    assert dict(session) == dict(other)
    assert len({session, other}) == 2


async def test_its_repr_tells_no_id_and_no_value(session):
    session["password"] = "hush"

    assert repr(session) == "<Session stored, keys ['_other', 'cart', 'password', 'user', 'views']>"


# --- what is noticed --------------------------------------------------------------------------------------------------


async def test_reading_changes_nothing(sessions, session):
    for key in session:
        session[key]

    assert session.is_modified() is False
    assert session.changes() == {}
    await session.save()
    assert await text_of(sessions, session) == EXPRESS_TEXT


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        (lambda s: s.__setitem__("views", 2), {"views": b"2"}),
        (lambda s: s["cart"]["tea"].append(3), {"cart": b'{"tea":[1,2,3]}'}),
        (lambda s: s["cart"].update(coffee=1), {"cart": b'{"tea":[1,2],"coffee":1}'}),
        (lambda s: s["_other"].clear(), {"_other": b"{}"}),
        (lambda s: s.pop("views"), {"views": None}),
        (lambda s: s.setdefault("log", []).append("x"), {"log": b'["x"]'}),
        (lambda s: s.update(views=2, user=None), {"views": b"2"}),
    ],
)
async def test_what_changes_is_noticed_by_its_key(session, change, changes):
    change(session)

    assert session.is_modified() is True
    assert session.changes() == changes


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.__setitem__("views", 1),
        lambda s: s.__setitem__("cart", {"tea": (1, 2)}),
        lambda s: (s["cart"]["tea"].append(3), s["cart"]["tea"].pop()),
        lambda s: (s.pop("views"), s.__setitem__("views", 1)),
        lambda s: (s.__setitem__("new", 1), s.pop("new")),
        lambda s: s.pop("missing", None),
    ],
)
async def test_what_ends_as_it_was_is_no_change(sessions, session, change):
    change(session)

    assert session.is_modified() is False
    await session.save()
    assert await text_of(sessions, session) == EXPRESS_TEXT


async def test_a_save_leaves_every_other_byte_as_it_was(sessions, session):
    session["views"] = 2
    await session.save()

    assert await text_of(sessions, session) == EXPRESS_TEXT.replace(b'"views":1, ', b'"views":2,')


async def test_after_a_save_nothing_is_modified_and_the_values_are_the_same_objects(session):
    cart = session["cart"]
    cart["coffee"] = 1
    session["new"] = new = [1]
    await session.save()

    assert session.is_modified() is False
    assert session["cart"] is cart
    assert session["new"] is new
    new.append(2)
    assert session.changes() == {"new": b"[1,2]"}


async def test_a_change_made_while_it_is_saved_stays_unsaved(sessions, session):
    session["list"] = [1]
    saving = asyncio.ensure_future(session.save())
    session["list"].append(2)
    await saving
    stored = await text_of(sessions, session)
    session["list"].append(3)
    await session.save()

    assert b'"list":[1' in stored
    assert b'"list":[1,2,3]' in await text_of(sessions, session)


async def test_what_is_kept_stays_when_the_rest_is_rolled_back(sessions, session):
    session["views"] = 2
    session["cart"]["tea"].append(3)
    session["new"] = {"a": [1]}
    session.max_age = 600
    del session["_other"]
    kept = session.changes()
    session["cart"]["tea"].append(4)
    session["new"]["a"].clear()
    session["later"] = 1
    session.max_age = 700
    del session["views"]

    session.rollback(kept)

    data = {"views": 2, "cart": {"tea": [1, 2, 3]}, "user": None, "new": {"a": [1]}}
    assert (dict(session), session.max_age, session.changes()) == (data, 600, kept)
    await session.save()
    assert dict(await sessions.get("express")) == data


async def test_rollback_drops_what_is_unsaved(session):
    session["cart"]["tea"].append(3)
    session["views"] = 2
    session["new"] = 1
    del session["user"]
    session.max_age = 60

    session.rollback()

    assert session.is_modified() is False
    assert dict(session) == {"views": 1, "cart": {"tea": [1, 2.0]}, "user": None, "_other": {"x": "ä"}}
    assert session.cookie["originalMaxAge"] is None


async def test_text_that_javascript_can_hold_and_python_cannot_is_no_change(sessions):
    text = b'{"cookie":{"originalMaxAge":null,"expires":null},"a":["\\ud83d"],"b":[9007199254740993],"c":[1e400]}'
    await sessions.store.swap("sess:odd", None, text, 60)
    session = await sessions.get("odd")

    values = dict(session)
    session["views"] = 1
    await session.save()

    assert values == {"a": ["\ufffd"], "b": [2**53], "c": [None]}
    assert await text_of(sessions, session) == text[:-1] + b',"views":1}'


KEYS = st.sampled_from(["a", "b", "views", "cart"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=2))),
        st.tuples(st.just("delete"), KEYS, st.none()),
        st.tuples(st.just("append"), KEYS, st.integers(0, 3)),
        st.tuples(st.just("read"), KEYS, st.none()),
        st.tuples(st.sampled_from(["save", "reload", "rollback"]), st.none(), st.none()),
    ),
    max_size=20,
)


@given(steps=STEPS)
def test_it_behaves_as_a_dict_that_is_stored(steps):
    async def run() -> None:
        sessions = Sessions(MemoryStore(), SessionOptions())
        session = await sessions.create({"views": 0, "cart": []})
        stored, now = {"views": 0, "cart": []}, {"views": 0, "cart": []}
        for step, key, value in steps:
            match step:
                case "set":
                    session[key] = value
                    now[key] = list(value) if isinstance(value, list) else value
                case "delete":
                    assert session.pop(key, "none") == now.pop(key, "none")
                case "append":
                    if isinstance(now.get(key), list):
                        session[key].append(value)
                        now[key].append(value)
                case "read":
                    assert session.get(key, "none") == now.get(key, "none")
                case "save":
                    await session.save()
                    stored = copy_of(now)
                case "reload":
                    await session.reload()
                    now = copy_of(stored)
                case "rollback":
                    session.rollback()
                    now = copy_of(stored)
            assert dict(session) == now
            assert session.is_modified() == (now != stored)
        again = await sessions.get(session.id)
        assert dict(again) == stored
        await sessions.close()
        await sessions.store.close()

    asyncio.run(run())


def copy_of(data: dict) -> dict:
    return {key: list(value) if isinstance(value, list) else value for key, value in data.items()}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*VECTORS["lost"], "userId", "channels", "_sstream"])
async def test_a_name_that_express_would_lose_or_that_is_ours_is_refused(session, key):
    before = dict(session)

    with pytest.raises(SessionError, match=f"session key '{re.escape(key)}'"):
        session[key] = 1
    with pytest.raises(SessionError):
        session.update({key: 1})
    with pytest.raises(SessionError):
        session.setdefault(key, 1)

    assert dict(session) == before
    assert session.is_modified() is False


@pytest.mark.parametrize("key", ["userId", "channels"])
async def test_what_is_ours_is_not_removed_by_hand(sessions, key):
    session = await sessions.create(user_id="fred")
    await session.channels.subscribe("lobby")

    with pytest.raises(SessionError, match="not removed by hand"):
        del session[key]

    assert session.user_id == "fred"
    assert session.channels.list() == ["lobby"]


@pytest.mark.parametrize("key", [5, None, b"bytes", ("a",), "\ud800"])
async def test_a_key_must_be_text(session, key):
    with pytest.raises(SessionError, match="session key"):
        session[key] = 1

    assert session.is_modified() is False


@pytest.mark.parametrize("value", [2**53 + 1, float("nan"), ..., {1: 2}, ["\ud800"], b"x"], ids=lambda v: repr(v)[:20])
async def test_a_value_that_cannot_be_stored_is_refused_when_it_is_set(session, value):
    with pytest.raises(SessionError, match="session key 'views'"):
        session["views"] = value

    assert session["views"] == 1
    assert session.is_modified() is False


async def test_a_value_spoilt_in_place_is_refused_at_the_save_by_its_path_and_nothing_changes(sessions, session):
    session["views"] = 2
    session["cart"]["tea"].append({"when": object()})

    with pytest.raises(SessionError, match=re.escape("'cart.tea[2].when' holds a object")):
        await session.save()

    assert await text_of(sessions, session) == EXPRESS_TEXT
    assert dict(session) == {"views": 1, "cart": {"tea": [1, 2.0]}, "user": None, "_other": {"x": "ä"}}
    session["views"] = 3
    await session.save()
    assert (await sessions.get(session.id))["views"] == 3


async def test_more_than_64_kib_is_refused_by_the_name_of_the_largest_change_and_nothing_changes(sessions, session):
    session["small"] = "x"
    session["blob"] = "x" * 65536

    with pytest.raises(SessionError, match="session key 'blob' makes the session 65[0-9]{3} bytes; at most 65536"):
        await session.save()

    assert await text_of(sessions, session) == EXPRESS_TEXT
    assert "blob" not in session
    assert "small" not in session


async def test_exactly_the_limit_is_legal(sessions):
    session = await sessions.create({"blob": ""})
    room = sessions.options.max_size - len(await text_of(sessions, session))

    session["blob"] = "x" * room
    await session.save()

    assert len(await text_of(sessions, session)) == 65536
    session["blob"] += "x"
    with pytest.raises(SessionError, match="65537 bytes"):
        await session.save()


async def test_a_session_that_express_made_too_big_can_be_made_smaller(sessions):
    text = b'{"cookie":{"originalMaxAge":null,"expires":null},"blob":"%b","views":1}' % (b"x" * 70_000)
    await sessions.store.swap("sess:big", None, text, 60)
    session = await sessions.get("big")

    del session["views"]
    await session.save()

    assert await text_of(sessions, session) == text.replace(b',"views":1', b"")
    session["views"] = 1
    with pytest.raises(SessionError, match="session key 'views'"):
        await session.save()


# --- its own values ---------------------------------------------------------------------------------------------------


async def test_the_bookkeeping_shows_nowhere():
    sessions = Sessions(MemoryStore(), SessionOptions(absolute_max_age=3600))
    session = await sessions.create({"a": 1})

    again = await sessions.get(session.id)

    assert b'"_sstream"' in await text_of(sessions, session)
    assert dict(again) == {"a": 1}
    assert len(again) == 1
    assert again.bookkeeping.keys() == {"born"}
    await sessions.close()
    await sessions.store.close()


@pytest.mark.parametrize("user_id", ["", True, 1.5, ["fred"], {}, b"fred", ...], ids=repr)
async def test_a_user_id_is_text_or_an_integer(sessions, user_id):
    session = await sessions.create()

    with pytest.raises(SessionError, match="user_id="):
        await session.set_user_id(user_id)

    assert session.user_id is None


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_lifetime_is_above_nothing(session, seconds):
    with pytest.raises(SessionError, match="max_age="):
        session.max_age = seconds

    assert session.is_modified() is False


async def test_channels_are_stored_in_the_session_in_order_and_once(sessions):
    session = await sessions.create()

    await session.channels.subscribe("lobby", "news", "lobby")
    await session.channels.subscribe("news", "tea")
    await session.channels.unsubscribe("lobby", "never")

    assert session.channels.list() == ["news", "tea"]
    assert (await sessions.get(session.id)).channels.list() == ["news", "tea"]
    assert session["channels"] == ["news", "tea"]
    await session.channels.reset()
    assert session.channels.list() == []
    assert b"channels" not in await text_of(sessions, session)


@pytest.mark.parametrize("stored", [b"5", b'"lobby"', b'{"a":1}', b"null", b"[1,null,{}]"])
async def test_channels_that_somebody_else_spoilt_are_none(sessions, stored):
    text = b'{"cookie":{"originalMaxAge":null,"expires":null},"channels":%b}' % stored
    await sessions.store.swap("sess:odd", None, text, 60)
    session = await sessions.get("odd")

    assert session.channels.list() == []
    await session.channels.subscribe("lobby")
    assert session.channels.list() == ["lobby"]


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.save(),
        lambda s: s.reload(),
        lambda s: s.touch(),
        lambda s: s.regenerate(),
        lambda s: s.renew_id(),
        lambda s: s.set_user_id("fred"),
        lambda s: s.transact(lambda newest: newest.update(a=1)),
        lambda s: s.channels.subscribe("lobby"),
    ],
)
async def test_a_destroyed_session_can_be_used_for_nothing(sessions, session, use):
    await session.destroy()

    assert session.is_gone
    with pytest.raises(SessionGone):
        await use(session)
    assert await sessions.store.get("sess:express") is None


async def test_a_session_needs_a_keeper_only_to_be_kept():
    session = Session(keeper=None, sid="x", text=EXPRESS_TEXT, parts={"cookie": b"{}", "a": b"[1]"})

    session["a"].append(2)

    assert session.changes() == {"a": b"[1,2]"}
