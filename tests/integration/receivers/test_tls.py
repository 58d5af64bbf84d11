"""Receivers with TLS."""

import asyncio
import re
import ssl

import pytest

from services.webhook.endpoints.sender import AttemptOutcome, HttpSender
from shared.concurrency.clock import SystemClock
from shared.network.trusted_cas import client_tls
from tests.integration.receivers.conftest import TIMEOUT
from tests.integration.receivers.names import Names
from tests.integration.receivers.posting import OK, send
from tests.integration.test_connection_failures import TABLE, webhook
from tests.support.harness.bad_servers import Kind, Trust, bad_server
from tests.support.harness.raw_receiver import Link, RawReceiver, saying


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_over_tls_all_is_as_without(trust: Trust, version: ssl.TLSVersion) -> None:
    tls = trust.server(Kind.STRANGE)
    assert tls is not None
    tls.minimum_version = tls.maximum_version = version
    body = bytes(1024**2)
    async with (
        HttpSender(SystemClock(), client_tls("MDM_WEBHOOK_CA", trust.file)) as sender,
        RawReceiver(saying(OK), tls) as receiver,
    ):
        outcomes = [await send(sender, receiver.url, body) for _ in range(3)]

        assert outcomes == [AttemptOutcome()] * 3
        assert [request.body == body for request in receiver.requests] == [True] * 3
        assert receiver.connections == 1


async def test_over_tls_too_a_connection_whose_body_was_not_taken_is_not_used_again(
    trust: Trust,
) -> None:
    async def refuse(link: Link) -> None:
        await link.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(9)

    tls = client_tls("MDM_WEBHOOK_CA", trust.file)
    async with (
        HttpSender(SystemClock(), tls, timeout=TIMEOUT) as sender,
        RawReceiver(refuse, trust.server(Kind.STRANGE), reads_bodies=False) as receiver,
    ):
        outcomes = []
        for _ in range(2):
            outcomes.append(await send(sender, receiver.url, bytes(16 * 1024**2)))
            await asyncio.sleep(0.05)

        assert [outcome.reason for outcome in outcomes] == ["answered 413"] * 2
        assert receiver.connections == 2


TLS_ENDS = {
    "until the end of the connection": (b"HTTP/1.1 200 OK\r\n\r\nok", None),
    "half a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", None),
    "nothing": (b"", "the connection was closed without an answer"),
}


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize(("answer", "reason"), TLS_ENDS.values(), ids=TLS_ENDS)
async def test_the_end_of_a_tls_connection_is_the_end_of_a_connection(
    trust: Trust, answer: bytes, reason: str | None, is_reset: bool
) -> None:
    async def say(link: Link) -> None:
        await link.say(answer)
        await asyncio.sleep(0.02)
        link.reset() if is_reset else link.close()

    async with (
        HttpSender(SystemClock(), client_tls("MDM_WEBHOOK_CA", trust.file)) as sender,
        RawReceiver(say, trust.server(Kind.STRANGE)) as receiver,
    ):
        outcomes = [await send(sender, receiver.url) for _ in range(2)]

    assert outcomes == [AttemptOutcome(reason)] * 2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_receiver_that_wants_a_client_certificate_is_a_failure(
    trust: Trust, version: ssl.TLSVersion
) -> None:
    tls = trust.server(Kind.STRANGE)
    assert tls is not None
    tls.minimum_version = tls.maximum_version = version
    tls.load_verify_locations(trust.file)
    tls.verify_mode = ssl.CERT_REQUIRED
    async with (
        HttpSender(SystemClock(), client_tls("MDM_WEBHOOK_CA", trust.file)) as sender,
        RawReceiver(saying(OK), tls) as receiver,
    ):
        outcome = await send(sender, receiver.url)

    begin = "cannot connect: " if version is ssl.TLSVersion.TLSv1_2 else ""
    assert outcome.reason == f"{begin}the connection was closed without an answer"


async def test_a_certificate_is_checked_for_the_name_in_the_url(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, {"hooks.example.org": ["127.0.0.1"], "else.example.org": ["127.0.0.1"]})
    async with (
        HttpSender(SystemClock(), client_tls("MDM_WEBHOOK_CA", trust.file)) as sender,
        RawReceiver(saying(OK), trust.server(Kind.OTHER_NAME)) as receiver,
    ):
        good = await send(sender, receiver.url.replace("127.0.0.1", "hooks.example.org"))
        bad = await send(sender, receiver.url.replace("127.0.0.1", "else.example.org"))

    assert good.delivered
    assert "not for else.example.org" in (bad.reason or "")


async def test_an_address_with_a_bad_certificate_does_not_hold_up_the_others(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, {"hooks.example.org": ["127.0.0.2", "127.0.0.1"]})
    async with (
        HttpSender(SystemClock(), client_tls("MDM_WEBHOOK_CA", trust.file)) as sender,
        RawReceiver(saying(OK), trust.server(Kind.OTHER_NAME)) as good,
        RawReceiver(saying(OK), trust.server(Kind.EXPIRED), "127.0.0.2", good.port) as bad,
    ):
        outcome = await send(sender, good.url.replace("127.0.0.1", "hooks.example.org"))

        assert outcome.delivered
        assert bad.requests == []


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
async def test_a_failed_connection_has_the_same_reason_on_each_loop(
    trust: Trust, kind: Kind
) -> None:
    async with bad_server(kind, trust) as server:
        reason = await webhook(f"127.0.0.1:{server.port}", trust)

    assert re.fullmatch(rf"(cannot connect: )?({TABLE[kind]})", reason)
