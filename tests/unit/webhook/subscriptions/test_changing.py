"""PATCH, DELETE, pause, resume and secrets of /v1/webhooks/{id}; on fakes."""

from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.webhook.subscriptions.service import MOST_SECRETS
from shared.domain.subscription import (
    BodyForm,
    DeliveryLimits,
    EventFilters,
    RequestSecrets,
    SigningSecret,
    Subscription,
    SubscriptionState,
)
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.webhook_world import CONFIGURED, URL, WebhookApi

DAY = timedelta(days=1)
FULL = Subscription(
    "1",
    URL,
    frozenset({"macromdm.CommandExpired"}),
    frozenset({"mdm.Connect"}),
    "inventory",
    EventFilters(frozenset({"A"}), frozenset({"B"}), frozenset({"C"}), frozenset({"D"})),
    BodyForm(frozenset({"payload"}), is_redacted=True, batch=10),
    DeliveryLimits(timedelta(seconds=5), 8, 2.5, (timedelta(seconds=1),)),
    RequestSecrets({"X-A": "1", "X-B": "2"}, "Bearer t", (SigningSecret("whsec_1"),), "key"),
    ca="PEM",
    revision="r",
)
NEW = f"whsec_{b64encode(bytes(24)).decode()}"


def stored(api: WebhookApi) -> Subscription:
    """The subscription as it is stored, without what every change changes."""
    return replace(api.subscriptions.stored["1"], revision="r", changed_at=None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, FULL),
        ({"name": "other"}, replace(FULL, name="other")),
        ({"topics": ["mdm.*"]}, replace(FULL, topics=frozenset({"mdm.*"}))),
        ({"topics": None}, replace(FULL, topics=frozenset({"mdm.*"}))),
        ({"ca": None}, replace(FULL, ca=None)),
        (
            {"filters": {"statuses": ["NotNow"], "serial_numbers": None}},
            replace(
                FULL,
                filters=replace(
                    FULL.filters, statuses=frozenset({"NotNow"}), serial_numbers=frozenset()
                ),
            ),
        ),
        ({"filters": None}, replace(FULL, filters=EventFilters())),
        ({"filters": {}}, FULL),
        (
            {"headers": {"x-a": "3", "X-B": None, "X-C": "4"}},
            replace(FULL, secrets=replace(FULL.secrets, headers={"x-a": "3", "X-C": "4"})),
        ),
        ({"headers": None}, replace(FULL, secrets=replace(FULL.secrets, headers={}))),
        ({"authorization": None}, replace(FULL, secrets=replace(FULL.secrets, authorization=None))),
        (
            {"authorization": {"type": "bearer", "token": "u"}},
            replace(FULL, secrets=replace(FULL.secrets, authorization="Bearer u")),
        ),
        ({"secret": None}, replace(FULL, secrets=replace(FULL.secrets, signing=()))),
        (
            {"secret": NEW},
            replace(FULL, secrets=replace(FULL.secrets, signing=(SigningSecret(NEW),))),
        ),
        ({"nanomdm_hmac_key": None}, replace(FULL, secrets=replace(FULL.secrets, hmac_key=None))),
        (
            {"timeout": 7, "concurrency": None, "rate": None, "retry_schedule": "1 s, 2 s"},
            replace(
                FULL,
                limits=DeliveryLimits(
                    timedelta(seconds=7),
                    DeliveryLimits().concurrency,
                    None,
                    (timedelta(seconds=1), timedelta(seconds=2)),
                ),
            ),
        ),
        (
            {"batch": None, "redact": None},
            replace(FULL, form=replace(FULL.form, batch=1, is_redacted=False)),
        ),
        (
            {"include": {"topics": ["macromdm.*"]}},
            replace(FULL, extra_topics=frozenset({"macromdm.*"})),
        ),
        ({"include": {"keys": []}}, replace(FULL, form=replace(FULL.form, extra_keys=frozenset()))),
        (
            {"include": None},
            replace(
                FULL, extra_topics=frozenset(), form=replace(FULL.form, extra_keys=frozenset())
            ),
        ),
    ],
)
async def test_a_change_keeps_what_it_does_not_name(
    fields: dict[str, Any], expected: Subscription
) -> None:
    api = WebhookApi(FULL)

    await api.change("1", **fields)

    assert stored(api) == expected
    assert api.names.asked == []


