"""What a channel keeps beyond the live events: its history, and who is here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sstream.pubsub.topics import channel_of

__all__ = ["PLAIN", "ChannelOptions", "History", "history_of", "options_of"]


@dataclass(frozen=True, slots=True)
class History:
    """How much of a channel is kept for those who come back.

    Attributes:
        size: Events kept at most.
        seconds: How long after the last event all of them are kept.
    """

    size: int
    seconds: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.seconds < 1:
            raise ValueError(f"a history has at least one event and one second, not {self.size} and {self.seconds}")


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The options of one channel.

    Attributes:
        history: Number its events and keep them, as a `History` or a plain ``(size, seconds)``; ``None`` keeps nothing.
        presence: Keep the list of the users in it, with ``joined`` and ``left`` events.
    """

    history: History | tuple[int, int] | None = None
    presence: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.history, tuple):
            History(*self.history)  # refuses what is none, here where it is given

    @property
    def kept(self) -> History | None:
        """The history as a `History`."""
        return History(*self.history) if isinstance(self.history, tuple) else self.history


PLAIN: Final = ChannelOptions()


def options_of(topic: str, channel_options: Callable[[str], ChannelOptions]) -> ChannelOptions:
    """The options of ``topic`` by ``channel_options``; only channels have any."""
    channel = channel_of(topic)
    return PLAIN if channel is None else channel_options(channel)


def history_of(topic: str, channel_options: Callable[[str], ChannelOptions]) -> History | None:
    """The history that ``topic`` has by ``channel_options``."""
    return options_of(topic, channel_options).kept
