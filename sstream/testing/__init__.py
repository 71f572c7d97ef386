"""What demo, tests and benchmarks share: programs found, children that end with us, faults on the way to Redis."""

from sstream.testing.faults import Fault, FaultProxy, Rule
from sstream.testing.process import Process, ProcessError
from sstream.testing.redis import RedisServer
from sstream.testing.tools import ToolMissing, find_chromium, find_node, find_redis_server, npm_command

__all__ = [
    "Fault",
    "FaultProxy",
    "Process",
    "ProcessError",
    "RedisServer",
    "Rule",
    "ToolMissing",
    "find_chromium",
    "find_node",
    "find_redis_server",
    "npm_command",
]
