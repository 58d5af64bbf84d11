"""Each way in which a connection of ours fails has words of its own, on real sockets: to the webhook's
receiver, to APNs, to RabbitMQ and to MongoDB."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from services.push.certificates.tls import client_context, load_certificates
from services.push.send.apns import Apns, Push
from services.push.send.outcomes import Unanswered, Unreachable
from services.runtime.store_health import StorePulse
from services.webhook.endpoints.request import single
from services.webhook.endpoints.sender import HttpSender
from services.webhook.endpoints.subscribers import Subscribers
from shared.concurrency.clock import SystemClock
from shared.concurrency.periodic import Loops
from shared.domain.errors import BrokerUnavailable, StoreUnavailable
from shared.domain.subscription import Subscription
from shared.messaging.rabbit.connection import SingleConnection, checked_url
from shared.network.peer_certificates import KEPT
from shared.network.trusted_cas import client_tls
from shared.storage.mongo import Driver, Mongo
from shared.telemetry.metrics import Metrics
from tests.support.delivery_rig import FixedSubscriptions
from tests.support.fakes.clock import FakeClock
from tests.support.harness.bad_servers import Kind, Trust, bad_server
from tests.support.harness.push_certificates import TOPIC, PushAuthority

PATIENCE = timedelta(seconds=1)
REQUEST = single("e1", "mdm.Connect", b"{}")

Try = Callable[[str, Trust], Awaitable[str]]
"""Connects to a host and port; returns the reason why it failed."""


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path)


async def webhook(address: str, trust: Trust) -> str:
    return await posted(f"https://{address}/hook", trust)


async def posted(url: str, trust: Trust) -> str:
    tls = client_tls("MDM_WEBHOOK_CA", trust.file)
    async with HttpSender(SystemClock(), tls, PATIENCE) as sender:
        outcome = await sender.send(Subscription("config", url), REQUEST)
    return outcome.reason or ""


def apns_client(address: str, trust: Trust) -> Apns:
    pair = PushAuthority(trust.file.parent / "push").issue()
    [certificate] = load_certificates([(pair.certificate, pair.key)], datetime.now(UTC)).values()
    contexts = {TOPIC: client_context(certificate, trust.file)}
    return Apns(f"https://{address}", contexts, SystemClock(), timeout=PATIENCE)


async def apns(address: str, trust: Trust) -> str:
    client = apns_client(address, trust)
    outcome = await client.push(Push(TOPIC, b"token", "magic", datetime.now(UTC)), TOPIC)
    await client.close()
    assert isinstance(outcome, Unanswered)
    return outcome.reason


async def amqp(address: str, trust: Trust) -> str:
    return await connected(f"amqps://user:secret@{address}/?cafile={trust.file}")


async def connected(url: str) -> str:
    single = SingleConnection(checked_url(url, "test"))
    with pytest.raises(BrokerUnavailable) as caught:
        await single.connection(PATIENCE)
    await single.end(orderly=False)
    return str(caught.value)


async def mongo(address: str, trust: Trust) -> str:
    return await pinged(f"{address}/?tls=true&tlsCAFile={trust.file}")


async def pinged(rest: str) -> str:
    limits = "serverSelectionTimeoutMS=700&connectTimeoutMS=500&timeoutMS=1500"
    joined = "&" if "?" in rest else "/?"
    database = Mongo(f"mongodb://user:secret@{rest}{joined}{limits}")
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await database.ping()
    finally:
        await database.close()
    return str(caught.value)


NOT_TRUSTED = r"its certificate is not trusted .*: name the file of its CA in .*"
CLOSED = r"the connection was closed (without an answer|during the TLS handshake).*"
TABLE = {
    Kind.UNTRUSTED: NOT_TRUSTED,
    Kind.SELF_SIGNED: NOT_TRUSTED,
    Kind.UNREADABLE: r"its certificate is not trusted.*: name the file of its CA in .*",
    Kind.EXPIRED: r"its certificate has expired: renew it, or its CA's, there.*",
    Kind.EARLY: r"its certificate is not valid .*: compare the clocks.*",
    Kind.OTHER_NAME: r"its certificate is .*not for 127.0.0.1: change the host in MDM_\w+_URL, .*",
    Kind.NO_TLS: r"what answers there speaks no TLS: look at scheme and port of MDM_\w+_URL",
    Kind.REFUSED: r"connection refused: nothing listens at this address and port",
    Kind.SILENT: r"no answer (within 1 s|in time)",
    Kind.CLOSES: CLOSED,
    Kind.STRANGE: r"what answers there .*|the answer is no HTTP.*|.*HTTP/2|" + CLOSED,
}
CLIENTS = {
    "webhook": (webhook, r"(cannot connect: )?"),
    "apns": (apns, ""),
    "amqp": (amqp, "RabbitMQ: "),
    "mongo": (mongo, "MongoDB: "),
}


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_reason_says_what_is_wrong(client: str, kind: Kind, trust: Trust) -> None:
    attempt, prefix = CLIENTS[client]

    async with bad_server(kind, trust) as server:
        reason = await attempt(f"127.0.0.1:{server.port}", trust)

    assert re.fullmatch(prefix + f"({TABLE[kind]})", reason)
    assert "secret" not in reason


@asynccontextmanager
async def receiver(trust: Trust) -> AsyncIterator[str]:
    """A good one, whose certificate is of the CA in `trust`; gives its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    tls = trust.server(Kind.STRANGE)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_a_receiver_of_a_ca_in_mdm_webhook_ca_gets_its_events(trust: Trust) -> None:
    async with receiver(trust) as url:
        assert await posted(url, trust) == ""


