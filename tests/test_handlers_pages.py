"""The session of a page: loaded before the method runs, stored before the last byte, and never in the way."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis.asyncio as aioredis
from tornado.httpclient import AsyncHTTPClient
from tornado.web import (
    Application as TornadoApplication,
    Finish,
    HTTPError,
    RequestHandler,
    StaticFileHandler,
    stream_request_body,
)

from sstream import Application, MemoryStore, RedisStore, SessionError, SessionMixin, SessionOptions, SStreamError
from sstream.errors import BrokerError
from sstream.session import cookie
from sstream.testing import Browser, Fault, FaultProxy, Site, StoreProbe, eventually, serve, within

SECRET = "a test's own secret"
SID = "AbCdEfGhIjKlMnOpQrStUvWxYz012345"

ServePages = Callable[..., Awaitable[Site]]


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> StoreProbe:
    """A store of each kind."""
    if request.param == "memory":
        return StoreProbe(MemoryStore())
    return StoreProbe(RedisStore(request.getfixturevalue("redis_url"), deadline=20.0))


@pytest.fixture
def memory() -> StoreProbe:
    """A store in memory, where it does not matter which."""
    return StoreProbe(MemoryStore())


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[FaultProxy]:
    """A Redis that may be away; it stands before ``serve_pages`` in a test, so that it is closed behind it."""
    async with FaultProxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy


@pytest.fixture
async def serve_pages() -> AsyncIterator[ServePages]:
    """``await serve_pages(store, ("/", Page), rolling=True)``: an application; keywords are the session's options."""
    async with AsyncExitStack() as stack:

        async def serve_pages(store: StoreProbe, *routes: Any, **options: Any) -> Site:
            session = SessionOptions(**{"secret": SECRET, **options})
            return await stack.enter_async_context(serve(Application(list(routes), store=store, session=session)))

        yield serve_pages


class Visits(SessionMixin, RequestHandler):
    """Counts this visitor's visits."""

    def get(self) -> None:
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.write(f"{self.session['visits']} visits")

    head = get


class Look(SessionMixin, RequestHandler):
    """Shows the session, and changes nothing."""

    def get(self, *_: str) -> None:
        self.write({"id": self.session.id, "is_new": self.session.is_new, "data": dict(self.session)})


class Put(SessionMixin, RequestHandler):
    """Sets each field of the query."""

    def get(self) -> None:
        for key in self.request.query_arguments:
            self.session[key] = self.get_argument(key)
        self.write("put")


ROUTES = [("/", Visits), ("/look", Look), ("/put", Put)]


async def stored(store: StoreProbe, sid: str | None) -> dict[str, Any] | None:
    """What the store has of a session, its ``cookie`` left out, not counted as asked."""
    assert sid is not None
    text = await store.store.get(f"sess:{sid}")
    if text is None:
        return None
    return {key: value for key, value in json.loads(text).items() if key not in {"cookie", "_sstream"}}


async def put_text(store: StoreProbe, sid: str, text: bytes | None) -> None:
    """Let somebody else write a session's text, whatever stands there."""
    await store.store.delete(f"sess:{sid}")
    if text is not None:
        made, _ = await store.store.swap(f"sess:{sid}", None, text, 3600)
        assert made


def signed(sid: str, secret: str = SECRET) -> str:
    """A cookie's value, made by hand."""
    return quote("s:" + cookie.sign(sid, secret), safe="")


# --- plain pages ------------------------------------------------------------------------------------------------------


async def test_first_write_is_stored_and_sets_the_cookie_as_express_does(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, *ROUTES)
    browser = site.browser()

    page = await browser.get()

    assert (page.status, page.text) == (200, "1 visits")
    assert browser.sid is not None
    assert page.cookies == [f"connect.sid={signed(browser.sid)}; Path=/; HttpOnly; SameSite=Lax"]
    assert await stored(store, browser.sid) == {"visits": 1}


async def test_later_visits_go_on_with_the_same_session_and_need_no_new_cookie(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, *ROUTES)
    browser = site.browser()
    await browser.get()
    sid = browser.sid

    second, third = await browser.get(), await browser.get()

    assert [second.text, third.text] == ["2 visits", "3 visits"]
    assert second.cookies == third.cookies == []
    assert browser.sid == sid
    assert await stored(store, sid) == {"visits": 3}


async def test_a_visit_that_writes_nothing_leaves_no_key_no_cookie_and_asks_nothing(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, *ROUTES)

    page = await site.browser().get("/look")

    assert page.json["data"] == {}
    assert page.json["is_new"] is True
    assert page.cookies == []
    assert store.asked == []


async def test_two_visitors_have_two_sessions(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, *ROUTES)
    fred, anna = site.browser(), site.browser()
    await fred.get("/put?name=fred")
    await anna.get("/put?name=anna")

    pages = [(await browser.get("/look")).json["data"] for browser in (fred, anna)]

    assert pages == [{"name": "fred"}, {"name": "anna"}]
    assert fred.sid != anna.sid


async def test_a_read_costs_one_get_and_one_touch_and_a_write_one_get_and_one_swap(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, *ROUTES)
    browser = site.browser()
    await browser.get()
    key = f"sess:{browser.sid}"
    store.asked.clear()

    await browser.get("/look")
    await browser.get("/")

    assert store.asked == [("get", key), ("touch", key), ("get", key), ("swap", key)]


async def test_the_session_is_stored_before_the_last_byte_leaves(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, *ROUTES)
    browser, other = site.browser(), site.browser()
    hold = store.hold("swap", "sess:")

    fetching = asyncio.ensure_future(browser.get())
    await hold.wait()
    await other.get("/look")  # asked for later, answered before

    assert not fetching.done()
    hold.release()
    assert (await fetching).text == "1 visits"
    assert await stored(store, browser.sid) == {"visits": 1}


