"""The story in a real Chromium: one cart, filled by a page, by the websocket and by Express."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import redis
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from .conftest import House

FLAGS = ["--headless", "--no-sandbox", "--disable-background-networking"]
SIZES = [(390, 844), (768, 1024), (1280, 800), (1920, 1080)]


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


class Guest:
    """A browser context of its own, whose pages must stay without a console message or an error."""

    def __init__(self, browser: Browser, house: House, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**options)
        self.house = house
        self.complaints: list[str] = []
        self.context.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def open(self, url: str) -> Page:
        page = self.context.new_page()
        page.goto(url)
        return page

    def teahouse(self) -> Page:
        page = self.open(self.house.page)
        expect(page.locator("#socket")).to_have_text("websocket open")
        return page

    def express(self) -> Page:
        assert self.house.express is not None
        return self.open(self.house.express)

    def session_cookies(self) -> list[str]:
        return [cookie["name"] for cookie in self.context.cookies() if cookie["name"] == "connect.sid"]


@pytest.fixture
def guest(browser: Browser, house: House) -> Iterator[Guest]:
    guest = Guest(browser, house)
    yield guest
    guest.context.close()
    assert guest.complaints == []


def add(page: Page, name: str, by: str) -> None:
    page.get_by_role("button", name=f"Add {name} by {by}").click()


def expect_cart(page: Page, **counts: int) -> None:
    lines = page.locator("#cart li:visible")
    expect(lines).to_have_count(len(counts))
    for tea, count in counts.items():
        expect(page.locator(f"#cart li[data-tea={tea.replace('_', '-')}] .count")).to_have_text(str(count))


def expect_writer(page: Page, writer: str) -> None:
    expect(page.locator("[data-writer][aria-current]")).to_have_text(re.compile(writer))


def test_page_websocket_and_express_fill_one_cart_that_every_page_shows(guest):
    page = guest.teahouse()
    expect(page.get_by_text("No session yet.")).to_be_visible()
    assert guest.session_cookies() == []

    add(page, "Sencha", by="page")
    expect(page).to_have_url(guest.house.page + "#sencha")
    expect_cart(page, sencha=1)
    expect_writer(page, "Page")
    expect(page.locator("#socket")).to_have_text("websocket open")

    add(page, "Pu’er", by="websocket")
    expect_cart(page, sencha=1, puer=1)
    expect_writer(page, "Websocket")

    express = guest.express()
    expect_cart(express, sencha=1, puer=1)
    add(express, "Dong Ding", by="Express")
    expect_cart(express, sencha=1, dong_ding=1, puer=1)
    expect_writer(express, "Express")

    # The first page hears of it without a reload.
    expect_cart(page, sencha=1, dong_ding=1, puer=1)
    expect_writer(page, "Express")
    expect(page.get_by_text("Dong Ding +1, by Express.")).to_be_visible()
    assert '"dong-ding": 1' in page.locator("#data").inner_text()


def test_a_first_order_by_websocket_makes_a_session_that_a_reload_finds(guest):
    page = guest.teahouse()

    with page.expect_response("**/_sstream/session") as traded:
        add(page, "Assam", by="websocket")
    expect_cart(page, assam=1)

    assert traded.value.status == 204
    assert guest.session_cookies() == ["connect.sid"]
    page.reload()
    expect_cart(page, assam=1)


def test_what_one_tab_does_the_other_shows(guest):
    one = guest.teahouse()
    add(one, "Sencha", by="page")
    expect_cart(one, sencha=1)
    two = guest.teahouse()

    add(two, "Sencha", by="websocket")
    expect_cart(one, sencha=2)
    expect_cart(two, sencha=2)
    two.get_by_role("button", name="Take one Sencha out").click()
    expect_cart(one, sencha=1)
    two.get_by_role("button", name="Clear the cart").click()

    expect_cart(one)
    expect(one.get_by_text("Still empty.")).to_be_visible()


def test_a_session_that_is_ended_elsewhere_is_gone_from_the_page_and_another_may_begin(guest, redis_server):
    page = guest.teahouse()
    add(page, "Sencha", by="page")
    expect_cart(page, sencha=1)
    expect(page.locator("#socket")).to_have_text("websocket open")
    sid = next(cookie["value"] for cookie in guest.context.cookies() if cookie["name"] == "connect.sid")
    first = page.locator("#id").inner_text()

    with redis.Redis.from_url(redis_server) as client:
        client.delete("sess:" + unquote(sid).removeprefix("s:").rpartition(".")[0])

    expect(page.get_by_text("No session yet.")).to_be_visible()
    expect_cart(page)
    expect(page.locator("#socket")).to_have_text("websocket open")
    add(page, "Pu’er", by="websocket")
    expect_cart(page, puer=1)
    expect(page.locator("#id")).not_to_have_text(first)


def test_two_guests_have_two_carts(browser, house, guest):
    page = guest.teahouse()
    add(page, "Sencha", by="websocket")
    expect_cart(page, sencha=1)
    stranger = Guest(browser, house)

    other = stranger.teahouse()

    expect_cart(other)
    expect(other.get_by_text("No session yet.")).to_be_visible()
    stranger.context.close()
    assert stranger.complaints == []


def test_it_works_without_javascript(browser, house):
    guest = Guest(browser, house, java_script_enabled=False)
    page = guest.open(house.page)
    expect(page.get_by_role("button", name="websocket")).to_have_count(0)

    add(page, "Sencha", by="page")
    add(page, "Sencha", by="page")
    add(page, "Darjeeling", by="page")
    page.get_by_role("button", name="Take one Sencha out").click()

    expect_cart(page, sencha=1, darjeeling=1)
    page.get_by_role("button", name="Clear the cart").click()
    expect_cart(page)
    guest.context.close()


def test_it_works_by_keyboard_alone(guest):
    page = guest.teahouse()

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the tea")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Add Silver Needle by page")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect_cart(page, silver_needle=1)
    expect(page.get_by_role("button", name="Add Silver Needle by websocket")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_fits_the_window_and_its_text_is_readable(browser, house, width, height, scheme):
    guest = Guest(browser, house, viewport={"width": width, "height": height}, color_scheme=scheme)
    page = guest.teahouse()
    add(page, "Silver Needle", by="websocket")
    expect_cart(page, silver_needle=1)

    for shown in (page, guest.express()):
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate(FAINT) == []
    guest.context.close()
    assert guest.complaints == []


# Texts whose contrast with what is behind them is under WCAG 2.2's 4.5 (success criterion 1.4.3).
FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = rgba(getComputedStyle(element).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility({ opacityProperty: true })) continue;
    const [light, dark] = [luminance(rgba(getComputedStyle(element).color)), luminance(behind(element))]
      .sort((a, b) => b - a);
    if ((light + 0.05) / (dark + 0.05) < 4.5) faint.push(walker.currentNode.textContent.trim());
  }
  return faint;
}"""
