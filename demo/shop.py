"""What the Teahouse sells, and what a cart is: plain functions on a session, whoever holds it."""

import json
from pathlib import Path
from typing import Any, Literal

from sstream import Session

__all__ = ["TEAS", "Tea", "Writer", "add", "clear", "remove", "total"]

# Express reads the same file.
TEAS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "teas.json").read_text(encoding="utf-8"))

Tea = Literal["silver-needle", "sencha", "dong-ding", "darjeeling", "assam", "puer"]
Writer = Literal["page", "websocket", "express"]


def add(session: Session, tea: str, count: int, writer: Writer) -> None:
    """Put ``count`` pots of ``tea`` into the cart."""
    cart = session.setdefault("cart", {})
    cart[tea] = cart.get(tea, 0) + count
    session["lastWriter"] = writer


def remove(session: Session, tea: str, writer: Writer) -> None:
    """Take one pot of ``tea`` out of the cart; one that is not in it is no error."""
    cart = session.setdefault("cart", {})
    cart[tea] = cart.get(tea, 0) - 1
    if cart[tea] <= 0:
        del cart[tea]
    session["lastWriter"] = writer


def clear(session: Session, writer: Writer) -> None:
    """Empty the cart; the session stays."""
    session["cart"] = {}
    session["lastWriter"] = writer


def total(cart: dict[str, int]) -> int:
    """The price of a cart in cents."""
    return sum(TEAS[tea]["price"] * count for tea, count in cart.items() if tea in TEAS)
