"""An Express application and one of sstream on one Redis, with the same JSON API, and a visitor to both."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from tornado.web import RequestHandler

from sstream import Application, SessionMixin, SessionOptions
from sstream.testing import Browser, Page, Process, serve

SERVER = Path(__file__).with_name("server.mjs")

SECRET = "a secret of both"
MONTH = 30 * 86400

# Each way of Express with its sessions, and the same for sstream.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "month": ({"ttl": MONTH}, {}),
    "persistent": ({"cookie": {"maxAge": 600_000}}, {"max_age": 600, "persistent": True}),
    "rolling": (
        {"cookie": {"maxAge": 600_000}, "rolling": True},
        {"max_age": 600, "persistent": True, "rolling": True},
    ),
    "rotated": ({"secret": ["a newer secret", SECRET]}, {"secret": ["a newer secret", SECRET]}),
    "renewed": ({"secret": "a newer secret"}, {"secret": "a newer secret"}),
    "attributes": (
        {"cookie": {"sameSite": "strict", "httpOnly": False, "domain": "127.0.0.1", "priority": "high", "path": "/"}},
        {"same_site": "strict", "http_only": False, "domain": "127.0.0.1", "priority": "high", "path": "/"},
    ),
    "strict": ({"cookie": {"sameSite": True}}, {"same_site": True}),
    "named": ({"name": "tea.sid"}, {"name": "tea.sid"}),
    "destroying": ({"unset": "destroy"}, {"unset": "destroy"}),
    "uninitialized": ({"saveUninitialized": True}, {"save_uninitialized": True}),
}


class Api(SessionMixin, RequestHandler):
    """What ``server.mjs`` is in Express."""

    async def get(self, verb: str) -> None:
        self.tell()

    async def post(self, verb: str) -> None:
        body = json.loads(self.request.body) if self.request.body else None
        match verb:
            case "set":
                self.session.update(body)
            case "delete":
                for key in body:
                    del self.session[key]
            case "save":
                await self.session.save()
            case "reload":
                await self.session.reload()
            case "destroy":
                await self.session.destroy()
            case "regenerate":
                await self.session.regenerate()
            case "unset":
                del self.session
                self.write("null")
                return
            case "max-age":
                self.session.max_age = body
                self.session["remembered"] = True
            case "login":
                await self.session.set_user_id(body)
        self.tell()

    def tell(self) -> None:
        if self.session.is_gone:
            self.write("null")
            return
        self.write({
            "id": self.session.id,
            "data": dict(self.session),
            "maxAge": self.session.cookie["originalMaxAge"],
        })  # fmt: skip


class Visitor:
    """A browser that goes to one of them and to the other: cookies know no ports."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.browsers = {side: Browser(url) for side, url in urls.items()}
        for browser in self.browsers.values():
            browser.jar = self.browsers["express"].jar
        self.jar = self.browsers["express"].jar

    async def ask(self, side: str, path: str, body: Any = ..., *, way: str = "plain", sid: str | None = None) -> Page:
        """Ask one ``side`` ("express" or "sstream"), a GET without a ``body``; a new session gets the id ``sid``."""
        headers = {"Content-Type": "application/json"} | ({"X-Sid": sid} if sid is not None else {})
        method, text = ("GET", None) if body is ... else ("POST", json.dumps(body).encode("utf-8"))
        page = await self.browsers[side].fetch(method, f"/{way}/{path}", body=text, headers=headers)
        assert page.status == 200, page.text
        return page

    async def data(self, side: str, **options: Any) -> Any:
        """What the session holds, as one side sees it."""
        return (await self.ask(side, "", **options)).json["data"]


@pytest.fixture(scope="module")
def express_url(node, redis_server):
    """One Express application for all tests of a module, with all its ways."""
    options = {way: {"secret": SECRET, **express} for way, (express, _) in OPTIONS.items()}
    with Process(node, SERVER, env={"REDIS_URL": redis_server, "OPTIONS": json.dumps(options)}) as process:
        port = process.wait_for(r"^listening on (\d+)$")[1]
        yield f"http://127.0.0.1:{port}"
        assert "redis:" not in process.log


@pytest.fixture
async def open_site(redis_url):
    """Opens applications of sstream, each with its way."""
    sites = []

    async def open_site(way: str = "plain"):
        # What Express does not do unless it is told.
        options = {"secret": SECRET, "secure": False, "same_site": False, **OPTIONS[way][1]}
        ids: list[str] = []
        genid = SessionOptions().genid
        application = Application(
            [(r"/[a-z]+/([a-z-]*)", Api)],
            session=SessionOptions(genid=lambda: ids.pop() if ids else genid(), **options),
            redis=redis_url,
        )
        serving = serve(application)
        site = await serving.__aenter__()
        sites.append(serving)
        site.next_ids = ids
        return site

    yield open_site
    for serving in sites:
        await serving.__aexit__(None, None, None)


@pytest.fixture
async def site(open_site):
    """An application of sstream that does as Express does by default."""
    return await open_site()


@pytest.fixture
async def visitor(express_url, site):
    """A visitor without a cookie."""
    return Visitor({"express": express_url, "sstream": site.url})


@pytest.fixture
def database(redis_url):
    """A plain client of the Redis."""
    with redis.Redis.from_url(redis_url) as client:
        yield client
