"""An application that notes each call that runs, in a list in Redis; for ``python -m sstream run``."""

import os
from typing import Any

import redis.asyncio as aioredis

from sstream import Application, RPCHandler, SessionOptions, load_session, rpc

__all__ = ["LEDGER", "make_app"]

LEDGER = "ledger"


class Ledger(RPCHandler):
    """Calls that must run once, or be refused."""

    @rpc
    async def note(self, name: str) -> str:
        await self.settings["ledger"].rpush(LEDGER, name)
        return name

    @rpc(use=[load_session])
    async def count(self, name: str) -> str:
        await self.session.transact(self._add)
        await self.settings["ledger"].rpush(LEDGER, name)
        return name

    @staticmethod
    def _add(session: Any) -> None:
        session["count"] = session.get("count", 0) + 1


def make_app() -> Application:
    url = os.environ["REDIS_URL"]
    return Application(
        [("/ws", Ledger)],
        session=SessionOptions(secret="a test's own secret"),
        redis=url,
        ledger=aioredis.Redis(connection_pool=aioredis.BlockingConnectionPool.from_url(url, max_connections=8)),
    )
