"""The contenders: small servers that do the same work, each as its own guide would have it.

A server in Python is a coroutine function that takes the listening socket; ``python -m benchmarks.contenders NAME``
runs one. The others are programs that print the port on which they listen. This module is loaded by each of them, so it
imports nothing that only some need.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CONTENDERS", "NODE_MODULES", "Contender"]

HERE = Path(__file__).parent
NODE_MODULES = HERE.parent / "node_modules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One server, and what can be asked of it.

    Attributes:
        label: Its name in tables and pictures.
        server: ``module:function`` in this package, or a file for node.
        dialect: What it speaks, as `load.c` calls it.
        path: Where its websocket is.
        fast_loop: Does it run on uvloop? (uvicorn chooses for itself, and does.)
        needs: Packages from PyPI or npm; without one of them it is left out.
        can: What it takes part in: ``calls``, ``async``, ``fanout``, ``sessions``, ``idle``
            (where thousands connect), ``scaling`` (where they call) and ``crowd`` (where tens of thousands connect).
            Some of it takes long, so a contender is left out where another one on the same ground says as much.
        env: Variables it is started with.
    """

    label: str
    server: str
    dialect: str = "msgpack"
    path: str = "/ws"
    fast_loop: bool = False
    needs: tuple[str, ...] = ()
    can: frozenset[str] = frozenset({"calls", "fanout", "idle"})
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_node(self) -> bool:
        return self.server.endswith(".mjs")

    @property
    def is_ours(self) -> bool:
        return self.server.startswith("framework:")


_CALLS = frozenset({"calls", "fanout"})
_MANY = frozenset({"idle", "scaling", "crowd"})
_ALL = _CALLS | {"async", "sessions", "idle", "scaling"}
_SOCKETIO = "/socket.io/?EIO=4&transport=websocket"
_PURE = {"SSTREAM_PURE_PYTHON": "1"}

# In the order of tables and rounds.
CONTENDERS: dict[str, Contender] = {
    "tornado": Contender(label="raw Tornado", server="raw_tornado:serve", can=_CALLS | _MANY | {"sessions"}),
    "aiohttp": Contender(label="aiohttp", server="with_aiohttp:serve", needs=("aiohttp",)),
    "websockets": Contender(label="websockets", server="with_websockets:serve", needs=("websockets",)),
    "starlette": Contender(label="Starlette + uvicorn", server="with_starlette:serve", needs=("starlette", "uvicorn")),
    "litestar": Contender(
        label="Litestar + uvicorn",
        server="with_litestar:serve",
        needs=("litestar", "uvicorn"),
        can=_CALLS,
    ),
    "channels": Contender(
        label="Django Channels + uvicorn",
        server="with_channels:serve",
        needs=("channels", "channels-redis", "django", "uvicorn"),
        can=_CALLS,
    ),
    "socketio-asgi": Contender(
        label="python-socketio + uvicorn",
        server="with_socketio:serve",
        dialect="socketio",
        path=_SOCKETIO,
        needs=("python-socketio", "uvicorn"),
    ),
    "socketio-tornado": Contender(
        label="python-socketio + Tornado",
        server="with_socketio:serve_on_tornado",
        dialect="socketio",
        path=_SOCKETIO,
        needs=("python-socketio",),
        can=_CALLS,
    ),
    "picows": Contender(
        label="picows + uvloop",
        server="with_picows:serve",
        fast_loop=True,
        needs=("picows", "uvloop"),
        can=_CALLS | _MANY,
    ),
    "ws": Contender(label="Node ws + msgpackr", server="ws.mjs", needs=("npm:ws", "npm:msgpackr"), can=_CALLS | _MANY),
    "socketio-node": Contender(
        label="Node socket.io",
        server="socketio.mjs",
        dialect="socketio",
        path=_SOCKETIO,
        needs=("npm:socket.io", "npm:express"),
    ),
    "express": Contender(
        label="express-session + socket.io",
        server="socketio.mjs",
        dialect="socketio",
        path=_SOCKETIO,
        needs=("npm:socket.io", "npm:express", "npm:express-session", "npm:connect-redis", "npm:redis"),
        can=frozenset({"sessions"}),
    ),
    "sstream-python": Contender(label="sstream without C", server="framework:serve", can=_ALL, env=_PURE),
    "sstream-python-uvloop": Contender(
        label="sstream without C, uvloop",
        server="framework:serve",
        can=_CALLS | {"async"},
        env=_PURE,
        fast_loop=True,
        needs=("uvloop",),
    ),
    "sstream": Contender(label="sstream", server="framework:serve", can=_CALLS | {"async"}),
    "sstream-uvloop": Contender(
        label="sstream, uvloop", server="framework:serve", can=_ALL | {"crowd"}, fast_loop=True, needs=("uvloop",)
    ),
}
