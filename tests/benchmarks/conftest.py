"""One compiled load generator and one sstream server for all."""

from collections.abc import Iterator

import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.generator import Programs
from benchmarks.servers import Server


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    with Programs() as compiled:
        yield compiled


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server("sstream", CONTENDERS["sstream"]) as running:
        yield running
