"""The event of a subscription that the server disabled."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from services.runtime.wanted_topics import WantedTopics
from services.webhook.upkeep.disabled import REPEATED_FOR, DisabledEvents, disabled_event
from shared.domain.errors import BrokerUnavailable
from shared.domain.subscription import Subscription, SubscriptionState
from shared.messaging.envelope import event_json
from shared.times import nanoseconds
from tests.support.fakes.clock import START, FakeClock
from tests.support.fakes.journal import Confirm, FakeJournal, FakePublisher
from tests.support.fakes.subscriptions import FakeSubscriptions

GONE = Subscription(
    "2",
    "https://gone.example/",
    name="inventory",
    state=SubscriptionState.DISABLED,
    state_reason="answered 410",
    changed_at=START,
    disabled_at=START,
)


class Rig:
    def __init__(self, *stored: Subscription, topic: str = "macromdm.*") -> None:
        asking = Subscription("1", "https://x.example/", topics=frozenset({topic}))
        self.subscriptions = FakeSubscriptions(asking, *stored)
        self.wanted = WantedTopics(self.subscriptions)
        self.clock, self.journal, self.publisher = FakeClock(), FakeJournal(), FakePublisher()
        self.partitions = frozenset(range(32))

    def replica(self) -> DisabledEvents:
        return DisabledEvents(
            self.subscriptions, self.journal, self.publisher, self.wanted, self, self.clock
        )

    async def look(self, replica: DisabledEvents) -> None:
        await self.wanted.refresh()
        await replica.look()


async def test_it_is_reported_once_by_each_process() -> None:
    rig = Rig(GONE)
    first = rig.replica()

    await rig.look(first)
    await rig.look(first)
    assert len(rig.publisher.published) == 1
    await rig.look(rig.replica())

    assert len({event_json(event) for event in rig.publisher.published}) == 1
    [event] = rig.journal.events.values()
    assert json.loads(event_json(event))["webhook_event"] == {
        "version": 1,
        "webhook": "2",
        "name": "inventory",
        "reason": "answered 410",
    }


async def test_it_is_reported_by_the_replica_that_serves_its_partition() -> None:
    rig = Rig(GONE)
    rig.partitions -= {disabled_event(GONE).key.partition}

    await rig.look(rig.replica())

    assert not rig.publisher.published


async def test_where_nobody_asks_or_nothing_is_disabled_there_is_no_event() -> None:
    for rig in (Rig(GONE, topic="mdm.*"), Rig(replace(GONE, state=SubscriptionState.PAUSED))):
        await rig.look(rig.replica())

        assert not rig.journal.events


async def test_a_broker_that_is_away_delays_it() -> None:
    rig = Rig(GONE)
    replica = rig.replica()
    rig.publisher.outcome = lambda _: Confirm.LOST
    with pytest.raises(BrokerUnavailable):
        await rig.look(replica)
    rig.publisher.outcome = lambda _: Confirm.CONFIRMED

    await rig.look(replica)

    assert len(rig.publisher.published) == 1


async def test_long_after_it_no_new_process_repeats_it() -> None:
    rig = Rig(GONE)
    rig.clock.advance(REPEATED_FOR + timedelta(seconds=1))

    await rig.look(rig.replica())

    assert not rig.publisher.published


async def test_one_that_is_disabled_again_has_another_event() -> None:
    rig = Rig(GONE)
    replica = rig.replica()
    await rig.look(replica)
    rig.subscriptions.stored["2"] = replace(GONE, state=SubscriptionState.ACTIVE)
    await rig.look(replica)
    rig.subscriptions.stored["2"] = replace(GONE, disabled_at=START + timedelta(minutes=1))

    await rig.look(replica)

    assert len({event.id for event in rig.publisher.published}) == 2


async def test_a_change_by_a_client_makes_no_second_one() -> None:
    """Nor does it change the bytes, though a process that never saw the former name repeats it."""
    rig = Rig(GONE)
    replica = rig.replica()
    await rig.look(replica)
    changed_at = START + timedelta(minutes=1)
    rig.subscriptions.stored["2"] = replace(GONE, name="renamed", changed_at=changed_at)
    await rig.look(replica)
    once = len(rig.publisher.published)
    await rig.look(rig.replica())

    assert once == 1
    assert len({event_json(event) for event in rig.publisher.published}) == 1


async def test_one_that_a_former_version_disabled_has_its_event_too() -> None:
    rig = Rig(replace(GONE, disabled_at=None))

    await rig.look(rig.replica())

    assert [event.created_at for event in rig.publisher.published] == [nanoseconds(START)]


async def test_a_partition_that_is_away_holds_no_other_event() -> None:
    other = replace(GONE, id="3")
    away = disabled_event(GONE).key.partition
    assert disabled_event(other).key.partition != away
    rig = Rig(GONE, other)
    rig.publisher.outcome = lambda event: (
        Confirm.LOST if event.key.partition == away else Confirm.CONFIRMED
    )

    with pytest.raises(BrokerUnavailable):
        await rig.look(rig.replica())

    assert [event.key.device for event in rig.publisher.published] == ["webhook:3"]
