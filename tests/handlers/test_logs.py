"""What the log may say."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from sstream.testing import StoreProbe

from .live import ServeLive, Spoiling, refused


async def test_no_log_line_ever_holds_an_id_a_cookie_a_ticket_or_a_payload(
    store: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    site = await serve_live(store, Spoiling)
    browser = site.browser()
    expect_log("", logger="sstream", required=False)
    expect_log("", logger="tornado", required=False)
    secrets: set[str | None] = set()
    with caplog.at_level("DEBUG"):
        await browser.get("/put?password=hunter2")
        secrets |= {browser.sid, browser.jar["connect.sid"]}
        socket = await browser.connect(trades=False)
        await socket.call("account.login", "fred")
        ticket, _ = await socket.receive("sstream:ticket")
        for call in (
            socket.call("fail"),
            socket.call("spoil", "nan"),
            socket.call("spoil", "big"),
            socket.call("xyzzy"),
        ):
            await refused(call)
        socket.send_raw(b"hunter2\xc1")
        await socket.receive_message()
        await browser.trade("forged-" + ticket)
        await browser.trade(ticket)
        secrets |= {ticket, browser.sid, browser.jar["connect.sid"]}
        store.fail("get", "swap", "touch")
        await browser.get("/put?a=1")
        await refused(socket.call("cart.add", "hunter2"))
        store.heal()
        sid = browser.sid
        assert sid is not None
        await store.store.delete(f"sess:{sid}")
        await store.store.swap(f"sess:{sid}", None, b"hunter2, and no session", 100)
        await browser.get("/look")
        await browser.get("/logout")

    secrets = {secret for secret in secrets if secret}
    assert len(secrets) == 5
    assert len(caplog.records) > 5
    for record in caplog.records:
        line = logging.Formatter().format(record)
        # The query of a page is the visitor's own, and stands in Tornado's log of requests.
        if record.name != "tornado.access":
            assert "hunter2" not in line
        assert not [secret for secret in secrets if secret in line], line
