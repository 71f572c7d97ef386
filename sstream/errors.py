"""Every error that sstream raises, in one tree.

SStreamError
├── ConfigurationError      wrong or insecure settings, told at start
├── SessionError            a session cannot do what was asked
│   └── SessionGone         it was ended in the meantime
├── StoreError              the session store did not answer, or answered with an error
├── BrokerError             an event could not be published
└── RPCError                a call was refused; code, message and data reach the caller
"""

from typing import Any, Final

__all__ = [
    "CANCELLED",
    "CONFLICT",
    "FORBIDDEN",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "SESSION_GONE",
    "TIMEOUT",
    "TOO_MANY",
    "UNAVAILABLE",
    "BrokerError",
    "ConfigurationError",
    "RPCError",
    "SStreamError",
    "SessionError",
    "SessionGone",
    "StoreError",
]

# JSON-RPC 2.0, section 5.1.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
# Our own.
TIMEOUT: Final = 4000
CANCELLED: Final = 4001
FORBIDDEN: Final = 4003
CONFLICT: Final = 4009
TOO_MANY: Final = 4029
SESSION_GONE: Final = 4040
UNAVAILABLE: Final = 4050


class SStreamError(Exception):
    """The root: catch it to catch everything that sstream raises."""


class ConfigurationError(SStreamError):
    """Settings that cannot work, or that must not be used in production."""


class SessionError(SStreamError):
    """A session cannot do what was asked; the message says why and what is legal."""


class SessionGone(SessionError):
    """The session was ended by somebody else; nothing was stored."""


class StoreError(SStreamError):
    """The session store did not answer in time, or answered with an error; whether a write arrived is unknown."""


class BrokerError(SStreamError):
    """The broker did not take an event."""


class RPCError(SStreamError):
    """A call refused: raise it in a method or a middleware, and the caller gets ``[code, message, data]``.

    Everything in it reaches the browser.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} (code {self.code})"
