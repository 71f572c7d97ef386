"""What real clients sent (record.py), cut at every byte."""

import json
from pathlib import Path

import pytest

from sstream.websocket.deflate import Deflate, negotiate
from sstream.websocket.frames import Close, Event, Parser, Ping
from tests.websocket.parsers import PARSERS
from tests.websocket.record import SAYS

RECORDED = sorted(Path(__file__).with_name("recorded").glob("*.bin"))
SAID = [message for text in SAYS for message in (text, text.encode())]


def load(file: Path) -> tuple[Deflate | None, bytes, list[Event]]:
    line, _, data = file.read_bytes().partition(b"\n")
    agreement = json.loads(line)
    expected: list[Event] = [*SAID, Close(4000, "done")]
    if agreement["client"] == "websockets":
        expected[-1:-1] = [Ping(b"there?"), "one, two, three"]
    return negotiate(agreement["deflate"], {}), data, expected


def test_there_is_something_recorded() -> None:
    assert [file.name for file in RECORDED] == [
        "node-deflate.bin",
        "node.bin",
        "websockets-deflate.bin",
        "websockets.bin",
    ]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_what_was_said_is_heard_one_byte_at_a_time(file: Path, parser: type[Parser]) -> None:
    deflate, data, expected = load(file)
    cutter = parser(None, None, deflate)

    assert [event for byte in data for event in cutter.receive(bytes([byte]))] == expected


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_what_was_said_is_heard_wherever_it_is_cut(file: Path, parser: type[Parser]) -> None:
    deflate, data, expected = load(file)
    # Every byte of the frames' headers, and some of the long payloads.
    for cut in (cut for cut in range(len(data)) if cut < 1000 or len(data) - cut < 200 or not cut % 97):
        cutter = parser(None, None, deflate)

        assert cutter.receive(data[:cut]) + cutter.receive(data[cut:]) == expected, cut
