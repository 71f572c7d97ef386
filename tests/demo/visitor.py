"""A visitor of the Teahouse: a browser's cookies and forms, without the browser."""

import contextlib
import re
from http.cookies import SimpleCookie
from typing import Any, Self
from urllib.parse import urlencode

import msgpack
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

__all__ = ["Line", "Refused", "Visitor"]

XSRF = re.compile(r'name="_xsrf" value="([^"]+)"')


class Visitor:
    """Keeps cookies between requests, and sends forms as the page has them."""

    def __init__(self, port: int, *, cookies: dict[str, str] | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.cookies = cookies if cookies is not None else {}

    async def get(self, path: str = "/") -> str:
        """A page's HTML."""
        response = await self.fetch(path)
        assert response.code == 200
        return response.body.decode()

    async def post(self, path: str, **fields: str) -> HTTPResponse:
        """Send a form with the token of the page it stands on; tells the answer, redirects not followed."""
        if token := XSRF.search(await self.get()):
            fields["_xsrf"] = token[1]
        return await self.fetch(path, method="POST", body=urlencode(fields), headers={"Origin": self.url})

    async def fetch(self, path: str, *, headers: dict[str, str] | None = None, **options: Any) -> HTTPResponse:
        request = HTTPRequest(
            self.url + path, headers={**self.header, **(headers or {})}, follow_redirects=False, **options
        )
        with contextlib.closing(AsyncHTTPClient(force_instance=True)) as client:
            response = await client.fetch(request, raise_error=False)
        for line in response.headers.get_list("Set-Cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        return response

    async def line(self) -> "Line":
        """Open the page's websocket."""
        request = HTTPRequest(self.url.replace("http", "ws") + "/live", headers={**self.header, "Origin": self.url})
        return Line(await websocket_connect(request, subprotocols=["sstream.v1.msgpack"]))

    @property
    def header(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}


class Line:
    """One websocket, speaking the wire as the browser's client does."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection = connection
        self.events: list[list[Any]] = []
        self._calls = 0

    async def call(self, method: str, *params: Any) -> Any:
        """The result of a call, or the error as ``[code, message, data]`` raised in a `Refused`."""
        self._calls += 1
        await self.connection.write_message(msgpack.packb([0, self._calls, method, params]), binary=True)
        while True:
            message = await self._read()
            if message[:2] == [1, self._calls]:
                if message[2] is not None:
                    raise Refused(*message[2])
                return message[3]
            self.events.append(message)

    async def event(self, name: str) -> Any:
        """The arguments of the next event of that name."""
        while True:
            message = self.events.pop(0) if self.events else await self._read()
            if message[:2] == [2, name]:
                return message[2]

    async def end(self) -> int | None:
        """The code with which the server closes it, waited for."""
        while await self.connection.read_message() is not None:
            pass
        code = self.connection.close_code
        self.connection.close()
        return code

    async def close(self) -> None:
        self.connection.close()
        while await self.connection.read_message() is not None:
            pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _read(self) -> list[Any]:
        message = await self.connection.read_message()
        assert isinstance(message, bytes), "the server closed the websocket"
        return list(msgpack.unpackb(message))


class Refused(Exception):
    """A call that the server refused."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data
