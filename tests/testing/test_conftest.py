"""The ground all tests stand on: async tests run, and what a test leaves behind fails it; tried in a pytest apart."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

SAMPLE = """
import asyncio
import gc
import logging

import pytest
import redis.asyncio
import tornado.httpserver
import tornado.web
import tornado.websocket
from tornado.ioloop import IOLoop

left = []


class Page(tornado.web.RequestHandler):
    def get(self):
        self.write("hello")


class Broken(tornado.web.RequestHandler):
    def get(self):
        raise ValueError("broken")


class Echo(tornado.websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message)


@pytest.fixture
def app():
    return tornado.web.Application([("/", Page), ("/broken", Broken), ("/ws", Echo)])


def websocket(base_url):
    return tornado.websocket.websocket_connect(base_url.replace("http", "ws") + "/ws")


async def test_good_page(http_client, base_url):
    assert (await http_client.fetch(base_url)).body == b"hello"


async def test_good_loop(io_loop):
    async with asyncio.timeout(10):
        assert asyncio.current_task() is not None
        assert IOLoop.current() is io_loop
        assert io_loop.asyncio_loop is asyncio.get_running_loop()


@pytest.mark.usefixtures("tmp_path")
async def test_good_fixtures_of_its_own(io_loop):
    assert IOLoop.current() is io_loop


class TestOnUvloop:
    @pytest.fixture
    def event_loop_factory(self):
        return pytest.importorskip("uvloop").new_event_loop

    async def test_good_other_loop(self, http_client, base_url):
        assert "uvloop" in repr(asyncio.get_running_loop())
        assert (await http_client.fetch(base_url)).body == b"hello"

    async def test_error_task_left_on_another_loop(self):
        left.append(asyncio.create_task(asyncio.sleep(60)))

    async def test_error_server_left_on_another_loop(self):
        tornado.httpserver.HTTPServer(tornado.web.Application()).listen(0, "127.0.0.1")


async def test_good_not_found_is_no_log_line_that_fails(http_client, base_url):
    assert (await http_client.fetch(base_url + "/nowhere", raise_error=False)).code == 404


async def test_good_websocket(http_server, base_url):
    connection = await websocket(base_url)
    await connection.write_message("tea")
    assert await connection.read_message() == "tea"
    connection.close()


async def test_good_task_that_is_about_to_end():
    left.append(asyncio.create_task(asyncio.sleep(0.05)))


@pytest.mark.gen_test(timeout=0.1)
async def test_late():
    await asyncio.sleep(60)


@pytest.fixture
async def coroutine(io_loop):
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


@pytest.fixture
async def generator(coroutine):
    yield coroutine
    await asyncio.sleep(0)
    left.append("generator done")


async def test_good_async_fixtures(generator):
    assert generator is asyncio.get_running_loop()


def test_good_generator_fixture_went_on_after_its_test():
    assert "generator done" in left


@pytest.fixture
async def yields_twice():
    yield 1
    yield 2


async def test_error_fixture_that_yields_twice(yields_twice):
    pass


class Contract:
    @pytest.fixture
    async def mine(self):
        self.value = await asyncio.sleep(0, "set by the fixture")

    @pytest.mark.parametrize("number", [1, 2])
    async def test_good_method(self, mine, number):
        assert self.value == "set by the fixture" and number in (1, 2)


class TestOne(Contract):
    pass


class TestTwo(Contract):
    pass


def test_good_expected_log(expect_log):
    expected = expect_log("cold", "sstream.tea")
    logging.getLogger("sstream.tea.pot").warning("the tea is %s", "cold")
    assert [record.levelname for record in expected.records] == ["WARNING"]


def test_good_allowed_log(expect_log):
    expect_log("cold", required=False)


def test_error_unexpected_log():
    logging.getLogger("sstream.tea").warning("cold")


def test_error_log_of_another_logger(expect_log):
    expect_log("cold", "sstream.tea", required=False)
    logging.getLogger("sstream.teapot").warning("cold")


def test_error_log_of_another_text(expect_log):
    expect_log("cold", required=False)
    logging.getLogger("sstream.tea").warning("hot")


def test_error_log_below_the_level(expect_log):
    expect_log("cold", level=logging.ERROR, required=False)
    logging.getLogger("sstream.tea").warning("cold")


def test_error_expected_log_that_did_not_come(expect_log):
    expect_log("cold")


def test_error_expected_log_that_came_too_often(expect_log):
    expect_log("cold", count=1)
    for _ in range(2):
        logging.getLogger("sstream.tea").warning("cold")


