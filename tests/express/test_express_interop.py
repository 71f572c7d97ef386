"""What one of the two has stored the other reads, byte for byte, both ways."""

import asyncio
import json
import random
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sstream.session import express
from sstream.testing import eventually
from tests.lasting import Lasting

from .conftest import MONTH, OPTIONS, SECRET, Visitor

SIDES = ["express", "sstream"]
OTHER = {"express": "sstream", "sstream": "express"}
VECTORS = Path(__file__).parents[1] / "vectors"
SID = "AbC-dEf_0123456789AbC-dEf_012345"

# A little of everything, that a cart may hold.
DATA = {
    "userName": "Frédéric €😀",
    "cart": {"tea": [1, {"sencha": 2.5}], "empty": {}, "none": None},
    "yes": True,
    "no": False,
    "nothing": None,
    "zero": 0,
    "numbers": [-1, 0.1, 1e21, 1e-7, 2**53, -(2**53)],
    "text": 'quote " slash / back \\ newline \n tab \t nul \u0000 del \u007f ls \u2028',
    "": "an empty name",
    "a.b": [[[]]],
    "länge": "ü",
}


def raw(visitor) -> str:
    return visitor.jar["connect.sid"]


def sid_of(page) -> str:
    return page.json["id"]


def text_of(database, sid) -> bytes:
    return database.get(f"sess:{sid}")


def without_dates(text: str) -> str:
    text = re.sub(r'"expires":"[^"]+"', '"expires":"DATE"', text)
    # Express reckons it back from the date, by a clock that has gone on.
    text = re.sub(r'"originalMaxAge":59\d{4}\b', '"originalMaxAge":600000', text)
    return re.sub(r"Expires=[^;]+", "Expires=DATE", text)


# --- the vectors ------------------------------------------------------------------------------------------------------


def test_the_vectors_are_what_the_original_software_makes(node):
    made = subprocess.run([node, VECTORS / "session.mjs"], capture_output=True, check=True, timeout=240)

    assert made.stdout == (VECTORS / "session.json").read_bytes()


# --- reading and changing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", SIDES)
async def test_a_session_made_by_one_is_read_and_changed_by_the_other(visitor, maker):
    other = OTHER[maker]
    made = await visitor.ask(maker, "set", {**DATA, "views": 1})
    cookie = raw(visitor)

    seen = await visitor.data(other)
    changed = await visitor.ask(other, "set", {"views": 2, "cart": {"tea": 3}, "by": other})
    removed = await visitor.ask(other, "delete", ["nothing", "text"])
    back = await visitor.data(maker)

    assert seen == {**DATA, "views": 1}
    assert sid_of(made) == sid_of(changed) == sid_of(removed)
    expected = {**DATA, "views": 2, "cart": {"tea": 3}, "by": other}
    del expected["nothing"], expected["text"]
    assert back == expected
    assert raw(visitor) == cookie
    assert (made.cookies, changed.cookies, removed.cookies)[1:] == ([], [])


@pytest.mark.parametrize("maker", SIDES)
async def test_reading_by_the_other_leaves_the_text_as_it_is(visitor, database, maker):
    made = await visitor.ask(maker, "set", DATA)
    text = text_of(database, sid_of(made))

    await visitor.ask(OTHER[maker], "")
    await visitor.ask(OTHER[maker], "save", None)

    assert text_of(database, sid_of(made)) == text


@pytest.mark.parametrize("way", [way for way in OPTIONS if way not in {"destroying", "uninitialized", "plain"}])
async def test_cookie_text_and_lifetime_are_the_same_to_the_byte(express_url, open_site, database, way):
    cookies, texts, lifetimes = [], [], []
    site = await open_site(way)
    site.next_ids.append(SID)
    day, month = Lasting(86400), Lasting(MONTH)
    for side in SIDES:
        visitor = Visitor({"express": express_url, "sstream": site.url})
        page = await visitor.ask(side, "set", DATA, way=way, sid=SID)
        cookies.append([without_dates(cookie) for cookie in page.cookies])
        texts.append(without_dates(text_of(database, SID).decode()))
        lifetimes.append(database.ttl(f"sess:{SID}"))
        database.delete(f"sess:{SID}")

    assert cookies[0] == cookies[1]
    assert len(cookies[0]) == 1
    assert texts[0] == texts[1]
    if way in {"month", "persistent", "rolling"}:
        assert abs(lifetimes[0] - lifetimes[1]) <= 10
    else:
        assert lifetimes == [day, month]  # connect-redis' own default for a cookie that ends with the browser


