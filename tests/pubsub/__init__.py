"""Tests of the wing that carries events."""
