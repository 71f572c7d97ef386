"""Tests of websockets that have a session: through real sockets, beside the pages of the same visitor."""
