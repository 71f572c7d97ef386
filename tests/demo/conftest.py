"""The Teahouse in this process, and the whole house as ``python -m demo`` opens it."""

import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from demo.app import make_app
from sstream import Application
from sstream.testing import Process

from .visitor import Visitor

ROOT = Path(__file__).parents[2]


class House(Process):
    """``python -m demo`` as a child; ``page`` and ``express`` are the URLs it told."""

    page: str
    express: str | None = None


@pytest.fixture
def teahouse_redis() -> str | None:
    """Where the Teahouse of this process keeps its sessions; a test module overrides it to have Redis."""
    return None


@pytest.fixture
async def teahouse(teahouse_redis: str | None, expect_log: Callable[..., object]) -> AsyncIterator[Application]:
    if teahouse_redis is None:
        expect_log("sessions are kept in memory", count=1)
    app = make_app(secret="a test's own secret", redis=teahouse_redis)
    await app.start()
    yield app
    await app.close()


@pytest.fixture
async def port(teahouse: Application) -> int:
    """Where it listens."""
    server = teahouse.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    return int(listening.getsockname()[1])


@pytest.fixture
def visitor(port: int) -> Visitor:
    return Visitor(port)


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def house(redis_server: str, free_port: int) -> Iterator[House]:
    """The whole house: Redis, Tornado, Express."""
    with House(
        sys.executable, "-m", "demo", "--port", str(free_port), cwd=ROOT, env={"SSTREAM_REDIS_URL": redis_server}
    ) as house:
        house.wait_for(r"^Ctrl-C", timeout=30)
        house.page = house.wait_for(r"Teahouse +(http://\S+)")[1]
        house.express = house.wait_for(r"Express +(http://\S+)")[1]
        yield house
