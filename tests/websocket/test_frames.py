"""The parser alone, each implementation of it: what a client may send, what it may not, and all of it cut anywhere."""

import random
import zlib

import pytest

from sstream.websocket.deflate import Deflate, negotiate
from sstream.websocket.frames import (
    BINARY,
    CLOSE,
    EVENTS_PER_PASS,
    PING,
    PONG,
    TEXT,
    Close,
    Event,
    Failure,
    Parser,
    Ping,
    Pong,
    close_payload,
    frame as server_frame,
    may_be_sent,
)
from tests.websocket.frames import compress, frame, message, xor
from tests.websocket.parsers import PARSERS

LIMIT = 65536


@pytest.fixture(params=PARSERS, ids=lambda parser: parser.__name__)
def parser_class(request: pytest.FixtureRequest) -> type[Parser]:
    return request.param


def deflate(offer: str = "permessage-deflate", **options: object) -> Deflate:
    agreed = negotiate(offer, options)
    assert agreed is not None
    return agreed


def receive_all(parser: Parser, data: bytes) -> list[Event]:
    events = parser.receive(data)
    while parser.pending:
        events += parser.receive(b"")
    return events


def assert_events(
    parser_class: type[Parser],
    data: bytes,
    expected: list[Event],
    *,
    size: int | None = LIMIT,
    inflated_size: int | None = LIMIT,
    agreed: Deflate | None = None,
) -> None:
    """The same events whether the bytes come at once, one by one, or cut in two anywhere."""
    assert receive_all(parser_class(size, inflated_size, agreed), data) == expected
    one_by_one = parser_class(size, inflated_size, agreed)
    if len(data) < 3000:
        assert [event for byte in data for event in receive_all(one_by_one, bytes([byte]))] == expected
    cuts = range(1, len(data)) if len(data) < 300 else random.Random(1).sample(range(1, len(data)), 60)
    for cut in cuts:
        halves = parser_class(size, inflated_size, agreed)
        assert receive_all(halves, data[:cut]) + receive_all(halves, data[cut:]) == expected, cut


# What is legal


@pytest.mark.parametrize(
    "length", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 124, 125, 126, 127, 128, 255, 256, 1000, 65535, 65536]
)
def test_message_of_any_length_comes_whole(parser_class: type[Parser], length: int) -> None:
    payload = random.Random(length).randbytes(length)

    assert_events(parser_class, frame(BINARY, payload), [payload])


@pytest.mark.parametrize("text", ["", "a", "grüße", "κόσμε", "𝄞", "\ud7ff\ue000\uffff\U0010ffff\x00", "x" * 70_000])
def test_text_comes_as_text(parser_class: type[Parser], text: str) -> None:
    assert_events(parser_class, frame(TEXT, text.encode()), [text], size=None)


def test_message_in_many_frames_comes_as_one(parser_class: type[Parser]) -> None:
    assert_events(parser_class, message(BINARY, b"one", b"", b"two", b"x" * 200, b""), [b"onetwo" + b"x" * 200])


def test_text_may_be_cut_inside_a_character(parser_class: type[Parser]) -> None:
    note = "𝄞é".encode()

    assert_events(parser_class, message(TEXT, *(note[i : i + 1] for i in range(len(note)))), ["𝄞é"])


def test_control_frames_may_stand_between_fragments(parser_class: type[Parser]) -> None:
    data = (
        frame(TEXT, b"a", fin=False)
        + frame(PING, b"p")
        + frame(0, b"b", fin=False)
        + frame(PONG, b"q")
        + frame(0, b"c")
    )

    assert_events(parser_class, data, [Ping(b"p"), Pong(b"q"), "abc"])


def test_ping_inside_a_fragmented_compressed_message_leaves_it_whole(parser_class: type[Parser]) -> None:
    data = compress(b"hello" * 20)
    stream = frame(TEXT, data[:3], fin=False, rsv=4) + frame(PING, b"p") + frame(0, data[3:]) + frame(TEXT, b"plain")

    assert_events(parser_class, stream, [Ping(b"p"), "hello" * 20, "plain"], agreed=deflate())


