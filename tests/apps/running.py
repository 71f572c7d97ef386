"""An application for ``python -m sstream run``; REDIS_URL says where its sessions are."""

import asyncio
import os
import time

import tornado.web

from sstream import Application, Limits, RPCHandler, SessionMixin, SessionOptions, load_session, rpc

__all__ = ["make_app", "make_async", "make_nothing"]


class Who(SessionMixin, tornado.web.RequestHandler):
    """Tells which process answers, and counts the visits in the session."""

    def get(self) -> None:
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.write({"pid": os.getpid(), "visits": self.session["visits"]})


class Live(RPCHandler):
    """Calls that are quick, slow and endless."""

    @rpc
    def pid(self) -> int:
        return os.getpid()

    @rpc(use=[load_session])
    async def until_draining(self) -> str:
        await self.publish.socket(self.id, "begun")
        while not self.application.is_draining:
            await asyncio.sleep(0.01)
        self.session["late"] = "stored"
        return "answered"

    @rpc
    async def for_ever(self) -> None:
        await self.publish.socket(self.id, "begun")
        await asyncio.Event().wait()

    @rpc
    def block(self, seconds: float) -> None:
        time.sleep(seconds)

    @rpc
    def crash(self) -> None:
        os._exit(3)


def make_app() -> Application:
    return Application(
        [("/", Who), ("/ws", Live)],
        session=SessionOptions(secret="a test's own secret"),
        redis=os.environ.get("REDIS_URL"),
        limits=Limits(drain=float(os.environ.get("DRAIN", "30"))),
        debug="DEBUG" in os.environ,
    )


async def make_async() -> Application:
    return make_app()


def make_nothing() -> str:
    return "not an application"