async def test_pipelined_requests_are_answered_in_order_though_the_first_waits_for_the_store(
    memory: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(memory, *ROUTES)
    hold = memory.hold("swap", "sess:")
    reader, writer = await asyncio.open_connection(*site.address)
    get = b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n"
    writer.write(get % (b"/put?a=1", b"") + get % (b"/look", b"Connection: close\r\n"))

    await hold.wait()
    hold.release()
    replies = await within(reader.read(), "no replies")

    assert replies.count(b"HTTP/1.1 200 OK") == 2
    assert 0 < replies.index(b"put") < replies.index(b'"is_new": true')
    writer.close()
    await writer.wait_closed()


async def test_two_pages_that_write_different_keys_at_once_both_win(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, *ROUTES)
    browser = site.browser()
    await browser.get("/put?first=0")

    await asyncio.gather(*(browser.get(f"/put?key{number}=x") for number in range(20)))

    assert await stored(store, browser.sid) == {"first": "0", **{f"key{number}": "x" for number in range(20)}}


async def test_a_read_only_page_that_ends_after_a_write_restores_nothing(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    read, go_on = asyncio.Event(), asyncio.Event()

    class SlowLook(SessionMixin, RequestHandler):
        async def get(self) -> None:
            old = dict(self.session)
            read.set()
            await go_on.wait()
            self.write(old)

    site = await serve_pages(store, *ROUTES, ("/slow", SlowLook))
    browser = site.browser()
    await browser.get("/put?tea=old")
    reading = asyncio.ensure_future(browser.get("/slow"))
    await within(read.wait(), "the page did not begin")

    await browser.get("/put?tea=new")
    go_on.set()

    assert (await reading).json == {"tea": "old"}
    assert await stored(store, browser.sid) == {"tea": "new"}


# --- every way a reply can end ----------------------------------------------------------------------------------------


async def test_a_streaming_page_sends_the_cookie_first_and_stores_all_by_its_end(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    class Stream(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["early"] = 1
            self.write("one ")
            await self.flush()
            self.session["late"] = 2
            self.write("two ")
            await self.flush()
            self.write("three")

    site = await serve_pages(store, ("/", Stream))
    browser = site.browser()

    page = await browser.get()

    assert page.text == "one two three"
    assert len(page.cookies) == 1
    assert await stored(store, browser.sid) == {"early": 1, "late": 2}


async def test_a_new_session_first_written_after_the_headers_left_is_logged_and_not_stored(
    store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Late(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.write("one ")
            await self.flush()
            self.session["late"] = 2
            self.write("two")

    site = await serve_pages(store, ("/", Late))
    expect_log("written to after the headers had left.*before the first flush", count=1)

    page = await site.browser().get()

    assert (page.text, page.cookies) == ("one two", [])
    assert store.asked == []


async def test_an_http_error_drops_what_was_not_saved(store: StoreProbe, serve_pages: ServePages) -> None:
    class Refuse(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["kept"] = 1
            await self.session.save()
            self.session["dropped"] = 2
            raise HTTPError(403)

    site = await serve_pages(store, *ROUTES, ("/refuse", Refuse))
    browser = site.browser()
    await browser.get()

    page = await browser.get("/refuse")

    assert page.status == 403
    assert await stored(store, browser.sid) == {"visits": 1, "kept": 1}


@pytest.mark.parametrize("how", ["save", "set_user_id"])
async def test_what_a_first_visit_saved_before_its_http_error_stays_the_visitors(
    how: str, store: StoreProbe, serve_pages: ServePages
) -> None:
    class Refuse(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["kept"] = 1
            if how == "save":
                await self.session.save()
            else:
                await self.session.set_user_id("fred")
            self.session["dropped"] = 2
            raise HTTPError(403)

    site = await serve_pages(store, *ROUTES, ("/refuse", Refuse))
    browser = site.browser()

    page = await browser.get("/refuse")

    assert (page.status, len(page.cookies)) == (403, 1)
    data = await stored(store, browser.sid)
    assert data is not None
    assert (data.get("kept"), "dropped" in data) == (1, False)


async def test_a_login_before_an_http_error_keeps_the_visitor_in_his_session(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    class LoginAndFail(SessionMixin, RequestHandler):
        async def get(self) -> None:
            await self.session.set_user_id("fred")
            raise HTTPError(418)

    site = await serve_pages(store, *ROUTES, ("/fail", LoginAndFail))
    browser = site.browser()
    await browser.get()

    page = await browser.get("/fail")

    assert page.status == 418
    assert (await browser.get("/look")).json["data"] == {"visits": 1, "userId": "fred"}


async def test_an_http_error_on_a_first_visit_stores_nothing_and_sets_no_cookie(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    class Refuse(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["dropped"] = 1
            raise HTTPError(404)

    site = await serve_pages(store, ("/", Refuse))

    page = await site.browser().get()

    assert (page.status, page.cookies, store.asked) == (404, [], [])


async def test_a_handler_that_raises_drops_its_changes_and_is_logged_once(
    store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Broken(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["dropped"] = 1
            self.session["visits"] = 99
            raise ZeroDivisionError("on purpose")

    site = await serve_pages(store, *ROUTES, ("/broken", Broken))
    browser = site.browser()
    await browser.get()
    expect_log("Uncaught exception GET /broken", logger="tornado.application", count=1)
    expect_log("500 GET /broken", logger="tornado.access", count=1)

    page = await browser.get("/broken")

    assert page.status == 500
    assert "ZeroDivisionError" not in page.text
    assert await stored(store, browser.sid) == {"visits": 1}


async def test_a_page_for_errors_may_write_to_the_session(
    store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Broken(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["dropped"] = 1
            raise HTTPError(418)

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.session["trouble"] = status_code
            self.finish(f"trouble {status_code}")

    site = await serve_pages(store, ("/", Broken))
    browser = site.browser()

    page = await browser.get()

    assert (page.status, page.text) == (418, "trouble 418")
    assert await stored(store, browser.sid) == {"trouble": 418}


async def test_finish_raised_or_called_early_stores_what_was_written(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    class Early(SessionMixin, RequestHandler):
        async def get(self, how: str) -> None:
            self.session[how] = True
            if how == "raised":
                raise Finish("raised")
            await self.finish("called")

    site = await serve_pages(store, ("/(.*)", Early))
    browser = site.browser()

    pages = [await browser.get("/raised"), await browser.get("/called")]

    assert [page.text for page in pages] == ["raised", "called"]
    assert await stored(store, browser.sid) == {"raised": True, "called": True}


async def test_a_redirect_inside_prepare_stores_and_sets_the_cookie(store: StoreProbe, serve_pages: ServePages) -> None:
    class Members(SessionMixin, RequestHandler):
        async def prepare(self) -> None:
            await super().prepare()
            if self.session.user_id is None:
                self.session["next"] = self.request.path
                self.redirect("/login")

        def get(self) -> None:
            raise AssertionError("the method must not run")

    site = await serve_pages(store, ("/members", Members))
    browser = site.browser()

    page = await browser.get("/members", follow_redirects=False)

    assert (page.status, page.headers["Location"]) == (302, "/login")
    assert len(page.cookies) == 1
    assert await stored(store, browser.sid) == {"next": "/members"}


async def test_head_has_the_headers_and_the_session_of_get_without_its_body(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, *ROUTES)
    browser = site.browser()

    page = await browser.fetch("HEAD", "/")

    assert (page.status, page.body, page.headers["Content-Length"]) == (200, b"", "8")
    assert await stored(store, browser.sid) == {"visits": 1}


async def test_a_page_that_has_not_changed_answers_304_and_stores_nevertheless(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    class Same(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["seen"] = self.session.get("seen", 0) + 1
            self.write("the same every time")

    site = await serve_pages(store, ("/", Same))
    browser = site.browser()
    first = await browser.get()

    second = await browser.get(headers={"If-None-Match": first.headers["Etag"]})

    assert (second.status, second.body) == (304, b"")
    assert await stored(store, browser.sid) == {"seen": 2}


async def test_what_a_client_that_went_away_had_asked_for_is_stored(store: StoreProbe, serve_pages: ServePages) -> None:
    began, gone, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(SessionMixin, RequestHandler):
        async def get(self) -> None:
            began.set()
            await gone.wait()
            self.session["asked"] = True
            self.write("nobody reads this")

        def on_connection_close(self) -> None:
            super().on_connection_close()
            gone.set()

        def on_finish(self) -> None:
            finished.set()

    site = await serve_pages(store, *ROUTES, ("/slow", Slow))
    browser = site.browser()
    await browser.get()
    _, writer = await asyncio.open_connection(*site.address)
    cookies = browser.jar.header("/")
    writer.write(f"GET /slow HTTP/1.1\r\nHost: a\r\nCookie: {cookies}\r\n\r\n".encode())
    await within(began.wait(), "the page did not begin")

    writer.transport.abort()
    await within(finished.wait(), "the page was not finished")

    assert await stored(store, browser.sid) == {"visits": 1, "asked": True}


async def test_a_client_that_leaves_while_its_session_is_being_stored_loses_nothing(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    gone, finished = asyncio.Event(), asyncio.Event()

    class Page(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["asked"] = True
            self.write("nobody reads this")

        def on_connection_close(self) -> None:
            super().on_connection_close()
            gone.set()

        def on_finish(self) -> None:
            finished.set()

    site = await serve_pages(store, *ROUTES, ("/page", Page))
    browser = site.browser()
    await browser.get()
    hold = store.hold("swap")
    _, writer = await asyncio.open_connection(*site.address)
    writer.write(f"GET /page HTTP/1.1\r\nHost: a\r\nCookie: {browser.jar.header('/')}\r\n\r\n".encode())
    await hold.wait()

    writer.transport.abort()
    await within(gone.wait(), "the server did not notice")
    hold.release()
    await within(finished.wait(), "the page was not finished")

    assert await stored(store, browser.sid) == {"visits": 1, "asked": True}


async def test_a_page_that_reads_its_body_in_pieces_has_the_session(
    memory: StoreProbe, serve_pages: ServePages
) -> None:
    @stream_request_body
    class Upload(SessionMixin, RequestHandler):
        def data_received(self, chunk: bytes) -> None:
            self.session["bytes"] = self.session.get("bytes", 0) + len(chunk)

        def post(self) -> None:
            self.write(str(self.session["bytes"]))

    site = await serve_pages(memory, ("/", Upload))
    browser = site.browser()

    page = await browser.fetch("POST", "/", body=b"x" * 300_000)

    assert page.text == "300000"
    assert await stored(memory, browser.sid) == {"bytes": 300_000}


async def test_on_finish_runs_once_after_the_session_is_stored(store: StoreProbe, serve_pages: ServePages) -> None:
    finished: list[list[str]] = []

    class Page(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["a"] = 1

        def on_finish(self) -> None:
            finished.append([operation for operation, _ in store.asked])

    site = await serve_pages(store, ("/", Page))

    await site.browser().get()
    await eventually(lambda: finished, "on_finish was not called")
    store.asked.clear()
    await site.browser().get()
    await eventually(lambda: len(finished) > 1, "on_finish was not called again")

    assert finished == [["swap"], ["swap"]]


async def test_static_files_and_templates_have_the_session(
    store: StoreProbe, serve_pages: ServePages, tmp_path: Path
) -> None:
    (tmp_path / "tea.txt").write_text("Darjeeling")
    (tmp_path / "hello.html").write_text("hello {{ handler.session['name'] }}")

    class Files(SessionMixin, StaticFileHandler):
        async def prepare(self) -> None:
            await super().prepare()
            self.session["files"] = self.session.get("files", 0) + 1

    class Hello(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["name"] = "fred"
            self.render(str(tmp_path / "hello.html"))

    site = await serve_pages(store, ("/files/(.*)", Files, {"path": str(tmp_path)}), ("/", Hello))
    browser = site.browser()

    whole = await browser.get("/files/tea.txt")
    part = await browser.get("/files/tea.txt", headers={"Range": "bytes=0-3"})
    same = await browser.get("/files/tea.txt", headers={"If-None-Match": whole.headers["Etag"]})
    missing = await browser.get("/files/coffee.txt")
    page = await browser.get("/")

    assert [whole.text, part.text, same.status, missing.status] == ["Darjeeling", "Darj", 304, 404]
    assert page.text == "hello fred"
    assert await stored(store, browser.sid) == {"files": 3, "name": "fred"}


async def test_a_compressed_page_stores_and_sets_the_cookie_as_well(memory: StoreProbe) -> None:
    class Long(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["long"] = True
            self.write("x" * 5000)
            if self.get_argument("flush", None):
                await self.flush()
            self.write("y" * 5000)

    application = Application(
        [("/", Long)], store=memory, session=SessionOptions(secret=SECRET), compress_response=True
    )
    async with serve(application) as site:
        for path in ("/", "/?flush=1"):
            browser = site.browser()

            page = await browser.get(path, headers={"Accept-Encoding": "gzip"})

            assert page.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(page.body) == b"x" * 5000 + b"y" * 5000
            assert await stored(memory, browser.sid) == {"long": True}


async def test_other_cookies_of_the_reply_are_kept(memory: StoreProbe, serve_pages: ServePages) -> None:
    class Page(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.set_cookie("theme", "dark")
            self.add_header("Set-Cookie", "plain=1")
            self.session["a"] = 1

    site = await serve_pages(memory, ("/", Page))

    page = await site.browser().get()

    assert sorted(line.partition("=")[0] for line in page.cookies) == ["connect.sid", "plain", "theme"]


# --- prepare ----------------------------------------------------------------------------------------------------------


async def test_a_subclass_may_have_a_prepare_of_its_own(memory: StoreProbe, serve_pages: ServePages) -> None:
    class Page(SessionMixin, RequestHandler):
        async def prepare(self) -> None:
            await super().prepare()
            self.session["prepared"] = True

        def get(self) -> None:
            self.write(dict(self.session))

    site = await serve_pages(memory, ("/", Page))

    assert (await site.browser().get()).json == {"prepared": True}


async def test_a_plain_prepare_below_the_mixin_runs_as_well(memory: StoreProbe, serve_pages: ServePages) -> None:
    class Base(RequestHandler):
        def prepare(self) -> None:
            self.greeting = "hello"

    class Page(SessionMixin, Base):
        def get(self) -> None:
            self.session["greeting"] = self.greeting
            self.write(self.greeting)

    site = await serve_pages(memory, ("/", Page))

    assert (await site.browser().get()).text == "hello"


async def test_a_prepare_that_forgets_super_is_told_so(
    memory: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Forgetful(SessionMixin, RequestHandler):
        async def prepare(self) -> None:
            pass

        def get(self) -> None:
            self.session["a"] = 1

    site = await serve_pages(memory, ("/", Forgetful))
    told = expect_log("Uncaught exception", logger="tornado.application", count=1)
    expect_log("500 GET /", logger="tornado.access", count=1)

    page = await site.browser().get()

    assert page.status == 500
    (record,) = told.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], SessionError)
    assert "Forgetful.prepare() must begin with `await super().prepare()`" in str(record.exc_info[1])


async def test_a_prepare_that_forgets_super_and_uses_no_session_serves_its_page(
    memory: StoreProbe, serve_pages: ServePages
) -> None:
    class Forgetful(SessionMixin, RequestHandler):
        async def prepare(self) -> None:
            pass

        def get(self) -> None:
            self.write("fine")

    site = await serve_pages(memory, ("/", Forgetful))

    assert (await site.browser().get()).text == "fine"


async def test_a_handler_under_tornados_own_application_is_told_what_it_needs(expect_log: Callable[..., Any]) -> None:
    told = expect_log("Uncaught exception", logger="tornado.application", count=1)
    expect_log("500 GET /", logger="tornado.access", count=1)
    server = TornadoApplication([("/", Look)]).listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()

    page = await Browser(f"http://127.0.0.1:{listening.getsockname()[1]}").get()

    server.stop()
    await server.close_all_connections()
    assert page.status == 500
    (record,) = told.records
    assert record.exc_info is not None
    assert "Look needs a sstream.Application" in str(record.exc_info[1])


# --- cookies that are not ours ----------------------------------------------------------------------------------------


async def test_a_well_signed_id_that_nobody_knows_gets_a_fresh_one(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, *ROUTES)
    browser = site.browser(**{"connect.sid": signed(SID)})

    page = await browser.get()

    assert page.text == "1 visits"
    assert browser.sid != SID
    assert await stored(store, SID) is None
    assert await stored(store, browser.sid) == {"visits": 1}


async def test_a_session_signed_with_an_older_secret_is_known_and_signed_anew(
    memory: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(memory, *ROUTES, secret=["the new one", SECRET], rolling=True)
    await put_text(memory, SID, b'{"cookie":{"originalMaxAge":null,"expires":null},"visits":7}')
    browser = site.browser(**{"connect.sid": signed(SID)})

    page = await browser.get()

    assert page.text == "8 visits"
    assert browser.sid == SID
    assert browser.jar["connect.sid"] == signed(SID, "the new one")


async def test_a_cookie_with_any_one_bit_changed_is_no_session_and_the_store_is_not_asked(
    memory: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(memory, *ROUTES)
    await put_text(memory, SID, b'{"cookie":{"originalMaxAge":null,"expires":null},"secret":"Fred\'s"}')
    value = signed(SID).encode()
    flipped = [
        value[:position] + bytes([value[position] ^ 1 << bit]) + value[position + 1 :]
        for position in range(len(value))
        for bit in range(8)
    ]

    statuses: dict[int, list[bytes]] = {}
    async with RawClient(site) as client:
        assert b"Fred" in (await client.get(b"/look", b"connect.sid=" + value))[1]
        memory.asked.clear()
        for changed in flipped:
            status, body = await client.get(b"/look", b"connect.sid=" + changed)
            statuses.setdefault(status, []).append(changed)
            assert b"Fred" not in body
            assert status != 200 or b'"is_new": true' in body

    # A control byte makes it no HTTP request at all; everything else is a page for a stranger.
    assert set(statuses) <= {200, 400}
    assert all(any(byte < 0x20 or byte == 0x7F for byte in changed) for changed in statuses.get(400, []))
    assert memory.asked == []


@pytest.mark.parametrize(
    "cookies",
    [
        pytest.param(f"connect.sid={signed(SID, 'another secret')}", id="wrong secret"),
        pytest.param(f"connect.sid={quote(cookie.sign(SID, SECRET), safe='')}", id="no s:"),
        pytest.param(f"connect.sid={quote('j:' + cookie.sign(SID, SECRET), safe='')}", id="j: instead of s:"),
        pytest.param(f"connect.sid={SID}", id="no signature"),
        pytest.param("connect.sid=", id="empty"),
        pytest.param("connect.sid", id="no equals sign"),
        pytest.param("connect.sid=s%3A", id="s: alone"),
        pytest.param("connect.sid=s%3A.", id="a dot alone"),
        pytest.param(f"connect.sid={signed('')}", id="an empty id"),
        pytest.param("connect.sid=%", id="half an escape"),
        pytest.param("connect.sid=%E0%A4%A", id="escapes that are no UTF-8"),
        pytest.param("connect.sid=\udcff\udcfe", id="bytes that are no UTF-8"),
        pytest.param(f"connect.sid={signed(SID)}; connect.sid={signed('another')}", id="two different ones"),
        pytest.param(f"connect.sid=garbage; connect.sid={signed(SID)}", id="garbage, then a good one"),
        pytest.param(f"connect.sid=garbage\r\nCookie: connect.sid={signed(SID)}", id="the same in two headers"),
        pytest.param(f"connect.sid={'x' * 5120}", id="5 KB"),
        pytest.param(f"connect.sid={signed('x' * 5120)}", id="5 KB, well signed"),
        pytest.param(f"connect.sid={signed('sess*')}", id="a star in the id"),
        pytest.param(f"connect.sid={signed('a' + chr(13) + chr(10) + 'DEL x')}", id="CR and LF in the id"),
        pytest.param(f"connect.sid={signed('a' + chr(0) + 'b')}", id="NUL in the id"),
        pytest.param(f"connect.sid={signed('a b')}", id="a blank in the id"),
        pytest.param(f"connect.sid={signed('naïve')}", id="an accent in the id"),
        pytest.param(f"Connect.Sid={signed(SID)}", id="another name by its capitals"),
    ],
)
async def test_a_bad_cookie_is_a_fresh_anonymous_visit_and_the_store_is_not_asked(
    cookies: str, memory: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(memory, *ROUTES)
    await put_text(memory, SID, b'{"cookie":{"originalMaxAge":null,"expires":null},"secret":"Fred\'s"}')

    async with RawClient(site) as client:
        status, body = await client.get(b"/look", cookies.encode("latin-1", "surrogateescape"))

    assert status == 200
    page = json.loads(body)
    assert (page["data"], page["is_new"]) == ({}, True)
    assert page["id"] != SID
    assert memory.asked == []


async def test_the_same_good_cookie_twice_is_as_good_as_once(memory: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(memory, *ROUTES)
    await put_text(memory, SID, b'{"cookie":{"originalMaxAge":null,"expires":null},"name":"fred"}')
    pair = f"connect.sid={signed(SID)}"

    async with RawClient(site) as client:
        _, body = await client.get(b"/look", f'theme="a b"; {pair}; {pair}'.encode())

    assert json.loads(body)["data"] == {"name": "fred"}


class RawClient:
    """One connection that sends cookies byte for byte as they are, and is made anew where the server closed it."""

    def __init__(self, site: Site) -> None:
        self._address = site.address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: bytes, cookies: bytes) -> tuple[int, bytes]:
        """Status and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nCookie: " + cookies + b"\r\n\r\n")
        head = (await within(reader.readuntil(b"\r\n\r\n"), f"no reply to {cookies!r}")).decode()
        status = int(head.split()[1])
        length = next((line for line in head.lower().splitlines() if line.startswith("content-length:")), None)
        if status == 400 or length is None:
            await self._close()
            return status, b""
        return status, await within(reader.readexactly(int(length.split(":")[1])), "half a reply")

    async def _close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            await writer.wait_closed()

    async def __aenter__(self) -> "RawClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._close()


# --- the cookie's options ---------------------------------------------------------------------------------------------


async def test_a_rolling_cookie_comes_with_every_page(memory: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(memory, *ROUTES, rolling=True)
    browser = site.browser()
    await browser.get()

    page = await browser.get("/look")

    assert len(page.cookies) == 1
    assert (await site.browser().get("/look")).cookies == []


async def test_a_persistent_cookie_expires_with_the_session_and_is_renewed_by_a_write_alone(
    memory: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(memory, *ROUTES, persistent=True, max_age=3600)
    browser = site.browser()

    first = await browser.get()
    read = await browser.get("/look")
    write = await browser.get()

    assert "; Expires=" in first.cookies[0]
    assert "GMT; HttpOnly" in first.cookies[0]
    assert read.cookies == []
    assert "; Expires=" in write.cookies[0]


async def test_remember_me_makes_one_sessions_cookie_persistent(store: StoreProbe, serve_pages: ServePages) -> None:
    class Remember(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["user"] = "fred"
            self.session.max_age = 3600

    site = await serve_pages(store, ("/", Remember), max_age=60)
    browser = site.browser()

    page = await browser.get()

    assert "; Expires=" in page.cookies[0]
    ttl = await store.store.ttl(f"sess:{browser.sid}")
    assert ttl is not None
    assert 3590 < ttl <= 3600


async def test_the_store_keeps_the_session_for_its_idle_time(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, *ROUTES, max_age=1000)
    browser = site.browser()
    await browser.get()
    key = f"sess:{browser.sid}"
    await store.store.touch(key, 10)

    await browser.get("/look")

    ttl = await store.store.ttl(key)
    assert ttl is not None
    assert 990 < ttl <= 1000


@pytest.mark.parametrize(
    ("options", "headers", "expected"),
    [
        pytest.param({"secure": True}, {}, None, id="over http none"),
        pytest.param({"secure": True}, {"X-Forwarded-Proto": "https"}, None, id="an unknown proxy is not believed"),
        pytest.param({"secure": True, "proxy": False}, {"X-Forwarded-Proto": "https"}, None, id="nor one that is off"),
        pytest.param({"secure": True, "proxy": True}, {"X-Forwarded-Proto": "https"}, True, id="a known one is"),
        pytest.param({"secure": True, "proxy": True}, {"X-Forwarded-Proto": "HTTPS, http"}, True, id="first of a list"),
        pytest.param({"secure": True, "proxy": True}, {"X-Forwarded-Proto": "http, https"}, None, id="first, not last"),
        pytest.param({"secure": True, "proxy": True}, {}, None, id="a known one that says nothing"),
        pytest.param({"secure": "auto"}, {}, False, id="auto over http"),
        pytest.param({"secure": "auto", "proxy": True}, {"X-Forwarded-Proto": "https"}, True, id="auto over https"),
    ],
)
async def test_a_secure_cookie_is_sent_over_https_alone(
    options: dict[str, Any],
    headers: dict[str, str],
    expected: bool | None,
    memory: StoreProbe,
    serve_pages: ServePages,
) -> None:
    site = await serve_pages(memory, *ROUTES, **options)

    page = await site.browser().get("/", headers=headers)

    assert page.status == 200
    assert [("; Secure" in line) for line in page.cookies] == ([] if expected is None else [expected])


async def test_same_site_auto_is_none_over_https_and_lax_over_http(memory: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(memory, *ROUTES, same_site="auto", proxy=True)

    plain = await site.browser().get()
    tls = await site.browser().get(headers={"X-Forwarded-Proto": "https"})

    assert plain.cookies[0].endswith("; HttpOnly; SameSite=Lax")
    assert tls.cookies[0].endswith("; HttpOnly; Secure; SameSite=None")


async def test_outside_the_cookies_path_there_is_no_session(
    memory: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Peek(SessionMixin, RequestHandler):
        def get(self) -> None:
            try:
                self.write({"data": dict(self.session)})
            except SessionError as error:
                self.write({"error": str(error)})

    site = await serve_pages(memory, ("/shop/put", Put), ("/.*", Peek), path="/shop")
    browser = site.browser()

    put = await browser.get("/shop/put?tea=1")
    inside = await browser.get("/shop/peek")
    value = browser.jar["connect.sid"]
    outside = await browser.get("/elsewhere", headers={"Cookie": f"connect.sid={value}"})

    assert "; Path=/shop; " in put.cookies[0]
    assert inside.json == {"data": {"tea": "1"}}
    assert outside.json == {"error": "no session at /elsewhere: the session's cookie is for /shop alone"}


async def test_save_uninitialized_stores_a_first_visit_that_wrote_nothing(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, *ROUTES, save_uninitialized=True)
    browser = site.browser()

    page = await browser.get("/look")
    again = await browser.get("/look")

    assert len(page.cookies) == 1
    assert await stored(store, browser.sid) == {}
    assert (again.json["id"], again.json["is_new"], again.cookies) == (browser.sid, False, [])


# --- ending a session -------------------------------------------------------------------------------------------------


class Logout(SessionMixin, RequestHandler):
    """Ends the session, with a change before that must not come back."""

    async def get(self) -> None:
        self.session["last"] = "words"
        await self.session.destroy()
        self.write("bye")


class Drop(SessionMixin, RequestHandler):
    """Removes the session from the request, as ``req.session = null`` does."""

    def get(self) -> None:
        self.session["unsaved"] = 1
        del self.session
        self.write("dropped")


@pytest.mark.parametrize("rolling", [False, True])
async def test_a_destroyed_session_is_gone_and_sets_no_cookie(
    rolling: bool, store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, *ROUTES, ("/logout", Logout), rolling=rolling)
    browser = site.browser()
    await browser.get()
    sid = browser.sid

    page = await browser.get("/logout")

    assert (page.text, page.cookies) == ("bye", [])
    assert await stored(store, sid) is None
    again = await browser.get()
    assert again.text == "1 visits"
    assert browser.sid != sid


async def test_destroying_a_session_that_was_never_stored_does_nothing(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, ("/logout", Logout))

    page = await site.browser().get("/logout")

    assert (page.text, page.cookies, store.asked) == ("bye", [], [])


async def test_del_session_keeps_what_is_stored_and_drops_what_is_not(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    site = await serve_pages(store, *ROUTES, ("/drop", Drop))
    browser = site.browser()
    await browser.get()

    page = await browser.get("/drop")

    assert (page.text, page.cookies) == ("dropped", [])
    assert await stored(store, browser.sid) == {"visits": 1}


async def test_del_session_with_unset_destroy_ends_what_is_stored(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, *ROUTES, ("/drop", Drop), unset="destroy")
    browser = site.browser()
    await browser.get()
    stranger = await site.browser().get("/drop")

    page = await browser.get("/drop")

    assert (page.text, page.cookies) == (stranger.text, stranger.cookies) == ("dropped", [])
    assert await stored(store, browser.sid) is None


async def test_a_failing_store_under_unset_destroy_is_told(
    memory: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(memory, *ROUTES, ("/drop", Drop), unset="destroy")
    browser = site.browser()
    await browser.get()
    expect_log("503 GET /drop", required=False)
    expect_log("503 GET /drop", logger="tornado.access")
    memory.fail("delete")

    page = await browser.get("/drop")

    assert page.status == 503
    assert await stored(memory, browser.sid) == {"visits": 1}


async def test_a_removed_session_says_so_when_it_is_used(memory: StoreProbe, serve_pages: ServePages) -> None:
    class Page(SessionMixin, RequestHandler):
        def get(self) -> None:
            del self.session
            with pytest.raises(SessionError, match="was removed with `del self.session`"):
                self.session["a"] = 1
            with pytest.raises(SessionError):
                del self.session

    site = await serve_pages(memory, ("/", Page))

    assert (await site.browser().get()).status == 200


async def test_a_page_that_saves_after_somebody_ended_its_session_is_told_and_revives_nothing(
    store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    class Slow(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["late"] = 1
            began.set()
            await go_on.wait()
            self.write("done")

    site = await serve_pages(store, *ROUTES, ("/slow", Slow), ("/logout", Logout))
    browser = site.browser()
    await browser.get()
    sid = browser.sid
    tab = browser.copy()
    expect_log("409 GET /slow.*ended", count=1)
    slow = asyncio.ensure_future(browser.get("/slow"))
    await within(began.wait(), "the page did not begin")

    await tab.get("/logout")
    go_on.set()
    page = await slow

    assert page.status == 409
    assert "done" not in page.text
    assert page.cookies == ["connect.sid=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Lax"]
    assert browser.sid is None
    assert await stored(store, sid) is None


async def test_a_page_that_only_read_a_session_that_was_ended_revives_nothing(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    class Slow(SessionMixin, RequestHandler):
        async def get(self) -> None:
            began.set()
            await go_on.wait()
            self.write(dict(self.session))

    site = await serve_pages(store, *ROUTES, ("/slow", Slow), ("/logout", Logout))
    browser = site.browser()
    await browser.get()
    slow = asyncio.ensure_future(browser.get("/slow"))
    await within(began.wait(), "the page did not begin")

    await browser.copy().get("/logout")
    go_on.set()

    assert (await slow).json == {"visits": 1}
    assert await stored(store, browser.sid) is None


# --- logging in -------------------------------------------------------------------------------------------------------


class Login(SessionMixin, RequestHandler):
    """Logs the visitor in as the query says."""

    async def get(self) -> None:
        self.session["before"] = "the save"
        await self.session.set_user_id(self.get_argument("name"))
        self.write("hello")


async def test_logging_in_renews_the_id_and_the_old_one_is_dead(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, *ROUTES, ("/login", Login))
    browser = site.browser()
    await browser.get("/put?cart=tea")
    thief, old = browser.copy(), browser.sid

    page = await browser.get("/login?name=fred")

    assert len(page.cookies) == 1
    assert browser.sid != old
    assert await stored(store, old) is None
    assert await stored(store, browser.sid) == {"cart": "tea", "before": "the save", "userId": "fred"}
    assert (await browser.get("/look")).json["data"]["userId"] == "fred"
    assert (await thief.get("/look")).json["data"] == {}


async def test_logging_in_on_a_first_visit_needs_one_id_only(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, ("/login", Login))
    browser = site.browser()

    page = await browser.get("/login?name=fred")

    assert len(page.cookies) == 1
    assert await stored(store, browser.sid) == {"before": "the save", "userId": "fred"}


async def test_regenerate_gives_a_new_id_and_no_data(store: StoreProbe, serve_pages: ServePages) -> None:
    class Regenerate(SessionMixin, RequestHandler):
        async def get(self) -> None:
            await self.session.regenerate()
            self.session["fresh"] = True
            self.write(dict(self.session))

    site = await serve_pages(store, *ROUTES, ("/regenerate", Regenerate))
    browser = site.browser()
    await browser.get("/put?cart=tea")
    old = browser.sid

    page = await browser.get("/regenerate")

    assert page.json == {"fresh": True}
    assert browser.sid != old
    assert await stored(store, old) is None
    assert await stored(store, browser.sid) == {"fresh": True}


async def test_a_page_under_way_when_its_session_moves_to_a_new_id_loses_nothing(
    store: StoreProbe, serve_pages: ServePages
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    class Slow(SessionMixin, RequestHandler):
        async def get(self) -> None:
            began.set()
            await go_on.wait()
            self.session["slow"] = True

    site = await serve_pages(store, *ROUTES, ("/slow", Slow), ("/login", Login))
    browser = site.browser()
    await browser.get()
    slow = asyncio.ensure_future(browser.copy().get("/slow"))
    await within(began.wait(), "the page did not begin")

    await browser.get("/login?name=fred")
    go_on.set()

    assert (await slow).status == 200
    data = await stored(store, browser.sid)
    assert data is not None
    assert (data["slow"], data["userId"]) == (True, "fred")


# --- bad values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("cookie", 1, id="a reserved name"),
        pytest.param("constructor", 1, id="a name of JavaScript's"),
        pytest.param("number", float("nan"), id="NaN"),
        pytest.param("number", float("inf"), id="Infinity"),
        pytest.param("number", 2**53 + 1, id="an integer past 2**53"),
        pytest.param("thing", {"deep": [object()]}, id="what JSON cannot hold"),
        pytest.param("thing", {1: 2}, id="a key that is no text"),
        pytest.param("text", "\ud800", id="a lone surrogate"),
        pytest.param("blob", b"bytes", id="bytes"),
    ],
)
async def test_a_value_that_cannot_be_kept_is_refused_by_name_and_nothing_changes(
    key: str, value: Any, store: StoreProbe, serve_pages: ServePages
) -> None:
    class Page(SessionMixin, RequestHandler):
        def get(self) -> None:
            with pytest.raises(SessionError, match=key):
                self.session[key] = value
            self.write(dict(self.session))

    site = await serve_pages(store, *ROUTES, ("/bad", Page))
    browser = site.browser()
    await browser.get()

    page = await browser.get("/bad")

    assert page.json == {"visits": 1}
    assert await stored(store, browser.sid) == {"visits": 1}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            lambda cart: cart.update(price=float("nan")), r"'cart\.price' holds nan", id="NaN put into a dict"
        ),
        pytest.param(lambda cart: cart.update(note="x" * 70_000), r"'cart'.*at most 65536", id="past 64 KiB"),
    ],
)
async def test_a_nested_change_that_cannot_be_kept_is_500_and_the_log_names_the_key(
    spoil: Callable[[Any], None],
    words: str,
    store: StoreProbe,
    serve_pages: ServePages,
    expect_log: Callable[..., Any],
) -> None:
    class Fill(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["cart"] = {"tea": 1}

    class Spoil(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["other"] = "must not be kept alone"
            spoil(self.session["cart"])
            self.write("a false success")

    site = await serve_pages(store, ("/fill", Fill), ("/spoil", Spoil))
    browser = site.browser()
    await browser.get("/fill")
    expect_log(words, count=1)
    expect_log("500 GET /spoil", logger="tornado.access", count=1)

    page = await browser.get("/spoil")

    assert page.status == 500
    assert "false success" not in page.text
    assert await stored(store, browser.sid) == {"cart": {"tea": 1}}


# --- a store in trouble -----------------------------------------------------------------------------------------------


async def test_redis_down_is_503_in_time_with_a_short_text_and_heals_by_itself(
    proxy: FaultProxy, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    store = StoreProbe(RedisStore(proxy.url))
    site = await serve_pages(store, *ROUTES)
    browser = site.browser()
    await browser.get()
    expect_log("Redis cannot be reached")
    expect_log("Redis is back")
    expect_log("503 GET", required=False)
    expect_log("503 GET", logger="tornado.general", required=False)
    expect_log("503 GET", logger="tornado.access")

    proxy.refuse()
    asked = (browser.get("/look"), browser.get("/"), site.browser().get("/put?a=1"))
    read, write, first = await within(asyncio.gather(*asked), "they wait on")
    stranger = await site.browser().get("/look")
    await proxy.accept()
    healed = await eventually(lambda: _ok(browser, "/"), "it did not heal")

    for page in (read, write, first):
        assert (page.status, page.cookies) == (503, [])
        assert page.headers["Retry-After"] == "5"
        assert len(page.text) < 200
        assert "edis" not in page.text
    assert stranger.status == 200  # needs no session, so needs no store
    assert healed.text == "2 visits"


async def test_a_page_whose_event_is_not_taken_is_503_and_stores_nothing(
    memory: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Page(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["a"] = 1
            raise BrokerError("nobody takes it")

    expect_log("503 GET / .*: nobody takes it", count=1)
    expect_log("503 GET /", logger="tornado.access")
    site = await serve_pages(memory, ("/", Page))

    page = await site.browser().get()

    assert (page.status, page.headers["Retry-After"], page.cookies) == (503, "5", [])
    assert "nobody" not in page.text


async def _ok(browser: Browser, path: str) -> Any:
    page = await browser.get(path)
    return page if page.status == 200 else None


async def test_redis_down_at_start_is_503_and_the_process_works_when_redis_comes(
    proxy: FaultProxy, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    proxy.refuse()
    expect_log("Redis cannot be reached")
    expect_log("Redis is back")
    expect_log("503 GET", required=False)
    expect_log("503 GET", logger="tornado.general", required=False)
    expect_log("503 GET", logger="tornado.access", required=False)
    site = await serve_pages(StoreProbe(RedisStore(proxy.url)), *ROUTES)
    browser = site.browser()

    down = await browser.get()
    await proxy.accept()
    up = await eventually(lambda: _ok(browser, "/"), "it did not heal")

    assert (down.status, down.cookies) == (503, [])
    assert up.text == "1 visits"


async def test_a_frozen_redis_is_503_in_about_a_second(
    proxy: FaultProxy, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(StoreProbe(RedisStore(proxy.url)), *ROUTES)
    browser = site.browser()
    await browser.get()
    expect_log("Redis cannot be reached")
    expect_log("Redis is back", required=False)
    expect_log("503 GET", required=False)
    expect_log("503 GET", logger="tornado.general", required=False)
    expect_log("503 GET", logger="tornado.access")

    proxy.freeze()
    page = await within(browser.get(), "it waits on")
    proxy.thaw()

    assert page.status == 503
    assert (await eventually(lambda: _ok(browser, "/"), "it did not heal")).text == "2 visits"


@pytest.mark.parametrize("after", [False, True], ids=["before it was stored", "after it was stored"])
async def test_a_store_that_fails_at_the_commit_is_503_and_never_a_false_success(
    after: bool, store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(store, *ROUTES)
    browser, stranger = site.browser(), site.browser()
    await browser.get()
    expect_log("503 GET .*: the session could not be saved", count=2)
    expect_log("503 GET", logger="tornado.access", count=2)
    store.fail("swap", after=after)

    known, first = await browser.get(), await stranger.get()
    store.heal()

    assert [known.status, first.status] == [503, 503]
    assert "visits" not in known.text + first.text
    assert first.cookies == []
    assert (await browser.get()).text == ("3 visits" if after else "2 visits")


@pytest.mark.parametrize("how", ["save", "set_user_id", "transact", "reload", "destroy"])
async def test_a_store_that_fails_inside_the_method_is_503_as_well(
    how: str, store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Explicit(SessionMixin, RequestHandler):
        async def get(self) -> None:
            session = self.session
            session["visits"] = 99
            match how:
                case "save":
                    await session.save()
                case "set_user_id":
                    await session.set_user_id("fred")
                case "transact":
                    await session.transact(lambda newest: newest.update(visits=99))
                case "reload":
                    await session.reload()
                case "destroy":
                    await session.destroy()
            self.write("a false success")

    site = await serve_pages(store, *ROUTES, ("/explicit", Explicit))
    browser = site.browser()
    await browser.get()
    hold = store.hold("get", "sess:", after=True)
    expect_log("503 GET /explicit", required=False)
    expect_log("503 GET /explicit", logger="tornado")
    fetching = asyncio.ensure_future(browser.get("/explicit"))
    await hold.wait()
    store.fail("get", "swap", "delete")
    hold.release()

    page = await fetching
    store.heal()

    assert page.status == 503
    assert "false success" not in page.text
    assert page.cookies == []
    assert (await browser.get()).text == "2 visits"


async def test_a_session_that_is_gone_inside_the_method_is_409_and_its_cookie_is_cleared(
    store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Explicit(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["late"] = 1
            await self.session.save()
            self.write("a false success")

    site = await serve_pages(store, *ROUTES, ("/explicit", Explicit))
    browser = site.browser()
    await browser.get()
    expect_log("409 GET /explicit", required=False)
    expect_log("409 GET /explicit", logger="tornado", required=False)
    hold = store.hold("get", "sess:", after=True)
    fetching = asyncio.ensure_future(browser.get("/explicit"))
    await hold.wait()
    await site.app.sessions.end(browser.sid or "")
    hold.release()

    page = await fetching

    assert page.status == 409
    assert "false success" not in page.text
    assert browser.sid is None


async def test_a_read_whose_touch_fails_is_503(
    memory: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(memory, *ROUTES)
    browser = site.browser()
    await browser.get()
    expect_log("503 GET /look", count=1)
    expect_log("503 GET /look", logger="tornado.access", count=1)
    memory.fail("touch")

    assert (await browser.get("/look")).status == 503


async def test_an_error_page_that_looks_into_the_session_while_the_store_is_down_is_still_503(
    memory: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    told: list[str] = []

    class Themed(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.write("fine")

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            try:
                theme = self.session.get("theme")
            except SStreamError as error:
                told.append(str(error))
                theme = "plain"
            self.finish(f"{status_code} {theme}")

    site = await serve_pages(memory, *ROUTES, ("/themed", Themed))
    browser = site.browser()
    await browser.get()
    expect_log("503 GET", logger="tornado.general", count=1)
    expect_log("503 GET", logger="tornado.access", count=1)
    memory.fail("get")

    page = await browser.get("/themed")

    assert (page.status, page.text) == (503, "503 plain")
    # Nothing about `prepare` or the cookie's path: the store is what is wrong.
    assert "loaded" in told[0]


async def test_tornados_xsrf_check_comes_before_the_method_and_changes_nothing(
    memory: StoreProbe, expect_log: Callable[..., Any]
) -> None:
    expect_log("'_xsrf' argument missing", logger="tornado.general", count=1)

    class Form(SessionMixin, RequestHandler):
        def get(self) -> None:
            self.session["seen"] = True
            self.write(self.xsrf_token)

        def post(self) -> None:
            self.session["posted"] = True

    application = Application([("/", Form)], store=memory, session=SessionOptions(secret=SECRET), xsrf_cookies=True)
    async with serve(application) as site:
        browser = site.browser()
        token = (await browser.get()).text

        refused = await browser.post("/", {"a": "1"}, headers={"X-Xsrftoken": None})
        after_refusal = await stored(memory, browser.sid)
        taken = await browser.post("/", {"_xsrf": token}, headers={"X-Xsrftoken": None})

        assert [refused.status, taken.status] == [403, 200]
        assert after_refusal == {"seen": True}
        assert await stored(memory, browser.sid) == {"seen": True, "posted": True}


async def test_a_first_visit_whose_session_could_not_be_stored_gets_no_cookie(
    store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(store, *ROUTES, save_uninitialized=True)
    expect_log("503 GET", count=2)
    expect_log("503 GET", logger="tornado.access", count=2)
    store.fail("swap")

    pages = [await site.browser().get(path) for path in ("/look", "/")]

    assert [(page.status, page.cookies) for page in pages] == [(503, [])] * 2


async def test_a_store_that_raises_something_else_is_500_and_logged(
    memory: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    class Broken(StoreProbe):
        async def swap(self, *arguments: Any) -> Any:
            raise ZeroDivisionError("a bug in somebody's store")

    site = await serve_pages(Broken(MemoryStore()), *ROUTES)
    expect_log("ZeroDivisionError|Exception|Uncaught", logger="tornado")
    expect_log("500 GET /", logger="tornado.access", count=1)

    page = await site.browser().get()

    assert (page.status, page.cookies) == (500, [])
    assert "1 visits" not in page.text


async def test_a_streaming_page_whose_commit_fails_is_cut_and_not_ended_properly(
    store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    finished = asyncio.Event()

    class Stream(SessionMixin, RequestHandler):
        async def get(self) -> None:
            self.session["visits"] = 99
            self.write("so far so good")
            await self.flush()

        def on_finish(self) -> None:
            finished.set()

    site = await serve_pages(store, *ROUTES, ("/stream", Stream))
    browser = site.browser()
    await browser.get()
    expect_log("503 GET /stream.*: the session could not be saved", count=1)
    expect_log("GET /stream", logger="tornado.access", required=False)
    store.fail("swap")

    with pytest.raises(ConnectionError):
        await browser.get("/stream")

    await within(finished.wait(), "on_finish was not called")
    store.heal()
    assert await stored(store, browser.sid) == {"visits": 1}


async def test_an_error_reply_between_redis_and_us_is_503(
    proxy: FaultProxy, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(StoreProbe(RedisStore(proxy.url)), *ROUTES)
    browser = site.browser()
    await browser.get()
    expect_log("503 GET", required=False)
    expect_log("503 GET", logger="tornado.general", required=False)
    expect_log("503 GET", logger="tornado.access", count=1)
    proxy.on("EVALSHA", Fault.ERROR, message="OOM command not allowed when used memory > 'maxmemory'.")

    page = await browser.get()

    assert (page.status, "OOM" in page.text) == (503, False)
    assert (await browser.get()).text == "2 visits"


# --- corrupt texts ----------------------------------------------------------------------------------------------------

_CORRUPT = [
    pytest.param(b'{"cookie":{"originalMaxAge":null,"expires":nu', id="truncated"),
    pytest.param(b"null", id="null"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b'"text"', id="a text"),
    pytest.param(b"", id="nothing"),
    pytest.param(b"{}", id="an empty object"),
    pytest.param(b'{"user":"fred"}', id="no cookie"),
    pytest.param(b'{"cookie":7,"user":"fred"}', id="a cookie that is no object"),
    pytest.param(b'{"cookie":{"originalMaxAge":null},"a":"\xff\xfe"}', id="not UTF-8"),
    pytest.param(b'{"cookie":{},"a":' + b"[" * 5000 + b"]" * 5000 + b"}", id="5000 deep"),
    pytest.param(b'{"cookie":{},"a":"' + b"x" * 5_000_000 + b'"}', id="5 MB"),
    pytest.param(b'{"cookie":{},"a":NaN}', id="NaN"),
]


@pytest.mark.parametrize("text", _CORRUPT)
async def test_a_corrupt_text_is_logged_once_and_left_alone_and_the_visitor_gets_a_fresh_session(
    text: bytes, store: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(store, *ROUTES)
    await put_text(store, SID, text)
    expect_log("cannot be read and is left alone", count=1)
    old, fresh = site.browser(**{"connect.sid": signed(SID)}), site.browser(**{"connect.sid": signed(SID)})

    look = await old.get("/look")
    write = await fresh.get("/")

    assert (look.status, look.json["data"], look.json["is_new"]) == (200, {}, True)
    assert (write.status, write.text) == (200, "1 visits")
    assert fresh.sid != SID
    assert await store.store.get(f"sess:{SID}") == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"cookie":{"originalMaxAge":"soon","expires":[]},"visits":"many"}', id="fields of wrong types"),
        pytest.param(b'{"cookie":{"originalMaxAge":null,"expires":"never"},"visits":[]}', id="a date that is none"),
        pytest.param(b'{"cookie":{"path":7,"domain":[],"sameSite":{}},"visits":{}}', id="attributes that are none"),
        pytest.param(b'{"cookie":{"originalMaxAge":-5,"expires":null},"visits":null}', id="a lifetime below zero"),
        pytest.param(b'{"cookie":{"originalMaxAge":1e300},"visits":null}', id="a lifetime without end"),
        pytest.param(b'{"cookie":{},"_sstream":{"moves":{"to":7,"by":"x"},"born":"x"},"visits":1}', id="broken books"),
        pytest.param(b'{"cookie":{},"_sstream":[],"visits":1}', id="books that are a list"),
        pytest.param(b'{"cookie":{},"userId":{"a":1},"channels":7,"visits":1}', id="a user that is none"),
        pytest.param(b'{"cookie":{"path":"/; HttpOnly=no\\r\\nX: y"},"visits":1}', id="a header in the path"),
    ],
)
async def test_odd_fields_that_somebody_else_stored_never_break_a_page(
    text: bytes, memory: StoreProbe, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(memory, *ROUTES, rolling=True)
    await put_text(memory, SID, text)
    expect_log("cannot be read and is left alone", required=False)
    browser = site.browser(**{"connect.sid": signed(SID)})

    look = await browser.get("/look")
    write = await browser.get("/put?new=1")

    assert [look.status, write.status] == [200, 200]
    assert "X" not in write.headers
    assert all("\r" not in line and "HttpOnly=no" not in line for line in write.cookies)


async def test_a_key_of_another_type_in_redis_is_an_error_and_not_a_session(
    redis_url: str, serve_pages: ServePages, expect_log: Callable[..., Any]
) -> None:
    site = await serve_pages(StoreProbe(RedisStore(redis_url, deadline=20.0)), *ROUTES)
    async with aioredis.Redis.from_url(redis_url) as client:
        await client.lpush(f"sess:{SID}", "not", "a", "text")
    expect_log("503 GET", required=False)
    expect_log("503 GET", logger="tornado.general", required=False)
    expect_log("503 GET", logger="tornado.access", count=1)

    page = await site.browser(**{"connect.sid": signed(SID)}).get("/look")

    assert (page.status, page.cookies) == (503, [])


async def test_a_text_of_express_keeps_what_we_do_not_know(store: StoreProbe, serve_pages: ServePages) -> None:
    site = await serve_pages(store, *ROUTES)
    text = (
        b'{"cookie":{"originalMaxAge":2592000000,"expires":"2199-12-23T00:53:13.384Z","httpOnly":true,"path":"/",'
        b'"futureField":[1]},"userId":"fred","cart":{"b":1,"a":1.50,"big":12345678901234567890}}'
    )
    await put_text(store, SID, text)
    browser = site.browser(**{"connect.sid": signed(SID)})

    await browser.get("/look")
    unchanged = await store.store.get(f"sess:{SID}")
    await browser.get("/put?tea=1")
    changed = await store.store.get(f"sess:{SID}")

    assert unchanged == text
    assert changed is not None
    assert b'"futureField":[1]' in changed
    assert b'"cart":{"b":1,"a":1.50,"big":12345678901234567890},"tea":"1"}' in changed


def test_no_client_of_these_tests_is_left_open() -> None:
    assert not AsyncHTTPClient._async_clients()
