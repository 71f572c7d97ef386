"""The JSON text of a session, against what JSON.stringify and express-session make of it."""

import json
import struct
from datetime import datetime

import pytest
from hypothesis import given, strategies as st

from sstream.errors import SessionError
from sstream.session import express

from .vectors import VECTORS

COOKIE = b'"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"}'

# All that a session may hold.
NUMBERS = st.integers(-express.MAX_SAFE_INTEGER, express.MAX_SAFE_INTEGER) | st.floats(
    allow_nan=False, allow_infinity=False
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=10)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def text_with(*parts: bytes) -> bytes:
    return b"{" + b",".join([COOKIE, *parts]) + b"}"


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth - 1):
        value = [value]
    return value


# --- values, as JSON.stringify writes them ----------------------------------------------------------------------------


def test_numbers_are_written_as_javascript_writes_them():
    for vector in VECTORS["numbers"]:
        (value,) = struct.unpack(">d", bytes.fromhex(vector["bytes"]))

        assert express.encode_value("k", value).decode() == vector["text"]


def test_numbers_are_read_as_javascript_reads_them():
    for vector in VECTORS["numbers"]:
        value = express.decode_value(vector["text"].encode())

        assert struct.pack(">d", value).hex() == vector["bytes"] or value == 0


def test_text_is_written_as_javascript_writes_it():
    for vector in VECTORS["strings"]:
        value = "".join(map(chr, vector["points"]))

        assert express.encode_value("k", value).decode() == vector["text"]
        assert express.decode_value(vector["text"].encode()) == value


@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda vector: vector["text"][:40] or "nothing")
def test_json_is_read_and_written_again_as_javascript_does(vector):
    text = b'{%b,"k":%b}' % (COOKIE, vector["text"].encode())

    if vector["stringified"] is None:
        with pytest.raises(express.CorruptText):
            express.split(text)
    else:
        value = express.decode_value(express.split(text)["k"])
        assert express.encode_value("k", value).decode() == vector["stringified"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}"),
        ([], "[]"),
        ((), "[]"),
        ((1, (2, [3])), "[1,[2,[3]]]"),
        ({"a": {}, "b": [], "": None}, '{"a":{},"b":[],"":null}'),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        ([True, 1, 1.0, 0, False], "[true,1,1,0,false]"),
        (2**53, "9007199254740992"),
        (-(2**53), "-9007199254740992"),
    ],
    ids=repr,
)
def test_values_are_written_compactly(value, text):
    assert express.encode_value("k", value).decode() == text


def test_kinds_of_text_and_numbers_are_written_as_what_they_are():
    class Name(str):
        __slots__ = ()

    class Count(int):
        def __repr__(self) -> str:
            return "Count!"

    class Ratio(float):
        def __repr__(self) -> str:
            return "Ratio!"

    assert express.encode_value("k", [Name("a"), Count(5), Ratio(0.5)]) == b'["a",5,0.5]'


@given(value=VALUES)
def test_what_is_written_is_read_again(value):
    written = express.encode_value("k", value)

    assert express.decode_value(written) == value == json.loads(written, parse_int=float)
    assert express.encode_value("k", express.decode_value(written)) == written


# --- values that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        (2**53 + 1, "k", "past 2**53"),
        (-(2**53) - 1, "k", "past 2**53"),
        ([1, 2**53 + 1], "k[1]", "past 2**53"),
        ({"a": {"b": [0, 2**60]}}, "k.a.b[1]", "past 2**53"),
        (1 << 20_000, "k", "past 2**53"),
        (float("nan"), "k", "nan"),
        (float("inf"), "k", "inf"),
        ({"a": [float("-inf")]}, "k.a[0]", "-inf"),
        (b"bytes", "k", "a bytes"),
        ({1, 2}, "k", "a set"),
        (..., "k", "a ellipsis"),
        ({"a": [1, 1j]}, "k.a[1]", "a complex"),
        ({"a": {1: 2}}, "k.a", "the key 1"),
        ({None: 2}, "k", "the key None"),
        ({(1, 2): 2}, "k", "the key (1, 2)"),
        ("\ud800", "k", "lone surrogate"),
        (["a", {"b": "\udfff"}], "k", "lone surrogate"),
        ({"\ud800": 1}, "k", "lone surrogate"),
        (nested(65), "k" + "[0]" * 64, "more than 64 deep"),
    ],
    ids=lambda value: hex(value)[:20] if isinstance(value, int) else repr(value)[:40],
)
def test_a_value_that_json_cannot_hold_is_refused_by_its_name(value, path, reason):
    with pytest.raises(SessionError) as refused:
        express.encode_value("k", value)

    assert repr(path) in str(refused.value)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_value_that_contains_itself_is_refused():
    around: dict = {}
    around["again"] = [around]

    with pytest.raises(SessionError, match="contains itself"):
        express.encode_value("k", around)


