"""The contract of `Subscriptions`, held by the fake and by all stores."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from shared.domain.subscription import (
    BodyForm,
    DeliveryLimits,
    EventFilters,
    RequestSecrets,
    SigningSecret,
    Subscription,
    SubscriptionState,
)
from shared.ports.deliveries import Subscriptions
from shared.security.encryption import AesKeyring
from shared.storage.database import Database
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.subscriptions import FakeSubscriptions

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONFIGURED = Subscription(
    "config", "https://u:p@configured.example/", frozenset({"macromdm.X"}), name="MDM_WEBHOOK_URL"
)
FULL = Subscription(
    id="2",
    url="https://receiver.example/?key=0",
    name="inventory",
    topics=frozenset({"mdm.Connect", "mdm.CheckOut"}),
    extra_topics=frozenset({"macromdm.CommandExpired"}),
    filters=EventFilters(frozenset({"A:B"}), frozenset({"C02"}), frozenset(), frozenset({"Idle"})),
    form=BodyForm(frozenset({"payload"}), is_redacted=True, batch=100),
    limits=DeliveryLimits(timedelta(seconds=5), 8, 2.5, (timedelta(seconds=1), timedelta(hours=1))),
    secrets=RequestSecrets(
        {"X-Key": "0"},
        "Bearer 0",
        (SigningSecret("whsec_1"), SigningSecret("whsec_2", NOW + timedelta(days=1))),
        "an HMAC key",
    ),
    ca="-----BEGIN CERTIFICATE-----",
    state=SubscriptionState.DISABLED,
    state_reason="answered 410",
    revision="r1",
    created_at=NOW,
    changed_at=NOW + timedelta(seconds=1),
    starts_at=1_767_323_045_000_000_000,
    disabled_at=NOW + timedelta(seconds=1),
)
PLAIN = Subscription("1", "https://plain.example/", revision="r0")


def of(database: Database, url: str | None = CONFIGURED.url) -> Subscriptions:
    from shared.storage.events.subscriptions import MongoSubscriptions

    return MongoSubscriptions(database, KEYRING, url, CONFIGURED.extra_topics)


@pytest.fixture(params=STORES)
async def subscriptions(request: pytest.FixtureRequest) -> AsyncIterator[Subscriptions]:
    if request.param == "fake":
        yield FakeSubscriptions(configured=CONFIGURED)
        return
    async with open_store(request) as database:
        yield of(database)


async def test_what_was_added_is_there_unchanged(subscriptions: Subscriptions) -> None:
    await subscriptions.add(FULL)
    await subscriptions.add(PLAIN)

    assert await subscriptions.all() == [CONFIGURED, PLAIN, FULL]
    assert await subscriptions.get("2") == FULL
    assert await subscriptions.get("config") == CONFIGURED
    assert await subscriptions.get("3") is None


async def test_adding_again_changes_nothing(subscriptions: Subscriptions) -> None:
    await subscriptions.add(PLAIN)
    await subscriptions.add(replace(PLAIN, name="other"))

    assert await subscriptions.get("1") == PLAIN


async def test_of_two_changes_of_one_revision_the_first_wins(subscriptions: Subscriptions) -> None:
    await subscriptions.add(FULL)
    first = replace(PLAIN, id="2", name="first", revision="r2")

    assert await subscriptions.change(first, "r1") is True
    assert await subscriptions.change(replace(first, name="second"), "r1") is False
    assert await subscriptions.change(replace(first, id="3"), "r2") is False

    assert await subscriptions.all() == [CONFIGURED, first]


async def test_what_is_removed_is_gone(subscriptions: Subscriptions) -> None:
    await subscriptions.add(FULL)
    await subscriptions.remove("2")
    await subscriptions.remove("2")

    assert await subscriptions.all() == [CONFIGURED]


async def test_the_topics_are_those_of_all_but_deleted_ones(subscriptions: Subscriptions) -> None:
    assert await subscriptions.topics() == frozenset()

    await subscriptions.note_configured()
    await subscriptions.add(FULL)
    deleted = replace(PLAIN, topics=frozenset({"mdm.No"}), state=SubscriptionState.DELETED)
    await subscriptions.add(deleted)

    assert await subscriptions.topics() == {*CONFIGURED.all_topics, *FULL.all_topics}
    assert await subscriptions.all() == [CONFIGURED, deleted, FULL]


@pytest.mark.parametrize("state", sorted(set(SubscriptionState) - {SubscriptionState.DELETED}))
async def test_a_subscription_that_is_held_goes_on_asking_for_its_topics(
    subscriptions: Subscriptions, state: SubscriptionState
) -> None:
    """When it is active again it gets what happened meanwhile."""
    await subscriptions.add(replace(FULL, state=state))

    assert FULL.all_topics <= await subscriptions.topics()


@pytest.mark.parametrize("request_", ["sqlite"])
async def test_without_a_configured_url_the_former_topics_are_forgotten(
    request_: str, request: pytest.FixtureRequest
) -> None:
    from shared.concurrency.clock import SystemClock
    from shared.storage.sqlite import open_database

    database = open_database(request.getfixturevalue("tmp_path"), SystemClock())
    try:
        await of(database).note_configured()
        await of(database, None).note_configured()

        assert await of(database, None).topics() == frozenset()
        assert await of(database, None).all() == []
    finally:
        await database.close()


async def test_no_secret_is_stored_in_clear(subscriptions: Subscriptions) -> None:
    if isinstance(subscriptions, FakeSubscriptions):
        return
    await subscriptions.add(FULL)
    documents = subscriptions._documents  # type: ignore[attr-defined]

    stored = repr(await documents.find_one({"_id": "2"}))

    assert not [each for each in ("key=0", "Bearer", "whsec", "HMAC", "X-Key") if each in stored]


def test_no_repr_shows_a_secret() -> None:
    shown = repr([FULL, CONFIGURED])

    assert not [each for each in ("key=0", "Bearer", "whsec", "HMAC", "u:p") if each in shown]


@pytest.mark.parametrize(
    ("topics", "wanted"),
    [
        ({"mdm.*"}, {"mdm.Connect", "mdm.Newer"}),
        ({"mdm.Connect"}, {"mdm.Connect"}),
        ({"macromdm.*"}, {"macromdm.CommandExpired"}),
        ({"mdm.CheckOut", "macromdm.CommandExpired"}, {"macromdm.CommandExpired"}),
    ],
)
def test_a_pattern_stands_for_the_topics_of_its_prefix(topics: set[str], wanted: set[str]) -> None:
    every = {"mdm.Connect", "mdm.Newer", "macromdm.CommandExpired"}
    subscription = Subscription("1", "", topics=frozenset(topics))

    assert {topic for topic in every if subscription.wants(topic)} == wanted


@pytest.mark.parametrize("state", list(SubscriptionState))
async def test_one_whose_key_is_missing_is_held_and_stops_no_other(
    request: pytest.FixtureRequest, state: SubscriptionState
) -> None:
    from shared.concurrency.clock import SystemClock
    from shared.storage.events.subscriptions import MongoSubscriptions
    from shared.storage.sqlite import open_database

    database = open_database(request.getfixturevalue("tmp_path"), SystemClock())
    try:
        former = AesKeyring([b"b secret key for tests: 32 bytes"])
        await MongoSubscriptions(database, former).add(replace(FULL, state=state))
        subscriptions = of(database)
        await subscriptions.add(PLAIN)
        with structlog.testing.capture_logs() as logged:
            found = await subscriptions.all()
            assert await subscriptions.all() == found

        assert found[:2] == [CONFIGURED, PLAIN]
        assert (found[2].url, found[2].secrets) == ("", RequestSecrets())
        assert found[2].state is state
        assert "MDM_SECRET_KEY" in str(found[2].unreadable)
        assert found[2].is_held is (state is not SubscriptionState.DELETED)
        assert [each["subscription"] for each in logged if each["event"] == "webhook_held"] == ["2"]
        assert await subscriptions.get("2") == found[2]

        changed = replace(found[2], name="changed", revision="r2")
        assert await subscriptions.change(changed, "r1")
        kept = replace(FULL, name="changed", revision="r2", state=state)
        assert await MongoSubscriptions(database, former).get("2") == kept
        stored = await database.collection("webhooks").find_one({"_id": "2"})
        assert stored is not None
        assert "unreadable" not in stored
    finally:
        await database.close()
