"""For tests of applications: a server, browsers, probes, a clock; and what demo, tests and benchmarks share."""

from sstream.testing.browser import Browser, Page
from sstream.testing.capture import Capture, Published, capture
from sstream.testing.clock import Clock
from sstream.testing.faults import Fault, FaultProxy, Rule
from sstream.testing.jar import CookieJar
from sstream.testing.probes import BrokerProbe, Hold, StoreProbe
from sstream.testing.process import Process, ProcessError
from sstream.testing.redis import RedisServer
from sstream.testing.site import Site, serve
from sstream.testing.socket import Closed, Socket, SocketClosed
from sstream.testing.tools import ToolMissing, find_chromium, find_node, find_redis_server, npm_command
from sstream.testing.waiting import eventually, set_patience, within

__all__ = [
    "BrokerProbe",
    "Browser",
    "Capture",
    "Clock",
    "Closed",
    "CookieJar",
    "Fault",
    "FaultProxy",
    "Hold",
    "Page",
    "Process",
    "ProcessError",
    "Published",
    "RedisServer",
    "Rule",
    "Site",
    "Socket",
    "SocketClosed",
    "StoreProbe",
    "ToolMissing",
    "capture",
    "eventually",
    "find_chromium",
    "find_node",
    "find_redis_server",
    "npm_command",
    "serve",
    "set_patience",
    "within",
]
