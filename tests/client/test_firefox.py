"""sstream/client in a real Firefox, where there is one: loaded from the server, under a strict policy."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sstream.testing import Process, ToolMissing

from .firefox import LISTENING, Firefox, control, find_firefox, start_firefox

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def firefox(tmp_path_factory) -> Iterator[Process]:
    try:
        binary = find_firefox()
    except ToolMissing as error:
        pytest.skip(str(error))
    with start_firefox(binary, tmp_path_factory.mktemp("firefox")) as process:
        process.wait_for(LISTENING, timeout=120)
        yield process


@pytest.fixture
async def page(firefox) -> AsyncIterator[Firefox]:
    with Process(sys.executable, HERE / "browser_site.py") as site:
        async with control(firefox) as page:
            await page.open(site.wait_for(r"^http://\S+")[0])
            yield page


async def test_firefox_calls_hears_logs_in_and_comes_back(page):
    await page.evaluate("s.ready().then(() => null)")
    result = await page.evaluate(
        """(async () => {
            const told = new Promise((resolve) => s.once("told", (...words) => resolve(words)));
            await s.rpc.tell("two", "words");
            return [await told, [...(await s.call("reverse", [new Uint8Array([1, 2, 3])]))]];
        })()"""
    )
    sids = [await page.cookie("connect.sid")]
    for call in ('s.rpc.add_tea("oolong")', 's.rpc.log_in("ann")'):
        await page.evaluate(call)
        await page.evaluate(TRADED)
        sids.append(await page.cookie("connect.sid"))
    states = await page.evaluate(
        """(async () => {
            const states = [];
            s.on("state", ({ state, code }) => states.push([state, code]));
            s.notify("drop", [1012]);
            await new Promise((resolve) => s.once("connected", resolve));
            await s.call("tell");
            return states;
        })()"""
    )
    teas = await page.evaluate('fetch("/teas").then((reply) => reply.json())')

    assert result == [["two", "words"], [3, 2, 1]]
    assert sids[0] is None
    assert len(set(sids)) == 3
    assert states == [["waiting", 1012], ["connecting", None], ["connected", None]]
    assert teas == {"user": "ann", "teas": ["oolong"]}
    assert page.complaints == []


# Resolves when one more ticket has been traded than at the last time.
TRADED = """new Promise((resolve) => {
    const look = () => {
        const traded = performance.getEntriesByName(new URL("/_sstream/session", location)).length;
        if (traded > (window.traded ?? 0)) resolve(window.traded = traded);
        else setTimeout(look, 10);
    };
    look();
})"""
