"""The review of the devices: what is reported of silence, and of certificates near their end."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from services.checkin.review.worker import ENOUGH, LATEST, MOST_REPORTED, PAGE, DeviceReview
from shared.domain.enrollment import PARTITIONS, EnrollmentStatus, partition_of
from shared.domain.event import Event, Topic
from shared.domain.identity import (
    DeviceCertificate,
    Quarantine,
    QuarantineReason,
    ReportedExpiry,
    days_before,
)
from shared.domain.subscription import Subscription
from shared.domain.versions import known
from shared.messaging.envelope import event_json
from tests.support.checkin_world import Device, Killed, Replica, World
from tests.support.fakes.clock import START

DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
WEEK, YEAR = 7 * DAY, 365 * DAY
MAC = Device(not_after=START + YEAR)
IN_A_REVIEW = {Topic.DEVICE_SILENT, Topic.IDENTITY_EXPIRING}


class Reviewing:
    """A device that enrolled at START with a certificate for a year, and who asks for which topic."""

    def __init__(self, topic: str) -> None:
        self.world = World()
        asking = Subscription("1", "https://x.example/", topics=frozenset({topic}))
        self.world.subscriptions.stored["1"] = asking

    async def replica(self) -> tuple[Replica, DeviceReview]:
        world, replica = self.world, await self.world.replica()
        await replica.share.refresh()
        review = DeviceReview(
            world.identities,
            world.queue,
            world.publisher,
            replica.wanted,
            replica.share,
            world.clock,
            world.ids,
            WEEK,
        )
        return replica, review

    def change(self, **facts: Any) -> None:
        records = self.world.enrollments.records
        records["MAC"] = replace(records["MAC"], **facts)

    @property
    def reported(self) -> list[Topic]:
        return [
            event.topic for kept in self.world.enrollments.kept_outbox.values() for event in kept
        ]


async def reviewing(topic: Topic) -> tuple[Reviewing, Replica, DeviceReview]:
    made = Reviewing(topic.value)
    replica, review = await made.replica()
    await MAC.enroll(replica)
    await replica.seen.flush()
    return made, replica, review


async def silent_device() -> tuple[Reviewing, Replica, DeviceReview]:
    """Its last contact and its command are a week old."""
    made, replica, review = await reviewing(Topic.DEVICE_SILENT)
    await made.world.enqueue(MAC.key, "waits")
    made.world.clock.advance(WEEK)
    return made, replica, review


async def published(made: Reviewing, replica: Replica) -> list[Event]:
    await replica.share.refresh()
    await replica.outbox.look()
    return [event for event in made.world.publisher.published if event.topic in IN_A_REVIEW]


async def speaks(made: Reviewing, replica: Replica) -> None:
    await replica.serve(MAC.idle())
    await replica.seen.flush()


# --- silence


async def test_a_silent_device_is_reported_once() -> None:
    made, replica, review = await silent_device()

    await review.look()
    await review.look()
    made.world.clock.advance(WEEK)
    await review.look()

    [event] = await published(made, replica)
    document = json.loads(event_json(event))
    assert document["topic"] == "macromdm.DeviceSilent"
    assert document["device_event"] == {
        "udid": "MAC",
        "version": 1,
        "serial_number": "S-MAC",
        "last_seen": "2026-01-02T03:04:05Z",
        "waiting_commands": 1,
    }


async def test_until_the_time_is_over_it_is_not_silent() -> None:
    made, _, review = await silent_device()
    made.world.clock.set_back(SECOND)

    await review.look()

    assert not made.reported


async def test_a_device_that_spoke_and_falls_silent_again_is_reported_again() -> None:
    made, replica, review = await silent_device()
    await review.look()
    await speaks(made, replica)
    await review.look()
    made.world.clock.advance(WEEK - SECOND)
    await review.look()
    assert len(made.reported) == 1
    made.world.clock.advance(SECOND)

    await review.look()

    first, second = await published(made, replica)
    assert first.id != second.id
    assert json.loads(second.raw_payload)["last_seen"] == "2026-01-09T03:04:05Z"


async def test_a_device_is_silent_only_while_a_command_waits_that_long() -> None:
    made, _, review = await reviewing(Topic.DEVICE_SILENT)
    made.world.clock.advance(YEAR)
    await review.look()
    await made.world.enqueue(MAC.key, "new")
    made.world.clock.advance(WEEK - SECOND)
    await review.look()
    assert not made.reported

    made.world.clock.advance(SECOND)
    await review.look()

    assert made.reported == [Topic.DEVICE_SILENT]


@pytest.mark.parametrize(
    "facts",
    [
        {"not_before": START + SECOND},
        {"not_before": START + YEAR},
        {"expires_at": START + WEEK},
        {"generation": "of another enrollment"},
    ],
    ids=["begins later", "is put off", "has expired", "of the past"],
)
async def test_a_command_that_could_not_be_sent_all_the_time_makes_no_silence(
    facts: dict[str, Any],
) -> None:
    made, _, review = await silent_device()
    [(id_, entry)] = made.world.queue.entries.items()
    made.world.queue.entries[id_] = replace(entry, **facts)

    await review.look()

    assert not made.reported


async def test_many_later_commands_that_cannot_be_sent_hide_no_waiting_one() -> None:
    made, _, review = await reviewing(Topic.DEVICE_SILENT)
    await made.world.enqueue(MAC.key, "waits")
    made.world.clock.advance(SECOND)
    for number in range(LATEST + 1):
        entry = await made.world.enqueue(MAC.key, f"later {number}")
        made.world.queue.entries[entry.id] = replace(entry, not_before=START + YEAR)
    made.world.clock.advance(WEEK)

    await review.look()

    assert made.reported == [Topic.DEVICE_SILENT]


SEEN = Quarantine(START, START, QuarantineReason.EXPIRED, DeviceCertificate("other"))
NOT_SERVED: dict[str, dict[str, Any]] = {
    "blocked": {"blocked": True},
    "quarantined": {"quarantine": SEEN},
    "checked out": {"status": EnrollmentStatus.CHECKED_OUT},
    "of a newer version": {"status": known(EnrollmentStatus, "of tomorrow")},
    "never seen": {"last_seen": None},
}


@pytest.mark.parametrize("name", NOT_SERVED)
async def test_a_device_that_is_not_served_is_not_silent(name: str) -> None:
    made, _, review = await silent_device()
    made.change(**NOT_SERVED[name])

    await review.look()

    assert not made.reported


async def test_rule_15_a_device_that_speaks_beside_the_review_is_not_reported() -> None:
    made, replica, review = await silent_device()

    async def spoke(operation: str) -> None:
        if operation == "report_silence":
            made.world.identities.before = undisturbed
            await speaks(made, replica)

    made.world.identities.before = spoke
    await review.look()

    assert not made.reported


async def undisturbed(_: str) -> None:
    return None


@pytest.mark.parametrize("topic", sorted(IN_A_REVIEW))
async def test_rule_15_two_replicas_that_review_at_once_make_one_event(topic: Topic) -> None:
    made, replica, review = await due_for(topic)
    _, other = await made.replica()

    await asyncio.gather(review.look(), other.look())

    assert len(await published(made, replica)) == 1


@pytest.mark.parametrize("topic", sorted(IN_A_REVIEW))
@pytest.mark.parametrize("step", ["outbox", "append", "publish", "published"])
async def test_rule_15_a_kill_between_report_and_publication_leaves_one_id(
    topic: Topic, step: str
) -> None:
    made, replica, review = await due_for(topic)
    await review.look()

    async def die(operation: str) -> None:
        if operation == step:
            raise Killed

    hooks = (made.world.identities, made.world.journal, made.world.publisher)
    for each in hooks:
        each.before = die
    with pytest.raises(Killed):
        await replica.outbox.look()
    for each in hooks:
        each.before = undisturbed

    other, again = await made.replica()
    await again.look()
    events = await published(made, other)

    assert len({(event.id, event_json(event)) for event in events}) == 1
    assert len(events) == (2 if step == "published" else 1)


async def due_for(topic: Topic) -> tuple[Reviewing, Replica, DeviceReview]:
    if topic is Topic.DEVICE_SILENT:
        return await silent_device()
    made, replica, review = await reviewing(Topic.IDENTITY_EXPIRING)
    made.world.clock.advance(YEAR - DAY)
    return made, replica, review


# --- certificates near their end


async def test_each_threshold_of_a_certificate_is_reported_once() -> None:
    made, replica, review = await reviewing(Topic.IDENTITY_EXPIRING)
    for _ in range(366):
        made.world.clock.advance(DAY)
        await review.look()

    events = [json.loads(event_json(event)) for event in await published(made, replica)]

    assert [event["device_event"]["days"] for event in events] == [30, 14, 7, 1]
    assert events[0]["device_event"] == {
        "udid": "MAC",
        "version": 1,
        "serial_number": "S-MAC",
        "days": 30,
        "certificate": "certificate-1",
        "subject": "",
        "serial": "",
        "not_after": "2027-01-02T03:04:05Z",
    }


async def test_who_asks_late_gets_the_nearest_threshold_only() -> None:
    made, _, review = await reviewing(Topic.IDENTITY_EXPIRING)
    made.world.clock.advance(YEAR - 5 * DAY)

    await review.look()

    [[event]] = made.world.enrollments.kept_outbox.values()
    assert event.facts["days"] == 7


async def test_another_certificate_begins_again() -> None:
    made, replica, review = await due_for(Topic.IDENTITY_EXPIRING)
    await review.look()
    following = Device(certificate="next", not_after=START + YEAR + 30 * DAY)
    await following.enroll(replica)
    reported = len(made.reported)
    made.change(reported_expiry=ReportedExpiry("certificate-1", 1))
    made.world.clock.advance(17 * DAY)

    await review.look()

    assert made.reported[reported:] == [Topic.IDENTITY_EXPIRING]


async def test_an_ended_certificate_is_not_reported() -> None:
    made, _, review = await due_for(Topic.IDENTITY_EXPIRING)
    made.world.clock.advance(DAY)

    await review.look()

    assert not made.reported


@pytest.mark.parametrize(
    ("life", "left", "days"),
    [
        (YEAR, 30 * DAY + SECOND, None),
        (YEAR, 30 * DAY, 30),
        (YEAR, 14 * DAY + SECOND, 30),
        (YEAR, 14 * DAY, 14),
        (YEAR, SECOND, 1),
        (YEAR, timedelta(), None),
        (30 * DAY, 29 * DAY, None),
        (30 * DAY, 14 * DAY, 14),
        (2 * DAY, DAY, 1),
        (DAY, HOUR, None),
    ],
)
def test_more_than_half_of_its_time_does_not_count(
    life: timedelta, left: timedelta, days: int | None
) -> None:
    assert days_before(START, START + life, START + life - left) == days


# --- the pass


async def test_where_no_subscription_asks_no_device_is_read() -> None:
    made, replica, review = await silent_device()
    made.world.subscriptions.stored.clear()
    await replica.wanted.refresh()
    read: list[str] = []

    async def note(operation: str) -> None:
        read.append(operation)

    made.world.identities.before = note
    await review.look()

    assert not read


async def test_only_what_is_asked_for_is_reported() -> None:
    made, replica, review = await silent_device()
    made.world.clock.advance(YEAR - WEEK - DAY)

    await review.look()
    assert made.reported == [Topic.DEVICE_SILENT]

    made.world.subscriptions.stored["2"] = Subscription(
        "2", "https://y.example/", topics=frozenset({"macromdm.*"})
    )
    await replica.wanted.refresh()
    await review.look()
    assert made.reported == [Topic.DEVICE_SILENT, Topic.IDENTITY_EXPIRING]


async def test_while_the_broker_is_away_the_outbox_does_not_grow() -> None:
    made, _, review = await silent_device()
    made.world.publisher.is_live = False

    await review.look()

    assert not made.reported


async def test_the_devices_of_other_replicas_are_left_to_them() -> None:
    made, replica, review = await silent_device()
    replica.share.partitions -= {partition_of("MAC")}

    await review.look()

    assert not made.reported


async def test_a_large_partition_is_reviewed_page_by_page_and_each_device_reported_once() -> None:
    made, replica, review = await due_for(Topic.IDENTITY_EXPIRING)
    [record] = made.world.enrollments.records.values()
    ids = [f"M{number}" for number in range(20_000)]
    others = [each for each in ids if partition_of(each) == partition_of("MAC")][: 10 * PAGE + 50]
    for id_ in others:
        key = replace(record.key, id=id_, device=id_, udid=id_)
        made.world.enrollments.add(replace(record, key=key))
    assert len(others) == 10 * PAGE + 50
    replica.share.partitions = frozenset({partition_of("MAC"), 1})

    counts = []
    for _ in range(12):
        await review.look()
        counts.append(len(made.reported))

    assert counts[0] == MOST_REPORTED
    assert max(b - a for a, b in pairwise(counts)) <= MOST_REPORTED
    assert counts[-1] == len(others) + 1
    assert {len(kept) for kept in made.world.enrollments.kept_outbox.values()} == {1}


@pytest.mark.parametrize(
    ("devices", "least", "most"),
    [(1, PARTITIONS, PARTITIONS), (64 * 80, ENOUGH // PAGE, 2 * ENOUGH // PAGE)],
)
async def test_a_look_reads_all_devices_or_enough(devices: int, least: int, most: int) -> None:
    made, _, review = await reviewing(Topic.IDENTITY_EXPIRING)
    [record] = made.world.enrollments.records.values()
    for number in range(devices):
        key = replace(record.key, id=f"M{number}", device=f"M{number}", udid=f"M{number}")
        made.world.enrollments.add(replace(record, key=key))
    read: list[str] = []

    async def note(operation: str) -> None:
        read.append(operation)

    made.world.identities.before = note
    await review.look()

    assert least <= len(read) <= most


async def test_between_two_pages_other_tasks_run() -> None:
    made, _, review = await reviewing(Topic.IDENTITY_EXPIRING)
    made.world.identities.before = undisturbed  # the store answers at once
    ran = 0

    async def count() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        other = asyncio.create_task(count())
        await review.look()
        other.cancel()

    assert ran >= PARTITIONS


async def test_a_record_that_cannot_grow_holds_up_no_other() -> None:
    made, replica, review = await reviewing(Topic.IDENTITY_EXPIRING)
    await Device("PAD", "certificate-2", not_after=MAC.not_after).enroll(replica)
    made.world.clock.advance(YEAR - DAY)
    made.world.enrollments.full = {"MAC"}

    await review.look()

    assert list(made.world.enrollments.kept_outbox) == ["PAD"]