async def test_the_dates_in_cookie_and_text_are_the_same_moment(express_url, open_site, database):
    site = await open_site("persistent")
    for side in SIDES:
        visitor = Visitor({"express": express_url, "sstream": site.url})
        before = datetime.now(UTC).timestamp()
        page = await visitor.ask(side, "set", {"a": 1}, way="persistent")
        after = datetime.now(UTC).timestamp()

        stored = json.loads(text_of(database, sid_of(page)))["cookie"]
        told = re.search(r"Expires=([^;]+)", page.cookies[0])[1]

        expires = datetime.fromisoformat(stored["expires"]).timestamp()
        assert before + 599.999 <= expires <= after + 600.001
        assert stored["originalMaxAge"] in range(590_000, 600_001)  # Express: worked out from the date
        assert (
            abs(datetime.strptime(told, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC).timestamp() - expires) < 1.01
        )


# --- two hundred random sessions --------------------------------------------------------------------------------------


def random_value(dice: random.Random, depth: int = 0):
    kind = dice.randrange(8 if depth < 4 else 6)
    match kind:
        case 0:
            return dice.choice([None, True, False])
        case 1:
            return dice.choice([0, 1, -1, 2**53, -(2**53), dice.randrange(-(2**53), 2**53)])
        case 2:
            return dice.choice([0.5, 1e21, 1e-7, 5e-324, 1.7976931348623157e308, dice.uniform(-1e9, 1e9)])
        case 3:
            return dice.random() * 10.0 ** dice.randrange(-30, 30)
        case 4 | 5:
            return random_text(dice)
        case 6:
            return [random_value(dice, depth + 1) for _ in range(dice.randrange(5))]
        case _:
            return {random_name(dice): random_value(dice, depth + 1) for _ in range(dice.randrange(5))}


def random_text(dice: random.Random) -> str:
    alphabet = [
        "a",
        "Z",
        "0",
        " ",
        '"',
        "\\",
        "/",
        "\n",
        "\x00",
        "\x1f",
        "\x7f",
        "é",
        "€",
        "\u2028",
        "\ufeff",
        "😀",
        "<",
    ]
    return "".join(dice.choice(alphabet) for _ in range(dice.randrange(20)))


def random_name(dice: random.Random) -> str:
    # JavaScript puts names that look like whole numbers in front of all others; these do not.
    return "k" + random_text(dice)


def random_session(dice: random.Random) -> dict:
    return {random_name(dice): random_value(dice) for _ in range(dice.randrange(1, 8))}


async def in_parallel(visits) -> list:
    turns = asyncio.Semaphore(20)

    async def visit(one):
        async with turns:
            return await one

    return await asyncio.gather(*(visit(one) for one in visits))


