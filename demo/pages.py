"""The plain pages: HTML, forms and redirects, with the visitor's session in ``self.session``."""

import json
from datetime import timedelta
from typing import Any

import msgspec
from tornado.web import HTTPError, RequestHandler

from demo import shop
from demo.accounts import Name, Password
from demo.actions.chat import ROOMS
from demo.shop import TEAS
from demo.view import view
from sstream import SessionMixin

__all__ = ["AddTea", "ClearCart", "Home", "LogIn", "LogOut", "RemoveTea"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

AWAY = (
    "The Teahouse cannot reach its Redis, where sessions and accounts are kept. "
    "What you did last may not be stored: look before you do it again."
)


class Page(SessionMixin, RequestHandler):
    """What all pages share. The session is loaded before the method, and saved before the last byte of the reply."""

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-cache")

    def show(self, problem: str | None = None) -> None:
        """The Teahouse itself, with what went wrong."""
        session = view(self.session)
        self.render(
            "teahouse.html",
            teas=TEAS,
            rooms=ROOMS,
            session=session,
            cart=session["data"].get("cart", {}) if session else {},
            problem=problem,
            host=self.request.host,
            host_name=self.request.host_name,
            doors=self.settings["doors"],
            server=self.settings["server"],
            in_redis=self.settings["in_redis"],
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What went wrong, as a page; the session may be what is missing, so it does without."""
        if status_code == 503:
            title, text = "Closed for a moment", AWAY
        else:
            title, text = "That did not work", f"{status_code}: {self._reason}."
        self.finish(self.render_string("problem.html", title=title, text=text))

    def get_template_namespace(self) -> dict[str, Any]:
        names = {"money": money, "lifetime": lifetime, "pretty": pretty, "total": shop.total}
        return super().get_template_namespace() | names

    def get_tea(self) -> str:
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
        self.show()


# A cart is read, changed and written back. `transact` does that on the newest data, and again if anybody wrote
# meanwhile, so no pot of ours is lost. (Express writes a session whole: there the last one wins.)


class AddTea(Page):
    async def post(self) -> None:
        tea = self.get_tea()
        await self.session.transact(lambda session: shop.add(session, tea, 1, "page"))
        self.redirect(f"/#{tea}", status=303)


class RemoveTea(Page):
    async def post(self) -> None:
        tea = self.get_tea()
        await self.session.transact(lambda session: shop.remove(session, tea, "page"))
        self.redirect("/#cart", status=303)


class ClearCart(Page):
    async def post(self) -> None:
        await self.session.transact(lambda session: shop.clear(session, "page"))
        self.redirect("/#cart", status=303)


class LogIn(Page):
    async def post(self) -> None:
        try:
            name = msgspec.convert(self.get_body_argument("name"), Name)
            password = msgspec.convert(self.get_body_argument("password", strip=False), Password)
        except msgspec.ValidationError as error:
            raise HTTPError(400, reason="No such name or password") from error
        if not await self.application.accounts.may_enter(name, password):
            self.set_status(403)
            self.show(problem=f"That is not the password of {name}.")
            return
        self.session["lastWriter"] = "page"
        await self.session.set_user_id(name)  # with a new id: whoever knew the old one knows nothing
        self.redirect("/#session-title", status=303)


class LogOut(Page):
    async def post(self) -> None:
        await self.session.destroy()  # and every socket of it closes, in every tab, on every server
        self.redirect("/#session-title", status=303)
