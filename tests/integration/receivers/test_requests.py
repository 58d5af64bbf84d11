"""What a request carries: to MDM_WEBHOOK_URL MicroMDM's headers alone, to others what they asked for."""

import asyncio
import hmac
import json
import plistlib
import ssl
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from services.webhook.endpoints.request import EventBody, EventRequest, single
from services.webhook.endpoints.sender import HttpSender
from shared.concurrency.clock import SystemClock
from shared.domain.subscription import (
    BodyForm,
    DeliveryLimits,
    RequestSecrets,
    SigningSecret,
    Subscription,
)
from shared.web.version import USER_AGENT
from tests.integration.receivers.conftest import EVERY_LOOPBACK
from tests.integration.receivers.posting import BODY, OK
from tests.support.harness.bad_servers import Kind, Trust
from tests.support.harness.raw_receiver import Link, RawReceiver, Request, saying

SECRET = "whsec_" + b64encode(b"the secret of this subscription").decode()
FORMER = "whsec_" + b64encode(b"the secret that came before it!").decode()
OTHERS = "whsec_" + b64encode(b"the secret of another receiver.").decode()
REQUEST = single("e1", "mdm.Connect", BODY)


def made(url: str, *secrets: SigningSecret, **fields: object) -> Subscription:
    """One that was made by API."""
    return replace(Subscription("s1", url, secrets=RequestSecrets(signing=secrets)), **fields)


def headers(request: Request) -> dict[str, str]:
    lines = request.head.decode().split("\r\n")[1:]
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


async def posted(
    sender: HttpSender, subscription: Subscription, request: EventRequest = REQUEST
) -> Request:
    async with RawReceiver(saying(OK)) as receiver:
        outcome = await sender.send(replace(subscription, url=receiver.url), request)
        assert outcome.delivered
    return receiver.requests[0]


async def test_the_configured_receiver_gets_the_bytes_of_every_version(sender: HttpSender) -> None:
    async with RawReceiver(saying(OK)) as receiver:
        configured = Subscription("config", receiver.url.replace("//", "//anna:p%40ss@"))
        await sender.send(configured, EventRequest(REQUEST.events, attempt=3))

        expected = (
            f"POST /hook HTTP/1.1\r\nHost: 127.0.0.1:{receiver.port}\r\nUser-Agent: {USER_AGENT}\r\n"
            "Content-Type: application/json; charset=utf-8\r\nAccept: */*\r\n"
            f"Authorization: Basic YW5uYTpwQHNz\r\nContent-Length: {len(BODY)}"
        )
    [request] = receiver.requests
    assert (request.head, request.body) == (expected.encode(), BODY)


async def test_a_request_names_its_event_its_time_its_topic_and_its_attempt(
    sender: HttpSender,
) -> None:
    before = int(datetime.now(UTC).timestamp())
    request = await posted(sender, made(""), single("e1", "mdm.Connect", BODY, attempt=4))
    after = int(datetime.now(UTC).timestamp())

    assert request.body == BODY
    assert request.header("webhook-id") == "e1"
    assert before <= int(request.header("webhook-timestamp") or 0) <= after
    assert request.header("x-macromdm-topic") == "mdm.Connect"
    assert request.header("x-macromdm-attempt") == "4"
    assert request.header("x-macromdm-replay") is None
    assert request.header("webhook-signature") is None
    assert request.header("x-hmac-signature") is None


async def test_a_replayed_request_says_by_which_replay_it_comes(sender: HttpSender) -> None:
    request = await posted(sender, made(""), replace(REQUEST, replay="r7"))

    assert request.header("x-macromdm-replay") == "r7"


async def test_an_event_whose_topic_nobody_stored_has_no_header_for_it(sender: HttpSender) -> None:
    request = await posted(sender, made(""), single("e1", None, BODY))

    assert request.header("x-macromdm-topic") is None


async def test_a_batch_has_an_id_that_follows_from_its_events(sender: HttpSender) -> None:
    events = [EventBody(f"e{n}", "mdm.Connect", BODY) for n in range(3)]
    ids = [
        (await posted(sender, made(""), EventRequest(tuple(some)))).header("webhook-id")
        for some in (events[:2], events[:2], events[1:], events[1::-1])
    ]

    assert ids[0] == ids[1]
    assert len({*ids, *(event.event_id for event in events)}) == 3 + 3


async def test_a_batch_has_no_topic(sender: HttpSender) -> None:
    request = await posted(sender, made(""), EventRequest(REQUEST.events * 2))

    assert request.header("x-macromdm-topic") is None