@pytest.mark.parametrize("maker", SIDES)
async def test_two_hundred_random_sessions_stay_the_same_to_the_byte_through_both(express_url, site, database, maker):
    dice = random.Random(2026)
    sessions = [random_session(dice) for _ in range(100)]
    visitors = [Visitor({"express": express_url, "sstream": site.url}) for _ in sessions]
    ways = ["plain" if number % 2 else "persistent" for number in range(len(sessions))]
    if maker == "sstream":
        made = [await site.app.sessions.create(session) for session in sessions]
        for visitor, session in zip(visitors, made, strict=True):
            visitor.jar["connect.sid"] = site.app.sessions.cookie_value(session)
        sids = [session.id for session in made]
    else:
        pages = await in_parallel(
            visitor.ask("express", "set", session, way=way)
            for visitor, session, way in zip(visitors, sessions, ways, strict=True)
        )
        sids = [sid_of(page) for page in pages]
    texts = database.mget(f"sess:{sid}" for sid in sids)

    # Express: loaded, and saved by hand without a change.
    await in_parallel(visitor.ask("express", "save", None) for visitor in visitors)
    after_express = database.mget(f"sess:{sid}" for sid in sids)
    # sstream: loaded, every value decoded and encoded, and saved without a change.
    await in_parallel(visitor.ask("sstream", "save", None) for visitor in visitors)
    after_sstream = database.mget(f"sess:{sid}" for sid in sids)

    assert after_express == texts
    assert after_sstream == texts
    for text, session in zip(texts, sessions, strict=True):
        parts = express.split(text)
        assert express.join(parts) == text
        for key, value in session.items():
            assert express.encode_value(key, value) == parts[key]
            assert express.encode_value(key, express.decode_value(parts[key])) == parts[key]


async def test_random_sessions_are_written_in_the_same_bytes_by_both(express_url, site, database):
    dice = random.Random(7)
    sessions = [random_session(dice) for _ in range(50)]
    texts = {}
    for side in SIDES:
        pages = await in_parallel(
            Visitor({"express": express_url, "sstream": site.url}).ask(side, "set", session) for session in sessions
        )
        texts[side] = [text_of(database, sid_of(page)) for page in pages]

    assert texts["express"] == texts["sstream"]


# --- cookies and secrets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", SIDES)
async def test_a_secret_is_replaced_on_both(express_url, open_site, signer):
    old, both, new = [await open_site(way) for way in ("plain", "rotated", "renewed")]
    visitor = Visitor({"express": express_url, "sstream": old.url})
    await visitor.ask(signer, "set", {"a": 1})
    by_old = raw(visitor)

    for side, reader in (("express", visitor), ("sstream", Visitor({"express": express_url, "sstream": both.url}))):
        reader.jar["connect.sid"] = by_old
        assert await reader.data(side, way="rotated") == {"a": 1}
    for side, reader in (("express", visitor), ("sstream", Visitor({"express": express_url, "sstream": new.url}))):
        reader.jar["connect.sid"] = by_old
        assert await reader.data(side, way="renewed") == {}


@pytest.mark.parametrize("signer", SIDES)
async def test_the_newer_secret_signs_for_both(express_url, open_site, signer):
    both, new = await open_site("rotated"), await open_site("renewed")
    visitor = Visitor({"express": express_url, "sstream": both.url})
    await visitor.ask(signer, "set", {"a": 1}, way="rotated")

    reader = Visitor({"express": express_url, "sstream": new.url})
    reader.jar["connect.sid"] = raw(visitor)

    assert await reader.data("express", way="renewed") == {"a": 1}
    assert await reader.data("sstream", way="renewed") == {"a": 1}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[:-1] + ("A" if value[-1] != "A" else "B"),
        lambda value: value.replace("s%3A", ""),
        lambda value: value + "A",
        lambda value: "s%3A" + SID,
        lambda value: "",
    ],
)
async def test_a_cookie_that_does_not_verify_is_an_anonymous_visitor_at_both(visitor, side, change):
    made = await visitor.ask("express", "set", {"a": 1})
    visitor.jar["connect.sid"] = change(raw(visitor))

    seen = await visitor.ask(side, "")

    assert seen.json["data"] == {}
    assert sid_of(seen) != sid_of(made)
    assert seen.cookies == []


