"""sstream as its users run it: typed arguments, limits and hooks on; sessions in Redis where there is one."""

import os
import socket

from tornado.httpserver import HTTPServer
from tornado.web import RequestHandler

from sstream import Application, Limits, RPCHandler, SessionMixin, SessionOptions, load_session, rpc

__all__ = ["serve"]

# The rates stay on, high enough for a load that no browser makes.
LIMITS = Limits(message_rate=1e9, message_burst=1_000_000_000)


class Socket(RPCHandler):
    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    async def add_async(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def echo(self, value: str) -> str:
        return value

    @rpc(name="publish")
    async def publish_to_all(self, text: str) -> None:
        await self.publish.all("message", text)

    @rpc(use=[load_session])
    def read(self) -> int:
        return self.session.get("count", 0)

    @rpc(use=[load_session])
    def write(self) -> int:
        self.session["count"] = self.session.get("count", 0) + 1
        return self.session["count"]


class Login(SessionMixin, RequestHandler):
    def get(self) -> None:
        self.session.update(user="fred", count=0)
        self.finish("welcome")


class Page(SessionMixin, RequestHandler):
    def get(self) -> None:
        if self.request.path == "/count":
            self.session["count"] = self.session.get("count", 0) + 1
        self.finish(f"hello {self.session['user']}, {self.session['count']}")


class Write(SessionMixin, RequestHandler):
    def get(self, key: str) -> None:
        self.session[key] = 1
        self.finish("stored")


class Keys(SessionMixin, RequestHandler):
    def get(self) -> None:
        self.finish(str(sum(key.startswith("key") for key in self.session)))


async def serve(listener: socket.socket) -> None:
    application = Application(
        [
            ("/(?:ws|session)", Socket),
            ("/login", Login),
            ("/(?:page|count)", Page),
            (r"/write/(\w+)", Write),
            ("/keys", Keys),
        ],
        session=SessionOptions(secret="benchmark"),
        redis=os.environ.get("REDIS_URL"),
        limits=LIMITS,
        log_function=lambda handler: None,
        debug=False,
    )
    await application.start()
    HTTPServer(application).add_socket(listener)