@pytest.mark.parametrize("size", [len(BODY), 1024 * 1024])
async def test_a_signature_is_that_of_standard_webhooks(sender: HttpSender, size: int) -> None:
    body = BODY.replace(b"e1", b"e" * (size - len(BODY) + 2)).replace(b"Connect", "ü".encode())
    request = await posted(sender, made("", SigningSecret(SECRET)), single("e1", None, body))

    Webhook(SECRET).verify(request.body, headers(request))


async def test_a_signature_holds_for_this_body_id_time_and_secret_alone(
    sender: HttpSender,
) -> None:
    request = await posted(sender, made("", SigningSecret(SECRET)))
    good = headers(request)
    a_second_later = str(int(good["webhook-timestamp"]) + 1)
    tampered = [
        (SECRET, request.body + b" ", good),
        (SECRET, request.body, {**good, "webhook-id": "e2"}),
        (SECRET, request.body, {**good, "webhook-timestamp": a_second_later}),
        (OTHERS, request.body, good),
    ]

    for secret, body, found in tampered:
        with pytest.raises(WebhookVerificationError, match="No matching"):
            Webhook(secret).verify(body, found)


async def test_while_a_secret_is_rotated_both_sign(sender: HttpSender) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=1)
    request = await posted(sender, made("", SigningSecret(SECRET), SigningSecret(FORMER, soon)))

    for secret in (SECRET, FORMER):
        Webhook(secret).verify(request.body, headers(request))


async def test_a_secret_signs_up_to_its_end_and_no_longer(sender: HttpSender) -> None:
    now = datetime.now(UTC)
    request = await posted(sender, made("", SigningSecret(SECRET), SigningSecret(FORMER, now)))

    assert (request.header("webhook-signature") or "").count("v1,") == 1
    Webhook(SECRET).verify(request.body, headers(request))


async def test_each_attempt_is_signed_with_its_own_time(sender: HttpSender) -> None:
    """A receiver refuses what is older than five minutes, and a retry may be days later."""
    ended = SigningSecret(FORMER, datetime(2026, 1, 2, tzinfo=UTC) + timedelta(days=90))

    async with RawReceiver(saying(OK)) as receiver:
        subscription = made(receiver.url, SigningSecret(SECRET), ended)
        for attempt in (1, 2):
            await sender.send(subscription, replace(REQUEST, attempt=attempt))
            await asyncio.sleep(1.01)

    times = [int(request.header("webhook-timestamp") or 0) for request in receiver.requests]
    assert times[0] < times[1]
    for request in receiver.requests:
        Webhook(SECRET).verify(request.body, headers(request))


async def test_nanomdms_signature_is_the_hmac_of_the_body_in_base64(sender: HttpSender) -> None:
    secrets = RequestSecrets(hmac_key="ké y")
    request = await posted(sender, made("", secrets=secrets))

    given = b64decode(request.header("x-hmac-signature") or "", validate=True)
    assert given == hmac.new("ké y".encode(), BODY, "sha256").digest()
    assert request.header("webhook-signature") is None


async def test_extra_headers_and_authorization_are_sent_as_given(sender: HttpSender) -> None:
    secrets = RequestSecrets({"X-Tenant": "a, b", "x-b": "="}, "Bearer t0ken")
    async with RawReceiver(saying(OK)) as receiver:
        await sender.send(made(receiver.url, secrets=secrets), REQUEST)

    head = receiver.requests[0].head
    assert b"\r\nAuthorization: Bearer t0ken\r\nX-Tenant: a, b\r\nx-b: =\r\n" in head


@pytest.mark.parametrize(
    "secrets",
    [
        RequestSecrets({"X-A": "1\r\nX-B: 2"}),
        RequestSecrets({"X-A: 1\r\nX-B": "2"}),
        RequestSecrets({"X-A": "é"}),
        RequestSecrets(authorization="Bearer s3cret\n"),
        RequestSecrets(signing=(SigningSecret("whsec_s3cret!"),)),
    ],
)
async def test_what_is_no_header_and_no_secret_is_not_sent(
    sender: HttpSender, secrets: RequestSecrets
) -> None:
    async with RawReceiver(saying(OK)) as receiver:
        outcome = await sender.send(made(receiver.url, secrets=secrets), REQUEST)

    assert outcome.reason == "the webhook's url or secrets cannot be used"
    assert "s3cret" not in repr(outcome)
    assert receiver.connections == 0


async def test_the_timeout_is_the_subscriptions() -> None:
    async def wait(link: Link) -> None:
        await asyncio.sleep(9)

    async with (
        HttpSender(SystemClock(), guard=EVERY_LOOPBACK) as sender,
        RawReceiver(wait) as receiver,
    ):
        limits = DeliveryLimits(timeout=timedelta(milliseconds=200))
        outcome = await sender.send(made(receiver.url, limits=limits), REQUEST)

    assert outcome.reason == "no answer within 0.2 s"
    assert outcome.latency is not None
    assert timedelta(milliseconds=190) < outcome.latency < timedelta(seconds=3)


