"""Several subscriptions over real RabbitMQ and a real store, served by two replicas."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from shared.domain.subscription import DeliveryLimits, Subscription, SubscriptionState
from shared.messaging.rabbit.broker import RabbitBroker
from shared.storage.database import Database
from shared.storage.events.subscriptions import MongoSubscriptions
from shared.storage.mongo import Mongo
from tests.contract.stores import KEYRING
from tests.integration.test_webhook import (
    CLOCK,
    IDS,
    SCHEDULE,
    Running,
    assert_in_order,
    happened,
    nothing_is_owed,
    publish,
    running,
    served,
    until,
)
from tests.support.harness.sink import Behaviour, Sink

REFUSING = Behaviour(status=503)
FOLLOWED = 10.0
"""Seconds: so soon the others serve the partitions of a replica that joined, left or died."""
Made = dict[str, list[str]]


@dataclass
class Stage:
    """Three receivers: one of MDM_WEBHOOK_URL, and two of subscriptions made by API."""

    database: Database
    brokers: list[RabbitBroker]
    sinks: dict[str, Sink]
    subscriptions: MongoSubscriptions
    made: Made = field(default_factory=dict)

    async def publish(self, devices: int, each: int) -> None:
        more = await publish(self.database, self.brokers[-1], devices, each)
        for device, ids in more.items():
            self.made.setdefault(device, []).extend(ids)

    @property
    def count(self) -> int:
        return sum(map(len, self.made.values()))

    def behave(self, behaviour: Behaviour) -> None:
        for sink in self.sinks.values():
            sink.behaviour = behaviour

    async def change(self, id: str, state: SubscriptionState) -> None:
        found = await self.subscriptions.get(id)
        assert found is not None
        wanted = replace(found, state=state, revision=IDS.new(), changed_at=CLOCK.now())
        assert await self.subscriptions.change(wanted, found.revision)

    async def all_taken(self, *names: str) -> None:
        for name in names or self.sinks:
            await self.sinks[name].wait_for(self.count, timeout=60)
            assert_in_order(self.sinks[name], self.made)

    @asynccontextmanager
    async def replica(self, number: int) -> AsyncIterator[Running]:
        url = self.sinks["config"].url
        async with running(self.database, self.brokers[number], url) as replica:
            yield replica


@pytest.fixture
async def stage(mongodb_url: str, amqp_url: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        database = Mongo(mongodb_url)
        stack.push_async_callback(database.close)
        brokers = [RabbitBroker(amqp_url, clock=CLOCK) for _ in range(2)]
        for broker in brokers:
            await broker.start(timedelta(seconds=30))
            stack.push_async_callback(broker.close)
        names = ("config", "one", "two")
        sinks = {name: await stack.enter_async_context(Sink()) for name in names}
        subscriptions = MongoSubscriptions(database, KEYRING)
        for name in ("one", "two"):
            limits = DeliveryLimits(concurrency=8, retry_schedule=SCHEDULE)
            made = Subscription(name, sinks[name].url, limits=limits, revision=IDS.new())
            await subscriptions.add(made)
        yield Stage(database, brokers, sinks, subscriptions)


async def test_after_an_outage_each_subscription_gets_everything_in_order(stage: Stage) -> None:
    async with stage.replica(0), stage.replica(1):
        await stage.publish(devices=20, each=2)
        await stage.all_taken()
        stage.behave(REFUSING)
        await stage.publish(devices=20, each=4)
        await asyncio.sleep(14)  # it is down by now: three failures, and ten seconds
        stage.behave(Behaviour())
        await stage.publish(devices=20, each=1)
        await stage.all_taken()
        await until(lambda: nothing_is_owed(stage.database))


async def test_an_outage_of_one_holds_up_no_other(stage: Stage) -> None:
    async with stage.replica(0), stage.replica(1):
        stage.sinks["one"].behaviour = REFUSING
        await stage.publish(devices=30, each=4)
        await stage.all_taken("config", "two")
        assert not stage.sinks["one"].taken
        stage.sinks["one"].behaviour = Behaviour()
        await stage.all_taken("one")
        await until(lambda: nothing_is_owed(stage.database))


async def test_a_replica_killed_in_mid_queue_loses_nothing_and_keeps_the_order(
    stage: Stage,
) -> None:
    async with AsyncExitStack() as survivor:
        async with stage.replica(0):
            await stage.publish(devices=30, each=2)
            stage.behave(REFUSING)
            await stage.publish(devices=30, each=4)
            second = await survivor.enter_async_context(stage.replica(1))
            stage.behave(Behaviour())
            await stage.publish(devices=30, each=2)
            await stage.brokers[0].close()  # its connection goes with a process that dies
        began = CLOCK.monotonic()
        await until(lambda: happened(lambda: served(second) == 32))
        followed_after = CLOCK.monotonic() - began
        await stage.publish(devices=30, each=1)
        await stage.all_taken()
        await until(lambda: nothing_is_owed(stage.database))

    assert followed_after < FOLLOWED


async def test_a_pause_by_api_is_followed_by_both_replicas_and_ends_in_order(stage: Stage) -> None:
    async with stage.replica(0), stage.replica(1):
        await stage.publish(devices=20, each=1)
        await stage.all_taken()
        await stage.change("one", SubscriptionState.PAUSED)
        await asyncio.sleep(2)
        before = len(stage.sinks["one"].arrivals)
        await stage.publish(devices=20, each=3)
        await stage.all_taken("config", "two")
        during = len(stage.sinks["one"].arrivals)
        await stage.change("one", SubscriptionState.ACTIVE)
        await stage.all_taken("one")
        await until(lambda: nothing_is_owed(stage.database))

    assert before == during


async def test_410_disables_what_was_made_by_api_and_pauses_the_configured_one(
    stage: Stage,
) -> None:
    async with stage.replica(0), stage.replica(1):
        stage.behave(Behaviour(status=410))
        await stage.publish(devices=8, each=2)

        async def disabled() -> bool:
            all = await stage.subscriptions.all()
            return all != [] and {each.state for each in all} == {SubscriptionState.DISABLED}

        await until(disabled)
        stage.behave(Behaviour())
        for name in ("one", "two"):
            await stage.change(name, SubscriptionState.ACTIVE)
        await stage.all_taken("one", "two")

    assert len(stage.sinks["config"].arrivals) <= 2 * 8