def test_error_log_before_it_was_expected(expect_log):
    logging.getLogger("sstream.tea").warning("cold")
    expect_log("cold", required=False)


async def test_error_uncaught_exception_in_a_handler(http_client, base_url):
    assert (await http_client.fetch(base_url + "/broken", raise_error=False)).code == 500


async def test_error_exception_of_a_task_that_nobody_heard():
    async def fail():
        raise ValueError("unheard")

    asyncio.create_task(fail())
    await asyncio.sleep(0)


async def test_error_task_left():
    left.append(asyncio.create_task(asyncio.sleep(60)))


async def test_error_server_left():
    server = tornado.httpserver.HTTPServer(tornado.web.Application())
    server.listen(0, "127.0.0.1")


async def test_error_websocket_left(http_server, base_url):
    left.append(await websocket(base_url))


async def test_error_redis_left(redis_url):
    client = redis.asyncio.from_url(redis_url)
    left.append(client)
    await client.ping()


async def test_failed_warning():
    import warnings

    warnings.warn("old", DeprecationWarning)


async def test_good_redis(redis_url):
    async with redis.asyncio.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set("tea", "green")


async def test_good_redis_is_empty_again(redis_url):
    async with redis.asyncio.from_url(redis_url) as client:
        assert await client.dbsize() == 0


def test_good_own_redis(own_redis, redis_url):
    assert own_redis.url != redis_url


def test_skipped_missing_tool(need):
    from sstream.testing import ToolMissing

    def find():
        raise ToolMissing("no teapot")

    need(find)
"""


def run(folder: Path, sample: str, *arguments: str, **env: str) -> str:
    tests = folder / "tests"
    tests.mkdir()
    conftest = (ROOT / "tests/conftest.py").read_text()
    assert "SETTLE = 20.0" in conftest
    (tests / "conftest.py").write_text(conftest.replace("SETTLE = 20.0", "SETTLE = 0.2"))
    (tests / "test_sample.py").write_text(sample)
    shutil.copy(ROOT / "pyproject.toml", folder)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, need: Callable[..., Any]) -> str:
    return run(tmp_path_factory.mktemp("sample"), SAMPLE)


def outcomes(report: str) -> dict[str, set[str]]:
    summary = report.partition("short test summary info")[2]
    found: dict[str, set[str]] = {}
    for outcome, name in re.findall(
        r"^(PASSED|FAILED|ERROR) tests/test_sample\.py::([\w:\[\]]+)", summary, re.MULTILINE
    ):
        found.setdefault(name.rpartition("::")[2], set()).add(outcome)
    return found


NAMES = re.findall(r"def (test_(?:good|error)_\w+)", SAMPLE)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("test_good")])
def test_sample_passes(report: str, name: str) -> None:
    found = {key: value for key, value in outcomes(report).items() if key.partition("[")[0] == name}

    assert found
    assert all(value == {"PASSED"} for value in found.values()), found


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("test_error")])
def test_sample_is_caught_when_it_is_over(report: str, name: str) -> None:
    assert outcomes(report)[name] == {"PASSED", "ERROR"}


def test_late_test_fails(report: str) -> None:
    assert outcomes(report)["test_late"] == {"FAILED"}
    assert "TimeoutError: Operation timed out after 0.1 seconds" in report


def test_warning_fails(report: str) -> None:
    assert outcomes(report)["test_failed_warning"] == {"FAILED"}


@pytest.mark.parametrize(
    "text",
    [
        "left running:\n  <Task pending",
        "left running:\n  <socket.socket",
        "left running:\n  <_SelectorSocketTransport",
        "log lines:\n  WARNING sstream.tea: cold",
        "log lines:\n  ERROR tornado.application: Uncaught exception GET /broken",
        "log lines:\n  ERROR asyncio: Task exception was never retrieved",
        "log lines:\n  expected 'cold' from sstream, got none",
        "log lines:\n  expected 1 of 'cold' from sstream, got 2",
    ],
)
def test_report_says_what_was_left(report: str, text: str) -> None:
    assert text in report


def test_missing_tool_skips_with_the_reason(report: str) -> None:
    assert re.search(r"^SKIPPED \[1\] .*: no teapot$", report, re.MULTILINE)


def test_missing_tool_fails_under_ci(tmp_path: Path) -> None:
    report = run(tmp_path, SAMPLE, "-k", "missing_tool", CI="true")

    assert re.search(r"^FAILED .*test_skipped_missing_tool - Failed: no teapot$", report, re.MULTILINE)
