"""What handlers inherit from: the session of a page or a websocket, and remote calls."""

from sstream.handlers.origin import is_origin, is_same_origin
from sstream.handlers.rpc_handler import RPCHandler
from sstream.handlers.session_mixin import SessionMixin

__all__ = ["RPCHandler", "SessionMixin", "is_origin", "is_same_origin"]
