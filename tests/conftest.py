"""What every test has: an event loop, real servers, and a look for what it left behind."""

import asyncio
import functools
import gc
import inspect
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis
from tornado.ioloop import IOLoop
from tornado.platform.asyncio import AsyncIOMainLoop

from sstream import Application
from sstream.settings import all_settings
from sstream.testing import RedisServer, ToolMissing, find_chromium, find_node, set_patience

SETTLE = 20.0  # seconds in which tasks that are about to end must have ended
WATCHED = ("sstream", "tornado", "asyncio")
CI = os.environ.get("CI") == "true"

# How long an example takes says more about the machine than about us. CI tries the same examples each time.
hypothesis.settings.register_profile("sstream", deadline=None, derandomize=CI, print_blob=True)
hypothesis.settings.load_profile("sstream")

set_patience(20.0)  # seconds; only a failure meets it

# Seconds; of every application that does not say otherwise, in child processes too. A machine that stands still for the
# default, a second, is no Redis that is away.
STORE_DEADLINE = 20.0


def pytest_configure() -> None:
    # What is set on this machine for an application concerns no test, and no process that a test starts.
    for setting in all_settings(Application):
        os.environ.pop(setting.variable, None)
    os.environ["SSTREAM_LIMITS_STORE_DEADLINE"] = str(STORE_DEADLINE)


# Where several processes share the tests, file by file, the longest come first: in the end none works while all wait.
LONGEST = (
    "consistency/test_consistency.py",
    "demo/test_browser.py",
    "demo/test_main.py",
    "inspector/test_browser.py",
    "test_tutorial.py",
    "websocket/test_autobahn.py",
    "test_draining.py",
    "websocket/test_fuzz.py",
    "testing/test_styles.py",
    "client/test_recipes.py",
    "client/test_firefox.py",
    "test_packaging.py",
    "commands/test_run.py",
    "test_reliability.py",
    "pubsub/test_processes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    paths = [Path(__file__).parent / name for name in LONGEST]
    many = Counter(item.path for item in items)
    items.sort(key=lambda item: (paths.index(item.path) if item.path in paths else len(paths), -many[item.path]))


# Async tests and fixtures


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> None:
    """Every ``async def test_...`` is a ``gen_test``: run by pytest-tornado, on ``io_loop``, under its one timeout."""
    function = getattr(obj, "__func__", obj)
    if not (collector.funcnamefilter(name) and inspect.iscoroutinefunction(inspect.unwrap(function))):
        return
    marks = getattr(function, "pytestmark", [])
    # A contract's test is collected once for each subclass; the function is one and the same.
    if not any(mark.name == "gen_test" for mark in marks):
        pytest.mark.gen_test(function)
    if not any(mark.name == "usefixtures" and "io_loop" in mark.args for mark in marks):
        pytest.mark.usefixtures("io_loop")(function)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Iterator[None]:
    """Fixtures may be ``async def`` too, with ``yield`` or without; they run on ``io_loop``."""
    function = fixturedef.func
    if inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function):
        loop = request.getfixturevalue("io_loop")
        timeout = request.config.getoption("async_test_timeout")
        fixturedef.func = _on_loop(function, request.instance, loop, timeout)
        try:
            return (yield)
        finally:
            fixturedef.func = function
    return (yield)


def _on_loop(function: Any, instance: Any, loop: IOLoop, timeout: float) -> Callable[..., Any]:
    if instance is not None and isinstance(instance, type(getattr(function, "__self__", None))):
        # pytest made the fixture with an instance of its own; the test has another.
        function = function.__func__.__get__(instance)

    if inspect.iscoroutinefunction(function):
        return lambda **arguments: loop.run_sync(functools.partial(function, **arguments), timeout=timeout)

    def generate(**arguments: Any) -> Iterator[Any]:
        generator = function(**arguments)
        yield loop.run_sync(lambda: anext(generator), timeout=timeout)
        with pytest.raises(StopAsyncIteration):
            loop.run_sync(lambda: anext(generator), timeout=timeout)

    return generate


