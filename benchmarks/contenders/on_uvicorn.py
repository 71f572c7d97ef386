"""Run an ASGI application on uvicorn as ``uvicorn[standard]`` does: uvloop, httptools, no log of requests."""

import asyncio
import socket
from typing import Any

import uvicorn

__all__ = ["serve_asgi"]


async def serve_asgi(application: Any, listener: socket.socket, **options: Any) -> None:
    listener.listen(4096)
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, ws_per_message_deflate=False, lifespan="off", **options
    )
    asyncio.ensure_future(uvicorn.Server(config).serve(sockets=[listener]))  # noqa: RUF006  (as long as the process)
