"""What a call changed is stored before its reply leaves."""

import asyncio
from typing import Any

import pytest
from tornado.web import RequestHandler

from sstream import Limits, SessionMixin, load_session, rpc
from sstream.testing import StoreProbe, within

from .live import Live, ServeLive, stored


@pytest.mark.parametrize("method", ["cart.add", "cart.add_now"])
async def test_the_reply_of_a_call_leaves_after_the_store_has_its_change(
    method: str, store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("cart.show")
    hold = store.hold("swap", "sess:")

    change = socket.ask(method, "tea")
    await hold.wait()
    other = await socket.call("add", 2, 3)  # asked for later, answered before

    assert (other, change.done()) == (5, False)
    hold.release()
    assert await socket.reply(change) == {"tea": 1}
    assert await stored(store, browser.sid) == {"a": "1", "cart": {"tea": 1}}


async def test_a_page_and_a_socket_share_one_cart(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store)
    browser = site.browser()
    await browser.get("/tea")
    socket = await browser.connect()

    carts = [
        await socket.call("cart.add", "tea"),
        (await browser.get("/tea")).json,
        await socket.call("cart.add_now", "tea"),
        (await browser.get("/tea")).json,
        (await browser.get("/look")).json["cart"],
        (await socket.call("cart.show"))["cart"],
    ]

    assert [cart["tea"] for cart in carts] == [2, 3, 4, 5, 5, 5]
    assert await stored(store, browser.sid) == {"cart": {"tea": 5}}


async def test_calls_of_one_socket_that_load_the_session_run_in_order_and_others_beside_them(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    class Counter(Live):
        @rpc(use=[load_session])
        async def slow(self) -> int:
            count = self.session.get("n", 0)
            running.set()
            await go_on.wait()
            self.session["n"] = count + 1
            return self.session["n"]

        @rpc(use=[load_session])
        def plain(self) -> int:
            self.session["n"] = self.session.get("n", 0) + 1
            return self.session["n"]

        @rpc(use=[load_session])
        async def waiting(self) -> int:
            count = self.session.get("n", 0)
            await asyncio.sleep(0)
            self.session["n"] = count + 1
            return self.session["n"]

    site = await serve_live(store, Counter)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()

    calls = [socket.ask(method) for method in ("slow", "plain", "waiting", "plain", "plain", "waiting")]
    await within(running.wait(), "the first call did not begin")
    beside = await socket.call("add", 2, 3)
    done_before = [call.done() for call in calls]
    go_on.set()

    assert beside == 5
    assert not any(done_before)
    assert [await socket.reply(call) for call in calls] == [1, 2, 3, 4, 5, 6]
    assert await stored(store, browser.sid) == {"a": "1", "n": 6}


async def test_many_counts_of_several_tabs_and_pages_at_once_are_all_kept_by_transact(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    def count(session: Any) -> int:
        session["n"] = session.get("n", 0) + 1
        return int(session["n"])

    class Counter(Live):
        @rpc(use=[load_session])
        async def count(self) -> int:
            return await self.session.transact(count)

    class CountPage(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.write(str(await self.session.transact(count)))

    # Forty that contend may want more than the second that one alone is given.
    site = await serve_live(store, Counter, ("/count", CountPage), limits=Limits(store_deadline=None))
    browser = site.browser()
    await browser.get("/put?a=1")
    tabs = [await browser.connect() for _ in range(3)]

    by_calls = [tab.call("count") for tab in tabs for _ in range(10)]
    by_pages = [browser.get("/count") for _ in range(10)]
    results = await asyncio.gather(*by_calls, *by_pages)

    counts = [result if isinstance(result, int) else int(result.text) for result in results]
    assert sorted(counts) == list(range(1, 41))
    assert await stored(store, browser.sid) == {"a": "1", "n": 40}


async def test_different_keys_written_by_sockets_and_pages_at_once_all_survive(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    class Keys(Live):
        @rpc(use=[load_session])
        async def put(self, key: str) -> None:
            self.session[key] = "x"

        @rpc(use=[load_session])
        def put_now(self, key: str) -> None:
            self.session[key] = "x"

    site = await serve_live(store, Keys)
    browser = site.browser()
    await browser.get("/put?a=x")
    tabs = [await browser.connect() for _ in range(3)]

    await asyncio.gather(
        *(tab.call("put", f"async-{number}-{turn}") for number, tab in enumerate(tabs) for turn in range(5)),
        *(tab.call("put_now", f"plain-{number}-{turn}") for number, tab in enumerate(tabs) for turn in range(5)),
        *(browser.get(f"/put?page-{number}=x") for number in range(10)),
    )

    data = await stored(store, browser.sid)
    assert data is not None
    assert len(data) == 1 + 15 + 15 + 10
