"""POST and GET /v1/webhooks: what a subscription may be given, and what is shown of it; on fakes."""

import socket
from base64 import b64decode, b64encode
from datetime import timedelta
from typing import Any

import pytest

from services.webhook.subscriptions.receivers import look_up
from services.webhook.subscriptions.service import MOST
from shared.domain.subscription import (
    BodyForm,
    DeliveryLimits,
    EventFilters,
    RequestSecrets,
    SigningSecret,
    Subscription,
    SubscriptionState,
)
from tests.support.harness.identities import FleetAuthority
from tests.support.webhook_world import CONFIGURED, URL, WebhookApi

SECRET = f"whsec_{b64encode(bytes(range(32))).decode()}"
SECRETS = ("swordfish", SECRET, "hmac-key", "blue")
FULL: dict[str, Any] = {
    "topics": ["mdm.Connect", "mdm.CheckOut"],
    "filters": {
        "enrollment_ids": ["A:B"],
        "serial_numbers": ["C02"],
        "request_types": ["DeviceLock"],
        "statuses": ["Error"],
    },
    "headers": {"X-Tenant": "blue"},
    "authorization": {"type": "basic", "user": "u", "password": "swordfish"},
    "secret": SECRET,
    "nanomdm_hmac_key": "hmac-key",
    "timeout": "5 s",
    "concurrency": 8,
    "rate": 2.5,
    "retry_schedule": ["1 s", "1 h"],
    "batch": 100,
    "redact": True,
    "include": {"topics": ["macromdm.CommandExpired"], "keys": ["payload"]},
    "start": "now",
}


async def test_a_name_and_a_url_make_a_signed_subscription_to_the_topics_of_micromdm() -> None:
    api = WebhookApi()

    made = await api.create()

    [stored] = api.subscriptions.stored.values()
    assert stored == Subscription(
        made["id"],
        URL,
        name="inventory",
        secrets=RequestSecrets(signing=(SigningSecret(made["secret"]),)),
        revision=stored.revision,
        created_at=api.clock.now(),
        changed_at=api.clock.now(),
    )
    assert stored.revision
    assert len(b64decode(made["secret"].removeprefix("whsec_"))) == 32
    assert (made["state"], made["topics"], made["origin"]) == ("active", ["mdm.*"], "api")


async def test_a_subscription_has_all_that_was_asked_for() -> None:
    api = WebhookApi()
    ca = FleetAuthority().pem.decode()

    await api.create(**FULL, ca=ca)

    [stored] = api.subscriptions.stored.values()
    assert stored.topics == {"mdm.Connect", "mdm.CheckOut"}
    assert stored.extra_topics == {"macromdm.CommandExpired"}
    assert stored.filters == EventFilters(
        frozenset({"A:B"}), frozenset({"C02"}), frozenset({"DeviceLock"}), frozenset({"Error"})
    )
    assert stored.form == BodyForm(frozenset({"payload"}), is_redacted=True, batch=100)
    schedule = (timedelta(seconds=1), timedelta(hours=1))
    assert stored.limits == DeliveryLimits(timedelta(seconds=5), 8, 2.5, schedule)
    authorization = f"Basic {b64encode(b'u:swordfish').decode()}"
    signing = (SigningSecret(SECRET),)
    assert stored.secrets == RequestSecrets(
        {"X-Tenant": "blue"}, authorization, signing, "hmac-key"
    )
    assert stored.ca == ca


async def test_what_is_shown_holds_no_secret_that_a_client_gave() -> None:
    api = WebhookApi()
    made = await api.create(**FULL, url=f"{URL}?key=swordfish")

    answers = [made, await api.ask("GET", f"/{made['id']}"), await api.ask("GET", "")]

    assert not [secret for secret in SECRETS if secret in repr(answers).replace("'C02'", "")]
    assert made["secret"] is None
    shown = {key: made[key] for key in FULL.keys() & made.keys() - {"secret"}}
    assert shown == {key: FULL[key] for key in shown} | {
        "topics": ["mdm.CheckOut", "mdm.Connect"],
        "headers": ["X-Tenant"],
        "authorization": "basic",
    }
    assert made["url"] == f"{URL}?..."
    assert made["secrets"] == [{"expires_at": None}]
    assert made["nanomdm_hmac"] is True


