"""The inspector, by its numbers and in a browser."""
