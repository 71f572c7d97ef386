import json

import msgpack
import msgspec
import pytest
from hypothesis import given, strategies as st

from sstream.pubsub import Message, Position
from sstream.pubsub.message import encode_event, joined_event, left_event, number_event

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.text(min_size=1), st.lists(values, max_size=4), st.none() | st.text())
def test_event_is_plain_messagepack(event, args, channel):
    payload = encode_event(event, args, channel)

    meta = [] if channel is None else [{"channel": channel}]
    assert msgpack.unpackb(payload) == [2, event, args, *meta]
    assert Message.parse(payload).payload is payload
    assert Message.parse(payload).position is None


@given(st.lists(values, max_size=3), st.text(), st.integers(0, 2**53), st.text())
def test_numbered_event_has_its_place_as_the_fourth_element(args, channel, offset, epoch):
    payload = number_event(encode_event("n", args), channel, Position(offset, epoch))

    assert msgpack.unpackb(payload) == [2, "n", args, {"channel": channel, "offset": offset, "epoch": epoch}]
    assert Message.parse(payload).position == Position(offset, epoch)


@given(st.binary(max_size=200))
def test_parsing_raises_nothing_but_value_errors(payload):
    try:
        Message.parse(payload)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgpack.packb("text"),
        msgpack.packb([2, "n"]),
        msgpack.packb([1, "n", []]),
        msgpack.packb([2, 7, []]),
        msgpack.packb([2, "n", {}]),
        msgpack.packb([2, "n", None]),
        msgpack.packb([2, "n", [], {"offset": "7"}]),
        msgpack.packb([2, "n", [], {}, 5]),
        msgpack.packb([2, "n", []]) + b"\0",
        msgpack.packb([2, "n", [1, 2]])[:-1],
        b"\x93\x02\xa1\xff\x90",
        b"\x93\x02\xa1n" + b"\x91" * 100_000,
    ],
)
def test_what_is_no_event_is_refused(payload):
    with pytest.raises(ValueError, match="no event"):
        Message.parse(payload)


def test_unknown_fields_beside_the_channel_are_no_error():
    payload = msgpack.packb([2, "n", [], {"channel": "lobby", "trace": "x"}])

    assert Message.parse(payload).position is None


def test_text_is_made_once():
    message = Message.parse(encode_event("n", ["ä", 1, None, {"a": [True]}, b"\xff"], "lobby"))

    assert json.loads(message.text) == [2, "n", ["ä", 1, None, {"a": [True]}, "/w=="], {"channel": "lobby"}]
    assert message.text is message.text


def test_ext_type_is_null_in_text():
    message = Message.parse(msgpack.packb([2, "n", [msgpack.ExtType(5, b"x")]]))

    assert json.loads(message.text) == [2, "n", [None]]


def test_frame_is_an_empty_slot():
    message = Message(b"")
    assert message.frame is None

    message.frame = b"\x82\x00"

    assert message.frame == b"\x82\x00"


def test_gap_names_the_channel_and_where_it_goes_on():
    assert msgpack.unpackb(Message.gap(None).payload) == [2, "sstream:gap", [None]]
    assert msgpack.unpackb(Message.gap("lobby").payload) == [2, "sstream:gap", ["lobby"]]
    assert msgpack.unpackb(Message.gap("lobby", Position(7, "e")).payload) == [
        2,
        "sstream:gap",
        ["lobby"],
        {"channel": "lobby", "offset": 7, "epoch": "e"},
    ]
    assert Message.gap("lobby", Position(7, "e")).position is None


def test_presence_events():
    about = msgspec.msgpack.encode({"name": "Fred"})

    assert msgpack.unpackb(joined_event("lobby", "42", about)) == [
        2,
        "joined",
        ["42", {"name": "Fred"}],
        {"channel": "lobby"},
    ]
    assert msgpack.unpackb(left_event("lobby", "42")) == [2, "left", ["42"], {"channel": "lobby"}]


class Odd:
    pass


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((1, Odd()), "'n': argument 2: .*Odd"),
        ((2**64,), "argument 1: "),
        (("\ud800",), "argument 1: "),
        ((1, 2, {(): Odd()}), "argument 3: "),
    ],
)
def test_argument_that_cannot_be_encoded_is_named(args, match):
    with pytest.raises(TypeError, match=match):
        encode_event("n", args)


def test_argument_that_contains_itself_is_named():
    loop = []
    loop.append(loop)

    with pytest.raises(TypeError, match="argument 1: "):
        encode_event("n", [loop])


@pytest.mark.parametrize("event", ["", None, 7, b"n"])
def test_event_without_a_name_is_refused(event):
    with pytest.raises(TypeError, match="an event has a name"):
        encode_event(event, [])


@pytest.mark.parametrize(
    "payload",
    [encode_event("n", [{key: 1}], "lobby") for key in (None, True, (1, 2))]
    + [b"\x94\x02\xa1n\x91\xa2\xff\xfe\x81\xa7channel\xa5lobby"],
)
def test_what_json_cannot_hold_is_a_gap_in_text_and_told_once(payload, expect_log):
    expect_log("an event cannot be told in JSON, its sockets are told of a gap", count=1)
    message = Message.parse(payload)

    texts = [message.text for _ in range(2)]

    assert [json.loads(text) for text in texts] == [[2, "sstream:gap", ["lobby"]]] * 2


def test_gap_for_a_numbered_event_says_where_it_goes_on(expect_log):
    expect_log("cannot be told in JSON")
    message = Message.parse(number_event(encode_event("n", [{None: 1}]), "lobby", Position(7, "e")))

    assert json.loads(message.text)[3] == {"channel": "lobby", "offset": 7, "epoch": "e"}
