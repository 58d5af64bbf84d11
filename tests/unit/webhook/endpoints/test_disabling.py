"""Promises of disabling: after 410 or five days of failures only, once, and over restarts."""

from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from services.webhook.endpoints.disabling import DISABLED_AFTER, NOTED_AFTER, Disabling
from services.webhook.endpoints.endpoint import Endpoint
from services.webhook.endpoints.sender import AttemptOutcome
from shared.domain.subscription import CONFIG_SUBSCRIPTION, Subscription, SubscriptionState
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.subscriptions import FakeSubscriptions

SUBSCRIPTION = Subscription("s", "http://receiver.invalid/", name="first", revision="r0")
REFUSED, TAKEN = AttemptOutcome("answered 500"), AttemptOutcome()
GONE = AttemptOutcome("answered 410", status=410)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


class World:
    """One subscription and the processes that look after it."""

    def __init__(self, subscription: Subscription = SUBSCRIPTION) -> None:
        self.clock, self.ids = FakeClock(), FakeIds()
        self.subscriptions = FakeSubscriptions(subscription)
        self.id = subscription.id

    @property
    def stored(self) -> Subscription:
        return self.subscriptions.stored[self.id]


class Process:
    def __init__(self, world: World) -> None:
        self.world = world
        self.endpoint = Endpoint(world.id, world.clock)
        self.endpoint.follow(world.stored, 1.0)
        self.disabling = Disabling(world.subscriptions, world.clock, world.ids)

    async def look(self) -> None:
        self.endpoint.follow(self.world.stored, 1.0)
        await self.disabling(self.world.stored, self.endpoint)

    async def hear(self, outcome: AttemptOutcome) -> None:
        self.endpoint.heard(outcome, ["MAC"])
        await self.look()

    async def fail_for(self, duration: timedelta, step: timedelta = HOUR) -> None:
        """Nothing but failures, three a step."""
        for _ in range(duration // step):
            for _ in range(3):
                await self.hear(REFUSED)
            self.world.clock.advance(step)
        await self.hear(REFUSED)


@pytest.fixture
def world() -> World:
    return World()


async def test_410_disables_at_once(world: World) -> None:
    with capture_logs() as logs:
        await Process(world).hear(GONE)

    assert world.stored.state is SubscriptionState.DISABLED
    assert world.stored.state_reason == "answered 410"
    assert [line["name"] for line in logs if line["event"] == "subscription_disabled"] == ["first"]
    assert world.stored.changed_at == world.stored.disabled_at == world.clock.now()


async def test_one_that_a_former_version_resumed_is_disabled_at_a_time_of_its_own() -> None:
    world = World(replace(SUBSCRIPTION, disabled_at=FakeClock().now() - HOUR))
    process = Process(world)
    await process.look()

    assert world.stored.disabled_at is None
    await process.hear(GONE)
    assert world.stored.disabled_at == world.clock.now()


async def test_five_days_of_failures_only_disable(world: World) -> None:
    process = Process(world)
    await process.fail_for(DISABLED_AFTER - HOUR)
    before = world.stored.state
    await process.fail_for(HOUR)

    assert before is SubscriptionState.ACTIVE
    assert world.stored.state is SubscriptionState.DISABLED
    assert "5 days" in (world.stored.state_reason or "")
    assert world.stored.failing_since is None


async def test_the_days_are_counted_over_restarts(world: World) -> None:
    for _ in range(5):
        await Process(world).fail_for(timedelta(hours=24))

    assert world.stored.state is SubscriptionState.DISABLED


async def test_days_without_any_process_do_not_disable_before_it_fails_again(world: World) -> None:
    await Process(world).fail_for(2 * HOUR)
    world.clock.advance(DISABLED_AFTER)
    process = Process(world)
    await process.look()
    at_start = world.stored.state
    await process.hear(TAKEN)

    assert at_start is SubscriptionState.ACTIVE
    assert world.stored.failing_since is None


async def test_one_success_begins_the_count_anew(world: World) -> None:
    process = Process(world)
    await process.fail_for(DISABLED_AFTER - HOUR)
    await process.hear(TAKEN)
    await process.fail_for(DISABLED_AFTER - HOUR)

    assert world.stored.state is SubscriptionState.ACTIVE


async def test_a_success_of_another_replica_ends_the_count(world: World) -> None:
    failing, other = Process(world), Process(world)
    await failing.fail_for(2 * HOUR)
    was_noted = world.stored.failing_since is not None
    await other.hear(TAKEN)

    assert was_noted
    assert world.stored.failing_since is None


async def test_a_success_of_before_the_outage_does_not(world: World) -> None:
    failing, other = Process(world), Process(world)
    await other.hear(TAKEN)
    world.clock.advance(SECOND)
    await failing.fail_for(2 * HOUR)
    await other.look()

    assert world.stored.failing_since is not None


async def test_two_replicas_that_disagree_write_no_more_than_two_times_an_hour(
    world: World,
) -> None:
    failing, other = Process(world), Process(world)
    revisions = set()
    for _ in range(600):
        await failing.hear(REFUSED)
        await other.hear(TAKEN)
        world.clock.advance(timedelta(minutes=1))
        revisions.add(world.stored.revision)

    assert len(revisions) <= 2 * 10


async def test_an_outage_is_noted_once_and_a_short_one_never(world: World) -> None:
    process = Process(world)
    await process.fail_for(NOTED_AFTER - HOUR / 6, step=HOUR / 6)
    short = world.stored.revision
    began = world.clock.now() - process.endpoint.failing_for
    await process.fail_for(3 * HOUR)
    noted = world.stored.revision
    await process.fail_for(3 * HOUR)

    assert short == "r0"
    assert world.stored.failing_since == began
    assert noted == world.stored.revision


async def test_of_two_replicas_one_disables(world: World) -> None:
    one, two = Process(world), Process(world)
    as_read = world.stored
    one.endpoint.heard(GONE, ["MAC"])
    two.endpoint.heard(GONE, ["PAD"])
    await one.disabling(as_read, one.endpoint)
    first = world.stored
    await two.disabling(as_read, two.endpoint)

    assert first.state is SubscriptionState.DISABLED
    assert world.stored is first


async def test_a_410_of_before_a_change_does_not_disable_again(world: World) -> None:
    """It is active again before this replica saw that it was disabled."""
    process = Process(world)
    process.endpoint.heard(GONE, ["MAC"])
    now = world.clock.now()
    world.subscriptions.stored["s"] = replace(SUBSCRIPTION, revision="r2", changed_at=now)
    await process.look()

    assert world.stored.state is SubscriptionState.ACTIVE
    assert not process.endpoint.is_resting


async def test_a_change_by_api_is_never_undone(world: World) -> None:
    process = Process(world)
    as_read = world.stored
    world.subscriptions.stored["s"] = replace(SUBSCRIPTION, name="new", revision="r1")
    process.endpoint.heard(GONE, ["MAC"])
    await process.disabling(as_read, process.endpoint)

    assert world.stored.name == "new"
    assert world.stored.state is SubscriptionState.ACTIVE


@pytest.mark.parametrize("outcome", [GONE, REFUSED])
async def test_the_configured_one_is_never_disabled(outcome: AttemptOutcome) -> None:
    world = World(replace(SUBSCRIPTION, id=CONFIG_SUBSCRIPTION))
    process = Process(world)
    await process.hear(outcome)
    await process.fail_for(2 * DISABLED_AFTER)

    assert world.stored.revision == "r0"


async def test_one_that_was_paused_by_api_stays_as_it_is(world: World) -> None:
    process = Process(world)
    world.subscriptions.stored["s"] = replace(SUBSCRIPTION, state=SubscriptionState.PAUSED)
    await process.hear(GONE)

    assert world.stored.state is SubscriptionState.PAUSED


async def test_a_replica_that_alone_is_cut_off_for_days_disables_nothing(world: World) -> None:
    cut_off, other = Process(world), Process(world)
    for _ in range(24 * 6):
        await other.hear(TAKEN)
        await cut_off.hear(REFUSED)
        await cut_off.look()
        world.clock.advance(HOUR)

    assert world.stored.state is SubscriptionState.ACTIVE


async def test_one_that_cannot_be_read_is_not_disabled(world: World) -> None:
    world.subscriptions.stored["s"] = replace(SUBSCRIPTION, unreadable="its key is missing")
    await Process(world).hear(GONE)

    assert world.stored.state is SubscriptionState.ACTIVE


async def test_a_new_process_that_finds_a_stored_410_disables_nothing_before_it_hears_it(
    world: World,
) -> None:
    """It may have been revived by a client since."""
    process = Process(world)
    process.endpoint.was_paused()
    await process.look()

    assert process.endpoint.is_paused
    assert world.stored.state is SubscriptionState.ACTIVE


async def test_rule_11_silence_is_no_failure(world: World) -> None:
    before, after = Process(world), Process(world)
    await before.fail_for(2 * HOUR)
    await after.hear(TAKEN)  # the partition moved, and all that waited is delivered
    revisions = set()
    for _ in range(7 * 24):
        world.clock.advance(HOUR)
        await before.look()
        await after.look()
        revisions.add(world.stored.revision)

    assert world.stored.state is SubscriptionState.ACTIVE
    assert world.stored.failing_since is None
    assert len(revisions) <= 2


async def test_rule_11_a_process_without_anything_to_send_disables_nothing(world: World) -> None:
    """What it failed for was skipped, or deleted with its device."""
    process = Process(world)
    await process.fail_for(2 * HOUR)
    world.clock.advance(DISABLED_AFTER)
    await process.look()

    assert world.stored.state is SubscriptionState.ACTIVE


async def test_rule_11_an_outage_of_minutes_days_after_one_that_was_noted_disables_nothing(
    world: World,
) -> None:
    await Process(world).fail_for(2 * HOUR)
    world.clock.advance(DISABLED_AFTER)
    process = Process(world)
    await process.fail_for(HOUR / 2, step=HOUR / 6)
    short = world.stored.state
    await process.fail_for(HOUR)

    assert short is SubscriptionState.ACTIVE
    assert world.stored.state is SubscriptionState.DISABLED
