"""Signed cookie values and the headers they travel in, against what npm's packages make of them."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from sstream.session import cookie, express

from .vectors import VECTORS

SID = "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
SECRET = "keyboard cat"
SIDS = st.from_regex(r"[A-Za-z0-9_.~:+/=@,-]{1,256}", fullmatch=True)


# --- signing ----------------------------------------------------------------------------------------------------------


def test_it_signs_and_encodes_as_express_does():
    for vector in VECTORS["signatures"]:
        assert cookie.sign(vector["sid"], vector["secret"]) == vector["signed"]
        assert cookie.encode(vector["sid"], [vector["secret"]]) == vector["cookie"]


def test_it_reads_what_express_has_signed():
    for vector in VECTORS["signatures"]:
        assert cookie.decode(vector["cookie"], [vector["secret"]]) == vector["sid"]
        assert cookie.decode(f"s:{vector['signed']}", [vector["secret"]]) == vector["sid"]


@pytest.mark.parametrize("vector", VECTORS["cookies"], ids=lambda vector: vector["value"])
def test_it_finds_the_same_id_in_a_cookie_as_express_does(vector):
    (value,) = cookie.find(f"connect.sid={vector['value']}", "connect.sid")

    assert cookie.decode(value, ["new", "old"]) == vector["sid"]


@given(sid=SIDS, secret=st.text(min_size=1, max_size=80))
def test_what_is_encoded_is_decoded(sid, secret):
    assert cookie.decode(cookie.encode(sid, [secret]), [secret]) == sid


@given(sid=SIDS)
def test_a_cookie_value_needs_no_quoting(sid):
    # RFC 6265, 4.1.1: cookie-octet.
    assert re.fullmatch(r"[!#-+\--:<-\[\]-~]+", cookie.encode(sid, [SECRET]))


@pytest.mark.parametrize("sid", [SID, "signed+with/both", *(vector["sid"] for vector in VECTORS["signatures"][-8:])])
def test_every_single_bit_change_of_a_cookie_is_refused(sid):
    value = cookie.encode(sid, [SECRET])
    changed = [
        value[:at] + chr(ord(value[at]) ^ (1 << bit)) + value[at + 1 :] for at in range(len(value)) for bit in range(8)
    ]

    accepted = [
        text
        for text in changed
        if any(cookie.decode(found, [SECRET]) for found in cookie.find(f"connect.sid={text}", "connect.sid"))
    ]

    assert accepted == []


def test_a_cookie_that_is_too_short_or_too_long_by_anything_is_refused():
    value = cookie.encode(SID, [SECRET])

    assert [text for at in range(len(value)) if (text := cookie.decode(value[:at] + value[at + 1 :], [SECRET]))] == []
    assert [text for at in range(len(value)) if (text := cookie.decode(value[:at], [SECRET]))] == []
    assert cookie.decode(value + "A", [SECRET]) is None
    assert cookie.decode(value + "%3D", [SECRET]) is None


def test_a_cookie_with_another_secret_is_refused():
    assert cookie.decode(cookie.encode(SID, [SECRET]), ["another"]) is None
    assert cookie.decode(cookie.encode(SID, [SECRET]), [SECRET + " "]) is None
    assert cookie.decode(cookie.encode(SID, [SECRET]), []) is None


def test_the_first_secret_signs_and_all_of_them_verify():
    by_old, by_new = cookie.encode(SID, ["old"]), cookie.encode(SID, ["new", "old"])

    assert by_new == cookie.encode(SID, ["new"]) != by_old
    assert cookie.decode(by_old, ["new", "old"]) == SID
    assert cookie.decode(by_new, ["new", "old"]) == SID
    assert cookie.decode(by_new, ["old"]) is None


def test_the_id_ends_at_the_last_dot():
    assert cookie.unsign(cookie.sign("a.b.c", SECRET), [SECRET]) == "a.b.c"
    assert cookie.unsign("no dot at all", [SECRET]) is None


# --- ids that are of no use -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sid",
    [
        "",
        "*",
        "sess:*",
        "a[bc]",
        "a?",
        "a b",
        "a\r\nSET x y",
        "a\nb",
        "a\x00b",
        "a\tb",
        "a\x7f",
        "ä",
        "😀",
        "a;b",
        'a"b',
        "a%b",
        "{a}",
        "\\",
    ],
)
def test_a_well_signed_id_that_could_do_harm_is_none(sid):
    assert cookie.decode(cookie.encode(sid, [SECRET]), [SECRET]) is None


def test_an_id_may_have_256_characters_and_no_more():
    assert cookie.decode(cookie.encode("a" * 256, [SECRET]), [SECRET]) == "a" * 256
    assert cookie.decode(cookie.encode("a" * 257, [SECRET]), [SECRET]) is None


def test_five_kilobytes_of_cookie_are_not_even_checked():
    assert cookie.decode(cookie.encode("a" * 5000, [SECRET]), [SECRET]) is None
    assert cookie.decode("%41" * 1700, [SECRET]) is None


@given(value=st.text(st.characters(), max_size=300))
def test_no_text_makes_it_raise(value):
    for text in (value, f"s:{value}", f"s%3A{value}.x", f"%{value}"):
        assert cookie.decode(text, [SECRET]) is None
    assert isinstance(cookie.find(value, "connect.sid"), list)


@pytest.mark.parametrize("value", ["s:\ud800.x", "s:a.\ud800", "%41\ud800", "s:\udcff.\udcff", "\ud800"])
def test_lone_surrogates_make_it_no_id(value):
    assert cookie.decode(value, [SECRET]) is None


@given(value=st.binary(max_size=300))
def test_no_bytes_of_a_header_make_it_raise(value):
    header = "connect.sid=" + value.decode("latin-1")

    assert [cookie.decode(text, [SECRET]) for text in cookie.find(header, "connect.sid")] in ([], [None])


@pytest.mark.parametrize("escape", ["%", "%3", "%zz", "%3G", "%3a", "%ff", "%c3%28", "%ED%A0%80"])
def test_an_escape_that_nobody_writes_is_refused(escape):
    signed = cookie.sign(SID, SECRET)

    assert cookie.decode(f"s:{signed}{escape}", [SECRET]) is None
    assert cookie.decode(f"s{escape}{signed}", [SECRET]) is None


# --- the Cookie header ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["headers"], ids=lambda vector: vector["header"])
def test_it_finds_the_cookie_that_express_finds(vector):
    found = cookie.find(vector["header"], "connect.sid")

    assert (found[0] if found else None) == vector["value"]


def test_it_finds_every_cookie_of_the_name_in_order():
    assert cookie.find('n=1; x=2; n="3";n=4', "n") == ["1", "3", "4"]


# --- the Set-Cookie header --------------------------------------------------------------------------------------------


def test_it_writes_set_cookie_as_express_does():
    for vector in VECTORS["setCookies"]:
        assert cookie.serialize("connect.sid", "s%3Avalue", vector["fields"]) == vector["header"]


def test_expires_is_written_as_javascript_writes_it():
    for vector in VECTORS["dates"]:
        assert cookie.serialize("n", "v", {"expires": vector["iso"]}) == f"n=v; Expires={vector['utc']}"


def test_expires_may_be_given_in_another_time_zone():
    at_noon = datetime(2026, 12, 23, 12, tzinfo=UTC).timestamp()

    fields = {"expires": express.format_date(at_noon).replace("T12", "T14").replace("Z", "+02:00")}

    assert cookie.serialize("n", "v", fields) == "n=v; Expires=Wed, 23 Dec 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    "fields",
    [
        {"expires": "tomorrow"},
        {"expires": 5},
        {"expires": {}},
        {"expires": "99999-01-01T00:00:00.000Z"},
        {"domain": "a\r\nSet-Cookie: b=c"},
        {"domain": "example.com; HttpOnly"},
        {"domain": "exämple.com"},
        {"domain": "-.com"},
        {"domain": ["example.com"]},
        {"path": "/\n"},
        {"path": "/;HttpOnly"},
        {"path": "/ä"},
        {"path": 1},
        {"priority": "urgent"},
        {"priority": 1},
        {"sameSite": "loose"},
        {"sameSite": 1},
    ],
    ids=repr,
)
def test_what_other_software_stored_and_no_cookie_can_hold_is_left_out(fields):
    assert cookie.serialize("n", "v", {"httpOnly": True, **fields}) == "n=v; HttpOnly"
