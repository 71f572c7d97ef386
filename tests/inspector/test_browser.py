"""The inspector in a real Chromium: what it shows of a busy process, what one can do there, and how it is laid out."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from sstream.testing import Process

HERE = Path(__file__).parent
OPEN = "/_sstream/inspector"

expect.set_options(timeout=20_000)  # milliseconds; only a failure meets it


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with Process(sys.executable, HERE / "busy_site.py", "values") as process:
        yield process.wait_for(r"^http://\S+", timeout=60)[0]


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(site: str, browser: Browser) -> Iterator[OpenPage]:
    """Opens the inspector with the key; no message on the console, no error and nothing against the policy."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def open_page(width: int = 1440, scheme: str = "light") -> Page:
            context: BrowserContext = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
            )
            stack.callback(context.close)
            context.add_cookies([{"name": "key", "value": "open", "url": site}])
            page = context.new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(site + OPEN)
            expect(page.locator("#state")).to_have_text("live")
            return page

        yield open_page
    assert complaints == []


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page()


def row(page: Page, method: str) -> Locator:
    return page.locator(".method", has=page.get_by_text(method, exact=True))


def test_it_is_not_there_for_who_has_no_key(site: str, browser: Browser) -> None:
    context = browser.new_context()

    statuses = {path: context.request.get(site + OPEN + path).status for path in ("", "/page.js", "/ws")}

    context.close()
    assert statuses == {"": 404, "/page.js": 404, "/ws": 404}


def test_it_shows_which_process_it_is_and_who_is_there(page: Page) -> None:
    expect(page.locator("#process")).to_contain_text("process")
    expect(page.locator(".socket")).to_have_count(14)
    expect(page.locator("#users li")).to_have_count(7)
    expect(page.locator("#channels")).to_contain_text("lobby")


def test_it_draws_rates_latencies_and_methods_and_goes_on_drawing(page: Page) -> None:
    expect(row(page, "search").locator(".times circle")).to_have_count(1)
    expect(page.locator("#rate .line").first).to_be_visible()
    expect(page.locator("#heat .cell").first).to_be_visible()
    cells = page.locator("#heat .cell").count()

    expect(page.locator("#heat .cell").nth(cells)).to_be_attached()  # one more

    expect(row(page, "sstream.inspector.watch")).to_have_count(0)
    expect(page.locator("#slow li").first).to_contain_text("socket")


def test_a_session_is_shown_with_who_changed_which_key_and_its_values_as_the_guard_allows(page: Page) -> None:
    page.locator(".socket .pick").first.click()

    expect(page.locator("#session-title")).to_contain_text("Session ")
    expect(page.locator(".keys")).to_contain_text("visits")
    expect(page.locator(".keys dd", has_text="1").first).to_be_visible()
    expect(page.locator(".changes .how").first).to_have_text("websocket")
    expect(page.locator("#session circle").first).to_be_visible()


def test_a_socket_is_found_by_the_keyboard_and_closed_after_a_question(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("gus")
    expect(page.locator(".socket")).to_have_count(2)
    title = page.locator(".socket .ids").first.get_attribute("title")

    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#ask-text")).to_contain_text("of gus")
    page.locator("#ask-yes").focus()
    page.keyboard.press("Enter")

    expect(page.get_by_title(title or "", exact=True)).to_have_count(0)


def test_a_question_that_is_answered_with_no_does_nothing(page: Page) -> None:
    title = page.locator(".socket .ids").first.get_attribute("title")

    page.locator(".socket .act").first.click()
    page.keyboard.press("Escape")

    expect(page.locator("#ask")).to_be_hidden()
    expect(page.get_by_title(title or "", exact=True)).to_have_count(1)


def test_a_session_is_ended_with_all_its_sockets(page: Page) -> None:
    page.get_by_role("searchbox").fill("fay")
    expect(page.locator(".socket")).to_have_count(2)
    page.locator(".socket .pick").first.click()

    page.get_by_role("button", name="End session").click()
    page.locator("#ask-yes").click()

    expect(page.locator(".socket")).to_have_count(1)


def test_what_could_not_be_done_is_told_until_something_else_is_done(open_page: OpenPage) -> None:
    first, second = open_page(), open_page()
    for page in (first, second):
        page.get_by_role("searchbox").fill("emil")
        expect(page.locator(".socket")).to_have_count(2)
        page.locator(".socket .pick").first.click()
        page.get_by_role("button", name="End session").click()

    first.locator("#ask-yes").click()
    expect(second.locator(".socket")).to_have_count(1)
    second.locator("#ask-yes").click()

    expect(second.locator("#refusal")).to_contain_text("no socket of this process has this session open any more")
    expect(first.locator("#refusal")).to_be_hidden()
    second.get_by_role("button", name="All sessions").click()
    expect(second.locator("#refusal")).to_be_hidden()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (768, "light"), (1920, "dark")])
def test_nothing_sticks_out_and_every_text_can_be_read(open_page: OpenPage, width: int, scheme: str) -> None:
    page = open_page(width, scheme)
    expect(row(page, "search").locator(".times circle")).to_have_count(1)

    outside = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    contrasts = page.evaluate(
        """() => {
            const part = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            const share = [0.2126, 0.7152, 0.0722];
            const light = (text) =>
                text.match(/[\\d.]+/g).slice(0, 3).reduce((sum, c, i) => sum + part(c / 255) * share[i], 0);
            const ground = light(getComputedStyle(document.querySelector(".card")).backgroundColor);
            return [".label", ".read", ".where", ".ids", ".method .name", "button.act", "svg text"].map((what) => {
                const style = getComputedStyle(document.querySelector(what));
                const ink = light(what === "svg text" ? style.fill : style.color);
                return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
            });
        }"""
    )

    assert outside == 0
    assert min(contrasts) >= 4.5
