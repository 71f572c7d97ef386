"""The configuration of nginx that the documentation tells: pages and websockets over TLS, through a real nginx."""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sstream.testing import Process, Site, ToolMissing
from tests.ports import free_port

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text()
CERTIFICATE = Path(__file__).parent / "testing" / "localhost.pem"
APP = """
import tornado.web
from sstream import Application, RPCHandler, SessionMixin, load_session, rpc


class Home(SessionMixin, tornado.web.RequestHandler):
    def get(self):
        self.session["by"] = "page"
        self.finish(f"{self.request.protocol} {self.request.remote_ip}")


class Live(RPCHandler):
    @rpc(use=[load_session])
    def by(self) -> str:
        return self.session["by"]


app = Application([("/", Home), ("/ws", Live)], debug=True)
"""
FRAME = """
daemon off;
master_process off;
error_log stderr;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    {server}
}}
"""


def find_nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ToolMissing("no nginx: apt install nginx-light")
    return found


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def wait_until_it_listens(process: Process, port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if process.returncode is not None or time.monotonic() > deadline:
                pytest.fail(f"nginx does not listen: {process.log}")
            time.sleep(0.02)
        else:
            return


@pytest.fixture
def behind_nginx(need: Callable[..., str], tmp_path: Path) -> Iterator[str]:
    """An application behind nginx; the URL that browsers see."""
    nginx = need(find_nginx)
    (tmp_path / "shop.py").write_text(APP)
    arguments = [
        "-m",
        "sstream",
        "run",
        "shop:app",
        "--address",
        "127.0.0.1",
        "--xheaders",
        "--no-reload",
        "--port",
        "0",
    ]
    with Process(sys.executable, *arguments, cwd=tmp_path) as app:
        port = app.wait_for(r"http://\S+:(\d+)", timeout=60)[1]
        listen = free_port()
        server = block("nginx").replace("127.0.0.1:8888", f"127.0.0.1:{port}").replace("443", f"127.0.0.1:{listen}")
        server = re.sub(r"/etc/letsencrypt/\S+\.pem", str(CERTIFICATE), server).replace("chat.example", "localhost")
        (tmp_path / "nginx.conf").write_text(FRAME.format(folder=tmp_path, server=server))
        with Process(nginx, "-c", tmp_path / "nginx.conf", "-p", tmp_path) as proxy:
            wait_until_it_listens(proxy, listen)
            yield f"https://localhost:{listen}"


async def test_pages_and_websockets_go_through_nginx(behind_nginx: str) -> None:
    site = Site(behind_nginx, certificate=CERTIFICATE)
    browser = site.browser()

    page = await browser.get("/")
    ws = await browser.connect("/ws")

    assert page.text == "https 127.0.0.1"
    assert "Secure" in page.headers["Set-Cookie"]
    assert await ws.call("by") == "page"
    await site.close()


def test_the_service_starts_what_exists() -> None:
    (line,) = re.findall(r"^ExecStart=\S+/python (.*)$", block("ini"), re.MULTILINE)
    words = line.split()
    told = subprocess.run(
        [sys.executable, *words[:3], "--help"], capture_output=True, text=True, timeout=240, check=True
    )

    assert words[:3] == ["-m", "sstream", "run"]
    assert all(word in told.stdout for word in words if word.startswith("--"))
    assert '"' + '", "'.join(words[:3]) in block("dockerfile")