def test_the_deepest_value_that_is_written_can_be_read():
    text = express.join({"cookie": b"{}", "k": express.encode_value("k", nested(express.MAX_DEPTH))})

    assert express.decode_value(express.split(text)["k"]) == nested(express.MAX_DEPTH)


def test_names_that_express_loses_are_reserved_and_no_others():
    assert [name for name in VECTORS["lost"] if not express.is_reserved(name)] == []
    assert [name for name in VECTORS["kept"] if express.is_reserved(name)] == []


# --- texts ------------------------------------------------------------------------------------------------------------


def test_a_text_is_cut_by_key_in_its_order():
    text = text_with(b'"userId":"fred"', b'"cart":{"tea":[1,2]}', b'"n":1.50')

    parts = express.split(text)

    assert list(parts) == ["cookie", "userId", "cart", "n"]
    assert parts["cart"] == b'{"tea":[1,2]}'
    assert parts["n"] == b"1.50"
    assert express.join(parts) == text


def test_a_text_written_by_hand_keeps_the_writing_of_its_values():
    parts = express.split(b' {\n "a" : [ 1 ,\t2 ] ,\r\n "cookie" : { } } ')

    assert parts == {"a": b"[ 1 ,\t2 ]", "cookie": b"{ }"}
    assert express.join(parts) == b'{"a":[ 1 ,\t2 ],"cookie":{ }}'


@given(data=st.dictionaries(st.text(max_size=8), VALUES, max_size=6))
def test_texts_are_stable_byte_for_byte(data):
    data = {"cookie": {"originalMaxAge": None, "expires": None}} | {k: v for k, v in data.items() if k != "cookie"}
    text = express.join({key: express.encode_value(key, value) for key, value in data.items()})

    parts = express.split(text)

    assert express.join(parts) == text
    assert {key: express.decode_value(raw) for key, raw in parts.items()} == data == json.loads(text, parse_int=float)


@given(
    text=st.binary(max_size=200) | st.text(st.characters(), max_size=200).map(lambda t: t.encode("utf-8", "replace"))
)
def test_any_bytes_are_a_session_or_corrupt(text):
    try:
        parts = express.split(text)
    except express.CorruptText:
        return
    for raw in parts.values():
        express.decode_value(raw)


JSON_TEXTS = st.recursive(
    st.sampled_from(["null", "true", "0", "-0", "1.0", "1e-400", "1e400", "-1e999", "9007199254740993", "9" * 500])
    | st.sampled_from(['"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"é"', '"\\/"', '"\\\\ud800"']),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
    | st.lists(st.tuples(st.sampled_from(['"a"', '"\\ud800"', '""', '"__proto__"']), inner), max_size=3).map(
        lambda items: "{" + ",".join(f"{key}: {value}" for key, value in items) + "}"
    ),
    max_leaves=8,
)  # fmt: skip


@given(value=JSON_TEXTS)
def test_what_other_software_stored_can_always_be_read_and_stored_again(value):
    parts = express.split(b'{%b,"k":%b}' % (COOKIE, value.encode()))

    again = express.encode_value("k", express.decode_value(parts["k"]))

    assert express.encode_value("k", express.decode_value(again)) == again
    assert list(express.split(express.join(parts))) == ["cookie", "k"]


