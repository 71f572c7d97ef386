"""The story in a real Chromium, told by two browsers: one cart, three doors, logins, chat, lost sockets and servers."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgpack
import pytest
import redis
from playwright.sync_api import Browser, BrowserContext, Locator, Page, WebSocket, expect, sync_playwright

from .conftest import House

FLAGS = ["--headless", "--no-sandbox", "--disable-background-networking"]
SIZES = [(390, 844), (768, 1024), (1280, 800), (1920, 1080)]

expect.set_options(timeout=20_000)  # milliseconds; only a failure meets it


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

    def teahouse(self, url: str | None = None) -> Page:
        page = self.open(url or self.house.page)
        expect(page.locator("#socket")).to_have_text("websocket open")
        return page

    def express(self) -> Page:
        return self.open(self.house.express)

    def cookie(self) -> str | None:
        cookies = {cookie["name"]: cookie["value"] for cookie in self.context.cookies()}
        return cookies.get("connect.sid")

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []


@pytest.fixture
def guest(browser: Browser, house: House) -> Iterator[Guest]:
    guest = Guest(browser, house)
    yield guest
    guest.close()


@pytest.fixture
def other(browser: Browser, house: House) -> Iterator[Guest]:
    """Somebody else, in a browser of his own."""
    other = Guest(browser, house)
    yield other
    other.close()


def add(page: Page, name: str, by: str) -> None:
    page.get_by_role("button", name=f"Add {name} by {by}").click()


def log_in(page: Page, name: str, by: str = "websocket") -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill("oolong")
    page.get_by_role("button", name=f"Log in by {by}").click()
    expect(page.get_by_text(f"Logged in as {name}")).to_be_visible()
    expect(page.locator("#socket")).to_have_text("websocket open")


def tell(page: Page, text: str, to: str = "everybody") -> None:
    page.locator("#say select").select_option(to)
    page.get_by_label("What to say").fill(text)
    page.get_by_role("button", name="Say it").click()
    expect(page.get_by_label("What to say")).to_have_value("")


def lines(page: Page) -> Locator:
    return page.locator(".log:visible .text")


def expect_cart(page: Page, **counts: int) -> None:
    expect(page.locator("#cart li:visible")).to_have_count(len(counts))
    for tea, count in counts.items():
        shown = page.locator(f"#cart li[data-tea={tea.replace('_', '-')}] .count")
        expect(shown).to_have_text(str(count))


def expect_writer(page: Page, writer: str) -> None:
    expect(page.locator("[data-writer][aria-current]")).to_have_text(re.compile(writer))


# Session and Shop


def test_page_websocket_and_express_fill_one_cart_that_every_page_shows(guest):
    page = guest.teahouse()
    expect(page.get_by_text("No session yet.")).to_be_visible()
    assert guest.cookie() is None

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
    assert guest.cookie() is not None
    page.reload()
    expect_cart(page, assam=1)


def test_what_one_tab_does_by_page_the_other_one_is_told_at_another_server(guest, house):
    one, two = (guest.teahouse(house.servers[name]) for name in "AB")

    add(one, "Sencha", by="page")
    expect_cart(one, sencha=1)
    called = methods_called(two)
    two.reload()  # it came without a session, so it is not told of this one
    expect(two.locator("#socket")).to_have_text("websocket open")
    expect_cart(two, sencha=1)
    fetched: list[str] = []
    two.on("request", lambda request: fetched.append(request.url))
    add(one, "Sencha", by="page")
    expect_cart(one, sencha=2)

    expect_cart(two, sencha=2)
    expect_writer(two, "Page")
    # It was told: it has asked neither by HTTP nor by its websocket.
    assert fetched == []
    assert "wire.server" in called
    assert not [method for method in called if method.startswith(("cart.", "session."))]
    expect(two.locator("#server")).to_have_text("server B")
    two.get_by_role("button", name="Take one Sencha out").click()
    expect_cart(one, sencha=1)
    two.get_by_role("button", name="Clear the cart").click()
    expect_cart(one)
    expect(one.get_by_text("Still empty.")).to_be_visible()


def methods_called(page: Page) -> list[str]:
    """What a page calls from its next load on, as a list that grows."""
    called: list[str] = []

    def note(payload: str | bytes) -> None:
        message = msgpack.unpackb(payload)
        if message[0] in {0, 2}:  # a call, with or without a reply
            called.append(message[-2])

    def listen(websocket: WebSocket) -> None:
        websocket.on("framesent", note)

    page.on("websocket", listen)
    return called


def test_a_session_that_is_ended_elsewhere_is_gone_from_the_page_and_another_may_begin(guest, redis_server):
    page = guest.teahouse()
    add(page, "Sencha", by="page")
    expect_cart(page, sencha=1)
    expect(page.locator("#socket")).to_have_text("websocket open")
    sid = str(guest.cookie())
    first = page.locator("#id").inner_text()

    with redis.Redis.from_url(redis_server) as client:
        client.delete("sess:" + unquote(sid).removeprefix("s:").rpartition(".")[0])

    expect(page.get_by_text("No session yet.")).to_be_visible()
    expect_cart(page)
    expect(page.locator("#socket")).to_have_text("websocket open")
    add(page, "Pu’er", by="websocket")
    expect_cart(page, puer=1)
    expect(page.locator("#id")).not_to_have_text(first)


def test_two_guests_have_two_carts(guest, other):
    page = guest.teahouse()
    add(page, "Sencha", by="websocket")
    expect_cart(page, sencha=1)

    stranger = other.teahouse()

    expect_cart(stranger)
    expect(stranger.get_by_text("No session yet.")).to_be_visible()


def test_a_wrong_order_shows_the_typed_error_with_its_path(guest):
    page = guest.teahouse()
    tea, count, answer = page.get_by_label("Tea, as JSON"), page.get_by_label("How many pots"), page.locator("#answer")

    page.get_by_role("button", name="Call", exact=True).click()
    expect(answer).to_have_text(re.compile(r"-32602.*params\[0\] \(tea\).*invalid enum value 'coffee'"))
    tea.fill('"sencha"')
    tea.press("Enter")
    expect(answer).to_have_text(re.compile(r"-32602.*params\[1\] \(count\).*int <= 12"))
    expect_cart(page)
    count.fill("2")
    count.press("Enter")

    expect_cart(page, sencha=2)
    expect(answer).to_have_text(re.compile("A right order"))


def test_a_login_by_websocket_renews_the_id_and_a_logout_ends_the_other_tab(guest, other, house):
    one, two = guest.teahouse(house.servers["A"]), None
    add(one, "Sencha", by="page")
    expect_cart(one, sencha=1)
    expect(one.locator("#socket")).to_have_text("websocket open")
    old, shown = str(guest.cookie()), one.locator("#id").inner_text()

    with one.expect_response("**/_sstream/session") as traded:
        log_in(one, "ada")

    assert traded.value.status == 204
    assert guest.cookie() != old
    expect(one.locator("#id")).not_to_have_text(shown)
    other.context.add_cookies([{"name": "connect.sid", "value": old, "url": house.page}])
    thief = other.teahouse()
    expect(thief.get_by_text("No session yet.")).to_be_visible()
    two = guest.teahouse(house.servers["B"])
    expect(two.get_by_text("Logged in as ada")).to_be_visible()
    expect_cart(two, sencha=1)
    one.get_by_role("button", name="Log out by websocket").click()
    for page in (one, two):
        expect(page.get_by_text("The session has ended")).to_be_visible()
        expect(page.get_by_role("button", name="Log in by page")).to_be_visible()
        expect_cart(page)


def test_a_login_by_page_the_end_of_all_others_and_a_wrong_password(guest, other):
    one, two = guest.teahouse(), other.teahouse()
    for page in (one, two):
        log_in(page, "grace", by="page")
        expect_writer(page, "Page")

    one.get_by_role("button", name="End all others").click()

    expect(one.get_by_text("1 other session of yours was ended.")).to_be_visible()
    expect(two.get_by_text("The session has ended")).to_be_visible()
    expect(one.get_by_text("Logged in as grace")).to_be_visible()
    two.get_by_label("Name").fill("grace")
    two.get_by_label("Password").fill("assam")
    two.get_by_role("button", name="Log in by websocket").click()
    expect(two.get_by_text("That did not work: that is not the password of grace.")).to_be_visible()


def test_a_new_id_is_shown_and_the_time_runs(guest):
    page = guest.teahouse()
    add(page, "Pu’er", by="websocket")
    expect_cart(page, puer=1)
    old, left = page.locator("#id").inner_text(), page.locator("#ttl").inner_text()

    with page.expect_response("**/_sstream/session"):  # brings the cookie
        page.get_by_role("button", name="New id").click()

    expect(page.locator("#id")).not_to_have_text(old)
    assert str(guest.cookie()).removeprefix("s%3A").startswith(page.locator("#id").inner_text().rstrip("…"))
    assert re.fullmatch("30 days, 00:00:00|29 days, 23:59:..", left)
    expect(page.locator("#ttl")).not_to_have_text(left)
    expect(page.locator("#ttl")).to_have_text(re.compile("29 days, 23:59:.."))


# Chat


def test_two_users_talk_see_each_other_and_whisper(guest, other, house):
    one, two = guest.teahouse(house.servers["A"]), other.teahouse(house.servers["B"])
    expect(one.get_by_placeholder("Log in to talk")).to_be_disabled()
    log_in(one, "ada")
    log_in(two, "grace")
    for page in (one, two):
        expect(page.locator("#people")).to_contain_text("ada")
        expect(page.locator("#people")).to_contain_text("grace")

    tell(one, "The Darjeeling has come in.")
    expect(one.locator(".mine")).to_have_count(1)
    expect(two.locator(".mine")).to_have_count(0)
    expect(lines(two).last).to_have_text("The Darjeeling has come in.")
    # The page says so for three seconds; whoever looks later sees nothing any more.
    one.evaluate("""() => {
        const typing = document.querySelector("#typing");
        const note = () => typing.textContent && (document.body.dataset.typed = typing.textContent);
        new MutationObserver(note).observe(typing, { childList: true, characterData: true, subtree: true });
    }""")
    two.get_by_label("What to say").press_sequentially("First")
    expect(one.locator("body")).to_have_attribute("data-typed", "grace is typing")
    tell(two, "Keep me the window seat.", to="ada")
    expect(one.locator(".whisper").last).to_contain_text("grace to ada alone")
    two.get_by_role("radio", name="Kitchen").check()
    tell(two, "Two pots, please.")
    expect(one.locator(".unread:visible")).to_have_text("1")
    one.get_by_role("radio", name="Kitchen").check()
    expect(lines(one).last).to_have_text("Two pots, please.")
    one.get_by_role("button", name="End it").click()

    expect(one.get_by_placeholder("Log in to talk")).to_be_disabled()
    expect(one.locator(".whisper")).to_have_count(0)
    expect(one.locator(".mine")).to_have_count(0)


def test_a_reload_brings_the_history(guest):
    page = guest.teahouse()
    log_in(page, "ada")
    page.get_by_role("radio", name="Kitchen").check()
    for number in range(3):
        tell(page, f"history {number}")
    expect(lines(page).last).to_have_text("history 2")
    before = lines(page).all_inner_texts()

    page.reload()
    page.get_by_role("radio", name="Kitchen").check()

    expect(lines(page)).to_have_count(len(before))
    assert lines(page).all_inner_texts() == before


# Wire


def test_a_dropped_socket_comes_back_and_nothing_is_lost(guest, other):
    one, two = guest.teahouse(), other.teahouse()
    log_in(one, "ada")
    log_in(two, "grace")
    tell(two, "before")
    expect(lines(one).last).to_have_text("before")
    add(one, "Sencha", by="page")
    expect_cart(one, sencha=1)
    expect(one.locator("#socket")).to_have_text("websocket open")
    expect(lines(one).last).to_have_text("before")

    # By itself it comes back after 20 seconds, which are soon over where everything is slow.
    one.evaluate("""() => {
        const wait = window.setTimeout;
        window.setTimeout = (work, time, ...rest) => (time === 20_000 ? undefined : wait(work, time, ...rest));
    }""")
    one.get_by_role("button", name="Drop my socket").click()
    expect(one.locator("#socket")).to_have_attribute("data-state", "waiting")
    for number in (1, 2, 3):
        tell(two, f"meanwhile {number}")
    third = guest.teahouse()
    add(third, "Assam", by="websocket")
    expect_cart(third, sencha=1, assam=1)
    one.get_by_role("button", name="Let it come back").click()

    expect(one.locator("#socket")).to_have_text("websocket open")
    expect(one.get_by_text("Back again, with 3 lines")).to_be_visible()
    assert lines(one).all_inner_texts()[-4:] == ["before", "meanwhile 1", "meanwhile 2", "meanwhile 3"]
    expect_cart(one, sencha=1, assam=1)


def test_frames_stand_decoded_beside_their_bytes_and_a_password_does_not(guest):
    page = guest.teahouse()
    # The page shows the last twelve; who looks late misses some.
    page.evaluate("""() => {
        window.seen = [];
        const parts = (row) => [".way", ".decoded", ".bytes"].map((part) => row.querySelector(part).textContent);
        const note = ({ addedNodes }) => addedNodes.forEach((row) => row.matches?.("li") && seen.push(parts(row)));
        const noting = new MutationObserver((changes) => changes.forEach(note));
        noting.observe(document.querySelector("#frames"), { childList: true });
    }""")

    with page.expect_response("**/_sstream/session"):
        add(page, "Sencha", by="websocket")
    expect_cart(page, sencha=1)
    log_in(page, "ada")

    seen = page.evaluate("seen")
    ((way, _, call),) = [row for row in seen if '"cart.add",["sencha"]]' in row[1]]
    assert re.fullmatch(r"→ call, \d+ B", way)
    assert re.match("94 00 .. a8 63 61 72 74 2e 61 64 64 91 a6 73 65 6e", call)
    assert all(way.startswith("← event") for way, decoded, _ in seen if "sstream:ticket" in decoded)
    assert sum('["ada","•••"]' in decoded for _, decoded, _ in seen) == 1
    assert not any("oolong" in part or b"oolong".hex(" ") in part for row in seen for part in row)


def test_a_thousand_calls_are_measured_and_so_is_the_round_trip(guest):
    page = guest.teahouse()

    page.get_by_role("button", name="1,000 calls").click()

    for field in ("#p50", "#p99"):
        expect(page.locator(field)).to_have_text(re.compile(r"^[\d.]+ ms$"))
    assert number(page, "#p50") <= number(page, "#p99")
    expect(page.locator("#rate")).to_have_text(re.compile(r"^[\d,]+$"))
    expect(page.locator("#round-trip")).to_have_text(re.compile(r"^[\d.]+ ms$"))
    expect(page.locator("#sparkline .line")).to_have_attribute("d", re.compile(r"^M.*240\.0,[\d.]+$"))
    expect(page.get_by_role("img", name=re.compile("Round trips.*ms now"))).to_be_visible()


def number(page: Page, field: str) -> float:
    return float(page.locator(field).inner_text().removesuffix(" ms"))


# How it looks, and to whom


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
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("oolong")
    page.get_by_role("button", name="Log in by page").click()
    expect(page.get_by_text("Logged in as ada")).to_be_visible()
    page.get_by_role("button", name="Log out by page").click()
    expect(page.get_by_text("No session yet.")).to_be_visible()
    guest.close()


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
    page.get_by_label("Name").focus()
    for key in ("a", "d", "a", "Tab", "o", "o", "l", "o", "n", "g", "Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("button", name="Log out by page")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()


def test_whatever_can_be_used_has_a_name_and_every_panel_is_a_landmark(guest):
    page = guest.teahouse()
    log_in(page, "ada")

    tree = page.locator("body").aria_snapshot()

    roles = "button|textbox|combobox|radio|link|img|log|region|form"
    assert re.findall(rf"^ *- (?:{roles})(?: \[.*\])*:?$", tree, re.MULTILINE) == []
    for panel in ("Session", "Shop", "Chat", "Wire"):
        expect(page.get_by_role("region", name=panel, exact=True)).to_have_count(1)
    for live in ("#notice", "#socket", "#answer"):
        expect(page.locator(live)).to_have_role("status")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window_and_its_text_is_readable(browser, house, scheme):
    guest = Guest(browser, house, color_scheme=scheme, reduced_motion="reduce")
    page = guest.teahouse()
    log_in(page, "ada")
    add(page, "Silver Needle", by="websocket")
    expect_cart(page, silver_needle=1)
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator("#answer")).to_contain_text("-32602")
    tell(page, "x" * 200)
    express = guest.express()

    assert page.evaluate("document.getAnimations().length") == 0
    for shown in (page, express):
        for width, height in SIZES:
            shown.set_viewport_size({"width": width, "height": height})
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate(FAINT) == []
    guest.close()


# The last one: from here on there is one server less.


def test_when_its_server_is_killed_the_tab_moves_to_the_other_and_its_channels_recover(guest, other, house):
    one = guest.teahouse()
    log_in(one, "ada")
    add(one, "Pu’er", by="websocket")
    expect_cart(one, puer=1)
    first = one.locator("#server").inner_text().removeprefix("server ")
    second = {"A": "B", "B": "A"}[first]
    two = other.teahouse(house.servers[second])
    log_in(two, "grace")
    tell(two, "Is it safe?")
    expect(lines(one).last).to_have_text("Is it safe?")

    os.kill(house.pids[first], signal.SIGKILL)
    for number in (1, 2, 3):
        tell(two, f"after the fall {number}")

    expect(one.locator("#server")).to_have_text(f"server {second}")
    expect(one.locator("#socket")).to_have_text("websocket open")
    expect(lines(one).last).to_have_text("after the fall 3")
    told = ["Is it safe?", "after the fall 1", "after the fall 2", "after the fall 3"]
    assert lines(one).all_inner_texts()[-4:] == told
    add(one, "Assam", by="websocket")
    expect_cart(one, puer=1, assam=1)
    house.wait_for(f"Server {first} +is gone, SIGKILL")
    # A handshake that met the dying server is noted by the browser itself.
    guest.complaints = [text for text in guest.complaints if not text.startswith("error: WebSocket connection to")]


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
