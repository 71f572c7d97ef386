"""The panel Shop: the cart, called as ``cart.add``, ``cart.remove`` and ``cart.clear``."""

from typing import Annotated, Any

from msgspec import Meta

from demo import shop
from demo.shop import Tea
from demo.view import view
from sstream import Actions, load_session, rpc

__all__ = ["CartActions"]


class CartActions(Actions):
    """The types say what is a right order; a wrong one is told which argument is wrong, before any of this runs."""

    middleware = [load_session]

    @rpc
    async def add(self, tea: Tea, count: Annotated[int, Meta(ge=1, le=12)] = 1) -> dict[str, Any] | None:
        """Put some pots of a tea into the cart."""
        await self.session.transact(lambda session: shop.add(session, tea, count, "websocket"))
        return view(self.session)

    @rpc
    async def remove(self, tea: Tea) -> dict[str, Any] | None:
        """Take one pot out."""
        await self.session.transact(lambda session: shop.remove(session, tea, "websocket"))
        return view(self.session)

    @rpc
    async def clear(self) -> dict[str, Any] | None:
        """Take all out."""
        await self.session.transact(lambda session: shop.clear(session, "websocket"))
        return view(self.session)
