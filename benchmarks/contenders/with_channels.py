"""Django Channels on uvicorn; its layer carries what is for everybody, in memory or, with REDIS_URL, in Redis."""

import os
import socket
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

from benchmarks.contenders.on_uvicorn import serve_asgi
from benchmarks.contenders.work import respond

__all__ = ["serve"]


class Socket(AsyncWebsocketConsumer):  # type: ignore[misc]  # it has no types
    async def connect(self) -> None:
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("all", self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        assert bytes_data is not None
        reply, is_event = respond(bytes_data)
        if is_event:
            await self.channel_layer.group_send("all", {"type": "message", "payload": reply})
        else:
            await self.send(bytes_data=reply)

    async def message(self, event: dict[str, Any]) -> None:
        await self.send(bytes_data=event["payload"])


async def serve(listener: socket.socket) -> None:
    # Room for the loads: by default a layer drops what does not fit into 100.
    layer = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 10_000}}
    if url := os.environ.get("REDIS_URL"):
        layer = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [url]}}
    settings.configure(SECRET_KEY="benchmark", CHANNEL_LAYERS={"default": layer})
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    django.setup()
    get_channel_layer()
    router = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Socket.as_asgi())])})
    await serve_asgi(router, listener)
