"""The proxy of `make up` and docker-compose.yml: which service gets which path, and what it removes.

Needs Debian's nginx; .ci/run installs it.
"""

import http.client
import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

LOCAL = Path(__file__).resolve().parents[2] / "deploy" / "local"


def load_parts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_parts", LOCAL / "parts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parts = load_parts()
pytestmark = pytest.mark.skipif(not Path(parts.NGINX).exists(), reason="nginx is not installed")


class Echo(BaseHTTPRequestHandler):
    """A service that says its name, and what it was asked."""

    service = ""

    def do_GET(self) -> None:
        heard = {"service": self.service, "path": self.path, "headers": dict(self.headers)}
        body = json.dumps(heard).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of nginx with the real routes, before services that echo; `push` is away."""
    folder = tmp_path_factory.mktemp("proxy")
    running = []
    ports = {"push": parts.free_port()}
    for name in ("checkin", "commands", "webhook"):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(name, (Echo,), {"service": name}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        ports[name] = server.server_address[1]
    port = parts.free_port()
    part = parts.proxy(folder, f"127.0.0.1:{port}")
    routes = folder / "routes.conf"
    text = routes.read_text()
    for name, usual in parts.SERVICES.items():
        text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{ports[name]}")
    routes.write_text(text)
    with (folder / "nginx.log").open("wb") as log:
        nginx = subprocess.Popen(part.command, stdout=log, stderr=log)
    while not part.serves():
        assert nginx.poll() is None, (folder / "nginx.log").read_text()
        time.sleep(0.02)
    yield port
    nginx.terminate()
    nginx.wait(10)
    for server in running:
        server.shutdown()
        server.server_close()


def ask(
    port: int, path: str, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, dict[str, object]]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request("GET", path, headers=headers or {})
        answer = link.getresponse()
        return answer, json.loads(answer.read())
    finally:
        link.close()


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/mdm/checkin", "checkin"),
        ("/mdm/connect", "checkin"),
        ("/mdm/enroll", "checkin"),
        ("/scep?operation=GetCACaps", "checkin"),
        ("/ota/enroll", "checkin"),
        ("/v1/commands", "commands"),
        ("/v1/commands/SOME-UDID", "commands"),
        ("/v1/devices", "commands"),
        ("/v1/devices/SOME-UDID/block", "commands"),
        ("/v1/profiles", "commands"),
        ("/v1/challenge", "commands"),
        ("/v1/tokens", "commands"),
        ("/v1/audit", "commands"),
        ("/migration", "commands"),
        ("/v1/webhooks", "webhook"),
        ("/v1/webhooks/some/replay", "webhook"),
        ("/v1/events", "webhook"),
        ("/version", "commands"),
        ("/docs", "commands"),
        ("/nobody/knows", "commands"),
    ],
)
def test_each_path_reaches_its_service_unchanged(proxy: int, path: str, service: str) -> None:
    _, heard = ask(proxy, path)

    assert (heard["service"], heard["path"]) == (service, path)


@pytest.mark.parametrize("path", ["//mdm/checkin", "/mdm//connect"])
def test_a_doubled_slash_reaches_the_same_service(proxy: int, path: str) -> None:
    _, heard = ask(proxy, path)

    assert heard["service"] == "checkin"


@pytest.mark.parametrize(
    "path", ["/push/SOME-UDID", "/v1/push/SOME-UDID", "/v1/config/certificate"]
)
def test_a_service_that_is_away_is_503_with_retry_after_and_json(proxy: int, path: str) -> None:
    answer, body = ask(proxy, path)

    assert answer.status == 503
    assert answer.headers["Retry-After"] == "5"
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert "error" in body


def test_headers_that_prove_something_are_not_taken_from_outside(proxy: int) -> None:
    forged = {
        "Client-Cert": ":AAAA:",
        "Client-Cert-Chain": ":AAAA:",
        "X-Client-Cert": "pem",
        "X-SSL-Client-Cert": "pem",
        "SSL-Client-Cert": "pem",
        "X-Forwarded-Client-Cert": "Hash=1",
        "X-Forwarded-For": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
    }

    _, heard = ask(proxy, "/mdm/connect", forged)

    headers = heard["headers"]
    assert isinstance(headers, dict)
    assert forged.keys() & headers.keys() == {"X-Forwarded-For"}
    assert headers["X-Forwarded-For"] == "127.0.0.1"


def test_a_signature_of_the_size_of_a_certificate_chain_passes(proxy: int) -> None:
    signature = "A" * 40_000

    _, heard = ask(proxy, "/mdm/connect", {"Mdm-Signature": signature})

    headers = heard["headers"]
    assert isinstance(headers, dict)
    assert headers["Mdm-Signature"] == signature
