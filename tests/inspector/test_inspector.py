"""What the inspector tells by its websocket, and to whom."""

import asyncio
import os
from typing import Any
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import HTTPClientError

from sstream import Access, Application, MemoryStore, RPCError, RPCHandler, SessionOptions, Watch, load_session, rpc
from sstream.inspector import feed
from sstream.inspector.feed import Feed
from sstream.session.commits import log_name
from sstream.testing import Browser, Closed, Site, Socket, SocketClosed, StoreProbe, eventually, serve

PATH = "/_sstream/inspector"
SECRET = "a test's own secret"


class Live(RPCHandler):
    @rpc
    async def wait(self) -> None:
        await asyncio.sleep(0)

    @rpc
    def refuse(self) -> None:
        raise RPCError(4009, "no")

    @rpc(use=[load_session])
    async def put(self, key: str, value: Any) -> None:
        self.session[key] = value

    @rpc
    async def enter(self, channel: str) -> None:
        await self.subscribe(channel)


def application(watch: Watch | None = None, **settings: Any) -> Application:
    return Application(
        [("/ws", Live)],
        session=SessionOptions(secret=SECRET),
        store=StoreProbe(MemoryStore()),
        watch=watch if watch is not None else Watch(inspector=lambda handler: True),
        autoreload=False,
        **settings,
    )


async def visitor(site: Site) -> tuple[Browser, Socket]:
    """One with a session that has a tea in it."""
    browser = site.browser()
    session = await site.app.sessions.create({"tea": "oolong"})
    browser.jar["connect.sid"] = site.app.sessions.cookie_value(session)
    return browser, await browser.connect()


async def ask(inspector: Socket, method: str, *params: Any) -> Any:
    return await inspector.call(f"sstream.inspector.{method}", *params)


async def test_it_tells_who_is_there_and_not_itself() -> None:
    async with serve(application()) as site:
        browser, socket = await visitor(site)
        await socket.call("enter", "lobby")
        await socket.handler.session.set_user_id("ann")
        await site.browser().connect()
        inspector = await site.browser().connect(f"{PATH}/ws")

        who = await ask(inspector, "who")

        assert {one["user"] for one in who["sockets"]} == {None, "ann"}
        known = next(one for one in who["sockets"] if one["user"] == "ann")
        assert known["id"] == socket.handler.id
        assert known["channels"] == ["lobby"]
        assert known["session"] == log_name(socket.handler.session.id)
        assert who["channels"] == [["lobby", 1]]
        assert who["users"] == [["ann", 1]]
        assert browser.sid not in repr(who)


async def test_of_many_sockets_it_looks_at_a_few_and_at_those_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_LISTED", 2)
    async with serve(application()) as site:
        sockets = [await site.browser().connect() for _ in range(5)]
        await sockets[3].call("enter", "lobby")
        ids = [socket.handler.id for socket in sockets]
        inspector = await site.browser().connect(f"{PATH}/ws")

        first = await ask(inspector, "who")
        named = await ask(inspector, "who", f"lobby {ids[4]}")

        assert {one["id"] for one in first["sockets"]} == set(ids[:2])
        assert first["hidden"] == 3
        assert {one["id"] for one in named["sockets"]} == set(ids[3:])
        assert named["hidden"] == 3
        assert first["channels"] == [["lobby", 1]]


async def test_it_says_which_process_answers_and_where() -> None:
    async with serve(application()) as site:
        about = await ask(await site.browser().connect(f"{PATH}/ws"), "about")

        assert about["pid"] == os.getpid()
        assert about["port"] == urlsplit(site.url).port


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}])
async def test_a_trusted_origin_is_not_let_in(headers: dict[str, str]) -> None:
    async with serve(application(trusted_origins=["https://shop.example"])) as site:
        headers = {"Origin": "https://shop.example"} | headers
        await site.browser().connect(headers=headers)

        with pytest.raises(HTTPClientError, match="403"):
            await site.browser().connect(f"{PATH}/ws", headers=headers)

        inspector = await site.browser().connect(f"{PATH}/ws", headers={"Origin": site.url})
        assert (await ask(inspector, "about"))["act"] is True


