"""Bytes to messages and back, with the msgpack package and the json module as oracles."""

import json
import random
import string
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from sstream.errors import INVALID_REQUEST, PARSE_ERROR
from sstream.rpc.codec import (
    CODECS,
    DECODE_ERRORS,
    JSON,
    MSGPACK,
    BadMessage,
    Bounds,
    CallMessage,
    CancelMessage,
    CreditMessage,
    Notification,
    ReplyMessage,
)

texts = st.text(max_size=20)
numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6), max_leaves=30
)
# What a client may send, but ours would not: binary, keys of any kind, extensions.
odd_values = st.recursive(
    scalars | st.binary(max_size=20) | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(texts, inner, max_size=6)
        | st.dictionaries(st.integers(-10, 10) | st.booleans() | texts | st.binary(max_size=3), inner, max_size=4)
    ),
    max_leaves=30,
)
ids = st.integers(-(2**63), 2**63 - 1) | texts
calls = st.tuples(st.just(0), ids, texts, st.lists(values, max_size=4))


def depth_of(value: Any) -> int:
    """How many containers are nested in a value."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def containers_of(value: Any) -> int:
    """How many containers a value holds, itself included."""
    if isinstance(value, dict):
        return 1 + sum(map(containers_of, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(containers_of, value))
    return 0


def is_plain(value: Any) -> bool:
    """May ``Any`` let this value through?"""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))
    if isinstance(value, list):
        return all(map(is_plain, value))
    return not isinstance(value, msgpack.ExtType)


def nested(depth: int) -> Any:
    """A value with ``depth`` containers in one another."""
    value: Any = None
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


both_codecs = pytest.mark.parametrize(
    ("codec", "pack"), [(MSGPACK, msgpack.packb), (JSON, lambda value: json.dumps(value).encode())]
)


# Messages


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ([0, 1, "add", [2]], CallMessage),
        ([0, 1, "add", [2], None], CallMessage),
        ([0, 1, "add", [2], {}], CallMessage),
        ([0, 1, "add", [2], {"timeout": 2, "traceparent": "x", "future": [1]}], CallMessage),
        ([1, 1, None, 5], ReplyMessage),
        ([2, "add", [2]], Notification),
        ([3, "x"], CancelMessage),
        ([5, 1, 10], CreditMessage),
    ],
)
@pytest.mark.parametrize(("codec", "pack"), [(MSGPACK, msgpack.packb), (JSON, json.dumps)])
def test_message_is_known_by_its_first_element(codec, pack, message, expected):
    assert type(codec.decode(pack(message))) is expected


def test_call_carries_its_meta():
    message = MSGPACK.decode(msgpack.packb([0, 1, "add", [], {"timeout": 2, "traceparent": "x"}]))

    assert (message.meta.timeout, message.meta.traceparent) == (2.0, "x")


@given(calls)
def test_call_of_any_msgpack_implementation_is_read(call):
    kind, call_id, method, params = MSGPACK.call_decoder([call[2]])(msgpack.packb(call))

    assert (kind, call_id, method) == call[:3]
    assert MSGPACK.decode_value(params, Bounds()) == call[3]


@given(calls)
def test_call_of_any_json_implementation_is_read(call):
    kind, call_id, method, params = JSON.call_decoder([])(json.dumps(call))

    assert (kind, call_id, method) == call[:3]
    assert JSON.decode_value(params, Bounds()) == call[3]


@given(ids, values)
def test_reply_is_what_msgpack_itself_would_write(call_id, value):
    assert MSGPACK.encode((1, call_id, None, value)) == msgpack.packb([1, call_id, None, value])


@given(ids, values)
def test_json_reply_is_read_by_json(call_id, value):
    assert json.loads(JSON.encode((1, call_id, None, value))) == [1, call_id, None, value]


@pytest.mark.parametrize(
    "message", [[1, 2, None], [5, 1], [3], [3, 1, 2], [0, 1, "a", [], None, 1], "text", 5, {"a": 1}]
)
def test_message_of_the_wrong_shape_is_an_invalid_request(message):
    with pytest.raises(BadMessage) as caught:
        MSGPACK.decode(msgpack.packb(message))

    assert caught.value.code == INVALID_REQUEST


def test_bad_message_knows_the_call_it_may_have_meant():
    with pytest.raises(BadMessage) as caught:
        MSGPACK.decode(msgpack.packb([0, "abc", 5, []]))

    assert caught.value.id == "abc"


def test_bad_message_says_what_was_wrong_and_where():
    with pytest.raises(BadMessage, match=r"invalid request: expected str, got int at message\[2\]"):
        MSGPACK.decode(msgpack.packb([0, 1, 5, []]))


def test_codecs_are_known_by_their_subprotocol_the_default_first():
    assert list(CODECS) == ["sstream.v1.msgpack", "sstream.v1.json"]


# Hostile bytes


def read_all(codec: Any, payload: Any) -> None:
    """Read a payload in every way there is; only the errors that are promised may come out."""
    try:
        codec.call_decoder(["x", "add"])(payload)
    except (*DECODE_ERRORS, TypeError):
        pass
    try:
        message = codec.decode(payload)
    except BadMessage as error:
        bad = error
    else:
        bad = None
    if bad is not None:
        assert bad.code in {PARSE_ERROR, INVALID_REQUEST}
        assert len(bad.message) < 600
        return
    for name in ("params", "error", "result"):
        raw = getattr(message, name, None)
        if raw is not None:
            try:
                codec.check_count(bytes(raw), Bounds())
                codec.decode_value(raw, Bounds(), 1)
            except DECODE_ERRORS:
                pass


@settings(max_examples=500)
@given(st.binary(max_size=200))
@example(b"\x94\x00\x01\xa1x\x91\xc7\x0c\xff" + b"\xff" * 12)
@example(b"\x94\x00\x01\xa1x\x91\xd6\xff\xff\xff\xff\xff")
def test_random_bytes_raise_nothing_else(payload):
    read_all(MSGPACK, payload)
    read_all(MSGPACK, b"\x94\x00\x01\xa1x" + payload)


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_random_text_raises_nothing_else(payload):
    read_all(JSON, payload)
    read_all(JSON, '[0,1,"x",' + payload)
    read_all(MSGPACK, payload)


@settings(max_examples=500)
@given(st.tuples(st.just(0), ids, texts, st.lists(odd_values, max_size=3)), st.randoms(use_true_random=False))
def test_mutated_messages_raise_nothing_else(call, chance):
    payload = bytearray(msgpack.packb(call))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(payload))
        match chance.randrange(4):
            case 0:
                payload[place] ^= 1 << chance.randrange(8)
            case 1:
                del payload[place : place + chance.randint(1, 5)]
            case 2:
                payload[place:place] = chance.randbytes(chance.randint(1, 5))
            case 3:
                payload[place] = chance.choice(b"\x80\x90\xc1\xc7\xd4\xdc\xdd\xde\xdf\xc6\xdb")
        payload = payload or bytearray(b"\x90")

    read_all(MSGPACK, bytes(payload))


def test_every_byte_of_a_message_may_be_missing():
    payload = msgpack.packb([0, 1, "cart.add", ["tea", {"count": [1, 2.5, None]}]])

    for end in range(len(payload)):
        with pytest.raises(BadMessage):
            MSGPACK.decode(payload[:end])


# What Any lets through


@settings(max_examples=300)
@given(odd_values)
def test_untyped_value_is_accepted_if_and_only_if_it_is_plain(value):
    raw = msgpack.packb(value)
    bounds = Bounds(depth=5, containers=10)
    if is_plain(value) and depth_of(value) <= 5 and containers_of(value) <= 10:
        assert MSGPACK.decode_value(raw, bounds) == value
    else:
        with pytest.raises(msgspec.ValidationError):
            MSGPACK.decode_value(raw, bounds)


@settings(max_examples=150)
@given(st.recursive(scalars | st.text('[]{}"\\,:ü', max_size=20), lambda inner: st.lists(inner, max_size=6)))
def test_untyped_json_is_accepted_if_and_only_if_it_is_not_too_deep(value):
    raw = json.dumps(value).encode()
    if depth_of(value) <= 4:
        assert JSON.decode_value(raw, Bounds(depth=4)) == value
    else:
        with pytest.raises(msgspec.ValidationError):
            JSON.decode_value(raw, Bounds(depth=4))


@pytest.mark.parametrize(
    ("codec", "pack"), [(MSGPACK, msgpack.packb), (JSON, lambda value: json.dumps(value).encode())]
)
def test_value_of_the_greatest_depth_is_accepted_and_one_more_is_not(codec, pack):
    assert codec.decode_value(pack(nested(32)), Bounds()) == nested(32)
    assert codec.decode_value(pack(nested(31)), Bounds(), 1) == nested(31)
    with pytest.raises(msgspec.ValidationError, match="nested more than 32 deep"):
        codec.decode_value(pack(nested(33)), Bounds())
    with pytest.raises(msgspec.ValidationError, match="nested more than 32 deep"):
        codec.decode_value(pack(nested(32)), Bounds(), 1)


@pytest.mark.parametrize(
    ("codec", "pack"), [(MSGPACK, msgpack.packb), (JSON, lambda value: json.dumps(value).encode())]
)
def test_value_with_the_most_containers_is_accepted_and_one_more_is_not(codec, pack):
    codec.decode_value(pack([[]] * 4095), Bounds())
    codec.check_count(pack([[]] * 4095), Bounds())
    with pytest.raises(msgspec.ValidationError, match="more than 4096"):
        codec.decode_value(pack([[]] * 4096), Bounds())
    with pytest.raises(msgspec.ValidationError, match="more than 4096"):
        codec.check_count(pack([[]] * 4096), Bounds())


@pytest.mark.parametrize(
    ("codec", "pack"), [(MSGPACK, msgpack.packb), (JSON, lambda value: json.dumps(value).encode())]
)
def test_text_that_looks_like_containers_is_none(codec, pack):
    value = ["[{" * 5000, "‘’" * 5000, *map(float, range(5000))]

    codec.check_count(pack(value), Bounds())

    assert codec.decode_value(pack(value), Bounds()) == value


@pytest.mark.parametrize("depth", [None, 100])
def test_bounds_can_be_widened(depth):
    assert MSGPACK.decode_value(msgpack.packb(nested(60)), Bounds(depth, None)) == nested(60)
    assert JSON.decode_value(json.dumps(nested(60)).encode(), Bounds(depth, None)) == nested(60)
    assert len(MSGPACK.decode_value(msgpack.packb([[]] * 9000), Bounds(depth, None))) == 9000
    assert len(JSON.decode_value(json.dumps([[]] * 9000).encode(), Bounds(depth, None))) == 9000


def test_bounds_grow_with_the_message_size():
    assert Bounds.of(32, 64 * 1024) == Bounds(32, 4096)
    assert Bounds.of(32, 1024 * 1024) == Bounds(32, 65536)
    assert Bounds.of(None, None) == Bounds(None, None)


def test_timestamp_is_accepted_only_where_one_is_wanted():
    raw = msgpack.packb([msgpack.Timestamp(1, 0), msgpack.Timestamp(2**34, 1), msgpack.Timestamp(-1, 1)])

    MSGPACK.check(raw, Bounds(), 0, timestamps=True)
    with pytest.raises(msgspec.ValidationError, match="extension types are not accepted"):
        MSGPACK.check(raw, Bounds(), 0)
    with pytest.raises(msgspec.ValidationError, match="extension types are not accepted"):
        MSGPACK.check(msgpack.packb([msgpack.ExtType(5, b"1234")]), Bounds(), 0, timestamps=True)


def test_all_formats_are_walked_over_to_the_end():
    chance = random.Random(1)
    text = "".join(chance.choices(string.ascii_letters, k=70_000))
    integers = [sign * 2**bits for sign in (1, -1) for bits in (0, 5, 7, 8, 15, 16, 31, 32, 63)]
    value = {
        "scalars": [None, True, 1.5, "a", text[:40], text[:300], text, *integers],
        "binary": [b"", b"x" * 300, b"x" * 70_000],
        "long": [0] * 70_000,
        "map": {str(n): n for n in range(70)},
    }

    MSGPACK.check(msgpack.packb(value, use_single_float=True), Bounds(), 0)

    with pytest.raises(msgspec.ValidationError, match="map keys must be text"):
        MSGPACK.check(msgpack.packb([value, {1: 1}]), Bounds(), 0)


@pytest.mark.parametrize("value", [[], [1] * 5, [1] * 15, [1] * 16, [1] * 70_000])
def test_messagepack_tells_how_many_params_there_are(value):
    raw = msgspec.msgpack.decode(msgpack.packb(value), type=msgspec.Raw)

    assert MSGPACK.count_params(raw) == len(value)
