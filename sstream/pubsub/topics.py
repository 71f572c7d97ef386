"""Topics: the four spellings of who an event is for, and the only names that reach a broker.

``all``, ``user:42``, ``channel:lobby``, ``socket:8f3c``. A name holds 1 to 256 characters of an alphabet that has no
space, no control character, no brace (a hash tag on a Redis Cluster) and nothing that could be a pattern.
"""

import re
from typing import Final
from urllib.parse import quote

__all__ = ["ALL", "MAX_NAME", "channel_of", "channel_topic", "socket_topic", "user_topic"]

ALL: Final = "all"
MAX_NAME: Final = 256

_MARKS: Final = "-_.:@/+=|~,#!$&()"
_is_name = re.compile(rf"[A-Za-z0-9{re.escape(_MARKS)}]{{1,{MAX_NAME}}}").fullmatch
_is_quoted_name = re.compile(rf"[A-Za-z0-9%{re.escape(_MARKS)}]{{1,{MAX_NAME}}}").fullmatch


def channel_topic(name: str) -> str:
    """The topic of a channel.

    Raises:
        ValueError: ``name`` is empty, too long or has a character outside the alphabet.
    """
    if not _is_name(name):
        raise ValueError(_refusal("channel", name))
    return f"channel:{name}"


def socket_topic(socket_id: str) -> str:
    """The topic of one socket; raises ``ValueError`` like `channel_topic`."""
    if not _is_name(socket_id):
        raise ValueError(_refusal("socket", socket_id))
    return f"socket:{socket_id}"


def user_topic(user_id: object) -> str:
    """The topic of a user; characters outside the alphabet are percent-encoded as in a URL, so any text will do.

    Raises:
        ValueError: ``user_id`` is no str or int, empty, or too long once encoded.
    """
    if isinstance(user_id, bool) or not isinstance(user_id, (str, int)):
        raise ValueError(f"a user id is a str or an int, not {type(user_id).__name__}")
    try:
        name = quote(str(user_id), safe=_MARKS)
    except UnicodeEncodeError as error:  # a lone surrogate
        raise ValueError(f"a user id must be text that UTF-8 can hold, not {user_id!r}") from error
    if not _is_quoted_name(name):
        raise ValueError(f"a user id has 1 to {MAX_NAME} characters once percent-encoded, not {len(name)}")
    return f"user:{name}"


def channel_of(topic: str) -> str | None:
    """The name of the channel that ``topic`` stands for; ``None`` for ``all``, a user or a socket."""
    return topic[8:] if topic.startswith("channel:") else None


def _refusal(kind: str, name: object) -> str:
    shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
    return f"{shown} is no name for a {kind}: 1 to {MAX_NAME} of A-Z, a-z, 0-9 and {_MARKS}"