async def test_a_secret_that_was_made_is_shown_once() -> None:
    api = WebhookApi()
    made = await api.create()

    _, shown = await api.ask("GET", f"/{made['id']}")

    assert made["secret"].startswith("whsec_")
    assert "secret" not in shown
    del shown["status"]
    assert shown == {key: value for key, value in made.items() if key != "secret"}


async def test_a_subscription_may_ask_for_no_signatures() -> None:
    api = WebhookApi()

    made = await api.create(secret=None)

    assert (made["secret"], made["secrets"]) == (None, [])


async def test_the_configured_one_is_listed_first_without_its_credentials() -> None:
    api = WebhookApi(configured=CONFIGURED)
    made = await api.create()

    _, listed = await api.ask("GET", "")
    _, shown = await api.ask("GET", "/config")

    assert [each["id"] for each in listed["webhooks"]] == ["config", made["id"]]
    del shown["status"]
    assert listed["webhooks"][0] == shown
    assert (shown["origin"], shown["url"]) == ("configuration", "https://old.example/hook?...")
    assert shown["created_at"] is None


async def test_what_is_unknown_or_deleted_is_not_found() -> None:
    api = WebhookApi(Subscription("gone", URL, state=SubscriptionState.DELETED))

    assert (await api.ask("GET", ""))[1] == {"webhooks": []}
    for id in ("gone", "never", "config"):
        for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/resume")):
            status, answer = await api.ask(
                method, f"/{id}{path}", {} if method == "PATCH" else None
            )
            assert (status, answer["error"]) == (404, f"there is no webhook {id}")


async def test_a_creation_is_audited_by_its_id_and_name() -> None:
    api = WebhookApi()

    made = await api.create(**FULL)

    [entry] = api.audit.entries
    assert (entry.action, entry.targets, entry.detail) == (
        "webhook.create",
        (made["id"],),
        "inventory",
    )
    assert not [secret for secret in SECRETS if secret in repr(entry)]