async def test_it_streams_rates_and_remembers_slow_failed_and_changed() -> None:
    async with serve(application()) as site:
        browser, socket = await visitor(site)
        inspector = await site.browser().connect(f"{PATH}/ws")
        stream = inspector.stream("sstream.inspector.watch")
        assert await anext(stream) == {"past": []}
        await socket.call("wait")
        await socket.call("put", "tea", "sencha")
        with pytest.raises(RPCError):
            await socket.call("refuse")

        told: dict[str, bool] = {}
        heat = 0
        while "refuse" not in told:  # nearly always in one; the machine may have stood still between two calls
            snapshot = await anext(stream)
            told |= {method["name"]: method["failed"] > 0 for method in snapshot["methods"]}
            heat += sum(snapshot["heat"])
            assert snapshot["sockets"] == 1
        calls = await ask(inspector, "calls")
        (change,) = await ask(inspector, "changes")

        assert told == {"wait": False, "put": False, "refuse": True}
        assert heat >= 2
        assert {call["method"] for call in calls["slow"]} == {"wait", "put"}
        assert [(call["method"], call["code"]) for call in calls["failed"]] == [("refuse", 4009)]
        assert (change["keys"], change["transport"], change["socket"]) == (["tea"], "socket", socket.handler.id)
        assert change["session"] == log_name(browser.sid or "")
        await stream.aclose()


async def test_when_nobody_watches_nothing_is_done() -> None:
    async with serve(application()) as site:
        counters = site.app.counters
        await site.browser().connect()
        before = len(asyncio.all_tasks())
        inspector = await site.browser().connect(f"{PATH}/ws")
        stream = inspector.stream("sstream.inspector.watch")
        await anext(stream)
        assert counters.calls.watch.watcher is not None

        await anext(stream)
        closer = {method.stride for method in counters.calls.methods if method.stride}

        await stream.aclose()
        await inspector.close()

        await eventually(lambda: counters.calls.watch.watcher is None, "it still watches calls")
        assert (closer, {method.stride for method in counters.calls.methods}) == ({1}, {0, 2003})
        assert counters.sessions.watcher is None
        await eventually(lambda: len(asyncio.all_tasks()) <= before, "a task goes on")
        assert counters.lag.count == 0


@pytest.mark.parametrize(("access", "expected"), [(True, None), (Access(values=True), {"tea": "oolong"})])
async def test_values_are_shown_only_if_the_guard_allows(access: bool | Access, expected: Any) -> None:
    async with serve(application(Watch(inspector=lambda handler: access))) as site:
        browser, _ = await visitor(site)
        inspector = await site.browser().connect(f"{PATH}/ws")

        view = await ask(inspector, "session", log_name(browser.sid or ""))

        assert view["values"] == (None if expected is None else {**view["values"], **expected})
        assert ["tea", "text"] in view["keys"]
        assert ("oolong" in repr(view)) is (expected is not None)


async def test_a_socket_is_kicked_and_a_session_ended() -> None:
    async with serve(application()) as site:
        browser, first = await visitor(site)
        second = await browser.connect()
        inspector = await site.browser().connect(f"{PATH}/ws")

        assert await ask(inspector, "kick", first.handler.id) is True
        assert await ask(inspector, "kick", "nobody") is False
        assert await ask(inspector, "end", log_name(browser.sid or "")) is True

        assert await first.closed() == Closed(1008, "closed from the inspector")
        assert (await second.closed()).code == 4401
        with pytest.raises(RPCError, match="no socket of this process"):
            await ask(inspector, "end", log_name(browser.sid or ""))


async def test_who_may_only_look_does_not_touch() -> None:
    async with serve(application(Watch(inspector=lambda handler: Access(act=False)))) as site:
        browser, socket = await visitor(site)
        inspector = await site.browser().connect(f"{PATH}/ws")

        for method, name in (("kick", socket.handler.id), ("end", log_name(browser.sid or ""))):
            with pytest.raises(RPCError, match="not touch"):
                await ask(inspector, method, name)

        assert not socket.is_closed


