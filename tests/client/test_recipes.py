"""The recipes of docs/how-to-browser.md, in a real Chromium: React's, and the two for a lost connection."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sstream.testing import ToolMissing

from .test_client import CLIENT, run

expect.set_options(timeout=20_000)  # milliseconds; only a failure meets it

PAGE = Path(__file__).parents[2] / "docs" / "how-to-browser.md"
RECIPES = dict(
    zip(
        ["react", "offline", "outbox"],
        re.findall(r"```jsx?\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL),
        strict=True,
    )
)
BUNDLE = """
const { build } = require("esbuild");
const [contents] = process.argv.slice(1);
build({
  stdin: { contents, loader: "jsx", resolveDir: process.cwd() },
  bundle: true,
  write: false,
  format: "iife",
  globalName: "recipe",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"' },
}).then(({ outputFiles }) => process.stdout.write(outputFiles[0].text));
"""


@pytest.fixture(autouse=True)
def react(need: Callable[..., None]) -> None:
    def find_react() -> None:
        if not (CLIENT / "node_modules" / "react-dom").is_dir():
            raise ToolMissing("React is not installed: npm ci --prefix sstream/client")

    need(find_react)


def load(page: Page, node: Path, name: str, more: str = "") -> None:
    """Make what a recipe exports ``window.recipe``."""
    page.evaluate(run(node, "-e", BUNDLE, "--", RECIPES[name] + more, cwd=CLIENT) + "; window.recipe = recipe;")


# What the page of the tests shows: an element of its own, as the policy allows no markup of ours.
APP = """
import { createRoot } from "react-dom/client";

function App({ socket }) {
  const session = useSession(socket);
  return <><Offline socket={socket} /><b>{session ? session.teas.join() : "nothing"}</b></>;
}

export function show(socket) {
  const place = document.body.appendChild(document.createElement("main"));
  const root = createRoot(place);
  root.render(<App socket={socket} />);
  return root;
}
"""


def test_react_renders_status_and_session_and_lets_go(page: Page, node: Path) -> None:
    load(page, node, "react", APP)
    page.evaluate(SLOW)
    page.evaluate("() => { window.root = recipe.show(slow); }")
    expect(page.locator("main b")).to_have_text("nothing")

    page.evaluate("slow.rpc.add_tea('oolong')")
    expect(page.locator("main b")).to_have_text("oolong")
    page.evaluate(CUT)
    expect(page.get_by_role("status")).to_have_text("No connection (connection lost). It comes back by itself.")
    page.evaluate("slow.open()")
    expect(page.get_by_role("status")).to_have_count(0)
    page.evaluate("() => root.unmount()")

    assert page.evaluate("document.querySelector('main').childNodes.length") == 0


def test_a_note_says_that_there_is_no_connection_and_not_for_a_blink(page: Page, node: Path) -> None:
    load(page, node, "offline")
    page.evaluate(SLOW)
    page.evaluate(
        """() => {
            window.note = document.body.appendChild(Object.assign(document.createElement("p"), { hidden: true }));
            window.shown = 0;
            new MutationObserver(() => (shown += !note.hidden)).observe(note, { attributes: true });
            recipe.showOffline(slow, note, 60);
            recipe.showOffline(slow, (window.soon = Object.assign(document.createElement("p"), { hidden: true })), 0);
        }"""
    )

    page.evaluate(CUT)
    page.evaluate("async () => { while (soon.hidden) await new Promise((resolve) => setTimeout(resolve, 10)); }")
    said = page.evaluate("[note.hidden, soon.textContent]")
    page.evaluate("slow.open()")
    page.evaluate("slow.ready().then(() => null)")

    assert said == [True, "No connection. What you write is sent later."]
    assert page.evaluate("[soon.hidden, note.hidden, shown]") == [True, True, 0]


def test_what_is_written_without_a_connection_arrives_once_and_in_order_after_a_reload(page: Page, node: Path) -> None:
    load(page, node, "outbox")
    page.evaluate(SLOW)
    page.evaluate(CUT)
    page.evaluate("() => { const write = recipe.outbox(slow, 'note'); write('one'); write('two'); }")
    kept = json.loads(page.evaluate("localStorage.getItem('note')"))

    page.reload()
    page.evaluate("s.ready().then(() => null)")
    load(page, node, "outbox")
    page.evaluate("() => { window.write = recipe.outbox(s, 'note'); write('three'); }")
    page.evaluate("async () => { while (localStorage.getItem('note') !== '[]') await s.rpc.tell(); }")

    assert [note["text"] for note in kept] == ["one", "two"]
    assert page.evaluate("s.call('notes')") == ["one", "two", "three"]


def test_what_is_written_while_the_store_is_away_is_kept(page: Page, node: Path) -> None:
    load(page, node, "outbox")

    kept = page.evaluate(
        """async () => {
            const error = Object.assign(new Error("unavailable"), { name: "RPCError", code: 4050 });
            recipe.outbox({ state: "connected", on() {}, call: () => Promise.reject(error) }, "away")("one");
            await new Promise((resolve) => setTimeout(resolve));
            return JSON.parse(localStorage.getItem("away")).map(({ text }) => text);
        }"""
    )

    assert kept == ["one"]


# A socket that stays away, once it is cut, until `slow.open()`.
SLOW = """async () => {
    window.slow = sstream.connect("/ws", { backoff: { min: 1000, max: 1000, random: () => 1 } });
    await slow.ready();
}"""
CUT = """async () => {
    slow.notify("drop", [1012]);
    await new Promise((resolve) => slow.once("waiting", resolve));
}"""