def test_control_frame_has_up_to_125_bytes(parser_class: type[Parser]) -> None:
    assert_events(parser_class, frame(PING, b"x" * 125) + frame(PONG), [Ping(b"x" * 125), Pong(b"")])


def test_length_with_reserved_bit_or_not_minimal_is_told_from_a_legal_one(parser_class: type[Parser]) -> None:
    assert_events(parser_class, frame(BINARY, b"x" * 126) + frame(BINARY, b"y" * 65536), [b"x" * 126, b"y" * 65536])


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4999]
)
def test_close_gives_code_and_reason(parser_class: type[Parser], code: int) -> None:
    data = frame(CLOSE, code.to_bytes(2, "big") + "tschüß".encode())

    assert_events(parser_class, data, [Close(code, "tschüß")])


def test_close_may_say_nothing(parser_class: type[Parser]) -> None:
    assert_events(parser_class, frame(CLOSE), [Close(None, "")])


def test_what_follows_a_close_is_ignored(parser_class: type[Parser]) -> None:
    assert_events(parser_class, frame(CLOSE) + frame(BINARY, b"late") + b"\xff\xff\xff", [Close(None, "")])


def test_many_messages_come_in_passes(parser_class: type[Parser]) -> None:
    payloads = [b"%d" % number for number in range(3 * EVENTS_PER_PASS)]
    parser = parser_class(LIMIT)

    first = parser.receive(b"".join(frame(BINARY, payload) for payload in payloads))

    assert len(first) == EVENTS_PER_PASS
    assert parser.pending
    rest = receive_all(parser, b"")
    assert first + rest == payloads
    assert not parser.pending


def test_bytes_that_come_while_more_is_pending_keep_their_order(parser_class: type[Parser]) -> None:
    payloads = [b"%d" % number for number in range(2 * EVENTS_PER_PASS)]
    parser = parser_class(LIMIT)

    events = parser.receive(b"".join(frame(BINARY, payload) for payload in payloads))
    events += receive_all(parser, frame(TEXT, b"last"))

    assert events == [*payloads, "last"]


# What is not


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcode_fails_with_1002(parser_class: type[Parser], opcode: int) -> None:
    assert_events(parser_class, frame(BINARY, b"ok") + frame(opcode), [b"ok", Failure(1002, "reserved opcode")])