async def test_a_change_has_a_new_revision_and_its_time() -> None:
    api = WebhookApi(FULL)

    await api.change("1", name="other")

    changed = api.subscriptions.stored["1"]
    assert changed.revision not in ("", "r")
    assert changed.changed_at == api.clock.now()
    await api.change("1", name="other")
    assert api.subscriptions.stored["1"] == changed


async def test_a_new_url_is_checked_like_the_first_one() -> None:
    api = WebhookApi(FULL)
    api.names.addresses["inside.example"] = ["10.0.0.1"]

    status, answer = await api.ask("PATCH", "/1", {"url": "https://inside.example/"})

    assert (status, answer["error"].partition(":")[0]) == (400, "url")
    await api.change("1", url="https://outside.example/")
    assert stored(api) == replace(FULL, url="https://outside.example/")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": None}, "name: expected 1 to 100 printable characters"),
        ({"url": None}, "url: expected text"),
        ({"start": "now"}, "start: expected no such key"),
        ({"state": "active"}, "state: expected no such key"),
        ({"retry_schedule": ["28 d"]}, "retry_schedule: expected waits of together up to 27 d"),
        (
            {"headers": {f"Y-{n}": "1" for n in range(31)}},
            "headers: expected up to 32 headers together with the others",
        ),
    ],
)
async def test_a_change_that_cannot_be_made_changes_nothing(
    fields: dict[str, Any], error: str
) -> None:
    api = WebhookApi(FULL)

    status, answer = await api.ask("PATCH", "/1", fields)

    assert status == 400
    assert answer["error"].startswith(error)
    assert api.subscriptions.stored["1"] == FULL


async def test_a_change_is_audited_by_its_keys() -> None:
    api = WebhookApi(FULL)

    await api.change("1", headers={"X-A": "swordfish"}, name="other")

    [entry] = api.audit.entries
    assert (entry.action, entry.targets, entry.detail) == ("webhook.change", ("1",), "headers name")
    assert "swordfish" not in repr(entry)


class Meddled(FakeSubscriptions):
    """Another replica changes a subscription just before ours does, so often."""

    times = 0

    async def change(self, wanted: Subscription, revision: str) -> bool:
        if self.times:
            self.times -= 1
            there = self.stored[wanted.id]
            self.stored[wanted.id] = replace(there, ca=f"{self.times}", revision=f"{self.times}")
        return await super().change(wanted, revision)


@pytest.mark.parametrize(("times", "status"), [(4, 200), (5, 409)])
async def test_a_change_beside_others_undoes_none_of_them(times: int, status: int) -> None:
    api = WebhookApi()
    api.subscriptions.__class__ = Meddled
    api.subscriptions.stored["1"] = FULL
    api.subscriptions.times = times  # type: ignore[attr-defined]

    answered, _ = await api.ask("PATCH", "/1", {"name": "other"})

    assert answered == status
    name = "other" if status == 200 else "inventory"
    assert stored(api) == replace(FULL, ca="0", name=name)


async def test_the_configured_one_is_changed_by_its_setting_only() -> None:
    api = WebhookApi(configured=CONFIGURED)

    for method, path in (
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/secret"),
    ):
        status, answer = await api.ask(
            method, f"/config{path}", {"name": "x"} if path == "" else {}
        )
        assert status == 409, path
        assert answer["error"].startswith("MDM_WEBHOOK_URL makes this webhook")


State = SubscriptionState


