"""The code in README.md runs as it is printed, and what it points to is there."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sstream import RPCError
from sstream.testing import Site, serve

ROOT = Path(__file__).parents[1]


def read_program() -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(blocks[0], "README.md", "exec"), names)
    return names


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr("tornado.autoreload.start", lambda: None)
    async with serve(read_program()["make_app"]()) as site:
        yield site


async def test_the_page_counts_its_views_in_the_session(site: Site) -> None:
    browser = site.browser()

    pages = [await browser.get() for _ in range(2)]

    assert "1 views" in pages[0].text
    assert "2 views" in pages[1].text


async def test_the_socket_fills_the_cart_of_the_page_s_session(site: Site) -> None:
    browser = site.browser()
    await browser.get()
    ws = await browser.connect()

    assert await ws.call("cart.add", "tea", 2) == {"tea": 2}
    assert await ws.call("add", 2, 3) == 5
    with pytest.raises(RPCError, match=r"params\[0\] \(item\): expected str, got int") as refused:
        await ws.call("cart.add", 5)

    assert refused.value.code == -32602
    assert [{"cart": {"tea": 2}}] in [args for _, args in ws.events]


def test_every_page_and_picture_it_points_to_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    files = [target for pair in targets for target in pair if target and not target.startswith("https://")]

    assert len(files) > 10
    assert [file for file in files if not (ROOT / file).is_file()] == []
