"""Listening sockets that take a few visitors at a time, and rest while there is no file descriptor left for one."""

import errno
import logging
import socket
from typing import Any, Final, Self

from tornado.ioloop import IOLoop

__all__ = ["ListeningSocket"]

_log = logging.getLogger("sstream")

# As asyncio's own servers: what says that there is no room now, and may be again.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REST: Final = 1.0  # seconds
# Tornado accepts up to 128 in one turn of the loop. Of several processes on one socket the first that is awake would
# have them all, and its calls would wait meanwhile; who is idle takes the rest.
_AT_ONCE: Final = 16


class ListeningSocket(socket.socket):
    """Rests for a second where Tornado's accept handler would raise at every pass of the loop.

    That is 4,000 tracebacks a second, and a core for them.
    """

    _taken = 0  # since it was last left

    @classmethod
    def of(cls, plain: socket.socket) -> Self:
        """The same socket, as one of ours; ``plain`` is used up."""
        listening = cls(plain.family, plain.type, plain.proto, fileno=plain.detach())
        listening.setblocking(False)
        return listening

    def accept(self) -> tuple[socket.socket, Any]:
        if self._taken == _AT_ONCE:
            self._taken = 0
            raise BlockingIOError  # to Tornado: nobody is waiting; the loop tells of the others in its next turn
        try:
            accepted = super().accept()
        except OSError as error:
            self._taken = 0
            if error.errno not in _EXHAUSTED:
                raise
            _log.error("no visitor can be taken in for %s s: %s", _REST, error)
            loop = IOLoop.current()
            loop.update_handler(self, 0)
            loop.call_later(_REST, self._listen_again, loop)
            raise BlockingIOError from error
        self._taken += 1
        return accepted

    def _listen_again(self, loop: IOLoop) -> None:
        if self.fileno() != -1:
            loop.update_handler(self, IOLoop.READ)
