"""Streams of frames, good, bad and mutilated: every parser says the same however they are cut, and what wsproto says.

SSTREAM_FUZZ is the number of streams, 2,000 by default and 50,000 where the CI runs this; SSTREAM_FUZZ_SEED the first
seed. A failure names its seed.
"""

import gc
import multiprocessing
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.websocket import fuzz
from tests.websocket.frames import frame
from tests.websocket.parsers import PARSERS

STREAMS = int(os.environ.get("SSTREAM_FUZZ", "2000"))
SEED = int(os.environ.get("SSTREAM_FUZZ_SEED", "0"))
HANG = 600  # seconds in which a block must have ended


def test_parsers_agree_with_each_other_and_with_wsproto() -> None:
    cores = len(os.sched_getaffinity(0))
    blocks = [range(*edges) for edges in pairwise([*range(SEED, SEED + STREAMS, 1000), SEED + STREAMS])]
    # In processes of their own: a crash fails this test and not all of them, and every core helps.
    context = multiprocessing.get_context("spawn")

    with ProcessPoolExecutor(min(cores, len(blocks)), context, fuzz.make_oracle_strict) as pool:
        messages = sum(pool.map(fuzz.play, blocks, timeout=HANG))

    assert messages > STREAMS  # most streams say something before they go wrong


def test_parsers_keep_nothing_of_what_they_have_read() -> None:
    def read_all() -> int:
        for _, _, deflates, data in fuzz.streams(range(300)):
            for parser in PARSERS:
                fuzz.receive(parser(None, None, fuzz.AGREED if deflates else None), [data])
        gc.collect()
        return sys.getallocatedblocks()

    first, second = read_all(), read_all()
    kept = read_all() - second

    # Less than one block for ten of the 900 parsers: what the interpreter keeps by itself.
    assert kept < 90, (first, second, kept)


FRAMES = st.builds(
    frame,
    st.sampled_from([0, 1, 2, 2, 2, 8, 9, 10, 3]),
    st.binary(max_size=200) | st.text(max_size=60).map(str.encode),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 4, 1]),
    mask=st.sampled_from([b"\0\0\0\0", b"\x01\x80\xff\x7f", None]),
    length_bytes=st.sampled_from([None, None, None, 2, 8]),
)


@given(stream=st.lists(FRAMES | st.binary(max_size=20), max_size=8).map(b"".join), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("deflates", [False, True])
def test_parsers_agree_on_what_hypothesis_finds(deflates: bool, stream: bytes, seed: int) -> None:
    fuzz.examine(stream, random.Random(seed), deflates)
