"""The Teahouse: one session, written by plain pages, by websocket calls and by Express."""

from collections.abc import Mapping
from pathlib import Path

from tornado.web import StaticFileHandler

from demo import pages
from demo.accounts import Accounts
from demo.live import Live
from sstream import Application, Limits, SessionOptions

__all__ = ["Teahouse"]

HERE = Path(__file__).parent


class Teahouse(Application):
    """The whole application, of which several processes may run on one Redis.

    Args:
        secret: Signs the cookies; Express has the same.
        redis: The URL of the Redis that all processes share; ``None`` keeps everything in memory.
        server: The name of this process.
        doors: The ports of all processes by their names, for the links on the page.
    """

    def __init__(
        self, *, secret: str, redis: str | None = None, server: str = "A", doors: Mapping[str, int] | None = None
    ) -> None:
        self.accounts = Accounts(redis)
        super().__init__(
            [
                ("/", pages.Home),
                ("/cart/add", pages.AddTea),
                ("/cart/remove", pages.RemoveTea),
                ("/cart/clear", pages.ClearCart),
                ("/login", pages.LogIn),
                ("/logout", pages.LogOut),
                ("/live", Live),
            ],
            session=SessionOptions(secret=[secret]),
            redis=redis,
            # The panel Wire calls a thousand times as fast as it can; by default a socket gets 100 calls a second.
            limits=Limits(message_rate=1000.0, message_burst=2500),
            template_path=HERE / "templates",
            static_path=HERE / "static",
            static_handler_class=Static,
            xsrf_cookies=True,
            xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
            server=server,
            doors=dict(doors or {}),
            in_redis=redis is not None,
        )

    async def close(self) -> None:
        await super().close()
        await self.accounts.close()


class Static(StaticFileHandler):
    """The scripts import one another by plain names: each is asked for anew, and answered 304 if it has not changed."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")