async def test_the_guard_is_asked_again_at_each_call() -> None:
    answers = [True, True, False]
    async with serve(application(Watch(inspector=lambda handler: answers.pop(0)))) as site:
        inspector = await site.browser().connect(f"{PATH}/ws")
        assert (await ask(inspector, "about"))["act"] is True

        with pytest.raises(SocketClosed):
            await ask(inspector, "who")

        assert (await inspector.closed()).code == 1008


async def test_a_guard_may_look_at_the_session() -> None:
    async def guard(handler: Any) -> bool:
        return bool(handler.session.user_id == "root")

    async with serve(application(Watch(inspector=guard))) as site:
        root = site.browser()
        session = await site.app.sessions.create(user_id="root")
        root.jar["connect.sid"] = site.app.sessions.cookie_value(session)

        assert (await root.get(PATH)).status == 200
        assert (await ask(await root.connect(f"{PATH}/ws"), "about"))["act"] is True
        assert (await site.browser().get(PATH)).status == 404
        with pytest.raises(HTTPClientError, match="404"):
            await site.browser().connect(f"{PATH}/ws")


async def test_a_guard_that_does_not_ask_for_the_session_lets_in_while_the_store_is_away() -> None:
    async with serve(application()) as site:
        browser, _ = await visitor(site)
        site.app.store.fail("get", "ttl", "touch")  # type: ignore[attr-defined]  # a probe

        assert (await browser.get(PATH)).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8888"}, 200),
        ({"Host": "evil.example"}, 404),
        ({"Host": "["}, 404),
        ({"X-Forwarded-For": "203.0.113.7"}, 404),
        ({"Forwarded": "for=203.0.113.7"}, 404),
    ],
)
async def test_in_debug_mode_it_is_for_this_machine_alone(headers: dict[str, str], status: int) -> None:
    async with serve(application(Watch(), debug=True)) as site:
        assert (await site.browser().get(PATH, headers=headers)).status == status


async def test_outside_of_debug_mode_there_is_none_without_a_guard() -> None:
    async with serve(application(Watch())) as site:
        for path in ("", "/page.js", "/ws"):
            assert (await site.browser().get(PATH + path)).status == 404


async def test_its_page_allows_no_inline_code_and_no_frame() -> None:
    async with serve(application()) as site:
        page = await site.browser().get(PATH)

        policy = page.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "style=" not in page.text
        assert page.headers["Cache-Control"] == "no-store"


async def test_files_beside_its_own_are_not_served() -> None:
    async with serve(application()) as site:
        for path in ("/feed.py", "/../pages.py", "/none.js", f"/{'a' * 5000}.js"):
            assert (await site.browser().get(PATH + path)).status == 404


async def test_what_came_while_nobody_watched_is_no_rate() -> None:
    app = application()
    async with serve(app) as site:
        browser = site.browser()
        await browser.get("/none")
        with pytest.raises(RPCError):
            await (await browser.connect()).call("none")
        watching = Feed(app, every=0.005).watch()
        await anext(watching)

        snapshot = await anext(watching)

        assert (snapshot["pages"], snapshot["failed"]) == (0, 0)
        await watching.aclose()


async def test_who_reads_slowly_misses_nothing() -> None:
    app = application()
    async with serve(app):
        feed = Feed(app, every=0.005)
        quick, slow = feed.watch(), feed.watch()
        await anext(quick)
        await anext(slow)

        seen = [await anext(quick) for _ in range(5)]
        late = [await anext(slow) for _ in range(5)]

        assert [snapshot["at"] for snapshot in late] == [snapshot["at"] for snapshot in seen]
        await quick.aclose()
        await slow.aclose()


async def test_two_watchers_see_the_same_and_one_may_leave() -> None:
    app = application()
    async with serve(app):
        feed = Feed(app, every=0.01)
        first, second = feed.watch(), feed.watch()
        await anext(first)
        await anext(second)

        await anext(first)
        await first.aclose()
        snapshot = await anext(second)

        assert snapshot["sockets"] == 0
        assert feed.is_watched
        await second.aclose()
        assert not feed.is_watched
