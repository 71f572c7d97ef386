"""Fixtures for pytest: ``pytest_plugins = ["sstream.testing.pytest"]`` in the topmost conftest.py.

They stand on a fixture ``app`` of yours, which returns the `Application`, and work on the event loop of the test:
pytest-asyncio's, or pytest-tornado's where the test is a ``gen_test`` or asks for ``io_loop``.

* ``site``: the application on a free port, a `Site`.
* ``clock``: a `Clock`, for ``Application(..., clock=clock)``.
* ``published``: what the application publishes, a `Capture`.
"""

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from sstream.application import Application
from sstream.testing.capture import Capture, capture
from sstream.testing.clock import Clock
from sstream.testing.site import Site, serve

__all__ = ["clock", "published", "site"]

_async_fixture: Callable[..., Any]
try:
    _async_fixture = importlib.import_module("pytest_asyncio").fixture
except ImportError:
    _async_fixture = pytest.fixture  # then no test will ask for it


@pytest.fixture
def clock() -> Clock:
    """A clock that the test turns."""
    return Clock()


@pytest.fixture
def published(app: Application) -> Iterator[Capture]:
    """What the application publishes."""
    with capture(app) as published:
        yield published


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    """The application on a free port; browsers and application are closed in the end."""
    marks = {mark.name for mark in request.node.iter_markers()}
    # pytest-asyncio's automatic mode gives its mark to every async test, and runs it.
    on_asyncio = "asyncio" in marks or not ("gen_test" in marks or "io_loop" in request.fixturenames)
    found: Site = request.getfixturevalue("_site_on_asyncio" if on_asyncio else "_site_on_tornado")
    return found


async def _serve_on_asyncio(app: Application) -> AsyncIterator[Site]:
    async with serve(app) as site:
        yield site


_site_on_asyncio = _async_fixture(_serve_on_asyncio)


@pytest.fixture
def _site_on_tornado(io_loop: Any, app: Application) -> Iterator[Site]:
    served = serve(app)
    yield io_loop.run_sync(served.__aenter__)
    io_loop.run_sync(lambda: served.__aexit__(None, None, None))
