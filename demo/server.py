"""One server process of the Teahouse: ``python -m demo.server``, told all by its environment, as Express is."""

import asyncio
import json
import logging
import os

from demo.app import Teahouse

__all__ = ["serve"]


async def serve() -> None:
    """Listen until SIGINT or SIGTERM, then answer what is in flight and close."""
    environment = os.environ
    app = Teahouse(
        secret=environment["SECRET"],
        redis=environment.get("REDIS_URL"),
        server=environment["NAME"],
        doors=json.loads(environment["DOORS"]),
    )
    app.listen(int(environment["PORT"]), address="localhost")
    if shared := environment.get("SHARED_PORT"):
        # Each process listens there as well, and the kernel shares the visitors out. If one dies, the others get all.
        app.listen(int(shared), address="localhost", reuse_port=True)
    print(f"listening on {environment['PORT']}", flush=True)
    await app.serve()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    asyncio.run(serve())