@pytest.mark.parametrize("side", SIDES)
async def test_a_good_cookie_of_a_session_that_is_gone_gets_a_fresh_id(visitor, database, side):
    made = await visitor.ask("express", "set", {"a": 1})
    database.delete(f"sess:{sid_of(made)}")

    page = await visitor.ask(side, "set", {"b": 1})

    assert page.json["data"] == {"b": 1}
    assert sid_of(page) != sid_of(made)
    assert len(page.cookies) == 1
    assert text_of(database, sid_of(made)) is None


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ender", SIDES)
async def test_a_session_destroyed_by_one_is_gone_for_the_other(visitor, database, ender):
    made = await visitor.ask(OTHER[ender], "set", {"a": 1})

    destroyed = await visitor.ask(ender, "destroy", None)

    assert destroyed.cookies == []  # who destroys a session sends no cookie
    assert text_of(database, sid_of(made)) is None
    assert await visitor.data(OTHER[ender]) == {}
    assert await visitor.data(ender) == {}


@pytest.mark.parametrize("ender", SIDES)
async def test_a_session_regenerated_by_one_is_empty_and_new_for_the_other(visitor, database, ender):
    made = await visitor.ask(OTHER[ender], "set", {"a": 1})
    old = raw(visitor)

    await visitor.ask(ender, "regenerate", None)
    after = await visitor.ask(ender, "set", {"b": 1})

    assert text_of(database, sid_of(made)) is None
    assert sid_of(after) != sid_of(made)
    assert raw(visitor) != old
    assert await visitor.data(OTHER[ender]) == {"b": 1}


@pytest.mark.parametrize("ender", SIDES)
async def test_unset_destroys_where_it_is_told_to(express_url, open_site, database, ender):
    visitor = Visitor({"express": express_url, "sstream": (await open_site("destroying")).url})
    made = await visitor.ask(OTHER[ender], "set", {"a": 1}, way="destroying")

    await visitor.ask(ender, "unset", None, way="destroying")

    assert text_of(database, sid_of(made)) is None


@pytest.mark.parametrize("ender", SIDES)
async def test_unset_keeps_what_is_stored_by_default(visitor, ender):
    await visitor.ask(OTHER[ender], "set", {"a": 1})

    await visitor.ask(ender, "unset", None)

    assert await visitor.data(ender) == {"a": 1}


async def test_a_login_here_gives_express_the_user_under_the_new_id_alone(visitor, database):
    made = await visitor.ask("express", "set", {"a": 1})

    login = await visitor.ask("sstream", "login", "fred")

    assert sid_of(login) != sid_of(made)
    assert await visitor.data("express") == {"a": 1, "userId": "fred"}
    assert text_of(database, sid_of(made)) is None


async def test_a_login_at_express_is_known_here(visitor, site):
    made = await visitor.ask("express", "set", {"userId": "fred"})

    seen = await visitor.ask("sstream", "")

    assert seen.json["data"] == {"userId": "fred"}
    assert [session.id for session in await site.app.sessions.of_user("fred")] == [sid_of(made)]


# --- sockets ----------------------------------------------------------------------------------------------------------


class Listener:
    def __init__(self) -> None:
        self.changed: list[set[str]] = []
        self.ended: list[str] = []

    def session_changed(self, keys) -> None:
        self.changed.append(set(keys))

    def session_saved(self, keys) -> None: ...

    def session_moved(self) -> None: ...

    def session_ended(self, reason) -> None:
        self.ended.append(reason)

    def session_offered(self, ticket) -> None: ...


@pytest.fixture
async def follow(site):
    """Opens a socket's session."""
    from sstream.session.connection import ConnectionSession

    opened = []

    async def follow(sid: str):
        listener = Listener()
        connection = ConnectionSession(site.app.sessions, listener, is_https=False)
        opened.append(connection)
        await connection.open(sid)
        return connection, listener

    yield follow
    for connection in opened:
        connection.close()


async def test_what_express_changes_an_open_socket_hears_and_sees(visitor, follow):
    made = await visitor.ask("sstream", "set", {"a": 1, "b": 1})
    connection, heard = await follow(sid_of(made))

    await visitor.ask("express", "set", {"a": 2})
    await eventually(lambda: heard.changed, "the socket has not heard of it")

    assert heard.changed == [{"a"}]
    assert connection.now()["a"] == 2


