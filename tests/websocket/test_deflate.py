"""The negotiation of permessage-deflate, and the two streams by themselves."""

import zlib
from typing import Any

import pytest

from sstream.websocket.deflate import Deflate, DeflateError, Deflater, InflatedSizeError, Inflater, negotiate
from tests.websocket.frames import compress


def agreed(offer: str, **options: Any) -> Deflate:
    deflate = negotiate(offer, options)
    assert deflate is not None
    return deflate


@pytest.mark.parametrize(
    ("offer", "options", "answer"),
    [
        ("permessage-deflate", {}, "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", {}, "permessage-deflate"),
        ("permessage-deflate;client_max_window_bits=11", {}, "permessage-deflate; client_max_window_bits=11"),
        ('permessage-deflate; client_max_window_bits="11"', {}, "permessage-deflate; client_max_window_bits=11"),
        ("permessage-deflate; client_max_window_bits=8", {}, "permessage-deflate; client_max_window_bits=8"),
        ("permessage-deflate; server_max_window_bits=9", {}, "permessage-deflate; server_max_window_bits=9"),
        ("permessage-deflate; server_max_window_bits=15", {}, "permessage-deflate; server_max_window_bits=15"),
        (
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            {},
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("x-unknown; a=1, permessage-deflate", {}, "permessage-deflate"),
        ("permessage-deflate; a=1, permessage-deflate", {}, "permessage-deflate"),
        ("permessage-deflate, ,permessage-deflate", {}, "permessage-deflate"),
        # What the server wants.
        (
            "permessage-deflate",
            {"server_no_context_takeover": True, "client_no_context_takeover": True},
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("permessage-deflate", {"server_max_window_bits": 12}, "permessage-deflate; server_max_window_bits=12"),
        (
            "permessage-deflate; server_max_window_bits=10",
            {"server_max_window_bits": 12},
            "permessage-deflate; server_max_window_bits=10",
        ),
        ("permessage-deflate", {"client_max_window_bits": 10}, "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits",
            {"client_max_window_bits": 10},
            "permessage-deflate; client_max_window_bits=10",
        ),
    ],
)
def test_offer_is_answered(offer: str, options: dict[str, Any], answer: str) -> None:
    assert agreed(offer, **options).header == answer


@pytest.mark.parametrize(
    "offer",
    [
        "",
        ",",
        "x-unknown",
        "permessage-deflate2",
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=x",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate permessage-deflate",
        'permessage-deflate; client_max_window_bits="10',
        "permessage-deflate; é",
        "(",
    ],
)
def test_offer_that_cannot_be_honoured_is_declined(offer: str) -> None:
    assert negotiate(offer, {}) is None


def test_level_and_memory_are_the_handlers() -> None:
    assert agreed("permessage-deflate", compression_level=9, mem_level=3).shape == (15, 9, 3)
    assert agreed("permessage-deflate").shape == (15, 6, 8)


def test_second_message_refers_to_the_first_where_that_was_agreed() -> None:
    text = b"what was said before"
    with_context = Deflater(agreed("permessage-deflate"))
    without = Deflater(agreed("permessage-deflate; server_no_context_takeover"))

    assert len(with_context.compress(text)) > len(with_context.compress(text))
    assert without.compress(text) == without.compress(text)
    with_context.restart()
    assert with_context.compress(text) == without.compress(text)


def test_piece_of_a_message_is_inflated_as_it_comes() -> None:
    inflater = Inflater(agreed("permessage-deflate"))
    data = compress(bytes(range(256)) * 4)

    pieces = [inflater.inflate(data[i : i + 10], None) for i in range(0, len(data), 10)]

    assert b"".join(pieces) + inflater.finish(None) == bytes(range(256)) * 4


def test_empty_payload_is_an_empty_message_and_harms_nothing() -> None:
    # zlib makes no bytes of the second of two empty messages.
    inflater = Inflater(agreed("permessage-deflate"))
    stream = zlib.compressobj(wbits=-15)

    for text in (b"one", b"", b"", b"two"):
        data = stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH)
        data = data[:-4]
        assert inflater.inflate(data, None) + inflater.finish(None) == text


def test_room_is_kept_to_the_byte() -> None:
    data = compress(b"x" * 100)

    assert Inflater(agreed("permessage-deflate")).inflate(data, 100) == b"x" * 100
    with pytest.raises(InflatedSizeError):
        Inflater(agreed("permessage-deflate")).inflate(data, 99)


def test_what_is_no_deflate_is_refused() -> None:
    with pytest.raises(DeflateError):
        Inflater(agreed("permessage-deflate")).inflate(b"\xff\xff", None)
