"""One session, every transport: sessions, remote calls and events for Tornado."""

from sstream.application import Application
from sstream.client import ClosedError, connect
from sstream.errors import (
    BrokerError,
    ConfigurationError,
    RPCError,
    SessionError,
    SessionGone,
    SStreamError,
    StoreError,
)
from sstream.handlers import RPCHandler, SessionMixin
from sstream.limits import Limits
from sstream.pubsub import Broker, ChannelOptions, MemoryBroker, PresenceOptions, RedisBroker
from sstream.rpc.middleware import Request, debug, load_session, rate_limit, require_user
from sstream.rpc.registry import Actions, load_actions, rpc
from sstream.session.options import SessionOptions
from sstream.session.redis import RedisStore
from sstream.session.session import Session
from sstream.session.store import MemoryStore, SessionStore
from sstream.version import __version__
from sstream.watch import Access, Watch

__all__ = [
    "Access",
    "Actions",
    "Application",
    "Broker",
    "BrokerError",
    "ChannelOptions",
    "ClosedError",
    "ConfigurationError",
    "Limits",
    "MemoryBroker",
    "MemoryStore",
    "PresenceOptions",
    "RPCError",
    "RPCHandler",
    "RedisBroker",
    "RedisStore",
    "Request",
    "SStreamError",
    "Session",
    "SessionError",
    "SessionGone",
    "SessionMixin",
    "SessionOptions",
    "SessionStore",
    "StoreError",
    "Watch",
    "__version__",
    "connect",
    "debug",
    "load_actions",
    "load_session",
    "rate_limit",
    "require_user",
    "rpc",
]
