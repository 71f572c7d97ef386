"""The page's websocket: takes the calls, and tells the page whenever anybody else changes the session."""

from typing import Any

from demo.actions import chat
from demo.actions.cart import CartActions
from demo.actions.chat import ChatActions
from demo.actions.session import SessionActions
from demo.actions.wire import WireActions
from demo.view import view
from sstream import ChannelOptions, RPCHandler

__all__ = ["Live"]


class Live(RPCHandler):
    actions = {"session": SessionActions, "cart": CartActions, "chat": ChatActions, "wire": WireActions}

    def session_view(self) -> dict[str, Any] | None:
        return view(self.session)

    def may_subscribe(self, channel: str) -> bool:
        return chat.may_hear(channel)

    @classmethod
    def channel_options(cls, channel: str) -> ChannelOptions | None:
        return chat.options(channel)