@pytest.mark.parametrize("rsv", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_reserved_bits_fail_with_1002(parser_class: type[Parser], rsv: int, opcode: int) -> None:
    assert_events(parser_class, frame(opcode, rsv=rsv), [Failure(1002, "reserved bit set")])


def test_compression_bit_fails_where_it_means_nothing(parser_class: type[Parser]) -> None:
    failure = [Failure(1002, "reserved bit set")]

    assert_events(parser_class, frame(PING, rsv=4), failure, agreed=deflate())
    assert_events(parser_class, frame(TEXT, b"a", fin=False) + frame(0, b"b", rsv=4), failure, agreed=deflate())
    assert_events(parser_class, frame(TEXT, compress(b"a"), rsv=6), failure, agreed=deflate())


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_unmasked_frame_fails_with_1002(parser_class: type[Parser], opcode: int) -> None:
    assert_events(parser_class, frame(opcode, b"", mask=None), [Failure(1002, "frame not masked")])


def test_orphan_continuation_fails_with_1002(parser_class: type[Parser]) -> None:
    failure = Failure(1002, "nothing to continue")

    assert_events(parser_class, frame(0, b"x"), [failure])
    assert_events(parser_class, message(TEXT, b"a", b"b") + frame(0, b"x", fin=False), ["ab", failure])


def test_message_inside_a_fragmented_one_fails_with_1002(parser_class: type[Parser]) -> None:
    data = frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")

    assert_events(parser_class, data, [Failure(1002, "message inside a fragmented message")])


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frame_over_125_bytes_fails_with_1002(parser_class: type[Parser], opcode: int) -> None:
    assert_events(parser_class, frame(opcode, b"x" * 126), [Failure(1002, "control frame too long")])
    assert_events(parser_class, frame(opcode, b"", length_bytes=8), [Failure(1002, "control frame too long")])


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_fragmented_control_frame_fails_with_1002(parser_class: type[Parser], opcode: int) -> None:
    assert_events(parser_class, frame(opcode, b"", fin=False), [Failure(1002, "control frame fragmented")])


@pytest.mark.parametrize(("length_bytes", "length"), [(2, 0), (2, 125), (8, 0), (8, 125), (8, 126), (8, 65535)])
def test_length_that_is_not_minimal_fails_with_1002(parser_class: type[Parser], length_bytes: int, length: int) -> None:
    data = frame(BINARY, b"x" * length, length_bytes=length_bytes)

    assert_events(parser_class, data, [Failure(1002, "length not minimal")])


def test_length_over_63_bits_fails_with_1002(parser_class: type[Parser]) -> None:
    data = frame(BINARY, length=1 << 63, length_bytes=8)

    assert_events(parser_class, data, [Failure(1002, "length out of range")], size=None)


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_code_that_may_not_be_sent_fails_with_1002(parser_class: type[Parser], code: int) -> None:
    assert_events(parser_class, frame(CLOSE, code.to_bytes(2, "big")), [Failure(1002, "close code not allowed")])
    assert not may_be_sent(code)


def test_close_payload_of_one_byte_fails_with_1002(parser_class: type[Parser]) -> None:
    assert_events(parser_class, frame(CLOSE, b"\x03"), [Failure(1002, "close code of one byte")])


def test_close_reason_that_is_not_utf8_fails_with_1007(parser_class: type[Parser]) -> None:
    assert_events(parser_class, frame(CLOSE, b"\x03\xe8\xff"), [Failure(1007, "close reason not UTF-8")])


BAD_TEXTS = [
    (b"\xff", 1),
    (b"\xc0\x80", 1),
    (b"a\x80", 2),
    (b"\xed\xa0\x80", 2),  # a surrogate
    (b"\xf4\x90\x80\x80", 2),  # past U+10FFFF
    (b"\xf5\x80\x80\x80", 1),
    (b"\xe2\x28\xa1", 2),
    (b"\xf0\x9d\x84\x41", 4),
    (b"ok\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited", 15),
]


@pytest.mark.parametrize(("text", "bad"), BAD_TEXTS)
def test_text_that_is_not_utf8_fails_with_1007(parser_class: type[Parser], text: bytes, bad: int) -> None:
    failure = [Failure(1007, "text not UTF-8")]

    assert_events(parser_class, frame(TEXT, text), failure)
    assert_events(parser_class, message(TEXT, *(text[i : i + 1] for i in range(len(text)))), failure)
    assert_events(parser_class, frame(TEXT, compress(text), rsv=4), failure, agreed=deflate())


@pytest.mark.parametrize(("text", "bad"), BAD_TEXTS)
def test_text_fails_at_the_first_bad_byte(parser_class: type[Parser], text: bytes, bad: int) -> None:
    parser = parser_class(LIMIT)
    data = frame(TEXT, text + b"x" * 100)
    header = 6

    for position in range(header + bad - 1):
        assert parser.receive(data[position : position + 1]) == []

    assert parser.receive(data[header + bad - 1 : header + bad]) == [Failure(1007, "text not UTF-8")]


def test_text_that_ends_inside_a_character_fails_with_1007(parser_class: type[Parser]) -> None:
    failure = [Failure(1007, "text not UTF-8")]

    assert_events(parser_class, frame(TEXT, "ä".encode()[:1]), failure)
    assert_events(parser_class, message(TEXT, "ä".encode()[:1], b""), failure)


def test_nothing_comes_after_a_failure(parser_class: type[Parser]) -> None:
    parser = parser_class(LIMIT)

    assert parser.receive(frame(3) + frame(BINARY, b"x")) == [Failure(1002, "reserved opcode")]
    assert parser.receive(frame(BINARY, b"x")) == []
    assert not parser.pending


def test_what_came_before_a_failure_counts(parser_class: type[Parser]) -> None:
    data = frame(BINARY, b"1") + frame(TEXT, b"2") + frame(PING, b"3") + frame(TEXT, b"\xff")

    assert_events(parser_class, data, [b"1", "2", Ping(b"3"), Failure(1007, "text not UTF-8")])


# Limits


def test_message_of_the_limit_passes_and_one_byte_more_fails_with_1009(parser_class: type[Parser]) -> None:
    failure = [Failure(1009, "message too big")]

    assert_events(parser_class, frame(BINARY, b"x" * 100), [b"x" * 100], size=100)
    assert_events(parser_class, frame(BINARY, b"x" * 101), failure, size=100)
    assert_events(parser_class, message(BINARY, b"x" * 50, b"x" * 50), [b"x" * 100], size=100)
    assert_events(parser_class, message(BINARY, b"x" * 50, b"x" * 51), failure, size=100)


@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 40, (1 << 63) - 1])
def test_message_is_refused_by_what_its_header_promises(parser_class: type[Parser], length: int) -> None:
    parser = parser_class(LIMIT)
    header = frame(BINARY, length=length, length_bytes=8)[:10]

    assert parser.receive(header[:9]) == []
    assert parser.receive(header[9:]) == [Failure(1009, "message too big")]


