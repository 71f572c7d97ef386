"""Tests of the websocket engine."""