async def test_a_visit_to_express_that_only_reads_is_no_change(visitor, follow):
    made = await visitor.ask("sstream", "set", {"a": 1})
    _, heard = await follow(sid_of(made))

    await visitor.ask("express", "")
    await visitor.ask("express", "set", {"marker": 1})
    await eventually(lambda: heard.changed, "the socket has not heard of it")

    assert heard.changed == [{"marker"}]


@pytest.mark.parametrize("verb", ["destroy", "regenerate"])
async def test_an_end_at_express_ends_the_open_sockets(visitor, follow, verb):
    made = await visitor.ask("sstream", "set", {"a": 1})
    _, heard = await follow(sid_of(made))

    await visitor.ask("express", verb, None)

    await eventually(lambda: heard.ended == ["expired"], "the socket has not heard of the end")


# --- lifetimes --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def persistent(express_url, open_site):
    """A visitor to both, where cookies outlive the browser."""
    return Visitor({"express": express_url, "sstream": (await open_site("persistent")).url})


@pytest.mark.parametrize("side", SIDES)
async def test_a_read_only_visit_lets_the_session_live_on_and_leaves_its_text(persistent, database, side):
    made = await persistent.ask(OTHER[side], "set", {"a": 1}, way="persistent")
    key = f"sess:{sid_of(made)}"
    text = database.get(key)
    database.expire(key, 5)

    page = await persistent.ask(side, "", way="persistent")

    assert 590 <= database.ttl(key) <= 600
    assert database.get(key) == text
    assert page.cookies == []


@pytest.mark.parametrize("side", SIDES)
async def test_a_date_in_the_text_that_grew_old_is_no_end(persistent, database, side):
    made = await persistent.ask(OTHER[side], "set", {"a": 1}, way="persistent")
    key = f"sess:{sid_of(made)}"
    old = re.sub(rb'"expires":"[^"]+"', b'"expires":"2020-01-01T00:00:00.000Z"', database.get(key))
    database.set(key, old, ex=60)

    assert await persistent.data(side, way="persistent") == {"a": 1}
    page = await persistent.ask(side, "set", {"a": 2}, way="persistent")

    stored = json.loads(database.get(key))
    assert stored["a"] == 2
    # Express works it out from the date: a millisecond may have passed.
    assert stored["cookie"]["originalMaxAge"] == json.loads(old)["cookie"]["originalMaxAge"]
    assert datetime.fromisoformat(stored["cookie"]["expires"]).timestamp() > datetime.now(UTC).timestamp() + 590
    assert 590 <= database.ttl(key) <= 600
    assert len(page.cookies) == 1  # it has an expiry and was modified


@pytest.mark.parametrize("side", SIDES)
async def test_a_rolling_cookie_is_sent_with_every_visit(express_url, open_site, side):
    visitor = Visitor({"express": express_url, "sstream": (await open_site("rolling")).url})
    await visitor.ask(OTHER[side], "set", {"a": 1}, way="rolling")

    page = await visitor.ask(side, "", way="rolling")

    (cookie,) = page.cookies
    assert cookie.startswith(f"connect.sid={raw(visitor)}; Path=/; Expires=")
    expires = re.search(r"Expires=([^;]+)", cookie)[1]
    seconds = datetime.strptime(expires, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC) - datetime.now(UTC)
    assert 590 <= seconds.total_seconds() <= 601


@pytest.mark.parametrize("side", SIDES)
async def test_a_lifetime_given_by_one_is_kept_by_the_other(visitor, database, side):
    made = await visitor.ask(side, "set", {"a": 1})
    await visitor.ask(side, "max-age", 7200)
    key = f"sess:{sid_of(made)}"
    before = database.ttl(key)

    page = await visitor.ask(OTHER[side], "set", {"a": 3})

    assert page.json["maxAge"] == 7_200_000
    assert json.loads(database.get(key))["cookie"]["originalMaxAge"] == 7_200_000
    assert 7190 <= before <= 7200
    assert 7190 <= database.ttl(key) <= 7200