@pytest.mark.parametrize(
    ("before", "action", "after"),
    [
        (State.ACTIVE, "pause", State.PAUSED),
        (State.PAUSED, "pause", State.PAUSED),
        (State.DISABLED, "pause", State.PAUSED),
        (State.PAUSED, "resume", State.ACTIVE),
        (State.DISABLED, "resume", State.ACTIVE),
        (State.ACTIVE, "resume", State.ACTIVE),
        (State.PREPARING, "resume", State.PREPARING),
    ],
)
async def test_a_subscription_is_paused_and_resumed(
    before: State, action: str, after: State
) -> None:
    reason = "answered 410" if before is State.DISABLED else None
    api = WebhookApi(replace(FULL, state=before, state_reason=reason))

    status, answer = await api.ask("POST", f"/1/{action}")

    assert (status, answer["state"], answer["state_reason"]) == (200, after, None)
    assert stored(api) == replace(FULL, state=after)
    assert [entry.action for entry in api.audit.entries] == [f"webhook.{action}"]


async def test_what_is_being_prepared_cannot_be_paused() -> None:
    api = WebhookApi(replace(FULL, state=State.PREPARING))

    status, answer = await api.ask("POST", "/1/pause")

    assert (status, answer["error"]) == (
        409,
        "its history is being stored: pause it once it is active",
    )


async def test_a_deleted_subscription_keeps_no_secrets_until_its_record_is_removed() -> None:
    api = WebhookApi(FULL)

    assert await api.ask("DELETE", "/1") == (200, {})

    assert stored(api) == replace(FULL, state=State.DELETED, secrets=RequestSecrets())
    assert (await api.ask("DELETE", "/1"))[0] == 404
    assert [entry.action for entry in api.audit.entries] == ["webhook.delete"] * 2


def signing(api: WebhookApi) -> list[tuple[str, timedelta | None]]:
    """The secrets, and how long they still sign."""
    now = api.clock.now()
    secrets = api.subscriptions.stored["1"].secrets.signing
    return [(each.value, each.expires_at and each.expires_at - now) for each in secrets]


async def test_a_new_secret_is_made_and_the_former_one_signs_for_a_day() -> None:
    api = WebhookApi(FULL)

    status, answer = await api.ask("POST", "/1/secret")

    assert status == 200
    assert signing(api) == [(answer["secret"], None), ("whsec_1", DAY)]
    assert answer["secrets"][0] == {"expires_at": None}
    assert answer["secrets"][1]["expires_at"] == "2026-01-03T03:04:05Z"
    assert [entry.action for entry in api.audit.entries] == ["webhook.rotate_secret"]
    assert answer["secret"] not in repr(api.audit.entries)


async def test_a_secret_that_is_given_is_not_shown() -> None:
    api = WebhookApi(FULL)

    _, answer = await api.ask("POST", "/1/secret", {"secret": NEW, "keep_former_for": "1 h"})

    assert answer["secret"] is None
    assert NEW not in repr(answer)
    assert signing(api) == [(NEW, None), ("whsec_1", timedelta(hours=1))]


async def test_a_rotation_that_is_repeated_keeps_the_former_secret_and_makes_no_double() -> None:
    api = WebhookApi(FULL)
    for _ in range(2):
        await api.ask("POST", "/1/secret", {"secret": NEW})

    assert signing(api) == [(NEW, None), ("whsec_1", DAY)]


async def test_a_secret_whose_time_is_over_leaves_and_no_secret_lives_longer_by_a_rotation() -> (
    None
):
    api = WebhookApi(FULL)
    _, first = await api.ask("POST", "/1/secret", {"keep_former_for": "1 h"})
    api.clock.advance(timedelta(minutes=30))
    _, second = await api.ask("POST", "/1/secret", {"keep_former_for": "24 h"})

    assert signing(api) == [
        (second["secret"], None),
        (first["secret"], DAY),
        ("whsec_1", timedelta(minutes=30)),
    ]
    api.clock.advance(timedelta(minutes=30))
    _, third = await api.ask("POST", "/1/secret")
    values = [value for value, _ in signing(api)]
    assert values == [third["secret"], second["secret"], first["secret"]]


async def test_a_secret_that_leaked_stops_at_once() -> None:
    api = WebhookApi(FULL)

    _, answer = await api.ask("POST", "/1/secret", {"keep_former_for": "0 s"})

    assert signing(api) == [(answer["secret"], None)]


