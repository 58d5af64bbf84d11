"""The contracts of `Journal`, `Writers` and `Members`, held by the fakes and by MongoDB."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from shared.domain.command import QueueEntry
from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Event, Topic
from shared.ports.enrollments import Mark
from shared.ports.events import Appended, Journal, Journaled, Writers
from shared.ports.members import Members
from shared.times import from_nanoseconds
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.journal import FakeJournal, FakeMembers, FakeWriters

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
ANNA = EnrollmentKey("MAC:anna", device="MAC", udid="MAC", user="anna")
NOW = time.time_ns()
"""Events that are older than the retention may leave at any moment."""
PRIVATE = EnrollmentKey("E-1", device="E-1", enrollment_id="E-1")


@dataclass
class Ports:
    journal: Journal
    writers: Writers
    members: Members


@pytest.fixture(params=STORES)
async def ports(request: pytest.FixtureRequest) -> AsyncIterator[Ports]:
    if request.param == "fake":
        yield Ports(FakeJournal(), FakeWriters(), FakeMembers())
        return
    from shared.storage.events import journal
    from shared.storage.heartbeats import MongoMembers, MongoWriters

    async with open_store(request) as mongo:
        await mongo.ensure(journal.indexes(timedelta(days=30)))
        yield Ports(journal.MongoJournal(mongo, KEYRING), MongoWriters(mongo), MongoMembers(mongo))


def event(number: int, key: EnrollmentKey = MAC, *, at: int = 0, writer: str = "w1") -> Event:
    return Event(
        id=f"{writer}-{number}",
        topic=Topic.CONNECT,
        key=key,
        created_at=at or NOW + number,
        raw_payload=b"\x00<plist/>\xff",
        writer=writer,
        number=number,
        status="Idle",
    )


def numbered(event: Event) -> tuple[int, Mark]:
    return event.number, Mark(event.key.device, event.created_at)


async def test_an_event_is_read_back_as_it_was_appended(ports: Ports) -> None:
    stored = replace(
        event(1, ANNA), url_params={"a.b": "$x", "": "ü"}, command_uuid="c", status="Error"
    )
    other = replace(event(2, PRIVATE), topic=Topic.AUTHENTICATE, status=None)

    assert await ports.journal.append([stored, other]) == [Appended.STORED] * 2

    assert await ports.journal.read([stored.id, other.id, "nobody"]) == {
        stored.id: stored,
        other.id: other,
    }


async def test_appending_an_event_again_keeps_one(ports: Ports) -> None:
    await ports.journal.append([event(1)])

    assert await ports.journal.append([event(1), event(2)]) == [
        Appended.THERE,
        Appended.STORED,
    ]

    assert await ports.journal.of_writer("w1", 0, 10) == [numbered(event(1)), numbered(event(2))]


async def test_events_of_a_device_come_by_time_whoever_wrote_them(ports: Ports) -> None:
    late, early = event(1, at=NOW + 300), event(2, ANNA, at=NOW + 100, writer="w2")
    middle, outside = event(3, at=NOW + 200), event(4, at=NOW + 301)
    stranger = event(5, PRIVATE, at=NOW + 200)
    await ports.journal.append([late, early, middle, outside, stranger])

    found = [Journaled(each.id, each.created_at, 10) for each in (early, middle, late)]
    assert await ports.journal.of_device("MAC", NOW + 100, NOW + 300, 10) == found
    assert await ports.journal.of_device("MAC", NOW + 100, NOW + 300, 2) == found[:2]


async def test_events_of_a_time_come_by_time_with_their_topics_whatever_their_ids(
    ports: Ports,
) -> None:
    start = NOW // 10**6 * 10**6
    at = [from_nanoseconds(start + n * 10**6) for n in range(6)]
    events = [event(9 - n, at=start + n * 10**6) for n in range(5)]
    await ports.journal.append(events)

    found, following = await ports.journal.between(at[1], at[4], 10)

    assert found == [
        Journaled(e.id, e.created_at, 10, e.topic.value, e.key.device) for e in events[1:4]
    ]
    assert following == at[4]
    assert await ports.journal.between(at[1], at[4], 2) == (found[:2], at[3])
    assert await ports.journal.between(at[3], at[4], 2) == (found[2:], at[4])
    assert await ports.journal.between(at[5], at[5], 2) == ([], at[5])


async def test_events_of_one_millisecond_come_together(ports: Ports) -> None:
    start = NOW // 10**6 * 10**6
    moment = from_nanoseconds(start)
    millisecond = timedelta(milliseconds=1)
    same = [event(n, at=start + n * 10_000) for n in range(1, 6)]
    await ports.journal.append([*same, event(6, at=start + 10**6)])

    found, following = await ports.journal.between(moment, moment + 9 * millisecond, 2)

    assert sorted(each.id for each in found) == sorted(each.id for each in same)
    assert following == moment + millisecond
    [last], _ = await ports.journal.between(following, moment + 9 * millisecond, 2)
    assert last.id == "w1-6"


async def test_the_size_of_an_event_of_an_earlier_version_is_not_known(
    ports: Ports,
) -> None:
    if isinstance(ports.journal, FakeJournal):
        pytest.skip("the fake holds events, not documents")
    await ports.journal.append([event(1)])
    events = ports.journal._documents  # type: ignore[attr-defined]  # as an earlier version left it
    await events.update_one({"_id": event(1).id}, {"$unset": {"size": ""}})

    [found] = await ports.journal.of_device("MAC", NOW, NOW + 2, 10)

    assert found.size is None


async def test_it_is_told_which_events_are_stored(ports: Ports) -> None:
    await ports.journal.append([event(1), event(2)])

    [first] = (await ports.journal.read(["w1-1"])).values()
    assert await ports.journal.stored(["w1-1", "w1-3"]) == {"w1-1": first.created_at}


async def test_answers_to_a_command_are_those_of_its_enrollment_in_a_closed_range(
    ports: Ports,
) -> None:
    def answer(number: int, key: EnrollmentKey = MAC, uuid: str = "c", at: int = 0) -> Event:
        said = event(number, key, at=at)
        return replace(said, command_uuid=uuid, status="Acknowledged")

    late, early = answer(1, at=NOW + 300), answer(2, at=NOW + 100)
    others = [answer(3, ANNA), answer(4, uuid="other"), answer(5, PRIVATE), answer(6, at=NOW + 301)]
    expired = replace(answer(7), topic=Topic.COMMAND_EXPIRED, status=None)
    await ports.journal.append([late, early, *others, expired])
    of = QueueEntry("MAC", "MAC", "c", "hash", "ProfileList", "g", "order")

    assert await ports.journal.answers(of, NOW + 100, NOW + 300) == [early, late]


async def test_events_of_a_writer_come_by_number_above_the_watermark(ports: Ports) -> None:
    await ports.journal.append([event(9), event(2), event(3), event(4, writer="w2")])

    assert await ports.journal.of_writer("w1", 2, 10) == [numbered(event(3)), numbered(event(9))]
    assert await ports.journal.of_writer("w1", 0, 2) == [numbered(event(2)), numbered(event(3))]


async def test_a_watermark_never_moves_back(ports: Ports) -> None:
    await ports.writers.register("w1")
    await ports.writers.raise_heartbeat("w1", 7)
    await ports.writers.raise_heartbeat("w1", 5)
    await ports.writers.advance("w1", 6)

    [record] = await ports.writers.all()

    assert (record.watermark, record.heartbeat) == (7, 2)


async def test_registering_again_changes_nothing(ports: Ports) -> None:
    await ports.writers.register("w1")
    await ports.writers.raise_heartbeat("w1", 7)

    await ports.writers.register("w1")

    assert (await ports.writers.all())[0].watermark == 7


async def test_writers_come_by_their_start(ports: Ports) -> None:
    for writer in ("w2", "w1", "w3"):
        await ports.writers.register(writer)

    assert [record.id for record in await ports.writers.all()] == ["w1", "w2", "w3"]


async def test_only_one_lease_of_what_was_read_succeeds(ports: Ports) -> None:
    await ports.writers.register("w1")
    [record] = await ports.writers.all()

    assert await ports.writers.lease(record)
    assert not await ports.writers.lease(record)


async def test_a_writer_that_moved_is_not_leased(ports: Ports) -> None:
    await ports.writers.register("w1")
    [record] = await ports.writers.all()
    await ports.writers.raise_heartbeat("w1", 1)

    assert not await ports.writers.lease(record)


async def test_a_heartbeat_makes_a_forgotten_record_anew(ports: Ports) -> None:
    await ports.writers.register("w1")
    await ports.writers.remove("w1")

    await ports.writers.raise_heartbeat("w1", 3)

    assert [(r.id, r.watermark) for r in await ports.writers.all()] == [("w1", 3)]


async def test_members_are_counted_by_role(ports: Ports) -> None:
    for _ in range(2):
        await ports.members.raise_heartbeat("relay", "a")
    await ports.members.raise_heartbeat("webhook", "b")

    assert await ports.members.heartbeats("relay") == {"a": 2}
    await ports.members.leave("relay", "a")
    assert await ports.members.heartbeats("relay") == {}
