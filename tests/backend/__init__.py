"""Tests of what sessions and events share: speaking with Redis."""
