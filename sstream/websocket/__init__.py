"""The websocket engine: frames, and the wires that carry them."""

from sstream.websocket.connection import Connection, SharedFrame
from sstream.websocket.engine import flush_sockets
from sstream.websocket.handshake import shares_answer
from sstream.websocket.upgrade import websocket_protocol

__all__ = ["Connection", "SharedFrame", "flush_sockets", "shares_answer", "websocket_protocol"]
