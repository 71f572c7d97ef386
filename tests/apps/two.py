"""One process of an application that runs in several: ``python two.py REDIS_URL``; it tells where it listens."""

import asyncio
import logging
import sys
from typing import Any

from tornado.web import RequestHandler

from sstream import Actions, Application, RedisBroker, RPCHandler, SessionMixin, SessionOptions, load_session, rpc


class Put(SessionMixin, RequestHandler):
    """Sets each field of the query."""

    def get(self) -> None:
        for key in self.request.query_arguments:
            self.session[key] = self.get_argument(key)


class AddTea(SessionMixin, RequestHandler):
    """Puts one tea into the cart."""

    def get(self) -> None:
        cart = self.session.setdefault("cart", {})
        cart["tea"] = cart.get("tea", 0) + 1
        self.write(cart)


class Look(SessionMixin, RequestHandler):
    """Shows the session."""

    def get(self) -> None:
        self.write(dict(self.session))


class Login(SessionMixin, RequestHandler):
    """Logs the visitor in as the query says."""

    async def get(self) -> None:
        await self.session.set_user_id(self.get_argument("name"))


class Logout(SessionMixin, RequestHandler):
    """Ends the session."""

    async def get(self) -> None:
        await self.session.destroy()


class Cart(Actions):
    """What a shop does with a session."""

    middleware = [load_session]

    @rpc
    async def add(self, item: str) -> dict[str, int]:
        cart = self.session.setdefault("cart", {})
        cart[item] = cart.get(item, 0) + 1
        return dict(cart)

    @rpc
    def show(self) -> dict[str, Any]:
        return dict(self.session)


class Account(Actions):
    """Logging in, and ending what runs elsewhere."""

    middleware = [load_session]

    @rpc
    async def login(self, name: str) -> None:
        await self.session.set_user_id(name)

    @rpc
    async def end_others(self) -> int:
        sessions = self.handler.application.sessions
        return int(await sessions.end_all(self.session.user_id, keep=self.session))


class Live(RPCHandler):
    """The websocket at /ws."""

    actions = {"cart": Cart, "account": Account}

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def me(self) -> str:
        return self.id

    @rpc(use=[load_session])
    async def put(self, key: str) -> None:
        self.session[key] = "x"

    @rpc(use=[load_session])
    async def count(self) -> int:
        def change(session: Any) -> int:
            session["n"] = session.get("n", 0) + 1
            return int(session["n"])

        return await self.session.transact(change)

    @rpc
    async def say(self, target: str, whom: str | None, event: str) -> None:
        match target:
            case "all":
                await self.publish.all(event, "args", 1)
            case "user":
                await self.publish.user(whom or "", event)
            case "socket":
                await self.publish.socket(whom or "", event)

    def session_view(self) -> dict[str, Any] | None:
        cart = self.session.get("cart")
        return {"teas": cart["tea"]} if cart else None

    def on_session_end(self, reason: str) -> None:
        self._tell("ended", reason)


async def main(redis: str) -> None:
    """Serve until the process is ended."""
    application = Application(
        [("/put", Put), ("/tea", AddTea), ("/look", Look), ("/login", Login), ("/logout", Logout), ("/ws", Live)],
        session=SessionOptions(secret="a test's own secret"),
        store=redis,
        broker=RedisBroker(redis, deadline=20.0),  # a machine that stands still is no Redis that is away
    )
    server = application.listen(0, "127.0.0.1")
    await application.start()
    (listening,) = server._sockets.values()
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(sys.argv[1]))
