"""The proxy of `make up` and docker-compose.yml: which service gets which path, and what it removes.

Needs Debian's nginx; .ci/run installs it.
"""

import http.client
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from shared.settings.limits import LARGEST_BODY
from shared.web.problems import problem_of

LOCAL = Path(__file__).resolve().parents[2] / "deploy" / "local"


def load_parts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_parts", LOCAL / "parts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parts = load_parts()
OWN_HEADER = "x-tls-peer"
"""What MDM_CLIENT_CERT_HEADER names in these tests."""

pytestmark = pytest.mark.skipif(not Path(parts.NGINX).exists(), reason="nginx is not installed")


HEARD: list[dict[str, object]] = []
"""Every request that reached a service, for whoever clears it first."""


class Echo(BaseHTTPRequestHandler):
    """A service that says its name, and what it was asked."""

    service = ""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        given = self.rfile.read(length).decode("latin-1")
        heard = {
            "service": self.service,
            "path": self.path,
            "headers": dict(self.headers),
            "body": given,
        }
        HEARD.append(heard)
        body = json.dumps(heard).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_GET

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
    part = parts.proxy(folder, f"127.0.0.1:{port}", OWN_HEADER)
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
        ("/mdm", "checkin"),
        ("/mdm?site=berlin", "checkin"),
        ("/checkin", "checkin"),
        ("/checkin/more", "commands"),
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


@pytest.mark.parametrize("path", ["//mdm/checkin", "/mdm//connect", "//mdm"])
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
    assert body == problem_of(503, "the service is starting or away; try again")


def test_a_body_that_is_larger_than_any_may_be_is_413_and_json(proxy: int) -> None:
    link = http.client.HTTPConnection("127.0.0.1", proxy, timeout=10)
    try:
        link.request("PUT", "/mdm/connect", headers={"Content-Length": str(2 * LARGEST_BODY)})
        answer = link.getresponse()
        body = json.loads(answer.read())
    finally:
        link.close()

    assert answer.status == 413
    assert body == problem_of(413, "the request body is too large")


def test_headers_that_prove_something_are_not_taken_from_outside(proxy: int) -> None:
    forged = {
        "X-TLS-Peer": ":AAAA:",
        "X_TLS_Peer": ":AAAA:",
        "Client-Cert": ":AAAA:",
        "Client-Cert-Chain": ":AAAA:",
        "X-Client-Cert": "pem",
        "X-SSL-Client-Cert": "pem",
        "SSL-Client-Cert": "pem",
        "X-Forwarded-Client-Cert": "Hash=1",
        "X-Forwarded-For": "192.0.2.1",
        "X-Real-IP": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
    }

    _, heard = ask(proxy, "/mdm/connect", forged)

    headers = heard["headers"]
    assert isinstance(headers, dict)
    assert forged.keys() & headers.keys() == {"X-Forwarded-For"}
    assert headers["X-Forwarded-For"] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/mdm/checkin", "/mdm/connect", "/migration"])
def test_a_message_of_the_largest_size_passes(proxy: int, path: str) -> None:
    link = http.client.HTTPConnection("127.0.0.1", proxy, timeout=30)
    try:
        link.request("PUT", path, b"a" * LARGEST_BODY)
        heard = json.loads(link.getresponse().read())
    finally:
        link.close()

    assert len(heard["body"]) == LARGEST_BODY


def test_a_signature_of_the_size_of_a_certificate_chain_passes(proxy: int) -> None:
    signature = "A" * 40_000

    _, heard = ask(proxy, "/mdm/connect", {"Mdm-Signature": signature})

    headers = heard["headers"]
    assert isinstance(headers, dict)
    assert headers["Mdm-Signature"] == signature


