"""The panel Wire: what a call costs that needs no session, called as ``wire.echo`` and ``wire.server``."""

from typing import Any

from sstream import Actions, rpc

__all__ = ["WireActions"]


class WireActions(Actions):
    @rpc
    def echo(self, value: Any) -> Any:
        """The same value back: no more than the round trip."""
        return value

    @rpc
    def server(self) -> str:
        """The name of the process at the other end."""
        return str(self.handler.settings["server"])
