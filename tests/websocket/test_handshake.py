"""The opening handshake; what comes of it on the wire is in test_connection."""

import pytest

from sstream.websocket.handshake import accept_value, is_handshake


def test_accept_value_is_that_of_the_rfc() -> None:
    # RFC 6455, 1.3.
    assert accept_value("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("dGhlIHNhbXBsZSBub25jZQ==", True),
        ("", False),
        ("dGhlIHNhbXBsZSBub25jZQ", False),  # without the padding
        ("dGhlIHNhbXBsZSBub25j", False),  # 15 bytes
        ("dGhlIHNhbXBsZSBub25jZWU=", False),  # 17
        ("dGhlIHNhb*BsZSBub25jZQ==", False),
        ("grüße", False),
    ],
)
def test_key_has_16_bytes_in_base64(key: str, good: bool) -> None:
    assert is_handshake({"Host": "localhost", "Sec-WebSocket-Key": key}) is good


def test_host_is_needed() -> None:
    assert not is_handshake({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
