"""An application whose channel ``lobby`` keeps presence, looked after often; for ``python -m sstream run``."""

import os
from typing import Any

import tornado.web

from sstream import (
    Application,
    ChannelOptions,
    PresenceOptions,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    load_session,
    rpc,
)

__all__ = ["TIMES", "make_app"]

# Longer than any machine stands still; a test makes older who shall be away for too long.
TIMES = PresenceOptions(ttl=3600.0, heartbeat=0.1, grace=60.0)


class Login(SessionMixin, tornado.web.RequestHandler):
    """Logs the visitor in as the query says."""

    async def get(self) -> None:
        await self.session.set_user_id(self.get_argument("name"))


class Lobby(RPCHandler):
    """Everybody may come in; the others see the colour that the session has."""

    @classmethod
    def channel_options(cls, channel: str) -> ChannelOptions:
        return ChannelOptions(presence=channel == "lobby")

    def may_subscribe(self, channel: str) -> bool:
        return True

    def presence_about(self, channel: str) -> dict[str, Any]:
        return {"color": "green"}

    @rpc
    async def who(self) -> list[str]:
        return [present.user for present in await self.presence("lobby")]

    @rpc(use=[load_session])
    async def log_out(self) -> None:
        await self.session.destroy()


def make_app() -> Application:
    return Application(
        [("/login", Login), ("/ws", Lobby)],
        session=SessionOptions(secret="a test's own secret"),
        redis=os.environ["REDIS_URL"],
        presence=TIMES,
    )
