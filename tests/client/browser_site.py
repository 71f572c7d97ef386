"""A site for test_browser.py: a page that loads the client, and what it calls. Prints its URL."""

import asyncio
from typing import Any

from tornado.web import RequestHandler

from sstream import Application, RPCHandler, SessionMixin, SessionOptions, load_session, rpc

POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self'"


class Home(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Security-Policy", POLICY)
        self.finish("<!doctype html><title>Tea</title><script type=module src=/page.js></script>")


class Script(RequestHandler):
    """Leaves what a test wants to use on ``window``."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/javascript")
        self.finish(
            'import * as sstream from "/_sstream/client.js";'
            "window.sstream = sstream;"
            'window.s = sstream.connect("/ws", { backoff: { max: 0.1 } });'
        )


class Icon(RequestHandler):
    """Browsers look for it; there is none, and that is no error."""

    def get(self) -> None:
        self.set_status(204)


class Teas(SessionMixin, RequestHandler):
    def get(self) -> None:
        self.finish({"user": self.session.user_id, "teas": self.session.get("teas", [])})


class Live(RPCHandler):
    def session_view(self) -> dict[str, Any] | None:
        return {"teas": self.session["teas"]} if "teas" in self.session else None

    @rpc
    def reverse(self, value: bytes) -> bytes:
        return value[::-1]

    @rpc
    async def tell(self, *words: str) -> None:
        await self.publish.socket(self.id, "told", *words)

    @rpc
    def drop(self, code: int) -> None:
        self.close(code)

    @rpc(use=[load_session])
    def add_tea(self, tea: str) -> None:
        self.session.setdefault("teas", []).append(tea)

    @rpc(use=[load_session])
    def note(self, key: str, text: str) -> None:
        self.session.setdefault("notes", {}).setdefault(key, text)

    @rpc(use=[load_session])
    def notes(self) -> list[str]:
        return list(self.session.get("notes", {}).values())

    @rpc(use=[load_session])
    async def log_in(self, user: str) -> None:
        await self.session.set_user_id(user)


async def main() -> None:
    routes = [("/", Home), ("/page.js", Script), ("/favicon.ico", Icon), ("/teas", Teas), ("/ws", Live)]
    application = Application(routes, session=SessionOptions(secret="a test's own secret"))
    server = application.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
