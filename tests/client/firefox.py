"""A Firefox, driven over WebDriver BiDi, which it speaks by itself (W3C WebDriver BiDi, 2025)."""

import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from sstream.testing import Process, ToolMissing

__all__ = ["LISTENING", "Firefox", "control", "find_firefox", "start_firefox"]

LISTENING = r"WebDriver BiDi listening on (ws://\S+)"


def find_firefox() -> Path:
    """A Firefox on PATH.

    Raises:
        ToolMissing: there is none.
    """
    for name in ("firefox", "firefox-esr"):
        if found := shutil.which(name):
            return Path(found)
    raise ToolMissing("no Firefox: neither firefox nor firefox-esr is on PATH; install your system's package of it")


class Firefox:
    """One tab. ``complaints`` has what stood on its console, errors that nobody caught included."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._context = ""
        self.complaints: list[str] = []

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of BiDi and wait for its result."""
        number = next(self._ids)
        await self._connection.send(msgspec.json.encode({"id": number, "method": method, "params": params}).decode())
        async for text in self._connection:
            message = msgspec.json.decode(text)
            if message.get("method") == "log.entryAdded":
                self.complaints.append(message["params"]["text"])
            if message.get("id") == number:
                assert message["type"] == "success", message
                return dict(message["result"])
        raise AssertionError("Firefox is gone")

    async def open(self, url: str) -> None:
        await self.command("session.new", capabilities={})
        await self.command("session.subscribe", events=["log.entryAdded"])
        tree = await self.command("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]
        await self.command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, waited for if it is a promise; by way of JSON."""
        result = await self.command(
            "script.evaluate",
            expression=f"Promise.resolve({expression}).then((value) => JSON.stringify(value ?? null))",
            target={"context": self._context},
            awaitPromise=True,
        )
        assert result["type"] == "success", result
        return msgspec.json.decode(result["result"]["value"])

    async def cookie(self, name: str) -> str | None:
        found = await self.command("storage.getCookies", filter={"name": name})
        return next((cookie["value"]["value"] for cookie in found["cookies"]), None)


def start_firefox(binary: Path, profile: Path) -> Process:
    """Start one with a fresh profile; its log tells where it listens."""
    options = ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"]
    return Process(binary, *options, env={"MOZ_DISABLE_CONTENT_SANDBOX": "1", "HOME": str(profile)})


@asynccontextmanager
async def control(process: Process) -> AsyncIterator[Firefox]:
    """The tab of a Firefox that listens."""
    address = process.wait_for(LISTENING)[1]
    async with connect(f"{address}/session", max_size=None, proxy=None) as connection:
        yield Firefox(connection)
