"""Who follows the tutorial to the letter ends with a chat that works and a test of it that passes."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sstream.testing import Process

TUTORIAL = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text()
FILES = re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
SHELL = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
FLAGS = ["--headless", "--no-sandbox", "--disable-background-networking"]

expect.set_options(timeout=20_000)  # milliseconds; only a failure meets it


def command(pattern: str) -> tuple[list[str], dict[str, str]]:
    """The one command that the tutorial tells, as arguments and environment; it runs with this Python."""
    (line,) = [line for line in SHELL if re.search(pattern, line)]
    words = shlex.split(line)
    variables = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    assert words.pop(0) == ".venv/bin/python"
    return [sys.executable, *words], variables


def write(folder: Path, versions: dict[str, int]) -> None:
    """Write the files as they stand after some steps: the version of each that counts."""
    for name, version in versions.items():
        texts = [text for file, text in FILES if file == name]
        (folder / name).write_text(texts[version])


class Server(Process):
    """A command of the tutorial that serves, on a free port."""

    def __init__(self, folder: Path, arguments: list[str], variables: dict[str, str]) -> None:
        arguments[arguments.index("--port") + 1] = "0"
        super().__init__(*arguments, cwd=folder, env={**os.environ, **variables})
        self.url = self.wait_for(r"(http://[^\s,]+)", timeout=60)[1]


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def visit(browser: Browser, url: str) -> Page:
    page = browser.new_context().new_page()
    page.goto(url)
    return page


def register(page: Page, name: str) -> None:
    expect(page.locator("#who")).to_have_text("Who are you?")
    page.fill("#name", name)
    page.fill("#password", "correct horse")
    page.click("text=Register")
    expect(page.locator("#who")).to_contain_text(f"You are {name}")


def test_the_first_step_counts_visits(tmp_path: Path, browser: Browser) -> None:
    write(tmp_path, {"chat.py": 0})

    with Server(tmp_path, *command("SSTREAM_DEBUG.* run ")) as server:
        page = visit(browser, server.url)
        page.reload()

        expect(page.locator("p")).to_have_text("Your visit no. 2.")


def test_the_chat_works_over_two_processes(tmp_path: Path, browser: Browser, redis_url: str) -> None:
    write(tmp_path, {"chat.py": -1, "page.html": 0})
    arguments, variables = command("--processes 2")
    variables["SSTREAM_REDIS"] = redis_url

    with Server(tmp_path, arguments, variables) as server:
        ada, bob = visit(browser, server.url), visit(browser, server.url)
        register(ada, "ada")
        register(bob, "bob")
        expect(ada.locator("#here")).to_have_text("ada, bob")
        bob.fill("#text", "hello")
        bob.click("text=Say")
        expect(ada.locator("#said li")).to_have_text("bob: hello")

        ada.click("text=Log out")
        expect(ada.locator("#who")).to_have_text("Who are you?")
        expect(bob.locator("#here")).to_have_text("bob")


def test_the_test_passes(tmp_path: Path) -> None:
    write(tmp_path, {"chat.py": -1, "page.html": 0, "test_chat.py": 0})
    arguments, variables = command("unittest")

    done = subprocess.run(
        arguments,
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Ran 3 tests" in done.stderr
