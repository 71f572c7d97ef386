"""Tornado by hand: its own websocket handler; a session in Redis, read with one GET a call and written with one SET."""

import json
import os
import secrets
import socket
from typing import Any

import redis.asyncio as aioredis
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from benchmarks.contenders.work import decode, encode, respond

__all__ = ["serve"]

TTL = 14 * 86400


class Sessions:
    """JSON under ``sess:``, as one writes it in an afternoon."""

    def __init__(self, url: str) -> None:
        self.redis = aioredis.Redis.from_url(url)

    async def load(self, sid: str) -> dict[str, Any]:
        return json.loads(await self.redis.get(f"sess:{sid}") or "{}")

    async def save(self, sid: str, session: dict[str, Any]) -> None:
        await self.redis.set(f"sess:{sid}", json.dumps(session), ex=TTL)


class Socket(WebSocketHandler):
    subscribers: set["Socket"] = set()

    def open(self, *args: str, **kwargs: str) -> None:
        self.subscribers.add(self)

    def on_message(self, message: str | bytes) -> None:
        reply, is_event = respond(message)
        if not is_event:
            self.write_message(reply, binary=True)
            return
        for subscriber in self.subscribers:
            subscriber.write_message(reply, binary=True)

    def on_close(self) -> None:
        self.subscribers.discard(self)


def sid_of(handler: RequestHandler) -> str:
    sid = handler.get_signed_cookie("sid")
    if sid is None:
        raise HTTPError(403)
    return sid.decode()


class SessionSocket(WebSocketHandler):
    sessions: Sessions

    async def on_message(self, message: str | bytes) -> None:
        _, number, name, _ = decode(message)
        sid = sid_of(self)
        session = await self.sessions.load(sid)
        if name == "write":
            session["count"] = session.get("count", 0) + 1
            await self.sessions.save(sid, session)
        self.write_message(encode([1, number, None, session.get("count", 0)]), binary=True)


class Login(RequestHandler):
    async def get(self) -> None:
        sid = secrets.token_urlsafe(24)
        await SessionSocket.sessions.save(sid, {"user": "fred", "count": 0})
        self.set_signed_cookie("sid", sid)
        self.finish("welcome")


class Page(RequestHandler):
    async def get(self) -> None:
        sid = sid_of(self)
        session = await SessionSocket.sessions.load(sid)
        if self.request.path == "/count":
            session["count"] = session.get("count", 0) + 1
            await SessionSocket.sessions.save(sid, session)
        else:
            await SessionSocket.sessions.redis.expire(f"sess:{sid}", TTL)
        self.finish(f"hello {session['user']}, {session['count']}")


class Write(RequestHandler):
    async def get(self, key: str) -> None:
        sid = sid_of(self)
        session = await SessionSocket.sessions.load(sid)
        session[key] = 1
        await SessionSocket.sessions.save(sid, session)
        self.finish("stored")


class Keys(RequestHandler):
    async def get(self) -> None:
        session = await SessionSocket.sessions.load(sid_of(self))
        self.finish(str(sum(key.startswith("key") for key in session)))


async def serve(listener: socket.socket) -> None:
    routes: list[Any] = [
        ("/ws", Socket),
        ("/session", SessionSocket),
        ("/login", Login),
        ("/(?:page|count)", Page),
        (r"/write/(\w+)", Write),
        ("/keys", Keys),
    ]
    if url := os.environ.get("REDIS_URL"):
        SessionSocket.sessions = Sessions(url)
    server = HTTPServer(Application(routes, cookie_secret="benchmark", log_function=lambda handler: None))
    server.add_socket(listener)
