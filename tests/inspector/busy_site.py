"""A tea shop with an inspector, and visitors who keep it busy, for test_browser.py. Prints its URL.

With the argument ``values`` its guard lets the inspector show what is in sessions.
"""

import asyncio
import contextlib
import random
import sys
from typing import Any

from tornado.web import RequestHandler

from sstream import (
    Access,
    Actions,
    Application,
    ClosedError,
    MemoryStore,
    RPCError,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    Watch,
    connect,
    load_session,
    rpc,
)
from sstream.testing import StoreProbe

TEAS = ["oolong", "sencha", "assam", "keemun", "rooibos"]


class Cart(Actions):
    middleware = [load_session]

    @rpc
    async def add(self, tea: str, count: int = 1) -> dict[str, int]:
        cart: dict[str, int] = self.session.setdefault("cart", {})
        cart[tea] = cart.get(tea, 0) + count
        return cart

    @rpc
    def view(self) -> dict[str, int]:
        return dict(self.session.get("cart", {}))

    @rpc
    async def check_out(self) -> None:
        await asyncio.sleep(random.lognormvariate(-3, 0.8))
        if random.random() < 0.1:
            raise RPCError(4009, "somebody else has bought the last one")
        self.session["orders"] = self.session.get("orders", 0) + 1
        self.session["cart"] = {}


class Shop(RPCHandler):
    actions = {"cart": Cart}

    @rpc
    def search(self, text: str) -> list[str]:
        return [tea for tea in TEAS if text in tea]

    @rpc
    async def recommend(self) -> str:
        await asyncio.sleep(random.lognormvariate(-6, 1))
        return random.choice(TEAS)

    @rpc(use=[load_session])
    async def log_in(self, name: str) -> None:
        await self.session.set_user_id(name)

    @rpc
    async def enter(self, channel: str) -> None:
        await self.subscribe(channel)


class Visit(SessionMixin, RequestHandler):
    def get(self) -> None:
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.finish("welcome")


async def visit(url: str, name: str, cookies: dict[str, str]) -> None:
    """Until the session is ended; a socket that is closed comes back."""
    async with connect(url.replace("http", "ws") + "/ws", cookies=cookies, backoff=(0.01, 0.1)) as shop:
        await shop.call("log_in", name)
        while shop.state != "closed":
            with contextlib.suppress(ClosedError, RPCError):
                await go_shopping(shop)
            await asyncio.sleep(0.05)


async def go_shopping(shop: Any) -> None:
    await shop.call("enter", random.choice(["lobby", "lobby", "new-teas", "auction"]))
    while True:
        tea = random.choice(TEAS)
        for _ in range(random.randrange(1, 12)):
            await shop.call("search", tea[: random.randrange(1, 4)])
        await shop.call("recommend")
        if random.random() < 0.3:
            await shop.call("cart.add", tea)
        if random.random() < 0.08:
            await asyncio.gather(shop.call("cart.check_out"), return_exceptions=True)
        if random.random() < 0.02:
            await asyncio.gather(shop.call("cart.remove", tea), shop.call("cart.add", 7), return_exceptions=True)
        await asyncio.sleep(random.uniform(0.02, 0.15))


async def main(*arguments: str) -> None:
    access = Access(values="values" in arguments)

    def guard(handler: Any) -> Access | bool:
        return access if "key=open" in handler.request.headers.get("Cookie", "") else False

    app = Application(
        [("/", Visit), ("/ws", Shop)],
        session=SessionOptions(secret="a test's own secret"),
        store=StoreProbe(MemoryStore()),
        watch=Watch(inspector=guard),
    )
    server = app.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    await app.start()
    visitors = []
    for number in range(14):
        session = await app.sessions.create({"visits": 1})
        cookies = {"connect.sid": app.sessions.cookie_value(session)}
        name = ["ann", "bert", "cleo", "dora", "emil", "fay", "gus"][number % 7]
        visitors.append(asyncio.create_task(visit(url, name, cookies)))
    print(url, flush=True)
    await asyncio.gather(*visitors)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
