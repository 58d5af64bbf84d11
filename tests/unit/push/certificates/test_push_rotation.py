"""Rotation of push certificates: which one is pushed with, on every replica, for every answer of APNs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from services.push.send.outcomes import (
    Accepted,
    BackOff,
    Retry,
    TopicRefused,
    Unanswered,
    Unreachable,
)
from services.push.send.topics import PAUSE, NoCertificate
from shared.concurrency.periodic import Loops
from shared.domain.errors import CannotDecrypt, StoreUnavailable
from tests.support.fakes.clock import settle
from tests.support.harness.push_certificates import TOPIC
from tests.support.push_certificate_world import DAY, OTHER, Replica, World

SECONDS = timedelta(seconds=4)
REFUSED = TopicRefused("403 BadCertificate")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def replica(world: World) -> Replica:
    return Replica(world)


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(each.rotation.run(Loops(each.world.clock))) for each in replicas]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_what_was_installed_on_one_replica_is_used_on_the_other_within_seconds(
    world: World, replica: Replica
) -> None:
    other, pair = Replica(world), world.issue()
    async with running(replica, other):
        await world.clock.run(SECONDS)
        await replica.install(pair)
        await world.clock.run(SECONDS)

        outcome = await other.push()

    assert isinstance(outcome, Accepted)
    assert other.asked() == [pair.fingerprint]
    assert other.lines.used.keys() == {pair.fingerprint}


async def test_the_old_certificate_is_kept_until_the_first_push_with_the_new_one(
    world: World, replica: Replica
) -> None:
    old, new = world.issue(), world.issue()
    await replica.install(old)
    await replica.install(new)
    async with running(replica):
        await world.clock.run(SECONDS)
        kept = world.store.stored[TOPIC].before
        await replica.push()
        await world.clock.run(SECONDS + SECONDS)

    assert kept is not None
    assert kept.certificate_pem == old.certificate_pem
    assert world.store.stored[TOPIC].before is None
    assert replica.asked() == [new.fingerprint]
    assert replica.lines.used.keys() == {new.fingerprint}


async def test_a_new_certificate_that_apns_refuses_costs_no_push_and_raises_an_alarm(
    world: World, replica: Replica
) -> None:
    old, new = world.issue(), world.issue()
    await replica.install(old)
    await replica.install(new)
    replica.lines.says[new.fingerprint] = REFUSED

    with structlog.testing.capture_logs() as logged:
        outcomes = [await replica.push() for _ in range(3)]

    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert replica.asked() == [new.fingerprint, *[old.fingerprint] * 3]
    assert [line["event"] for line in logged] == ["push_certificate_refused"]
    assert replica.metric("push_certificates_refused") == 1
    async with running(replica):
        await world.clock.run(SECONDS)
    assert world.store.stored[TOPIC].before is not None


async def test_a_refused_certificate_is_tried_again_and_its_alarm_ends(
    world: World, replica: Replica
) -> None:
    old, new = world.issue(), world.issue()
    await replica.install(old)
    await replica.install(new)
    replica.lines.says[new.fingerprint] = REFUSED
    await replica.push()
    del replica.lines.says[new.fingerprint]
    replica.asked()

    world.clock.advance(PAUSE)
    await replica.push()
    await replica.push()

    assert replica.asked() == [new.fingerprint] * 2
    assert replica.metric("push_certificates_refused") == 0


async def test_while_one_is_tried_again_the_others_go_on_with_the_old_one(
    world: World, replica: Replica
) -> None:
    old, new = world.issue(), world.issue()
    await replica.install(old)
    await replica.install(new)
    replica.lines.says[new.fingerprint] = REFUSED
    await replica.push()
    world.clock.advance(PAUSE)

    assert replica.certificates.candidates(TOPIC) == [new, old]
    assert replica.certificates.candidates(TOPIC) == [old]


async def test_when_apns_refuses_both_the_topic_is_refused_without_an_alarm_for_one(
    world: World, replica: Replica
) -> None:
    for pair in (world.issue(), world.issue()):
        await replica.install(pair)
        replica.lines.says[pair.fingerprint] = REFUSED

    assert await replica.push() == REFUSED
    assert replica.metric("push_certificates_refused") == 0


async def test_an_unproven_certificate_that_gets_no_connection_is_passed_over(
    world: World, replica: Replica
) -> None:
    old, new = world.issue(), world.issue()
    await replica.install(old)
    await replica.install(new)
    replica.lines.says[new.fingerprint] = Unanswered("ConnectError")
    first = await replica.push()
    alarm_at_first = replica.metric("push_certificates_refused")
    replica.lines.says[new.fingerprint] = Unreachable("APNs cannot be reached")
    await replica.push()

    assert isinstance(first, Accepted)
    assert alarm_at_first == 0
    assert replica.metric("push_certificates_refused") == 1


@pytest.mark.parametrize("said", [Retry("503 ServiceUnavailable"), BackOff("429", None)])
async def test_what_apns_says_for_other_reasons_is_not_the_certificates_fault(
    world: World, replica: Replica, said: Retry | BackOff
) -> None:
    old, new = world.issue(), world.issue()
    await replica.install(old)
    await replica.install(new)
    replica.lines.says[new.fingerprint] = said

    assert await replica.push() == said
    assert replica.asked() == [new.fingerprint]


async def test_a_proven_certificate_is_not_passed_over_for_a_broken_connection(
    world: World, replica: Replica
) -> None:
    old, new = world.issue(), world.issue()
    await replica.install(old)
    await replica.install(new)
    await replica.push()
    replica.lines.says[new.fingerprint] = Unanswered("ReadError")

    assert await replica.push() == Unanswered("ReadError")
    assert replica.asked() == [new.fingerprint] * 2


@pytest.mark.parametrize(
    ("file_begins", "is_file_first"), [(-2, False), (-1, True)], ids=["older", "newer"]
)
async def test_of_a_file_and_an_installed_certificate_the_one_issued_later_is_first(
    world: World, file_begins: int, is_file_first: bool
) -> None:
    file, installed = world.issue(begins=file_begins), world.issue(begins=-2)
    replica = Replica(world, file)
    await replica.install(installed)

    expected = (file, installed) if is_file_first else (installed, file)
    assert replica.certificates.ranked(TOPIC) == expected


async def test_an_expired_certificate_is_never_pushed_with(world: World) -> None:
    replica = Replica(world, world.issue(ends=1))
    world.clock.advance(DAY)

    assert isinstance(await replica.push(), NoCertificate)
    assert replica.asked() == []


async def test_a_stopped_topic_goes_on_at_once_with_a_new_certificate(
    world: World, replica: Replica
) -> None:
    await replica.install(world.issue())
    replica.topics.stop(TOPIC, "403 BadCertificate")
    stopped = replica.topics.problem(TOPIC)

    await replica.install(world.issue())

    assert stopped is not None
    assert replica.topics.problem(TOPIC) is None


async def test_without_the_store_pushes_go_on_and_what_changed_is_taken_later(
    world: World, replica: Replica
) -> None:
    other, pair = Replica(world), world.issue()
    await replica.install(pair)
    fails = True

    async def away(operation: str) -> None:
        if fails:
            raise StoreUnavailable(operation)

    world.store.before = away
    async with running(other):
        await world.clock.run(SECONDS)
        without = set(other.certificates.topics)
        still = await replica.push()
        fails = False
        await world.clock.run(SECONDS)
        after = set(other.certificates.topics)

    assert isinstance(still, Accepted)
    assert without == set()
    assert after == {TOPIC}


async def test_one_that_cannot_be_opened_here_changes_nothing_and_is_told_of_once(
    world: World, replica: Replica
) -> None:
    old = world.issue()
    await replica.install(old)
    other = Replica(world)
    await other.install(world.issue())

    async def closed(operation: str) -> None:
        if operation == "load_certificates":
            raise CannotDecrypt("encrypted with another key")

    world.store.before = closed
    with structlog.testing.capture_logs() as logged:
        async with running(replica):
            await world.clock.run(SECONDS + SECONDS)

    events = [line["event"] for line in logged if line["event"] == "push_certificate_unusable"]
    assert len(events) == 1
    assert replica.certificates.ranked(TOPIC) == (old,)


async def test_the_end_of_each_topics_certificate_is_a_metric_while_there_is_one(
    world: World, replica: Replica
) -> None:
    pair = world.issue(OTHER)
    await replica.install(pair)
    name = "push_certificate_expiry_timestamp_seconds"
    shown = replica.metric(name, topic=OTHER)

    await replica.installation.remove(OTHER, None)

    assert shown == pair.not_after.timestamp()
    assert replica.metric(name, topic=OTHER) is None


async def test_one_that_ends_soon_is_warned_of_once_a_day(world: World, replica: Replica) -> None:
    await replica.install(world.issue(ends=30))

    with structlog.testing.capture_logs() as logged:
        async with running(replica):
            for hours in (12, 12, 12, 12, 1):
                await settle()
                world.clock.advance(timedelta(hours=hours))
            await settle()

    warnings = [line["days_left"] for line in logged if line["event"] == "push_certificate_expires"]
    assert warnings == [30, 29, 28]
