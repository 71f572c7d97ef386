"""The websocket engine: frames, and the wires that carry them."""

from sstream.websocket.connection import Connection, SharedFrame
from sstream.websocket.engine import flush_sockets
from sstream.websocket.upgrade import websocket_protocol

__all__ = ["Connection", "SharedFrame", "flush_sockets", "websocket_protocol"]
