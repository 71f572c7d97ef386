"""Who listens: topics, the hub of a process, and the brokers between processes."""

from sstream.pubsub.broker import Broker, Listener, MemoryBroker, Recovery
from sstream.pubsub.channels import ChannelOptions, History
from sstream.pubsub.hub import Hub
from sstream.pubsub.message import Burst, Message, Position
from sstream.pubsub.presence import Presence, PresenceOptions, Present
from sstream.pubsub.publisher import Publisher
from sstream.pubsub.redis import RedisBroker

__all__ = [
    "Broker",
    "Burst",
    "ChannelOptions",
    "History",
    "Hub",
    "Listener",
    "MemoryBroker",
    "Message",
    "Position",
    "Presence",
    "PresenceOptions",
    "Present",
    "Publisher",
    "Recovery",
    "RedisBroker",
]
