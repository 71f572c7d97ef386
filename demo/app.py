"""The Teahouse: one session, written by plain pages, by websocket calls and by Express."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from tornado.web import HTTPError, RequestHandler

from demo import shop
from demo.shop import TEAS, Tea
from sstream import Actions, Application, RPCHandler, SessionMixin, SessionOptions, load_session, rpc

__all__ = ["make_app"]

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Page(SessionMixin, RequestHandler):
    """A page with the visitor's session in ``self.session``: loaded before the method, saved before the last byte."""

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-cache")

    def get_template_namespace(self) -> dict[str, Any]:
        names = {"money": money, "lifetime": lifetime, "pretty": pretty, "total": shop.total}
        return super().get_template_namespace() | names

    def tea(self) -> str:
        tea = self.get_body_argument("tea")
        if tea not in TEAS:
            raise HTTPError(400, reason="No such tea")
        return tea


def money(cents: int) -> str:
    return f"{cents / 100:.2f}"


def lifetime(seconds: int) -> str:
    return str(timedelta(seconds=seconds))  # 29 days, 23:59:58


def pretty(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)


class Home(Page):
    def get(self) -> None:
        port = self.settings["express_port"]
        self.render(
            "teahouse.html",
            teas=TEAS,
            view=shop.view(self.session),
            host=self.request.host,
            express=port and f"{self.request.host_name}:{port}",
            in_redis=self.settings["in_redis"],
        )


# A cart is read, changed and written back. `transact` does that on the newest data, and again if anybody wrote
# meanwhile, so no pot of ours is lost. (Express writes a session whole: there the last one wins.)


class AddByPage(Page):
    async def post(self) -> None:
        tea = self.tea()
        await self.session.transact(lambda session: shop.add(session, tea, 1, "page"))
        self.redirect(f"/#{tea}", status=303)


class RemoveByPage(Page):
    async def post(self) -> None:
        tea = self.tea()
        await self.session.transact(lambda session: shop.remove(session, tea, "page"))
        self.redirect("/#cart", status=303)


class ClearByPage(Page):
    async def post(self) -> None:
        await self.session.transact(lambda session: shop.clear(session, "page"))
        self.redirect("/#cart", status=303)


class Cart(Actions):
    """The same cart, called from the browser as ``cart.add``, ``cart.remove`` and ``cart.clear``."""

    middleware = [load_session]

    @rpc
    async def add(self, tea: Tea, count: Annotated[int, Meta(ge=1, le=12)] = 1) -> dict[str, Any] | None:
        await self.session.transact(lambda session: shop.add(session, tea, count, "websocket"))
        return shop.view(self.session)

    @rpc
    async def remove(self, tea: Tea) -> dict[str, Any] | None:
        await self.session.transact(lambda session: shop.remove(session, tea, "websocket"))
        return shop.view(self.session)

    @rpc
    async def clear(self) -> dict[str, Any] | None:
        await self.session.transact(lambda session: shop.clear(session, "websocket"))
        return shop.view(self.session)


class Live(RPCHandler):
    """The page's websocket: takes the calls, and tells the page whenever anybody else changes the session."""

    actions = {"cart": Cart}

    def session_view(self) -> dict[str, Any] | None:
        return shop.view(self.session)


def make_app(*, secret: str, redis: str | None = None, express_port: int | None = None) -> Application:
    """The whole application; without ``redis`` the sessions live in memory."""
    return Application(
        [
            ("/", Home),
            ("/cart/add", AddByPage),
            ("/cart/remove", RemoveByPage),
            ("/cart/clear", ClearByPage),
            ("/live", Live),
        ],
        session=SessionOptions(secret=[secret]),
        redis=redis,
        template_path=HERE / "templates",
        static_path=HERE / "static",
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
        express_port=express_port,
        in_redis=redis is not None,
    )