async def test_there_is_a_most_of_subscriptions() -> None:
    stored = [Subscription(str(n), URL) for n in range(MOST)]
    deleted = Subscription("gone", URL, state=SubscriptionState.DELETED)
    api = WebhookApi(*stored, deleted, configured=CONFIGURED)

    status, answer = await api.ask("POST", "", {"name": "one more", "url": URL})

    assert (status, answer["error"]) == (
        409,
        f"there are {MOST} webhooks, the most that there may be",
    )
    await api.ask("DELETE", "/0")
    await api.create()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": None}, "name: expected 1 to 100 printable characters"),
        ({"name": ""}, "name: expected 1 to 100 printable characters"),
        ({"name": "x" * 101}, "name: expected 1 to 100 printable characters"),
        ({"name": "a\nb"}, "name: expected 1 to 100 printable characters"),
        ({"nane": "x"}, "nane: expected no such key"),
        ({"topics": []}, "topics: expected a list of 1 to 100 topics"),
        ({"topics": "mdm.Connect"}, "topics: expected a list of 1 to 100 topics"),
        ({"topics": ["mdm.Conect"]}, "topics[0]: expected a topic (nearest: mdm.Connect)"),
        ({"topics": ["*"]}, "topics[0]: expected a topic: "),
        ({"filters": []}, "filters: expected an object"),
        ({"filters": {"status": []}}, "filters.status: expected no such key"),
        ({"filters": {"serial_numbers": [""]}}, "filters.serial_numbers[0]: expected 1 to 256"),
        (
            {"filters": {"statuses": ["acknowledged"]}},
            "filters.statuses[0]: expected a status (nearest: Acknowledged)",
        ),
        ({"start": "\ud800"}, "start: expected now, an event id, or a time"),
        (
            {"filters": {"serial_numbers": ["x"] * 1001}},
            "filters.serial_numbers: expected a list of up to 1000 texts",
        ),
        ({"headers": {"X A": "b"}}, "headers: expected names of headers, not 'X A'"),
        ({"headers": {"X-A": ""}}, "headers: expected X-A of 1 to 4096 printable ASCII characters"),
        ({"headers": {"X-A": "b\r\nC: d"}}, "headers: expected X-A of 1 to 4096 printable"),
        ({"headers": {"X-A": "b" * 4097}}, "headers: expected X-A of 1 to 4096 printable"),
        ({"headers": {"X-A": 1}}, "headers.X-A: expected text"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers: expected each header once"),
        (
            {"headers": {f"X-{n}": "1" for n in range(33)}},
            "headers: expected an object of up to 32 headers",
        ),
        ({"authorization": {"type": "digest"}}, "authorization.type: expected basic or bearer"),
        (
            {"authorization": {"type": "basic", "user": "u"}},
            "authorization: expected user (without",
        ),
        (
            {"authorization": {"type": "basic", "user": "u:v", "password": "p"}},
            "authorization: expected user (without a colon)",
        ),
        (
            {"authorization": {"type": "bearer", "token": "t", "user": "u"}},
            "authorization: expected user (without a colon)",
        ),
        (
            {"authorization": {"type": "bearer", "token": "a\nb"}},
            "authorization.token: expected 1 to 4096 printable ASCII characters",
        ),
        ({"ca": ""}, "ca: expected CA certificates in PEM"),
        ({"ca": "no PEM"}, "ca: expected CA certificates in PEM"),
        ({"ca": "é"}, "ca: expected CA certificates in PEM"),
        ({"secret": "whsec_"}, "secret: expected whsec_ and the base64 of 24 to 64 bytes"),
        ({"secret": SECRET[6:]}, "secret: expected whsec_ and the base64 of 24 to 64 bytes"),
        (
            {"secret": f"whsec_{b64encode(bytes(23)).decode()}"},
            "secret: expected whsec_ and the base64 of 24 to 64 bytes",
        ),
        (
            {"secret": f"whsec_{b64encode(bytes(65)).decode()}"},
            "secret: expected whsec_ and the base64 of 24 to 64 bytes",
        ),
        ({"timeout": "0.9 s"}, "timeout: expected a duration from 1 s to 30 s"),
        ({"timeout": "31 s"}, "timeout: expected a duration from 1 s to 30 s"),
        ({"timeout": "soon"}, "timeout: expected a duration from 1 s to 30 s"),
        ({"timeout": True}, "timeout: expected a duration from 1 s to 30 s"),
        ({"concurrency": 0}, "concurrency: expected a whole number from 1 to 256"),
        ({"concurrency": 257}, "concurrency: expected a whole number from 1 to 256"),
        ({"concurrency": 1.5}, "concurrency: expected a whole number from 1 to 256"),
        ({"concurrency": True}, "concurrency: expected a whole number from 1 to 256"),
        ({"rate": 0}, "rate: expected a number from 0.0001"),
        ({"rate": 5e-324}, "rate: expected a number from 0.0001"),
        ({"rate": -1}, "rate: expected a number from 0.0001"),
        ({"rate": "1"}, "rate: expected a number from 0.0001"),
        ({"rate": 100_001}, "rate: expected a number from 0.0001"),
        ({"retry_schedule": []}, "retry_schedule: expected a list of up to 50 durations"),
        ({"retry_schedule": ["1 y"]}, "retry_schedule: expected a list of up to 50 durations"),
        ({"retry_schedule": ["1 s"] * 51}, "retry_schedule: expected a list of up to 50 durations"),
        (
            {"retry_schedule": ["27 d", "1 s"]},
            "retry_schedule: expected waits of together up to 27 d (MDM_EVENT_RETENTION less 3 d)",
        ),
        (
            {"retry_schedule": ["999999999 d"] * 2},
            "retry_schedule: expected waits of together up to 27 d (MDM_EVENT_RETENTION less 3 d)",
        ),
        ({"batch": 0}, "batch: expected a whole number from 1 to 100"),
        ({"batch": 101}, "batch: expected a whole number from 1 to 100"),
        ({"redact": "yes"}, "redact: expected true or false"),
        ({"include": []}, "include: expected an object"),
        (
            {"include": {"topics": ["mdm.Connect"]}},
            "include.topics[0]: expected a topic that begins with macromdm.",
        ),
        ({"include": {"keys": ["plist"]}}, "include.keys[0]: expected payload"),
        ({"nanomdm_hmac_key": ""}, "nanomdm_hmac_key: expected 1 to 4096 printable ASCII"),
        ({"start": "yesterday"}, "start: expected now, the id of an event in the journal"),
        ({"start": 5}, "start: expected now, an event id, or a time (RFC 3339)"),
        (
            {"start": "2025-12-03T03:04:04Z"},
            "start: expected a time within the last 30 d (MDM_EVENT_RETENTION)",
        ),
        ({"start": "2026-01-02T03:04:06Z"}, "start: expected a time within the last 30 d"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_the_name_of_its_field(
    fields: dict[str, Any], error: str
) -> None:
    said = await WebhookApi().refused(**fields)

    assert said.startswith(error)


@pytest.mark.parametrize(
    "name",
    [
        *("accept", "authorization", "connection", "content-length", "Content-Type", "Expect"),
        *("Host", "Keep-Alive", "TE", "Trailer", "Upgrade", "Proxy-Authorization", "User-Agent"),
        *("Transfer-Encoding", "webhook-id", "Webhook-Signature", "x-hmac-signature"),
        "X-MacroMDM-Attempt",
    ],
)
async def test_a_header_that_the_server_sends_itself_is_refused(name: str) -> None:
    said = await WebhookApi().refused(headers={name: "x"})

    assert said == f"headers: expected no header {name}: the server sends its own, or none"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (None, "url: expected text"),
        ("", "url: expected a URL of up to 2048 ASCII characters, without spaces"),
        ("https://receiver.example/" + "x" * 2048, "url: expected a URL of up to 2048"),
        ("https://receiver.example/a b", "url: expected a URL of up to 2048"),
        ("https://receiver.example/\r\n", "url: expected a URL of up to 2048"),
        ("https://receiver.example\\@evil.example/", "url: expected a URL of up to 2048"),
        ("ftp://receiver.example/", "url: expected a URL that begins with https:// or http://"),
        ("receiver.example", "url: expected a URL that begins with https:// or http://"),
        ("https:///path", "url: expected a URL that begins with https:// or http://"),
        ("https://receiver.example:99999/", "url: expected a URL such as https://"),
        ("https://receiver.example:0/", "url: expected a URL with a port of 1 to 65535"),
        ("https://[::1/", "url: expected a URL such as https://"),
        ("https://[]@/", "url: expected a URL such as https://"),
        ("https://u:p@receiver.example/", "url: expected a URL without user and password"),
        ("https://u@receiver.example/", "url: expected a URL without user and password"),
        ("https://receiver.example/#top", "url: expected a URL without a fragment"),
        ("https://receiver.example/#", "url: expected a URL without a fragment"),
    ],
)
async def test_a_url_that_no_receiver_has_is_refused(url: object, error: str) -> None:
    said = await WebhookApi().refused(url=url)

    assert said.startswith(error)


