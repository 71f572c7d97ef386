"""The 247 fast cases of the Autobahn testsuite, on each wire and with each parser; ``make autobahn`` runs all 517."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.websocket.autobahn import FAST, NO_PYTHON2, PARSERS, WIRES, WSTEST, examine, find_python2

SERVERS = list(itertools.product(WIRES, PARSERS))

Outcome = tuple[str, list[str]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Future[Outcome]]]:
    if find_python2() is None:
        pytest.skip(NO_PYTHON2)
    if not WSTEST.exists():
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing("the Autobahn testsuite is not installed: `make autobahn` does that")
    folder = tmp_path_factory.mktemp("autobahn")
    # All at once: the suite mostly waits.
    with ThreadPoolExecutor(len(SERVERS)) as pool:
        yield {server: pool.submit(examine, *server, FAST, folder) for server in SERVERS}


@pytest.mark.parametrize("server", SERVERS, ids="-".join)
def test_fast_cases_of_autobahn_are_all_good(
    server: tuple[str, str], outcomes: dict[tuple[str, str], Future[Outcome]]
) -> None:
    summary, bad = outcomes[server].result(timeout=300)

    assert not bad, "\n".join([summary, *bad])
    assert "247 cases" in summary