async def test_an_unsigned_subscription_gets_its_first_secret() -> None:
    api = WebhookApi(replace(FULL, secrets=RequestSecrets()))

    _, answer = await api.ask("POST", "/1/secret")

    assert signing(api) == [(answer["secret"], None)]


async def test_only_so_many_secrets_sign_at_once() -> None:
    api = WebhookApi(FULL)
    for _ in range(MOST_SECRETS - 1):
        assert (await api.ask("POST", "/1/secret"))[0] == 200

    status, answer = await api.ask("POST", "/1/secret")

    assert (status, answer["error"]) == (
        409,
        f"{MOST_SECRETS} secrets sign: wait until one of them expires",
    )


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"keep_former_for": "31 d"}, "keep_former_for: expected a duration from 0 s to 30 d"),
        ({"keep_former_for": "P1D"}, "keep_former_for: expected a duration from 0 s to 30 d"),
        ({"secret": "x"}, "secret: expected whsec_ and the base64 of 24 to 64 bytes"),
        ({"keep": "1 h"}, "keep: expected no such key"),
    ],
)
async def test_a_rotation_that_cannot_be_made_is_refused(body: object, error: str) -> None:
    status, answer = await WebhookApi(FULL).ask("POST", "/1/secret", body)

    assert status == 400
    assert answer["error"].startswith(error)


async def test_null_in_a_rotation_is_the_default() -> None:
    api = WebhookApi(FULL)

    status, _ = await api.ask("POST", "/1/secret", {"secret": None, "keep_former_for": None})

    assert status == 200
    assert signing(api)[-1][1] == timedelta(hours=24)


@pytest.mark.parametrize("how", ["pause", "url", "name"])
async def test_an_outage_ends_with_a_change_of_state_or_url_and_no_other(how: str) -> None:
    api = WebhookApi()
    made = await api.create()
    at = api.clock.now()
    api.subscriptions.stored[made["id"]] = replace(
        api.subscriptions.stored[made["id"]], failing_since=at
    )
    if how == "pause":
        await api.ask("POST", f"/{made['id']}/pause")
    else:
        value = "https://receiver.example/new" if how == "url" else "other"
        await api.change(made["id"], **{how: value})

    expected = at if how == "name" else None
    assert api.subscriptions.stored[made["id"]].failing_since == expected


@pytest.mark.parametrize("state", [SubscriptionState.ACTIVE, SubscriptionState.DISABLED])
async def test_one_whose_key_is_missing_is_shown_and_may_be_deleted_and_nothing_else(
    state: SubscriptionState,
) -> None:
    lost = replace(FULL, url="", secrets=RequestSecrets(), state=state, unreadable="no key 3973f7")
    api = WebhookApi(lost)

    status, shown = await api.ask("GET", "/1")
    assert (status, shown["url"], shown["state_reason"]) == (200, "", "no key 3973f7")
    assert shown["state"] == ("paused" if state is SubscriptionState.ACTIVE else "disabled")
    for method, path, body in (
        ("PATCH", "/1", {"name": "other"}),
        ("POST", "/1/pause", None),
        ("POST", "/1/resume", None),
        ("POST", "/1/secret", {}),
    ):
        status, answer = await api.ask(method, path, body)
        assert (status, answer["error"]) == (
            409,
            "no key 3973f7: bring that key back, or delete this webhook",
        )
    assert api.subscriptions.stored["1"] == lost
    assert (await api.ask("GET", "/1/deliveries"))[0] == 200

    assert (await api.ask("DELETE", "/1"))[0] == 200
    assert api.subscriptions.stored["1"].state is SubscriptionState.DELETED
    assert (await api.ask("GET", "/1"))[0] == 404


async def test_a_resume_ends_what_was_noted_of_its_end() -> None:
    at = WebhookApi().clock.now()
    api = WebhookApi(replace(FULL, state=SubscriptionState.DISABLED, disabled_at=at))
    await api.change("1", name="renamed")
    renamed = api.subscriptions.stored["1"].disabled_at
    await api.ask("POST", "/1/resume")

    assert (renamed, api.subscriptions.stored["1"].disabled_at) == (at, None)