def test_a_key_with_a_lone_surrogate_survives():
    # JSON.stringify escapes it, so Express can have stored it.
    text = text_with(rb'"\ud800":1', rb'"a\udfffb":2')

    assert express.join(express.split(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"true",
        b"5",
        b'"text"',
        b'{"user":"fred"}',
        b'{"cookie":null}',
        b'{"cookie":[]}',
        b'{"cookie":"{}"}',
        b'{"cookie":1,"user":"fred"}',
        b'{"Cookie":{}}',
        text_with(b'"user":"fred"')[:-1],
        text_with(b'"user":"fred"')[:40],
        text_with(b'"user":"fr\xffed"'),
        text_with(b'"user":"\xed\xa0\x80"'),
        text_with(b'"user":"fred"') + b"}",
        text_with(b'"user":"fred"') + b"\x00",
        "\ufeff".encode() + text_with(),
        text_with(b'"user":"fred"').decode().encode("utf-16"),
        text_with(rb'"cut":"\ud800",5:1'),
        text_with(rb'"cut":"\ud800","a"'),
        text_with(rb'"cut":"\ud800","a":'),
        text_with(rb'"cut":"\ud800",'),
        text_with(rb'"cut":"\ud800" "a":1'),
        text_with(rb'"cut":"\ud800"') + b"]",
        rb'["\ud800"]',
        rb'{"cookie":{},"cut":"\ud800"',
        rb'{,"cookie":{},"cut":"\ud800"}',
        text_with(b'"n":NaN'),
        text_with(b'"n":[Infinity]'),
        text_with(b'"n":' + b"[" * 65 + b"]" * 65),
        text_with(b'"n":' + b"[" * 100_000 + b"]" * 100_000),
        text_with(b'"n":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        b"[" * 1_000_000,
        b'{"cookie":{"a":' * 40_000,
        text_with(b'"blob":"' + b"a" * 5_000_000 + b'"'),
    ],
    ids=lambda text: text[:40].decode("latin-1") or "nothing",
)
def test_a_corrupt_text_is_told_as_such(text):
    with pytest.raises(express.CorruptText) as corrupt:
        express.split(text)

    assert len(str(corrupt.value)) < 300
    assert b"fred" not in str(corrupt.value).encode()


def test_brackets_inside_text_are_no_depth():
    value = '{["\\' * 200
    text = text_with(b'"k":' + json.dumps(value).encode(), b'"n":' + b"[]," * 0 + b"[" * 64 + b"]" * 64)

    assert express.decode_value(express.split(text)["k"]) == value


def test_the_changed_keys_are_those_whose_json_differs():
    before = {"cookie": b"{}", "a": b"1", "b": b"[1]", "c": b"2"}
    after = {"cookie": b'{"x":1}', "a": b"1", "b": b"[2]", "d": b"3"}

    assert express.changed_keys(before, after) == {"b", "c", "d"}
    assert express.changed_keys(before, before) == set()


@given(value=VALUES, is_ascii=st.booleans())
def test_what_looks_canonical_is_as_javascript_writes_it(value, is_ascii):
    raw = json.dumps(value, ensure_ascii=is_ascii).encode()

    if express.is_canonical(raw):
        assert express.encode_value("k", express.decode_value(raw)) == raw


@pytest.mark.parametrize(
    ("raw", "looks_canonical"),
    [
        (b"0", True),
        (b"12", True),
        (b'"tea"', True),
        ('"th\u00e9"'.encode(), True),
        (b"null", True),
        (b"1.0", False),
        (b"1e3", False),
        (b"-0", False),
        (b"9007199254740993", False),
        (b'"th\\u00e9"', False),
        (b"[1]", False),
        (b'{"a": 1}', False),
    ],
)
def test_only_what_has_no_second_spelling_looks_canonical(raw, looks_canonical):
    assert express.is_canonical(raw) is looks_canonical


# --- dates ------------------------------------------------------------------------------------------------------------


def test_dates_are_written_as_javascript_does():
    for vector in VECTORS["dates"]:
        assert express.format_date(vector["milliseconds"] / 1000) == vector["iso"]


@given(timestamp=st.floats(0, 2**33))
def test_a_date_has_exactly_three_fraction_digits(timestamp):
    text = express.format_date(timestamp)

    assert len(text) == len("2026-12-23T00:53:13.384Z")
    assert abs(datetime.fromisoformat(text).timestamp() - timestamp) < 0.000501  # the double nearest to it, besides


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (1e300, "9999-12-31T23:59:59.000Z"),
        (253402300799.0, "9999-12-31T23:59:59.000Z"),
        (-1e300, "0001-01-01T00:00:00.000Z"),
        (float("inf"), "9999-12-31T23:59:59.000Z"),
    ],
)
def test_a_date_beyond_the_calendar_is_moved_to_its_end(timestamp, text):
    assert express.format_date(timestamp) == text


def test_lifetimes_are_told_in_milliseconds():
    assert express.milliseconds(30 * 86400) == 2592000000
    assert express.milliseconds(0.5) == 500
