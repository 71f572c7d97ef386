"""The inspector: a page, live over sstream itself, that shows what goes on in one process."""

from sstream.inspector.pages import Inspector

__all__ = ["Inspector"]