async def test_a_receiver_where_nothing_may_connect_to_is_refused() -> None:
    api = WebhookApi()
    api.names.addresses["inside.example"] = ["10.0.0.1", "127.0.0.1"]

    said = await api.refused(url="https://inside.example:8443/x")

    assert said == (
        "url: expected a host with an address that may be connected to: 10.0.0.1 is in a private "
        "network that MDM_WEBHOOK_ALLOWED_NETWORKS does not list; 127.0.0.1 is a loopback address"
    )
    assert api.names.asked == [("inside.example", 8443)]


async def test_a_receiver_with_one_address_that_may_be_connected_to_is_taken() -> None:
    api = WebhookApi()
    api.names.addresses["receiver.example"] = ["fe80::1", "93.184.216.34"]

    await api.create()


@pytest.mark.parametrize(
    ("failure", "status", "error"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            400,
            "url: expected a host that has an address (Name or service not known)",
        ),
        (UnicodeError("label too long"), 400, "url: expected a host that has an address"),
        (socket.gaierror(socket.EAI_AGAIN, "again"), 503, "url: no name server answers"),
        (TimeoutError(), 503, "url: no name server answers"),
    ],
)
async def test_a_host_without_an_address_is_refused(failure: Any, status: int, error: str) -> None:
    api = WebhookApi()
    api.names.addresses["receiver.example"] = failure

    answered, said = await api.ask("POST", "", {"name": "n", "url": URL})

    assert (answered, said["error"]) == (status, error)
    assert api.subscriptions.stored == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "0x7f000001", "2130706433", "0177.1", "localhost"])
async def test_every_form_of_a_host_is_looked_up_to_its_address(host: str) -> None:
    assert set(await look_up(host, 443)) <= {"127.0.0.1", "::1"}
