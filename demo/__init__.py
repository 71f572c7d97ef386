"""The Teahouse: what sstream does, to look at and to read. ``python -m demo`` opens it."""
