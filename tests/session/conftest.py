"""Processes on one store: each with its own registry of sessions, in memory and in Redis alike."""

import pytest

from sstream.session.connection import ConnectionSession
from sstream.session.options import SessionOptions
from sstream.session.redis import RedisStore
from sstream.session.sessions import Sessions
from sstream.session.store import MemoryStore
from sstream.testing import Clock, StoreProbe, eventually

PATIENCE = 20.0  # seconds; only a failure meets it

pytest.register_assert_rewrite("tests.session.contract")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "redis"])
def new_store(request, clock):
    """Makes stores on one and the same data."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda: RedisStore(url, deadline=PATIENCE)
    first = MemoryStore(clock=clock)
    return first.share


@pytest.fixture
async def start_process(new_store, clock):
    """Makes registries of sessions as separate processes have them; ``.store`` is a `StoreProbe`."""
    processes = []

    async def start_process(store=None, *, deadline=PATIENCE, **options) -> Sessions:
        store = store if store is not None else StoreProbe(new_store())
        options = {"secret": "a test's own secret", **options}
        sessions = Sessions(store, SessionOptions(**options), deadline=deadline, clock=clock)
        processes.append(sessions)
        await store.start()
        await eventually(lambda: store.coherent, "the store is not coherent")
        return sessions

    yield start_process
    for sessions in processes:
        await sessions.close()
        await sessions.store.close()


@pytest.fixture
async def here(start_process):
    """The registry of one process."""
    return await start_process()


@pytest.fixture
async def there(start_process, here):
    """The registry of another process on the same data."""
    return await start_process()


class Socket:
    """An open socket as far as its session concerns it; notes what it hears."""

    def __init__(self, sessions: Sessions) -> None:
        self.connection = ConnectionSession(sessions, self, is_https=False)
        self.changed: list[set[str]] = []
        self.saved: list[set[str]] = []
        self.ended: list[str] = []
        self.offered: list[str] = []
        self.restarts = False  # does it go on with a fresh session when its own has ended?

    @property
    def session(self):
        return self.connection.session

    def turn(self):
        return self.connection.turn()

    def session_changed(self, keys: frozenset[str]) -> None:
        self.changed.append(set(keys))

    def session_saved(self, keys: frozenset[str]) -> None:
        self.saved.append(set(keys))

    def session_moved(self) -> None: ...

    def session_ended(self, reason: str) -> None:
        self.ended.append(reason)
        if self.restarts:
            self.connection.restart()

    def session_offered(self, ticket: str) -> None:
        self.offered.append(ticket)


@pytest.fixture
async def open_socket():
    """Opens sockets in a process, with the id that came in the handshake's cookie; they are closed in the end."""
    sockets = []

    async def open_socket(sessions: Sessions, sid: str | None = None) -> Socket:
        socket = Socket(sessions)
        sockets.append(socket)
        await socket.connection.open(sid)
        return socket

    yield open_socket
    for socket in sockets:
        socket.connection.close()
