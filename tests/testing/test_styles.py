"""The kit under pytest-asyncio, pytest-tornado and unittest: docs/testing.md's examples, each in a process."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs/testing.md"
# Only what is asked for is loaded, which is quicker; a run without it is none of ours.
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers"]
ASYNCIO = ["-p", "pytest_asyncio.plugin"]
TORNADO = ["-p", "pytest_tornado.plugin"]
UNITTEST = [sys.executable, "-W", "error", "-m", "unittest", "-v"]


def run(command: list[str], folder: Path) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(folder.parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with the files of the page; the comment in a block's first line is its name."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, text in re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def asyncio_plugin(need: Callable[..., Any]) -> None:
    """Tests that run under pytest-asyncio."""

    def find() -> None:
        if importlib.util.find_spec("pytest_asyncio") is None:
            raise ImportError("pytest-asyncio is not installed: pip install -r requirements-dev.txt")

    need(find)


@pytest.mark.usefixtures("asyncio_plugin")
def test_the_examples_for_pytest_asyncio_and_pytest_tornado_pass_in_one_run(written: Path) -> None:
    (written / "tornado/test_shop.py").rename(written / "asyncio/test_shop_on_tornado.py")

    status, output = run([*PYTEST, *ASYNCIO, *TORNADO], written / "asyncio")

    assert status == 0, output
    assert "7 passed" in output


@pytest.mark.usefixtures("asyncio_plugin")
def test_the_example_for_pytest_asyncio_passes_in_the_automatic_mode(written: Path) -> None:
    tests = written / "asyncio/test_shop.py"
    tests.write_text(tests.read_text().replace("pytestmark = pytest.mark.asyncio\n", ""))

    status, output = run([*PYTEST, *ASYNCIO, "-o", "asyncio_mode=auto"], written / "asyncio")

    assert status == 0, output
    assert "5 passed" in output


def test_the_example_for_pytest_tornado_passes_where_pytest_asyncio_is_not_installed(written: Path) -> None:
    conftest = written / "tornado/conftest.py"
    conftest.write_text("import sys\n\nsys.modules['pytest_asyncio'] = None\n" + conftest.read_text())

    status, output = run([*PYTEST, *TORNADO], written / "tornado")

    assert status == 0, output
    assert "2 passed" in output


def test_the_example_for_unittest_passes_without_a_warning(written: Path) -> None:
    status, output = run(UNITTEST, written / "unittest")

    assert status == 0, output
    assert "Ran 3 tests" in output


FAILING = """
import unittest

from shop import make_app
from sstream import connect
from sstream.testing import serve


class Failing(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.site = await self.enterAsyncContext(serve(make_app()))
        self.ada = await self.site.browser_with(user_id="ada")
        self.ws = await self.ada.connect("/ws")

    async def test_missing(self):
        await self.ws.call("cart.add", "tea")
        await self.ws.receive("teapot", timeout=0.05)

    async def test_not_silent(self):
        await self.site.app.publish.user("ada", "offer", 7)
        await self.ws.assert_silent()

    async def test_closed(self):
        await self.site.app.sessions.end(self.ada.sid)
        await self.ws.receive("cart")

    async def test_not_closed(self):
        await self.ws.closed(timeout=0.05)


class Leaving(unittest.IsolatedAsyncioTestCase):
    async def test_of_another_client(self):
        with self.assertWarnsRegex(ResourceWarning, "left open: Live at /ws; close"):
            async with serve(make_app()) as site:
                socket = await connect(site.url.replace("http", "ws") + "/ws")
        await socket.close()
"""


def test_a_failure_says_what_came_instead(written: Path) -> None:
    (written / "unittest/test_shop.py").write_text(FAILING)

    status, output = run(UNITTEST, written / "unittest")

    assert status == 1, output
    assert "Ran 5 tests" in output
    assert "FAILED (failures=3, errors=1)" in output
    assert (
        "AssertionError: no event 'teapot'; it is open; not received:\n    ['cart', [{'tea': 1}]]: waited 0.05 s"
        in output
    )
    assert "AssertionError: not silent; there came:\n    ['offer', [7]]" in output
    assert "SocketClosed: closed with 4401 (session ended) before event 'cart' came" in output
    assert "AssertionError: it was not closed; it is open; not received: nothing: waited 0.05 s" in output