def test_endless_empty_fragments_fail_with_1008(parser_class: type[Parser]) -> None:
    for size in (LIMIT, None):
        parser = parser_class(size)

        events = receive_all(parser, frame(TEXT, fin=False) + frame(0, fin=False) * 10_000)

        assert events == [Failure(1008, "too many fragments")]


def test_fragments_count_against_a_rate(parser_class: type[Parser]) -> None:
    parser = parser_class(LIMIT)

    assert parser.receive(message(BINARY, *[b"x" * 100] * 160)) == [b"x" * 16_000]
    assert parser.cost == 10
    assert parser.receive(frame(BINARY, b"x")) == [b"x"]
    assert parser.cost == 0


def test_one_byte_fragments_of_a_short_message_pass(parser_class: type[Parser]) -> None:
    assert_events(parser_class, message(BINARY, *[b"x"] * 120), [b"x" * 120])


def test_large_message_in_small_fragments_passes_where_the_limit_allows_it(parser_class: type[Parser]) -> None:
    payload = random.Random(1).randbytes(1 << 20)
    data = message(BINARY, *(payload[i : i + 64] for i in range(0, len(payload), 64)))

    assert receive_all(parser_class(None), data) == [payload]


# permessage-deflate


@pytest.mark.parametrize("payload", [b"", b"a", b"hello" * 100, random.Random(3).randbytes(5000)])
def test_compressed_message_comes_inflated(parser_class: type[Parser], payload: bytes) -> None:
    data = compress(payload)

    assert_events(parser_class, frame(BINARY, data, rsv=4), [payload], agreed=deflate())
    pieces = message(BINARY, *(data[i : i + 7] for i in range(0, len(data), 7)), rsv=4)
    assert_events(parser_class, pieces, [payload], agreed=deflate())


