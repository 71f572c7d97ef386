"""Be one contender: ``python -m benchmarks.contenders NAME`` says ``listening on PORT`` and serves until its end."""

import asyncio
import importlib
import logging
import socket
import sys

from benchmarks.contenders import CONTENDERS

__all__ = ["main"]


async def serve(server: str) -> None:
    module, _, function = server.partition(":")
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    await getattr(importlib.import_module(f"benchmarks.contenders.{module}"), function)(listener)
    print(f"listening on {port}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    contender = CONTENDERS[sys.argv[1]]
    logging.basicConfig(level=logging.ERROR)
    if contender.fast_loop or "uvicorn" in contender.needs:
        import uvloop

        uvloop.run(serve(contender.server))
    else:
        asyncio.run(serve(contender.server))


if __name__ == "__main__":
    main()
