"""How many acknowledged writes are lost when one visitor's requests overlap.

One session, 100 requests that each write a key of their own and are answered 200; then the keys are counted.
"""

import asyncio
from collections.abc import Mapping

from tornado.httpclient import AsyncHTTPClient

from benchmarks.contenders import CONTENDERS
from benchmarks.servers import Server, missing

__all__ = ["measure", "study"]

WRITES = 100
AT_ONCE = (2, 10, 50)
SERVERS = ("express", "tornado", "sstream")


async def measure(base: str, at_once: int) -> int:
    """The number of acknowledged writes that are not in the session afterwards."""
    client = AsyncHTTPClient(force_instance=True, max_clients=at_once)
    try:
        first = await client.fetch(f"{base}/login")
        headers = {"Cookie": first.headers["Set-Cookie"].split(";")[0]}

        async def write(number: int) -> None:
            await client.fetch(f"{base}/write/key{number}", headers=headers)

        for first_of_wave in range(0, WRITES, at_once):
            await asyncio.gather(*(write(number) for number in range(first_of_wave, first_of_wave + at_once)))
        counted = await client.fetch(f"{base}/keys", headers=headers)
        return WRITES - int(counted.body)
    finally:
        client.close()


def study(redis: str, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    """Writes lost of 100, by server and by how many were under way at once."""
    lost: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name in SERVERS:
            contender = CONTENDERS[name]
            if missing(contender):
                continue
            with Server(name, contender, redis=redis) as server:
                for at_once in AT_ONCE:
                    row = lost.setdefault(contender.label, {}).setdefault(f"{at_once} at once", [])
                    row.append(asyncio.run(measure(f"http://127.0.0.1:{server.port}", at_once)))
    return lost