def test_compressed_messages_share_their_context(parser_class: type[Parser]) -> None:
    stream = zlib.compressobj(wbits=-15)
    texts = [f"message number {number} of many that are alike".encode() for number in range(20)]
    data = b""
    for text in texts:
        data += frame(TEXT, (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4)

    assert_events(parser_class, data, [text.decode() for text in texts], agreed=deflate())


def test_messages_without_context_are_inflated_each_by_itself(parser_class: type[Parser]) -> None:
    agreed = deflate("permessage-deflate; client_no_context_takeover")
    first = compress(b"the same, the same, the same")

    assert_events(
        parser_class,
        frame(TEXT, first, rsv=4) * 3 + frame(TEXT, b"plain"),
        ["the same, the same, the same"] * 3 + ["plain"],
        agreed=agreed,
    )
    stream = zlib.compressobj(wbits=-15)
    dependent = b"".join(
        frame(TEXT, (stream.compress(b"alike" * 9) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4) for _ in range(2)
    )
    assert receive_all(parser_class(LIMIT, LIMIT, agreed), dependent) == [
        "alike" * 9,
        Failure(1007, "bad deflate data"),
    ]


@pytest.mark.parametrize("bits", range(9, 16))
def test_every_window_is_inflated(parser_class: type[Parser], bits: int) -> None:
    payload = random.Random(bits).randbytes(200) * 250
    agreed = deflate(f"permessage-deflate; client_max_window_bits={bits}")

    assert receive_all(parser_class(LIMIT, LIMIT, agreed), frame(BINARY, compress(payload, wbits=-bits), rsv=4)) == [
        payload
    ]


def test_message_that_ends_in_a_final_block_and_the_next_both_come(parser_class: type[Parser]) -> None:
    first = compress(b"first" * 10, zlib.Z_FINISH)
    second = compress(b"second" * 10, zlib.Z_FINISH) + b"\x00"  # as RFC 7692, 7.2.3.4 has it
    third = compress(b"third" * 10)

    assert_events(
        parser_class,
        b"".join(frame(TEXT, data, rsv=4) for data in (first, second, third, first)),
        ["first" * 10, "second" * 10, "third" * 10, "first" * 10],
        agreed=deflate(),
    )


def test_two_final_blocks_in_one_message_both_count(parser_class: type[Parser]) -> None:
    data = compress(b"one, ", zlib.Z_FINISH) + compress(b"two, ", zlib.Z_FINISH) + compress(b"three")

    assert_events(parser_class, frame(TEXT, data, rsv=4), ["one, two, three"], agreed=deflate())


def test_many_final_blocks_fail_with_1007(parser_class: type[Parser]) -> None:
    data = compress(b"", zlib.Z_FINISH) * 1000

    assert_events(parser_class, frame(TEXT, data, rsv=4), [Failure(1007, "bad deflate data")], agreed=deflate())


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x07\xff", b"hello, this is not deflate", compress(b"x" * 50)[:-1] + b"\xff\xff"]
)
def test_bad_deflate_data_fails_with_1007(parser_class: type[Parser], data: bytes) -> None:
    assert_events(parser_class, frame(BINARY, data, rsv=4), [Failure(1007, "bad deflate data")], agreed=deflate())


def test_inflated_limit_passes_and_one_byte_more_fails_with_1009(parser_class: type[Parser]) -> None:
    failure = [Failure(1009, "message too big after inflating")]

    for pieces in (1, 2):
        for length, expected in ((1000, [b"x" * 1000]), (1001, failure)):
            data = compress(b"x" * length)
            stream = message(BINARY, *([data] if pieces == 1 else [data[:4], data[4:]]), rsv=4)
            assert_events(parser_class, stream, expected, inflated_size=1000, agreed=deflate())


def test_bomb_is_not_inflated_beyond_the_limit(parser_class: type[Parser]) -> None:
    bomb = frame(BINARY, compress(b"\0" * (50 << 20)), rsv=4)
    parser = parser_class(None, LIMIT, deflate())

    assert receive_all(parser, bomb) == [Failure(1009, "message too big after inflating")]


def test_legal_bombs_in_a_row_come_few_at_a_time(parser_class: type[Parser]) -> None:
    bombs = frame(BINARY, compress(b"\0" * LIMIT), rsv=4) * 100
    parser = parser_class(LIMIT, LIMIT, deflate("permessage-deflate; client_no_context_takeover"))

    passes = [parser.receive(bombs)]
    while parser.pending:
        passes.append(parser.receive(b""))

    assert sum(map(len, passes)) == 100
    assert max(map(len, passes)) <= 4


# Writing


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_frame_is_unmasked_and_minimal(length: int) -> None:
    payload = b"x" * length

    assert server_frame(BINARY, payload) == frame(BINARY, payload, mask=None)
    assert server_frame(TEXT, payload, compressed=True) == frame(TEXT, payload, mask=None, rsv=4)


def test_close_payload_is_code_and_reason() -> None:
    assert close_payload(None, None) == b""
    assert close_payload(4401, None) == b"\x11\x31"
    assert close_payload(None, "bye") == b"\x03\xe8bye"
    assert close_payload(1001, "ä") == b"\x03\xe9" + "ä".encode()
    with pytest.raises(ValueError, match="1005"):
        close_payload(1005, None)
    with pytest.raises(ValueError, match="124 bytes"):
        close_payload(1000, "x" * 124)


@pytest.mark.parametrize("length", [*range(20), 1000, 4097])
def test_unmask_is_exclusive_or(parser_class: type[Parser], length: int) -> None:
    data = random.Random(length).randbytes(length)

    assert parser_class._unmask(b"\x00\xff\x12\x34", data) == xor(data, b"\x00\xff\x12\x34")