async def test_a_receiver_of_a_ca_in_ssl_cert_file_gets_its_events(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver(trust) as url:
        async with HttpSender(SystemClock(), client_tls("MDM_WEBHOOK_CA", None)) as sender:
            before = await sender.send(Subscription("config", url), REQUEST)
        monkeypatch.setenv("SSL_CERT_FILE", str(trust.file))
        async with HttpSender(SystemClock(), client_tls("MDM_WEBHOOK_CA", None)) as sender:
            after = await sender.send(Subscription("config", url), REQUEST)

    assert "is not trusted" in (before.reason or "")
    assert after.delivered


async def test_a_host_that_nobody_knows_is_said_to_be_that(trust: Trust) -> None:
    unknown = r"the host of MDM_\w+_URL (is not found|cannot be looked up now): .*"

    for attempt, prefix in CLIENTS.values():
        assert re.fullmatch(prefix + unknown, await attempt("nobody.invalid:1", trust))


async def test_tls_where_none_was_asked_for_is_said_to_be_that(trust: Trust) -> None:
    async with bad_server(Kind.STRANGE, trust) as server:
        address = f"127.0.0.1:{server.port}"
        hints = {
            await posted(
                f"http://user:secret@{address}/", trust
            ): "MDM_WEBHOOK_URL must say https://",
            await connected(f"amqp://user:secret@{address}/"): "MDM_AMQP_URL must say amqps://",
            await pinged(address): "MDM_MONGODB_URL must say tls=true",
        }

    for reason, hint in hints.items():
        assert reason.endswith(
            f"the connection was closed without an answer; if it speaks TLS, {hint}"
        )


async def test_a_broker_that_lets_nobody_in_says_whom(amqp_url: str) -> None:
    stranger = await connected(amqp_url.replace("guest:guest", "guest:secret"))
    elsewhere = await connected(amqp_url.rstrip("/") + "/nowhere")

    assert stranger == "RabbitMQ: it refuses the user or the password in MDM_AMQP_URL"
    assert elsewhere == "RabbitMQ: it refuses the vhost in MDM_AMQP_URL"


async def test_a_certificate_that_is_refused_is_named(trust: Trust) -> None:
    async with bad_server(Kind.UNTRUSTED, trust) as server:
        reasons = {await attempt(f"127.0.0.1:{server.port}", trust) for attempt in (webhook, apns)}

    said = "its certificate is not trusted (of receiver, issued by CA of others): name the file of its CA in"
    assert reasons == {f"cannot connect: {said} MDM_WEBHOOK_CA", f"{said} MDM_APNS_CA"}


async def test_a_certificate_for_other_names_tells_them(trust: Trust) -> None:
    async with bad_server(Kind.OTHER_NAME, trust) as server:
        reason = await webhook(f"127.0.0.1:{server.port}", trust)

    assert "is for hooks.example.org, *.example.net, not for 127.0.0.1:" in reason


async def test_a_refused_certificate_is_looked_at_once_a_minute(trust: Trust) -> None:
    clock = FakeClock()
    tls = client_tls("MDM_WEBHOOK_CA", trust.file)

    async with (
        bad_server(Kind.UNTRUSTED, trust) as server,
        HttpSender(clock, tls, PATIENCE) as sender,
    ):
        receiver = Subscription("config", f"https://127.0.0.1:{server.port}/")
        reasons = {(await sender.send(receiver, REQUEST)).reason for _ in range(5)}
        after_a_burst = len(server.links)
        clock.advance(KEPT)
        await sender.send(receiver, REQUEST)

        assert len(reasons) == 1
        assert after_a_burst == 5 + 1
        assert len(server.links) == 5 + 1 + 2


async def test_a_look_at_a_certificate_sends_nothing_to_the_server(trust: Trust) -> None:
    async with bad_server(Kind.UNTRUSTED, trust) as server:
        await apns(f"127.0.0.1:{server.port}", trust)

        assert server.heard == b""


async def test_the_log_says_why_a_subscriber_fails(trust: Trust) -> None:
    clock = FakeClock()
    tls = client_tls("MDM_WEBHOOK_CA", trust.file)

    async with (
        bad_server(Kind.SELF_SIGNED, trust) as server,
        HttpSender(clock, tls, PATIENCE) as sender,
    ):
        receiver = Subscription("config", f"https://user:secret@127.0.0.1:{server.port}/")
        subscribers = Subscribers(FixedSubscriptions(receiver), sender, clock, Metrics())
        await subscribers.read()
        with structlog.testing.capture_logs() as logged:
            for _ in range(4):
                await subscribers.first(receiver, "MAC", REQUEST)
                clock.advance(timedelta(seconds=6))

    [line] = logged
    assert line["event"] == "subscriber_failing"
    assert line["reason"] == (
        "cannot connect: its certificate is not trusted (self-signed by selfmade): "
        "name the file of its CA in MDM_WEBHOOK_CA"
    )


async def test_the_log_and_the_answer_say_why_apns_cannot_be_reached(trust: Trust) -> None:
    async with bad_server(Kind.EXPIRED, trust) as server:
        client = apns_client(f"127.0.0.1:{server.port}", trust)
        push = Push(TOPIC, b"token", "magic", datetime.now(UTC))
        with structlog.testing.capture_logs() as logged:
            outcomes = [await client.push(push, TOPIC) for _ in range(4)]
        await client.close()

    [line] = [line for line in logged if line["event"] == "apns_unreachable"]
    assert line["reason"].startswith("its certificate has expired: renew it")
    assert outcomes[-1] == Unreachable(f"APNs cannot be reached: {line['reason']}")


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_the_log_says_why_the_store_is_away(driver: Driver, trust: Trust) -> None:
    async with bad_server(Kind.REFUSED, trust) as server:
        database = Mongo(f"mongodb://user:secret@127.0.0.1:{server.port}/", driver=driver)
        pulse = StorePulse(database.ping, SystemClock())
        with structlog.testing.capture_logs() as logged:
            asking = asyncio.create_task(pulse.run(Loops(SystemClock())))
            async with asyncio.timeout(20):
                while not logged:
                    await asyncio.sleep(0.05)
            asking.cancel()
            await asyncio.wait([asking])
        await database.close()

    reason = "MongoDB: connection refused: nothing listens at this address and port"
    assert [(line["event"], line["error"]) for line in logged] == [("store_away", reason)]
