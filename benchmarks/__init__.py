"""Measurements: what sstream costs, beside what one would use instead."""

__all__: list[str] = []
