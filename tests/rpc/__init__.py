"""Tests of the rpc wing, without Tornado and without sessions: payloads in, payloads out."""
