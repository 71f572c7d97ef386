"""One process of the application that is driven at random: ``python app.py REDIS_URL``; it tells where it listens.

Its pages and its websocket do the same few things to the session and tell what they saw, ids and all: who drives it
checks them.
"""

import asyncio
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import tornado.web
from tornado.escape import json_decode

from sstream import Application, Limits, RPCError, RPCHandler, Session, SessionMixin, SessionOptions, load_session, rpc
from sstream.errors import CONFLICT

__all__ = ["SECRET", "STORE_DEADLINE"]

SECRET = "a secret of these tests"
STORE_DEADLINE = 0.3  # seconds; a frozen Redis costs so much of a schedule's time


def change(session: Session, order: dict[str, Any]) -> int | None:
    """Do what an order says to the session, as far as that needs no waiting."""
    match order["kind"]:
        case "look":
            return None
        case "put" | "fail":
            mark(session, order)
            session[order["key"]] = order["number"]
        case "drop":
            session.pop(order["key"], None)
        case "add":
            return add(session, order)
    if order["kind"] == "fail":
        raise RPCError(CONFLICT, "as was ordered")
    return None


def mark(session: MutableMapping[str, Any], order: dict[str, Any]) -> None:
    """Every session says whose it is, and which order made it."""
    session.setdefault("mark", f"{order['visitor']}:{order['number']}")


def add(session: MutableMapping[str, Any], order: dict[str, Any]) -> int:
    mark(session, order)
    session[order["key"]] = session.get(order["key"], 0) + 1
    return int(session[order["key"]])


async def perform(session: Session, order: dict[str, Any], application: Application) -> dict[str, Any]:
    """Do what an order says; what was there before, and what is there after."""
    seen = {"before": session.get("mark"), "sid_before": session.id}
    result = None
    await asyncio.sleep(order["nap"])
    match order["kind"]:
        case "count":
            result = await session.transact(lambda newest: add(newest, order))
        case "login":
            mark(session, order)
            await session.set_user_id(order["user"])
        case "logout":
            await session.destroy()
        case "end_all":
            result = await application.sessions.end_all(order["user"])
        case _:
            result = change(session, order)
    seen |= {"mark": session.get("mark"), "sid": session.id, "data": dict(session), "result": result}
    await asyncio.sleep(order["nap"])
    return seen


class Page(SessionMixin, tornado.web.RequestHandler):
    """Carries an order out on a page."""

    async def post(self) -> None:
        try:
            self.write(await perform(self.session, json_decode(self.request.body), self.application))
        except RPCError as error:
            raise tornado.web.HTTPError(409, "%s", error) from error


class Live(RPCHandler):
    """Carries orders out on a websocket."""

    @rpc(use=[load_session])
    async def do(self, order: dict[str, Any]) -> dict[str, Any]:
        return await perform(self.session, order, self.application)

    @rpc(use=[load_session])
    def do_at_once(self, order: dict[str, Any]) -> dict[str, Any]:
        """The same by a plain method, which runs without a task where it can."""
        session = self.session
        seen = {"before": session.get("mark"), "sid_before": session.id}
        result = change(session, order)
        return seen | {"mark": session.get("mark"), "sid": session.id, "data": dict(session), "result": result}

    def session_view(self) -> dict[str, Any]:
        return dict(self.session)


async def main(redis: str) -> None:
    """Serve until the process is ended."""
    application = Application(
        [("/do", Page), ("/ws", Live)],
        session=SessionOptions(secret=SECRET),
        redis=redis,
        limits=Limits(store_deadline=STORE_DEADLINE),
    )
    server = application.listen(0, "127.0.0.1")
    await application.start()
    (listening,) = server._sockets.values()
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    # What is logged as an error is one: pages that answer 503 are wanted here, as is a Redis that is away.
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    asyncio.run(main(sys.argv[1]))