def send_raw(port: int, request: bytes) -> bytes:
    """All that the proxy answers to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        link.sendall(request)
        return b"".join(iter(lambda: link.recv(65_536), b""))


def test_what_a_client_says_of_its_address_is_replaced_however_often_it_says_it(proxy: int) -> None:
    HEARD.clear()

    send_raw(
        proxy,
        b"GET /mdm/connect HTTP/1.1\r\nHost: mdm\r\nConnection: close\r\n"
        b"X-Forwarded-For: 192.0.2.1\r\nx-forwarded-for: 192.0.2.2, 192.0.2.3\r\n\r\n",
    )

    (heard,) = HEARD
    assert isinstance(heard["headers"], dict)
    given = [value for name, value in heard["headers"].items() if name.lower() == "x-forwarded-for"]
    assert given == ["127.0.0.1"]


def test_a_trailer_reaches_no_service_neither_as_header_nor_as_body(proxy: int) -> None:
    HEARD.clear()

    answer = send_raw(
        proxy,
        b"PUT /mdm/connect HTTP/1.1\r\nHost: mdm\r\nConnection: close\r\n"
        b"Trailer: X-TLS-Peer, X-Forwarded-For\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\nbody\r\n0\r\nX-TLS-Peer: :AAAA:\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
    )

    assert answer.startswith(b"HTTP/1.1 200 ")
    (heard,) = HEARD
    assert heard["body"] == "body"
    assert isinstance(heard["headers"], dict)
    assert "AAAA" not in str(heard) and "192.0.2.1" not in str(heard)


INNER = b"GET /v1/devices/smuggled HTTP/1.1\r\nHost: mdm\r\n\r\n"
LAST = b"GET /version HTTP/1.1\r\nHost: mdm\r\nConnection: close\r\n\r\n"
CHUNKS = b"0\r\n\r\n" + INNER


def post(*lines: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"POST /mdm/connect HTTP/1.1\r\nHost: mdm\r\n" + head + b"\r\n"


AMBIGUOUS = {
    "length and chunks": post(b"Content-Length: 53", b"Transfer-Encoding: chunked") + CHUNKS,
    "two lengths": post(b"Content-Length: 0", b"Content-Length: 48") + INNER,
    "a list of lengths": post(b"Content-Length: 0, 48") + INNER,
    "a blank before the colon": post(b"Content-Length : 0") + INNER,
    "a folded length": post(b"Content-Length:", b" 0") + INNER,
    "an unknown coding": post(b"Transfer-Encoding: xchunked") + CHUNKS,
    "two codings": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + CHUNKS,
    "a coding behind a tab": post(b"Transfer-Encoding: \x0bchunked") + CHUNKS,
    "a negative chunk": post(b"Transfer-Encoding: chunked") + b"-1\r\n" + INNER,
    "a huge chunk": post(b"Transfer-Encoding: chunked") + b"1000000000000000f\r\n" + INNER,
    "a bare CR": post(b"X: a\rContent-Length: 0") + INNER,
}


@pytest.mark.parametrize("request_", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_request_that_two_could_read_in_two_ways_reaches_no_service(
    proxy: int, request_: bytes
) -> None:
    HEARD.clear()

    answer = send_raw(proxy, request_ + LAST)

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert HEARD == []


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"Upgrade: websocket", b"Connection: Upgrade"),
        (b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAAA"),
        (b"Expect: 100-continue",),
    ],
    ids=["plain", "websocket", "HTTP/2", "Expect"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_looks_like_a_request_stays_a_body(
    proxy: int, lines: tuple[bytes, ...], chunked: bool
) -> None:
    HEARD.clear()
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 48"
    body = b"30\r\n" + INNER + b"\r\n0\r\n\r\n" if chunked else INNER

    answer = send_raw(proxy, post(*lines, framing) + body + LAST)

    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert [heard["path"] for heard in HEARD] == ["/mdm/connect", "/version"]
    headers = HEARD[0]["headers"]
    assert isinstance(headers, dict)
    assert HEARD[0]["body"] == INNER.decode()
    assert headers["Content-Length"] == "48"
    assert not {"Upgrade", "Connection", "Expect", "Transfer-Encoding"} & headers.keys()
