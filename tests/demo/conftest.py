"""The Teahouse in this process, and the whole house as ``python -m demo`` opens it."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from demo.app import Teahouse
from sstream.testing import Process
from tests.ports import free_port

from .visitor import Visitor

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)  # as good as none: a test has nothing to guard

ROOT = Path(__file__).parents[2]


class House(Process):
    """``python -m demo`` as a child, and the URLs it told."""

    page: str  # where both servers are
    servers: dict[str, str]  # by their names, A and B
    pids: dict[str, int]
    express: str


@pytest.fixture
def teahouse_redis() -> str | None:
    """Where the Teahouse of this process keeps its sessions; a test module overrides it to have Redis."""
    return None


@pytest.fixture
async def teahouse(teahouse_redis: str | None, expect_log: Callable[..., object]) -> AsyncIterator[Teahouse]:
    if teahouse_redis is None:
        expect_log("sessions are kept in memory", count=1)
    app = Teahouse(secret="a test's own secret", redis=teahouse_redis)
    app.accounts.hasher = CHEAP
    await app.start()
    yield app
    await app.close()


@pytest.fixture
async def port(teahouse: Teahouse) -> int:
    """Where it listens."""
    server = teahouse.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    return int(listening.getsockname()[1])


@pytest.fixture
def visitor(port: int) -> Visitor:
    return Visitor(port)


@pytest.fixture(scope="session", name="free_port")
def one_free_port() -> int:
    """A port with free ones behind it."""
    return free_port()


@pytest.fixture(scope="module")
def house(redis_server: str, free_port: int) -> Iterator[House]:
    """The whole house: Redis, two servers, Express."""
    with House(
        sys.executable, "-m", "demo", "--port", str(free_port), cwd=ROOT, env={"SSTREAM_REDIS_URL": redis_server}
    ) as house:
        house.wait_for(r"^Ctrl-C", timeout=60)
        house.page = house.wait_for(r"Open +(http://\S+)")[1]
        told = {name: house.wait_for(rf"Server {name} +(http://\S+) +kill -9 (\d+)") for name in "AB"}
        house.servers = {name: match[1] for name, match in told.items()}
        house.pids = {name: int(match[2]) for name, match in told.items()}
        house.express = house.wait_for(r"Express +(http://\S+)")[1]
        yield house
