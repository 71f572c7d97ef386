"""Calls by name: from payload to method and back, without I/O and without Tornado."""

__all__: list[str] = []
