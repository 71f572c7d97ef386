"""What ``python -m sstream`` can do: a module for each command, whose ``add_command`` adds it to the parser."""

__all__: list[str] = []
