"""The panel Chat: two rooms and direct words, called as ``chat.say``, ``chat.typing`` and ``chat.whisper``."""

import time
from typing import Annotated, Literal, get_args

from msgspec import Meta

from demo.accounts import Name
from sstream import Actions, ChannelOptions, load_session, require_user, rpc

__all__ = ["ROOMS", "ChatActions", "may_hear", "options"]

Room = Literal["veranda", "kitchen"]
Text = Annotated[str, Meta(min_length=1, max_length=500)]

ROOMS: tuple[Room, ...] = get_args(Room)


def may_hear(channel: str) -> bool:
    """Everybody may listen, in the rooms and to who is typing there; to talk one logs in."""
    return channel.removesuffix(".typing") in ROOMS


def options(channel: str) -> ChannelOptions | None:
    """A room keeps its last lines and knows who is in it; who is typing is not worth keeping."""
    return ChannelOptions(history=(50, 3600), presence=True) if channel in ROOMS else None


class ChatActions(Actions):
    middleware = [load_session, require_user]

    @rpc
    async def say(self, room: Room, text: Text) -> None:
        """Say something in a room."""
        await self.publish.channel(room, "said", self.session.user_id, text, time.time())

    @rpc
    async def typing(self, room: Room) -> None:
        """Let the others in a room know that something is coming."""
        await self.publish.channel(f"{room}.typing", "typing", self.session.user_id)

    @rpc
    async def whisper(self, to: Name, text: Text) -> None:
        """Say something to one user, who hears it in every tab; so do the other tabs of who said it."""
        me = self.session.user_id
        await self.publish.user({me, to}, "whispered", me, to, text, time.time())
