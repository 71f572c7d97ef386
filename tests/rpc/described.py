"""An application to be described; it is never started."""

import dataclasses
import datetime
import enum
from collections.abc import AsyncIterator
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec

from sstream.application import Application
from sstream.handlers import RPCHandler
from sstream.rpc.middleware import load_session, rate_limit
from sstream.rpc.registry import Actions, rpc

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Item:
    """One line of a cart."""

    name: str
    qty: int = 1
    color: Color | None = None


class Tree(msgspec.Struct, tag="tree", rename="camel"):
    node_name: str
    children: list["Tree"] = []


class Pair(msgspec.Struct, array_like=True):
    left: int
    right: int


class TaggedPair(msgspec.Struct, array_like=True, tag="pair"):
    left: int
    right: int


class Box(msgspec.Struct, Generic[T]):
    value: T


Odd = TypedDict("Odd", {"a-b": int, "class": str}, total=False)


class Cart(Actions):
    middleware = [load_session, rate_limit(5)]
    events = {"cart": dict[str, int], "moved": (str, Point), "closed": ()}

    @rpc
    async def add(self, item: Item, count: int = 1, *notes: str | int) -> dict[str, Item]:
        """Put an item into the cart.

        The ``count`` counts. */
        """
        return {}

    @rpc(timeout=5, detached=True)
    def tree(self, default: Tree | None, when: datetime.datetime, data: bytes = b"") -> Tree:
        raise NotImplementedError

    @rpc(timeout=None)
    def shapes(self, pair: Pair, tagged: TaggedPair, box: Box[int], odd: Odd, sizes: dict[Color, int]) -> set[str]:
        raise NotImplementedError


class Live(RPCHandler):
    """The shop's socket."""

    actions = {"cart": Cart}

    @rpc
    async def ticks(self, every: float, mode: Literal["slow", "fast"] = "slow") -> AsyncIterator[tuple[int, Point]]:
        yield 1, Point(1)

    @rpc
    def anything(self, x, y=object()):
        pass

    @rpc
    def nothing(self) -> None: ...

    @rpc
    def strange(self) -> complex: ...

    def session_view(self) -> dict[str, Any] | None: ...


class Admin(RPCHandler):
    @rpc
    def stop(self) -> None: ...


def make_app() -> Application:
    return Application([("/ws", Live)], production=False)


def make_two() -> Application:
    return Application([("/ws", Live), ("/admin", Admin)])
