"""sstream/client in a real Chromium: loaded from the server, under a strict policy, with a real cookie jar."""

from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page


def sid(context: BrowserContext) -> str | None:
    return next((cookie["value"] for cookie in context.cookies() if cookie["name"] == "connect.sid"), None)


def test_calls_and_events_go_through(page: Page) -> None:
    result = page.evaluate(
        """async () => {
            const told = new Promise((resolve) => s.once("told", (...words) => resolve(words)));
            await s.rpc.tell("two", "words");
            return [await told, [...(await s.call("reverse", [new Uint8Array([1, 2, 3])]))]];
        }"""
    )

    assert result == [["two", "words"], [3, 2, 1]]


def test_a_session_begun_on_the_socket_is_that_of_the_page_and_a_login_renews_it(
    site: str, context: BrowserContext, page: Page
) -> None:
    def call(method: str, argument: str) -> str | None:
        with page.expect_response("**/_sstream/session") as traded:
            page.evaluate("([method, argument]) => s.call(method, [argument])", [method, argument])
        assert traded.value.status == 204
        return sid(context)

    sids = [sid(context), call("add_tea", "oolong"), call("log_in", "ann")]

    assert sids[0] is None
    assert len(set(sids)) == 3
    assert context.request.get(f"{site}/teas").json() == {"user": "ann", "teas": ["oolong"]}


def test_a_dropped_socket_comes_back(page: Page) -> None:
    states = page.evaluate(
        """async () => {
            const states = [];
            s.on("state", ({ state, code }) => states.push([state, code]));
            s.notify("drop", [1012]);
            await new Promise((resolve) => s.once("connected", resolve));
            await s.call("tell");
            return states;
        }"""
    )

    assert states == [["waiting", 1012], ["connecting", None], ["connected", None]]


def test_a_page_that_comes_online_does_not_wait(page: Page) -> None:
    states = page.evaluate(
        """async () => {
            const slow = await sstream.connect("/ws", { backoff: { min: 1000, max: 1000, random: () => 1 } }).ready();
            slow.notify("drop", [1012]);
            await new Promise((resolve) => slow.once("waiting", resolve));
            const states = [];
            slow.on("state", ({ state }) => states.push(state));
            window.dispatchEvent(new Event("online"));
            await slow.ready();
            slow.close();
            return states;
        }"""
    )

    assert states == ["connecting", "connected", "closed"]


def test_what_a_listener_throws_is_an_error_of_the_page(visit: Callable[[Page], None], context: BrowserContext) -> None:
    page = context.new_page()
    visit(page)

    with page.expect_event("pageerror") as error:
        page.evaluate(
            """async () => {
                s.on("told", () => { throw new Error("mine"); });
                await s.call("tell");
            }"""
        )

    assert "mine" in str(error.value)
