"""What every command here has: time for a machine that stands still."""

import pytest

from sstream.commands import servers


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server have more than three seconds to answer; a test that wants it late says so."""
    monkeypatch.setattr(servers, "_TIMEOUT", 20.0)
