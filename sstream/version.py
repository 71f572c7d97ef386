"""The version, in one place: the package's metadata and its face read it here."""

__all__ = ["__version__"]

__version__ = "0.1.0"
