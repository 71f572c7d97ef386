"""The session wing: what a session is, when it is stored, and where."""

__all__: list[str] = []
