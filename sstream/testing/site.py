"""An application on a free port, for browsers to visit."""

import time
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sstream.application import Application
from sstream.session.session import Session
from sstream.testing.browser import Browser
from sstream.testing.clock import Clock
from sstream.testing.socket import MARK

__all__ = ["Site", "serve"]


class Site:
    """A server that browsers visit; made by `serve`, or by hand for one that listens already.

    Args:
        url: ``http://127.0.0.1:8888``.
        application: What is served there, if in this process.
        certificate: Trusted by its browsers beside those of the system.
    """

    def __init__(self, url: str, application: Application | None = None, certificate: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._application = application
        self._certificate = certificate
        self._browsers: list[Browser] = []

    @property
    def app(self) -> Application:
        """The application.

        Raises:
            LookupError: It runs in another process.
        """
        if self._application is None:
            raise LookupError(f"{self.url} is served by another process")
        return self._application

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, for a plain socket."""
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return host, int(port)

    def browser(self, **cookies: str) -> Browser:
        """A new visitor; its websockets are closed when the site is."""
        app = self._application
        browser = Browser(
            self.url,
            cookies,
            site=None if app is None else self,
            session_cookie="connect.sid" if app is None else app.sessions.options.name,
            certificate=self._certificate,
            clock=time.time if app is None or app.clock is None else app.clock,
        )
        self._browsers.append(browser)
        return browser

    async def browser_with(self, data: Mapping[str, Any] | None = None, *, user_id: str | int | None = None) -> Browser:
        """A new visitor who comes with a stored session: logged in as ``user_id``, without the way through a form."""
        sessions = self.app.sessions
        session = await sessions.create(data, user_id=user_id)
        return self.browser(**{sessions.options.name: sessions.cookie_value(session)})

    async def session_of(self, browser: Browser) -> Session | None:
        """The stored session of a visitor, ``None`` if there is none (any more)."""
        await browser.settle()
        return await self.app.sessions.get(browser.sid) if browser.sid is not None else None

    async def close(self) -> None:
        """Close every browser; the application is left as it is."""
        for browser in self._browsers:
            await browser.close()


@asynccontextmanager
async def serve(application: Application, certificate: Path | None = None, **options: Any) -> AsyncIterator[Site]:
    """Let ``application`` listen on a free port of 127.0.0.1, and close it in the end.

    The websockets of its browsers are closed then. Another one that is still open, as its client was forgotten, is
    reported by a ``ResourceWarning``.

    Args:
        certificate: A file with a certificate for 127.0.0.1 and its key: serve by https, and let browsers trust it.
        options: Those of Tornado's ``HTTPServer``.
    """
    if certificate is not None:
        options["ssl_options"] = {"certfile": str(certificate)}
    server = application.listen(0, "127.0.0.1", **options)
    (listening,) = server._sockets.values()
    scheme = "http" if certificate is None else "https"
    site = Site(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}", application, certificate)
    off = application.clock.watch(lambda: _expire(application)) if isinstance(application.clock, Clock) else None
    try:
        await application.start()
        yield site
    finally:
        if off is not None:
            off()
        try:
            await site.close()
            closed = {socket.mark[MARK] for browser in site._browsers for socket in browser.sockets}
            left = [
                f"{type(socket).__name__} at {socket.request.path}"
                for socket in application.sockets.values()
                if socket.request.headers.get(MARK) not in closed
            ]
        finally:
            await application.close()
    if left:
        text = f"left open: {', '.join(left)}; close the client's end in the test"
        warnings.warn(text, ResourceWarning, stacklevel=2)


def _expire(application: Application) -> None:
    # A store in memory looks at its clock when it is asked, and by a timer; a clock that was turned cannot wait for it.
    expire = getattr(application.store, "expire", None)
    if expire is not None:
        expire()
