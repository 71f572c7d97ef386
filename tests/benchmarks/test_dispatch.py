"""The study of dispatch alone: every contender answers, and by hand it means the same."""

import msgpack
import pytest

from benchmarks import dispatch
from sstream.testing import eventually


async def test_every_contender_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[bytes | str] = []
    monkeypatch.setattr(dispatch, "nowhere", replies.append)
    with dispatch.contenders() as found:
        asked = [(receive, payload) for receive, payload in found.values() if isinstance(payload, bytes)]
        for receive, payload in asked:
            receive(payload)
        await eventually(lambda: len(replies) == len(asked), "somebody has not answered")

    assert {tuple(msgpack.unpackb(reply)) for reply in replies} == {(1, 300, None, 5)}


def test_it_gives_a_figure_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "CALLS", 32)
    monkeypatch.setattr(dispatch, "SAMPLES", 2)

    table = dispatch.study("", 1)

    assert {"sstream, typed", "sstream, untyped", "msgpack, checked by hand"} <= set(table)
    assert all(len(row["us"]) == 2 and min(row["us"]) > 0 for row in table.values())
