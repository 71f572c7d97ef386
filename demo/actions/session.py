"""The panel Session: who it is, a new id, and the end; called as ``session.log_in`` and so on."""

from typing import Any

from demo.accounts import Name, Password
from demo.view import view
from sstream import Actions, RPCError, load_session, rate_limit, require_user, rpc
from sstream.errors import FORBIDDEN

__all__ = ["SessionActions"]


class SessionActions(Actions):
    middleware = [load_session]

    @rpc(use=[rate_limit(10, 60.0)])
    async def log_in(self, name: Name, password: Password) -> dict[str, Any] | None:
        """Log in, with a new session id: the browser fetches its cookie by itself."""
        if not await self.handler.application.accounts.may_enter(name, password):
            raise RPCError(FORBIDDEN, f"that is not the password of {name}")
        self.session["lastWriter"] = "websocket"
        await self.session.set_user_id(name)
        return view(self.session)

    @rpc
    async def renew(self) -> dict[str, Any] | None:
        """The same session under a new id; the old one is dead when the browser has its new cookie."""
        self.session["lastWriter"] = "websocket"
        await self.session.renew_id()
        return view(self.session)

    @rpc
    async def end(self) -> None:
        """Log out: the session ends, and with it every socket of it, in every tab, on every server."""
        await self.session.destroy()

    @rpc(use=[require_user])
    async def end_others(self) -> int:
        """End this user's sessions in other browsers; tells how many there were."""
        return await self.handler.application.sessions.end_all(self.session.user_id, keep=self.session)
