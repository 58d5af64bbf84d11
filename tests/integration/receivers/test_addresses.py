"""What of a URL is sent, and where: targets, credentials, names and addresses."""

import asyncio
import base64
import socket
import time
from datetime import timedelta
from typing import Any

import pytest

from services.webhook.endpoints.sender import HttpSender
from shared.concurrency.clock import SystemClock
from tests.integration.receivers.names import Names
from tests.integration.receivers.posting import BODY, OK, send
from tests.support.harness.raw_receiver import RawReceiver, saying
from tests.support.harness.servers import free_port


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("/hook?a=%26&b=x+y", "/hook?a=%26&b=x+y"),
        ("/a%20b#part", "/a%20b"),
        ("/ümlaut?q=ü", "/%C3%BCmlaut?q=%C3%BC"),
    ],
)
async def test_the_target_is_that_of_the_url(sender: HttpSender, path: str, target: str) -> None:
    async with RawReceiver(saying(OK)) as receiver:
        origin = receiver.url.removesuffix("/hook")
        assert (await send(sender, origin + path)).delivered

        assert receiver.requests[0].target == target
        assert receiver.requests[0].header("host") == f"127.0.0.1:{receiver.port}"


@pytest.mark.parametrize(
    ("given", "credentials"),
    [("anna:p%40ss", b"anna:p@ss"), ("anna", b"anna:"), (":key", b":key"), ("ü:ö", "ü:ö".encode())],
)
async def test_credentials_of_the_url_are_sent_as_utf_8(
    sender: HttpSender, given: str, credentials: bytes
) -> None:
    async with RawReceiver(saying(OK)) as receiver:
        await send(sender, receiver.url.replace("//", f"//{given}@"))

        sent = receiver.requests[0].header("authorization") or ""
        assert base64.b64decode(sent.removeprefix("Basic ")) == credentials


def can_serve_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not can_serve_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
async def test_a_host_may_be_an_ipv6_address(sender: HttpSender) -> None:
    async with RawReceiver(saying(OK), host="::1") as receiver:
        assert (await send(sender, receiver.url)).delivered

        assert receiver.requests[0].header("host") == f"[::1]:{receiver.port}"


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.9", "127.0.0.8", "127.0.0.1"], ["127.0.0.1", "127.0.0.9"], ["::1", "127.0.0.1"]],
    ids=["last", "first", "IPv4 behind IPv6"],
)
async def test_of_several_addresses_one_that_answers_is_enough(
    sender: HttpSender, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    Names(monkeypatch, {"hooks.example": addresses})
    async with RawReceiver(saying(OK)) as receiver:
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        for _ in range(3):
            assert (await send(sender, url)).delivered

        assert receiver.requests[0].header("host") == f"hooks.example:{receiver.port}"
        assert receiver.connections == 1


async def test_an_address_that_is_silent_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = socket.create_server(("127.0.0.7", 0), backlog=0)
    port = silent.getsockname()[1]
    waiting = [socket.socket() for _ in range(3)]  # fill its queue, so that it takes nobody
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(("127.0.0.7", port))
    Names(monkeypatch, {"hooks.example": ["127.0.0.7", "127.0.0.1"]})

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(BODY)
        writer.write(OK)
        writer.close()

    async with (
        HttpSender(SystemClock(), timeout=timedelta(seconds=5)) as sender,
        await asyncio.start_server(take, "127.0.0.1", port),
    ):
        began = time.monotonic()
        outcome = await send(sender, f"http://hooks.example:{port}/")
        took = time.monotonic() - began
    for each in [silent, *waiting]:
        each.close()

    assert outcome.delivered
    assert took < 2


async def test_names_beyond_ascii_are_looked_up_and_named_in_punycode(
    sender: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch, {"xn--bcher-kva.example": ["127.0.0.1"]})
    async with RawReceiver(saying(OK)) as receiver:
        url = receiver.url.replace("127.0.0.1", "bücher.example")
        assert (await send(sender, url)).delivered

        assert receiver.requests[0].header("host") == f"xn--bcher-kva.example:{receiver.port}"
    assert names.asked == ["xn--bcher-kva.example"]


async def test_a_name_is_not_looked_up_for_each_connection(
    sender: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch, {"hooks.example": ["127.0.0.1"]})
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with RawReceiver(saying(answer, then_close=True)) as receiver:
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        for _ in range(5):
            assert (await send(sender, url)).delivered

        assert receiver.connections == 5
    assert len(names.asked) == 1


async def test_posts_side_by_side_share_one_look_up(
    sender: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch, {"hooks.example": ["127.0.0.1"]}, seconds=0.05)
    async with RawReceiver(saying(OK)) as receiver:
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        posts = [asyncio.ensure_future(send(sender, url)) for _ in range(8)]
        await asyncio.sleep(0.02)
        posts[0].cancel()
        outcomes = await asyncio.gather(*posts[1:])

        assert {outcome.reason for outcome in outcomes} == {None}
    assert len(names.asked) == 1


async def test_a_look_up_that_failed_is_made_again(
    sender: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    table: dict[str, list[str]] = {}
    names = Names(monkeypatch, table, seconds=0.05)
    async with RawReceiver(saying(OK)) as receiver:
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        failed = await asyncio.gather(*(send(sender, url) for _ in range(8)))
        table["hooks.example"] = ["127.0.0.1"]
        then = await send(sender, url)

    [reason] = {outcome.reason for outcome in failed}
    assert (reason or "").startswith("cannot connect: ")
    assert then.delivered
    assert len(names.asked) == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_url_without_a_port_means_the_scheme_s(
    sender: HttpSender, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    asked: dict[object, int] = {}

    async def look_up(host: str, port: int, **_: object) -> list[Any]:
        asked[host] = port
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", free_port()))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    outcome = await send(sender, f"{scheme}://hooks.example/hook")

    assert (outcome.reason or "").startswith("cannot connect: connection refused")
    assert asked["hooks.example"] == (443 if scheme == "https" else 80)


async def test_a_url_that_cannot_be_used_is_an_outcome(sender: HttpSender) -> None:
    outcome = await send(sender, "http://anna:secret@a..b:1/")

    assert "secret" not in (outcome.reason or "delivered")
    assert not outcome.delivered
    assert outcome.reason == "MDM_WEBHOOK_URL cannot be used"
