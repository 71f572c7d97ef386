"""What every test here has: a store of each kind, and the application served."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from sstream import Application, Limits, MemoryStore, RedisStore, SessionOptions
from sstream.testing import Clock, FaultProxy, Site, StoreProbe, serve

from .live import PAGES, SECRET, Live, ServeLive


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> StoreProbe:
    """A store of each kind."""
    if request.param == "memory":
        return StoreProbe(MemoryStore())
    return StoreProbe(RedisStore(request.getfixturevalue("redis_url"), deadline=20.0))


@pytest.fixture
def memory() -> StoreProbe:
    """A store in memory, where it does not matter which."""
    return StoreProbe(MemoryStore())


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[FaultProxy]:
    """A Redis that may be away; it stands before ``serve_live`` in a test, so that it is closed behind it."""
    async with FaultProxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy


@pytest.fixture
async def serve_live() -> AsyncIterator[ServeLive]:
    """``await serve_live(store, Handler, renew_grace=1)``: it is at /ws, a few pages beside it."""
    async with AsyncExitStack() as stack:

        async def serve_live(
            store: StoreProbe,
            *handlers: Any,
            limits: Limits | None = None,
            broker: Any = None,
            clock: Clock | None = None,
            **options: Any,
        ) -> Site:
            routes = [handler if isinstance(handler, tuple) else ("/ws", handler) for handler in handlers or (Live,)]
            session = SessionOptions(**{"secret": SECRET, **options})
            application = Application(
                [*routes, *PAGES], store=store, broker=broker, session=session, limits=limits, clock=clock
            )
            return await stack.enter_async_context(serve(application))

        yield serve_live
