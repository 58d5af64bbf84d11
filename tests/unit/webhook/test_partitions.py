"""Promises of how a replica keeps the partitions of its share."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.domain.errors import BrokerUnavailable, StoreUnavailable
from shared.domain.subscription import DeliveryQueueKey, Subscription, SubscriptionState
from shared.ports.deliveries import Backlog
from shared.ports.events import OpenPartition, Received
from tests.support.delivery_rig import PARTITION, SUBSCRIPTION, FixedShare, Replica, World
from tests.support.fakes.clock import settle
from tests.support.fakes.event_queue import FakeConsumer


@pytest.fixture
def world() -> World:
    return World()


class BrokerAway(FakeConsumer):
    """Opens nothing while `is_away`."""

    is_away = True

    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        if self.is_away:
            raise BrokerUnavailable("away")
        return await super().open(partition, on_event=on_event, on_lost=on_lost)


class CountingShare(FixedShare):
    """Counts heartbeats; fails while `is_away`."""

    heartbeats = 0
    is_away = False

    async def refresh(self) -> frozenset[int]:
        if self.is_away:
            raise StoreUnavailable("away")
        self.heartbeats += 1
        return self.partitions


def missing(replica: Replica) -> int:
    """The number of partitions of its share that are not open."""
    return len(replica.share.partitions - replica.partitions.open)


async def test_while_the_broker_is_away_opening_is_tried_again(world: World) -> None:
    consumer = BrokerAway(world.queue, PARTITION)
    async with Replica(world, consumer=consumer) as replica:
        world.publish("e1")
        await world.run(5)
        at_first = missing(replica)
        consumer.is_away = False
        await world.run(2)

        assert (at_first, missing(replica)) == (1, 0)
    assert world.receiver.arrivals == ["e1"]


async def test_while_the_store_is_away_the_share_stays(world: World) -> None:
    share = CountingShare([PARTITION])
    async with Replica(world, share=share) as replica:
        await world.run(2)
        share.is_away = True
        await world.run(10)

        assert len(replica.partitions.served) == 1
        assert not replica.channel.is_dead


async def read_nothing() -> list[Subscription]:
    raise StoreUnavailable("away")


NEW = Subscription("new", "http://new.invalid/")


async def test_rule_11_a_cut_off_replica_acks_nothing_for_subscriptions_it_cannot_know(
    world: World,
) -> None:
    async with Replica(world) as replica:
        await world.run(2)
        good, replica.subscriptions.all = replica.subscriptions.all, read_nothing  # type: ignore[method-assign]
        replica.subscriptions.subscriptions.append(NEW)
        await world.run(10)
        world.publish("e1")
        await world.run(5)
        before = list(world.receiver.attempts)
        replica.subscriptions.all = good  # type: ignore[method-assign]
        await world.run(5)

    assert before == []
    assert world.receiver.arrivals_of == {"config": ["e1"], "new": ["e1"]}
    assert world.is_settled


async def test_rule_11_a_cut_off_replica_sends_nothing_to_what_may_be_paused(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        await world.run(2)
        world.publish("e1", "e2")
        await settle()
        good, replica.subscriptions.all = replica.subscriptions.all, read_nothing  # type: ignore[method-assign]
        paused = replace(SUBSCRIPTION, state=SubscriptionState.PAUSED)
        replica.subscriptions.subscriptions = [paused]
        await world.run(10)
        world.receiver.held["e1"].set()
        await world.run(5)
        replica.subscriptions.all = good  # type: ignore[method-assign]
        await world.run(5)

    assert world.receiver.arrivals == ["e1"]
    assert [owed.delivery.event_id for owed in world.records.values()] == ["e2"]


async def test_a_short_outage_of_the_store_stops_no_delivery(world: World) -> None:
    async with Replica(world) as replica:
        await world.run(2)
        good, replica.subscriptions.all = replica.subscriptions.all, read_nothing  # type: ignore[method-assign]
        await world.run(3)
        world.publish("e1")
        await world.run(1)
        at_once = list(world.receiver.arrivals)
        replica.subscriptions.all = good  # type: ignore[method-assign]

    assert at_once == ["e1"]


async def test_rule_11_a_replica_that_stays_cut_off_leaves_its_partitions_to_others(
    world: World,
) -> None:
    async with Replica(world) as replica, Replica(world) as other:
        await world.run(2)
        good, replica.subscriptions.all = replica.subscriptions.all, read_nothing  # type: ignore[method-assign]
        await world.run(10)
        world.publish("e1", "e2")
        await world.run(10)
        before = list(world.receiver.arrivals)
        await world.run(20)
        after = list(world.receiver.arrivals)
        replica.subscriptions.all = good  # type: ignore[method-assign]
        await world.run(3)

        assert (before, after) == ([], ["e1", "e2"])
        assert not missing(replica)
        assert not missing(other)
    assert world.is_settled


async def test_heartbeats_go_on_while_a_partition_is_given_up(world: World) -> None:
    share = CountingShare([PARTITION])
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world, share=share):
        world.publish("e1")
        await settle()
        share.partitions = frozenset()
        await world.run(2)
        before = share.heartbeats
        await world.run(5)

        assert share.heartbeats - before >= 4


async def test_a_partition_that_comes_back_while_it_is_given_up_is_opened_again(
    world: World,
) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        world.publish("e1")
        await settle()
        replica.share.partitions = frozenset()
        await world.run(2)
        replica.share.partitions = frozenset([PARTITION])
        await world.run(2)
        world.receiver.held["e1"].set()
        await world.run(2)
        world.publish("e2")
        await settle()

    assert world.receiver.firsts == ["e1", "e2"]
    assert world.is_settled


async def test_the_oldest_event_that_waits_is_known(world: World) -> None:
    world.receiver.is_down = True
    async with Replica(world, waits=[timedelta(hours=1)]) as replica:
        world.publish("e1", "e2")
        await world.run(5)

        assert replica.partitions.oldest == "e1"


async def test_after_draining_nothing_is_opened_again(world: World) -> None:
    async with Replica(world) as replica:
        await replica.partitions.drain()
        replica.share.partitions = frozenset([PARTITION])
        await world.run(5)

        assert replica.partitions.served == []


class OneStuck(FakeConsumer):
    """Partition `stuck` answers neither yes nor no."""

    stuck = PARTITION + 1

    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        if partition == self.stuck:
            await asyncio.Event().wait()
        return await super().open(partition, on_event=on_event, on_lost=on_lost)


async def test_a_partition_that_does_not_open_does_not_hold_up_another_that_is_lost(
    world: World,
) -> None:
    consumer = OneStuck(world.queue, PARTITION)
    share = FixedShare([PARTITION, OneStuck.stuck])
    async with Replica(world, consumer=consumer, share=share) as replica:
        await world.run(2)
        world.queue.cut_off(replica.channel)
        replica.channel.outbox_event()
        world.publish("e1")
        await world.run(2)

        assert replica.partitions.open == {PARTITION}
        assert missing(replica) == 1
    assert world.receiver.arrivals == ["e1"]


async def test_a_partition_is_not_yet_tried_until_its_opening_failed_or_succeeded(
    world: World,
) -> None:
    consumer = BrokerAway(world.queue, PARTITION)
    async with Replica(world, consumer=consumer) as replica:
        consumer.is_away = True
        await world.run(2)
        away = (missing(replica), replica.partitions.untried)
        consumer.is_away = False
        await world.run(2)
        there = (missing(replica), replica.partitions.untried)

    assert (away, there) == ((1, 0), (0, 0))


async def test_a_store_that_answers_slowly_does_not_put_the_next_read_off(world: World) -> None:
    """A wait for the store is no work. What an operator retries, and what another process stored, is found
    soon anyway."""
    async with Replica(world) as replica:

        async def slowly(operation: str) -> None:
            reads.append(operation)
            await world.clock.sleep(timedelta(seconds=1))

        reads: list[str] = []
        replica.deliveries.before = slowly
        await world.run(30)

    assert 6 <= reads.count("blocked") <= 8


async def test_a_large_backlog_is_read_more_rarely(world: World) -> None:
    world.receiver.is_down = True
    async with Replica(world, waits=[timedelta(hours=1)]) as replica:
        world.publish(*(f"e{number:02}" for number in range(10)))
        await world.run(10)
        assert len(world.records) == 10
        known = await replica.deliveries.blocked(PARTITION)

        async def many(partition: int) -> dict[DeliveryQueueKey, Backlog]:
            reads.append(partition)
            return {key: replace(each, count=200_000) for key, each in known.items()}

        reads: list[int] = []
        replica.deliveries.blocked = many  # type: ignore[method-assign]
        await world.run(100)

    assert 4 <= len(reads) <= 6