@pytest.mark.parametrize("side", SIDES)
async def test_nothing_is_stored_and_no_cookie_sent_for_a_visit_that_writes_nothing(visitor, database, side):
    page = await visitor.ask(side, "")

    assert page.cookies == []
    assert database.keys("sess:*") == []


@pytest.mark.parametrize("side", SIDES)
async def test_an_empty_session_is_stored_where_it_is_told_to(express_url, open_site, database, side):
    visitor = Visitor({"express": express_url, "sstream": (await open_site("uninitialized")).url})

    page = await visitor.ask(side, "", way="uninitialized")

    assert len(page.cookies) == 1
    assert list(json.loads(text_of(database, sid_of(page)))) == ["cookie"]
    assert await visitor.data(OTHER[side], way="uninitialized") == {}


# --- what either does not know ----------------------------------------------------------------------------------------


async def test_our_bookkeeping_survives_a_save_by_express(express_url, open_site, database, visitor):
    made = await visitor.ask("sstream", "set", {"a": 1})
    key = f"sess:{sid_of(made)}"
    text = database.get(key)
    database.set(key, text[:-1] + b',"_sstream":{"born":1700000000},"channels":["lobby"]}', ex=60)

    await visitor.ask("express", "set", {"b": 1})
    await visitor.ask("sstream", "set", {"c": 1})

    stored = json.loads(database.get(key))
    assert stored["_sstream"] == {"born": 1700000000}
    assert stored["channels"] == ["lobby"]
    assert (stored["a"], stored["b"], stored["c"]) == (1, 1, 1)


async def test_unknown_fields_of_the_cookie_survive_here_and_are_lost_at_express(visitor, database):
    made = await visitor.ask("sstream", "set", {"a": 1})
    key = f"sess:{sid_of(made)}"
    database.set(key, database.get(key).replace(b'"path":"/"', b'"path":"/","other":{"x":[1]}'), ex=60)

    await visitor.ask("sstream", "set", {"a": 2})
    here = json.loads(database.get(key))["cookie"].get("other")
    await visitor.ask("express", "set", {"a": 3})
    there = json.loads(database.get(key))["cookie"].get("other")

    assert (here, there) == ({"x": [1]}, None)


async def test_half_an_emoji_that_express_stored_hurts_nobody(visitor, database):
    # `title.slice(0, n)` in JavaScript may cut one in two.
    page = await visitor.ask("express", "set", json.loads('{"title": {"text": "\\ud83d"}, "a": 1}'))
    key = f"sess:{sid_of(page)}"
    assert rb'"\ud83d"' in database.get(key)

    seen = await visitor.ask("sstream", "set", {"a": 2})

    assert seen.json["data"] == {"title": {"text": "\ufffd"}, "a": 2}
    assert rb'"title":{"text":"\ud83d"}' in database.get(key)


async def test_names_that_look_like_numbers_survive_both(visitor):
    data = {"b": {"10": 1, "9": 2, "x": 3}, "2": "two", "1": "one"}
    await visitor.ask("sstream", "set", data)

    await visitor.ask("express", "set", {"c": 1})
    await visitor.ask("sstream", "set", {"d": 1})

    assert await visitor.data("express") == {**data, "c": 1, "d": 1}


async def test_express_finds_sessions_alone_below_its_prefix(visitor, site):
    made = await visitor.ask("sstream", "set", {"a": 1})
    login = await visitor.ask("sstream", "login", "fred")
    session = await site.app.sessions.get(sid_of(login))
    ticket = await site.app.sessions.introduce(session)
    other = await site.app.sessions.create(user_id="fred")
    await other.destroy()

    ids = (await visitor.ask("express", "ids")).json
    await visitor.ask("express", "clear", None)

    assert ids == [sid_of(login)]
    assert sid_of(made) not in ids
    # What Express clears are sessions: a ticket outlives them, and is good for nothing.
    assert await site.app.sessions.trade(ticket, None) is None
    assert await visitor.data("sstream") == {}


async def test_both_sign_with_the_same_secret():
    assert all(express.get("secret", SECRET) == ours.get("secret", SECRET) for express, ours in OPTIONS.values())
