"""A real Chromium and a site for it: a page whose socket ``s`` is connected."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from sstream.testing import Process

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with Process(sys.executable, HERE / "browser_site.py") as process:
        yield process.wait_for(r"^http://\S+")[0]


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def visit(site: str) -> Callable[[Page], None]:
    """Goes to the site and waits until its socket ``s`` is connected.

    It is waited for inside the page: ``wait_for_function`` evaluates a text time and again, which the page's policy
    allows the first time only.
    """

    def go(page: Page) -> None:
        page.goto(site)
        page.evaluate("async () => void await s.ready({ signal: AbortSignal.timeout(20_000) })")

    return go


@pytest.fixture
def page(visit: Callable[[Page], None], context: BrowserContext) -> Iterator[Page]:
    """A page whose socket ``s`` is connected; it must stay without a message on the console and without an error."""
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    visit(page)
    yield page
    assert complaints == []