async def test_cas_of_its_own_are_trusted_for_that_subscription_alone(
    sender: HttpSender, trust: Trust
) -> None:
    async with RawReceiver(saying(OK), trust.server(Kind.STRANGE)) as receiver:
        own = await sender.send(made(receiver.url, ca=trust.file.read_text()), REQUEST)
        system = await sender.send(made(receiver.url, id="s2"), REQUEST)
        none = await sender.send(made(receiver.url, id="s3", ca="no PEM"), REQUEST)

    assert own.delivered
    assert (system.reason or "").endswith(": name its CA in the webhook's ca")
    assert none.reason == "the webhook's url or secrets cannot be used"
    assert len(receiver.requests) == 1


async def test_the_configured_cas_are_not_for_subscriptions_of_the_api(trust: Trust) -> None:
    async with RawReceiver(saying(OK), trust.server(Kind.STRANGE)) as receiver:
        tls = ssl.create_default_context(cafile=trust.file)
        async with HttpSender(SystemClock(), tls, guard=EVERY_LOOPBACK) as sender:
            configured = await sender.send(Subscription("config", receiver.url), REQUEST)
            by_api = await sender.send(made(receiver.url), REQUEST)

    assert configured.delivered
    assert "is not trusted" in (by_api.reason or "")


async def test_a_changed_subscription_is_posted_to_anew_and_old_connections_end(
    sender: HttpSender,
) -> None:
    async with RawReceiver(saying(OK)) as receiver:
        before = made(receiver.url, revision="1")
        for same in (before, replace(before)):
            await sender.send(same, REQUEST)
        after = replace(before, revision="2", secrets=RequestSecrets({"X-A": "new"}))
        await sender.send(after, REQUEST)
        await asyncio.sleep(0.05)

        assert [request.header("x-a") for request in receiver.requests] == [None, None, "new"]
        assert [request.connection for request in receiver.requests] == [0, 0, 1]
        assert receiver.ended == 1


async def test_a_request_that_is_under_way_when_its_subscription_changes_ends_well(
    sender: HttpSender,
) -> None:
    go_on = asyncio.Event()

    async def say(link: Link) -> None:
        await go_on.wait()
        await link.say(OK)

    async with RawReceiver(say) as receiver:
        before = made(receiver.url, revision="1")
        under_way = asyncio.ensure_future(sender.send(before, REQUEST))
        while not receiver.requests:
            await asyncio.sleep(0.01)
        later = asyncio.ensure_future(sender.send(replace(before, revision="2"), REQUEST))
        while len(receiver.requests) < 2:
            await asyncio.sleep(0.01)
        go_on.set()

        assert (await under_way).delivered
        assert (await later).delivered
        await asyncio.sleep(0.05)
        assert receiver.ended == 1


async def test_the_beginning_of_a_failed_answer_is_kept_and_nothing_of_a_good_one(
    sender: HttpSender,
) -> None:
    said = b"no: \xff" + b"x" * 3000

    async def say(link: Link) -> None:
        status = b"200 OK" if link.number == 0 else b"422 No"
        await link.say(b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 3005\r\n\r\n" % status)
        await link.say(said)

    async with RawReceiver(say) as receiver:
        good, bad = [await sender.send(made(receiver.url), REQUEST) for _ in range(2)]

    assert good.answer is None
    assert bad.answer == "no: \N{REPLACEMENT CHARACTER}" + "x" * (1024 - 5)
    assert "xxx" not in repr(bad)


def connect(raw: bytes) -> bytes:
    content = {"udid": "MAC", "status": "Idle", "raw_payload": b64encode(raw).decode()}
    return json.dumps({"topic": "mdm.Connect", "acknowledge_event": content}).encode()


@pytest.mark.parametrize("name", ["", "x" * 100_000], ids=["small", "large"])
async def test_a_body_has_the_form_that_its_subscription_asks_for_and_is_signed_in_it(
    sender: HttpSender, name: str
) -> None:
    raw = plistlib.dumps({"DeviceName": name, "PushMagic": "s3cret"})
    form = BodyForm(is_redacted=True, batch=2)
    request = await posted(
        sender, made("", SigningSecret(SECRET), form=form), single("e1", None, connect(raw))
    )

    [event] = json.loads(request.body)["events"]
    assert event["acknowledge_event"]["payload"] == {"DeviceName": name}
    Webhook(SECRET).verify(request.body, headers(request))