@pytest.fixture
def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes the asyncio loop of a test; override it to run on another, e.g. ``uvloop.new_event_loop``."""
    return asyncio.new_event_loop


@pytest.fixture
def io_loop(event_loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[IOLoop]:
    """The Tornado loop of this test; tasks and sockets that it leaves behind fail it.

    Takes the place of pytest-tornado's, which uses what Tornado has deprecated.
    """
    loop = event_loop_factory()
    asyncio.set_event_loop(loop)
    io_loop = AsyncIOMainLoop(make_current=False)
    try:
        yield io_loop
        left = loop.run_until_complete(_settle(io_loop))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        io_loop.close(all_fds=True)
        # Now, not in some later test: "exception was never retrieved", "unclosed transport".
        gc.collect()
    if left:
        pytest.fail("left running:\n" + "\n".join(left), pytrace=False)


async def _settle(io_loop: IOLoop) -> list[str]:
    """Wait for what is about to end, and tell what does not: tasks, and sockets that the loop still watches."""
    this = asyncio.current_task()
    deadline = time.monotonic() + SETTLE
    while True:
        tasks = [task for task in asyncio.all_tasks() if task is not this]
        sockets = _watched(io_loop)
        if not (tasks or sockets) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.005)
    left = [f"  {item!r}" for item in (*tasks, *sockets)]
    # One complaint is enough: end them, so that no later test hears of them.
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for item in sockets:
        if isinstance(item, asyncio.WriteTransport):
            item.abort()
    return left


def _watched(io_loop: IOLoop) -> list[Any]:
    watched: list[Any] = [fileobj for fileobj, _ in io_loop.handlers.values()]  # type: ignore[attr-defined]
    # asyncio 3.11 to 3.13, selector_events.py: its transports, those that have paused too; and what add_reader and
    # add_writer were given, the data of whose key are the reader's and the writer's handle. uvloop tells neither.
    loop: Any = io_loop.asyncio_loop  # type: ignore[attr-defined]
    transports = {
        fd: transport for fd, transport in getattr(loop, "_transports", {}).items() if not transport.is_closing()
    }
    watched += transports.values()
    selector = getattr(loop, "_selector", None)
    for key in selector.get_map().values() if selector is not None else ():
        if key.fd not in {loop._ssock.fileno(), *transports, *io_loop.handlers}:  # type: ignore[attr-defined]
            owners = (getattr(handle._callback, "__self__", None) for handle in key.data if handle is not None)
            watched.append(next(owners, None) or key.fileobj)
    return watched


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[None]:
    """Collect garbage before a failure is described, and not while it is.

    Describing parses sources, and Python 3.11 ends the session with a SystemError if something left unclosed is
    collected in the midst of that.
    """
    if call.excinfo is None:
        return (yield)
    gc.collect()
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    # What was imported so far stays for ever: each gc.collect() need not walk through it.
    gc.collect()
    gc.freeze()


# Log lines


class Expected:
    """Log lines that a test expects; ``records`` has those that came."""

    def __init__(self, pattern: str, logger: str, level: int, count: int | None, required: bool) -> None:
        self.pattern = pattern
        self.records: list[logging.LogRecord] = []
        self._expression = re.compile(pattern)
        self._logger = logger
        self._level = level
        self._count = count
        self._required = required

    def takes(self, record: logging.LogRecord) -> bool:
        named = record.name == self._logger or record.name.startswith(f"{self._logger}.")
        if not named or record.levelno < self._level or not self._expression.search(record.getMessage()):
            return False
        self.records.append(record)
        return True

    def complaint(self) -> str | None:
        if self._count is not None and len(self.records) != self._count:
            return f"  expected {self._count} of {self.pattern!r} from {self._logger}, got {len(self.records)}"
        if self._required and not self.records:
            return f"  expected {self.pattern!r} from {self._logger}, got none"
        return None


class LogWatch(logging.Handler):
    """Sorts the log lines of one test into expected and unexpected ones."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.expected: list[Expected] = []
        self.unexpected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if any(expected.takes(record) for expected in self.expected):
            return
        # A page that answers 4xx is noted by Tornado as a warning; that is the page's business.
        if record.name == "tornado.access" and record.levelno < logging.ERROR:
            return
        self.unexpected.append(f"  {record.levelname} {record.name}: {self.format(record)}")

    def complaints(self) -> list[str]:
        return self.unexpected + [text for expected in self.expected if (text := expected.complaint())]


@pytest.fixture(autouse=True)
def log_watch() -> Iterator[LogWatch]:
    """Fails a test during which sstream, Tornado or asyncio logged a warning or worse that it did not expect."""
    watch = LogWatch()
    for name in WATCHED:
        logging.getLogger(name).addHandler(watch)
    yield watch
    for name in WATCHED:
        logging.getLogger(name).removeHandler(watch)
    if complaints := watch.complaints():
        pytest.fail("log lines:\n" + "\n".join(complaints), pytrace=False)


@pytest.fixture
def expect_log(log_watch: LogWatch) -> Callable[..., Expected]:
    """``expect_log(pattern, logger="sstream", ...)``: from now on, lines like this are expected.

    At least one must come until the test is over; exactly ``count`` if that is given; ``required=False`` only allows
    them. What came is in ``.records`` of the value.
    """

    def expect(
        pattern: str,
        logger: str = "sstream",
        *,
        level: int = logging.WARNING,
        count: int | None = None,
        required: bool = True,
    ) -> Expected:
        expected = Expected(pattern, logger, level, count, required)
        log_watch.expected.append(expected)
        return expected

    return expect


# Programs


@pytest.fixture(scope="session")
def need() -> Callable[[Callable[[], Any]], Any]:
    """``need(find_node)``: what it finds; if it is missing, the test is skipped, and under CI it fails."""

    def need(find: Callable[[], Any]) -> Any:
        try:
            return find()
        except (ToolMissing, ImportError) as error:
            if CI:
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))

    return need


@pytest.fixture(scope="session")
def node(need: Callable[..., Any]) -> Path:
    """A node that is new enough."""
    return need(find_node)


@pytest.fixture(scope="session")
def chromium(need: Callable[..., Any]) -> Path:
    """A Chromium."""
    return need(find_chromium)


@pytest.fixture(scope="session")
def redis_server(need: Callable[..., Any]) -> Iterator[str]:
    """The URL of a Redis server that all tests of this process share: SSTREAM_REDIS_URL, else one started for them.

    Of several processes that share the tests, the first takes SSTREAM_REDIS_URL: events know no databases.
    """
    is_first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    if is_first and (url := os.environ.get("SSTREAM_REDIS_URL")):
        yield url
        return
    server = need(RedisServer)
    yield server.url
    server.stop()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty database on the shared server. Do not torment that server; take ``own_redis`` for it."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server


@pytest.fixture
def own_redis(need: Callable[..., Any]) -> Iterator[RedisServer]:
    """A Redis server of this test alone, which may freeze, kill and restart it."""
    server = need(RedisServer)
    yield server
    server.stop()
