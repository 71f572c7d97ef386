"""What one socket, one message and one process may use at most."""

from dataclasses import dataclass, fields
from typing import Any

from sstream.errors import ConfigurationError
from sstream.options import Options

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Options):
    """Bounds that hold for every socket of an application; ``None`` takes one off.

    Attributes:
        message_size: Bytes of one message on the wire; a larger one closes the socket with 1009.
        inflated_size: Bytes of one message after permessage-deflate; a larger one closes with 1009.
        depth: How deep arrays and maps of a message may be nested.
        send_queue: Bytes that may wait for a slow reader; more closes its socket with 4408.
        send_stall: Seconds a full socket may make no progress before it is closed with 4408.
        ping_interval: Seconds between pings.
        ping_timeout: Seconds a peer may take for any sign of life after a ping.
        calls_in_flight: Calls of one socket that run at once; further ones wait, in order.
        channels: Channels one socket may be subscribed to.
        sockets_per_session: Sockets one session may hold open in one process.
        message_rate: Messages a second one socket may send, sustained; more closes it with 4429.
        message_burst: Messages one socket may send at once.
        call_timeout: Seconds a call may run, unless its method or the call itself says otherwise.
        store_deadline: Seconds one operation of the store, or of the broker, may take, retries included.
        drain: Seconds that calls in flight get when the process goes down.
    """

    message_size: int | None = 64 * 1024
    inflated_size: int | None = 64 * 1024
    depth: int | None = 32
    send_queue: int | None = 1024 * 1024
    send_stall: float | None = 1.0
    ping_interval: float | None = 25.0
    ping_timeout: float | None = 10.0
    calls_in_flight: int | None = 64
    channels: int | None = 128
    sockets_per_session: int | None = 16
    message_rate: float | None = 100.0
    message_burst: int | None = 200
    call_timeout: float | None = 30.0
    store_deadline: float | None = 1.0
    drain: float | None = 30.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value: Any = getattr(self, option.name)
            if not option.init or value is None:
                continue
            # Written so that NaN is refused too.
            if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0):
                raise ConfigurationError(f"{option.name}={value!r}; legal are numbers above 0, and None for no bound")
