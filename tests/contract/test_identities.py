"""The contract of `Identities`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.binding import rebinding
from shared.domain.enrollment import (
    PARTITIONS,
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    PushTarget,
)
from shared.domain.event import Topic
from shared.domain.identity import (
    LOOK_BEFORE,
    BoundBy,
    DeviceCertificate,
    Identity,
    Quarantine,
    QuarantineReason,
    Renewal,
    RenewalFailure,
    ReportedExpiry,
)
from shared.domain.outbox import (
    OutboxEvent,
    checked_out,
    identity_expiring,
    quarantined,
    removed_by_client,
    renewal_failed,
    silent,
    token_invalid,
)
from shared.ports.enrollments import Change, Enrollments
from shared.ports.identities import Attempt, Identities
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.identities import FakeIdentities

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
END = NOW + 365 * DAY
MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
PAD = EnrollmentKey("PAD", device="PAD", udid="PAD")
OURS = range(PARTITIONS)


@dataclass
class Kept:
    enrollments: Enrollments
    identities: Identities

    async def record(self, device: str = "MAC") -> Enrollment:
        return (await self.enrollments.load({device}))[device]

    async def looked_at(self, at: datetime) -> list[str]:
        return [found.id for found in await self.identities.to_renew(OURS, at)]


@pytest.fixture(params=STORES)
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    if request.param == "fake":
        enrollments = FakeEnrollments()
        yield Kept(enrollments, FakeIdentities(enrollments))
        return
    from shared.storage.enrollments import identities
    from shared.storage.enrollments.store import MongoEnrollments

    async with open_store(request) as mongo:
        await mongo.ensure(identities.INDEXES)
        yield Kept(MongoEnrollments(mongo, KEYRING), identities.MongoIdentities(mongo, KEYRING))


def certificate(name: str, not_after: datetime | None = END) -> DeviceCertificate:
    return DeviceCertificate(name, f"CN={name}", "1f", NOW - DAY, not_after)


def identity(name: str, how: BoundBy = BoundBy.AUTHENTICATE, **more: object) -> Identity:
    made = Identity(certificate(name), NOW, how, True, {"site": "z.ü$"})
    return replace(made, **more)  # type: ignore[arg-type]  # any field


async def enrolled(kept: Kept, key: EnrollmentKey = MAC, **more: object) -> Enrollment:
    name = f"old-{key.id}"
    change = Change(
        key,
        f"gen-{key.id}",
        None,
        Topic.AUTHENTICATE,
        NOW,
        certificate=name,
        makes_record=True,
        identity=replace(identity(name), **more),  # type: ignore[arg-type]  # any field
    )
    assert await kept.enrollments.apply([change]) == [True]
    return await kept.record(key.id)


def seen(name: str, at: datetime = NOW) -> Quarantine:
    return Quarantine(at, at, QuarantineReason.OTHER_CERTIFICATE, certificate(name))


def told(id_: str, at: int = 1) -> OutboxEvent:
    return quarantined(id_, at, "old-MAC", seen("new"))


async def test_what_is_known_of_a_certificate_is_kept_with_its_binding(kept: Kept) -> None:
    record = await enrolled(kept)

    assert record.identity == identity("old-MAC")


async def test_a_rebinding_replaces_what_was_known_and_keeps_a_outbox_event(kept: Kept) -> None:
    record = await enrolled(kept)
    await kept.identities.quarantine("MAC", "old-MAC", seen("new"), told("1"))
    following = identity("new", BoundBy.RENEWAL, parameters=None)

    assert await kept.enrollments.bind([rebinding(record, following, "n1")]) == [True]

    there = await kept.record()
    assert (there.identity, there.quarantine) == (following, None)
    assert there.retired_certificates == ("old-MAC",)
    outbox = [each.outbox_event for each in await kept.identities.outbox(OURS)]
    assert [
        outbox_event.id
        for outbox_event in outbox
        if outbox_event.topic is Topic.CERTIFICATE_REBOUND
    ] == ["n1"]


async def test_a_reserved_certificate_can_be_bound_to_no_other_device(kept: Kept) -> None:
    record = await enrolled(kept)
    await kept.identities.reserve("next", "PAD")
    await kept.identities.reserve("next", "MAC")

    assert await kept.enrollments.holders({"next"}) == {"next": "PAD"}
    assert await kept.enrollments.bind([rebinding(record, identity("next"), "n")]) == [False]


async def test_quarantine_begins_once_and_goes_on(kept: Kept) -> None:
    await enrolled(kept)
    first, later = seen("new"), seen("newer", NOW + MINUTE)

    begun = [
        await kept.identities.quarantine("MAC", "old-MAC", first, told("1")),
        await kept.identities.quarantine("MAC", "old-MAC", later, told("2")),
    ]

    assert begun == [True, False]
    assert (await kept.record()).quarantine == replace(later, since=NOW)
    assert [each.outbox_event.id for each in await kept.identities.outbox(OURS)] == ["1"]


async def test_of_two_that_note_the_same_quarantine_one_begins_it(kept: Kept) -> None:
    await enrolled(kept)

    begun = await asyncio.gather(
        *(kept.identities.quarantine("MAC", "old-MAC", seen("new"), told(f"{n}")) for n in range(2))
    )

    assert sorted(begun) == [False, True]
    assert len(await kept.identities.outbox(OURS)) == 1


async def test_quarantine_of_a_binding_that_is_no_more_is_not_noted(kept: Kept) -> None:
    record = await enrolled(kept)
    await kept.enrollments.bind([rebinding(record, identity("new"), "n")])

    assert not await kept.identities.quarantine("MAC", "old-MAC", seen("x"), told("1"))
    assert (await kept.record()).quarantine is None


async def test_a_release_ends_the_quarantine_of_what_is_bound(kept: Kept) -> None:
    await enrolled(kept)
    await kept.identities.quarantine("MAC", "old-MAC", seen("new"), told("1"))

    assert not await kept.identities.release("MAC", "another")
    assert (await kept.record()).quarantine is not None
    assert await kept.identities.release("MAC", "old-MAC")
    assert (await kept.record()).quarantine is None


async def test_a_reset_takes_the_binding_away_once(kept: Kept) -> None:
    await enrolled(kept)
    await kept.identities.quarantine("MAC", "old-MAC", seen("new"), told("1"))

    assert await kept.identities.reset("MAC", "old-MAC")
    assert not await kept.identities.reset("MAC", "old-MAC")

    there = await kept.record()
    assert (there.certificate, there.reset_from, there.quarantine) == (None, "old-MAC", None)
    assert there.retired_certificates == ()
    assert await kept.looked_at(END) == []
    assert await kept.identities.quarantine("MAC", None, seen("new"), told("2"))


async def test_after_a_reset_the_next_binding_retires_the_one_before(kept: Kept) -> None:
    await enrolled(kept)
    await kept.identities.reset("MAC", "old-MAC")

    bound = rebinding(await kept.record(), identity("new"), "n")
    assert await kept.enrollments.bind([bound]) == [True]

    there = await kept.record()
    assert (there.certificate, there.reset_from) == ("new", None)
    assert there.retired_certificates == ("old-MAC",)


async def test_after_a_reset_the_same_certificate_can_come_back(kept: Kept) -> None:
    await enrolled(kept)
    await kept.identities.reset("MAC", "old-MAC")

    bound = rebinding(await kept.record(), identity("old-MAC"), "n")
    assert await kept.enrollments.bind([bound]) == [True]

    there = await kept.record()
    assert (there.certificate, there.reset_from, there.retired_certificates) == (
        "old-MAC",
        None,
        (),
    )
    assert await kept.identities.outbox(OURS) == []


async def test_patience_with_an_expired_certificate_ends_quarantine_and_renews(kept: Kept) -> None:
    await enrolled(kept)
    await kept.identities.quarantine("MAC", "old-MAC", seen("old-MAC"), told("1"))

    assert await kept.identities.accept_expired("MAC", "old-MAC", NOW + DAY)
    assert not await kept.identities.accept_expired("MAC", "another", NOW + DAY)

    there = await kept.record()
    assert (there.expired_until, there.quarantine) == (NOW + DAY, None)
    assert await kept.looked_at(NOW) == ["MAC"]


async def test_a_certificate_is_looked_at_long_before_its_end(kept: Kept) -> None:
    await enrolled(kept)
    look_at = END - LOOK_BEFORE

    assert await kept.looked_at(look_at - MINUTE) == []
    assert await kept.looked_at(look_at) == ["MAC"]
    assert await kept.identities.to_renew(set(OURS) - {MAC.partition}, END) == []


async def test_one_without_an_end_is_not_looked_at(kept: Kept) -> None:
    await enrolled(kept, certificate=certificate("old-MAC", None))

    assert await kept.looked_at(END) == []


async def test_those_that_were_to_be_looked_at_first_come_first(kept: Kept) -> None:
    for number in range(3):
        key = EnrollmentKey(f"M{number}", device=f"M{number}", udid=f"M{number}")
        await enrolled(kept, key, certificate=certificate(f"old-{key.id}", END - number * DAY))

    assert set(await kept.looked_at(END)) == {"M0", "M1", "M2"}


async def test_an_attempt_is_stored_once(kept: Kept) -> None:
    await enrolled(kept)
    first = Renewal(1, "uuid-1", NOW)
    attempt = Attempt("MAC", "old-MAC", None, first, NOW + DAY)

    done = await asyncio.gather(
        kept.identities.attempt([attempt]), kept.identities.attempt([attempt])
    )

    assert sorted(done) == [[False], [True]]
    assert (await kept.record()).renewal == first
    assert await kept.looked_at(NOW) == []
    assert await kept.looked_at(NOW + DAY) == ["MAC"]


async def test_an_attempt_needs_the_one_that_was_seen_and_the_binding(kept: Kept) -> None:
    await enrolled(kept)
    first, second = Renewal(1, "uuid-1", NOW), Renewal(2, "uuid-2", NOW)
    failed = replace(first, failed=RenewalFailure.ATTEMPTS)
    await kept.identities.attempt([Attempt("MAC", "old-MAC", None, first, NOW)])

    done = await kept.identities.attempt(
        [
            Attempt("MAC", "old-MAC", None, second, NOW),
            Attempt("MAC", "another", first, second, NOW),
            Attempt("MAC", "old-MAC", failed, second, NOW),
            Attempt("MAC", "old-MAC", first, failed, NOW),
            Attempt("MAC", "old-MAC", failed, second, None),
        ]
    )

    assert done == [False, False, False, True, True]
    assert (await kept.record()).renewal == second
    assert await kept.looked_at(END) == []


async def test_a_look_without_an_attempt_is_put_off(kept: Kept) -> None:
    await enrolled(kept)

    assert await kept.identities.attempt([Attempt("MAC", "old-MAC", None, None, END)]) == [True]

    assert (await kept.record()).renewal is None
    assert await kept.looked_at(END - MINUTE) == []


async def test_a_failure_keeps_a_outbox_event(kept: Kept) -> None:
    await enrolled(kept)
    outbox_event = renewal_failed("n", 7, identity("old-MAC"), RenewalFailure.OTHER_AUTHORITY, 0)

    await kept.identities.attempt([Attempt("MAC", "old-MAC", None, None, None, outbox_event)])

    [outgoing] = await kept.identities.outbox({MAC.partition})
    assert (outgoing.outbox_event, outgoing.device.id) == (outbox_event, "MAC")


async def test_rule_08_outbox_events_are_given_as_they_were_kept_until_they_are_announced(
    kept: Kept,
) -> None:
    await enrolled(kept)
    await kept.identities.quarantine("MAC", "old-MAC", seen("new"), told("z", 9))
    outbox_event = renewal_failed("b", 7, identity("old-MAC"), RenewalFailure.EXPIRED, 3)
    await kept.identities.attempt([Attempt("MAC", "old-MAC", None, None, None, outbox_event)])
    await kept.enrollments.remove({"MAC"}, "removal", {"MAC": removed_by_client("a", 12)})

    first, second, third = await kept.identities.outbox(OURS)
    given = [(e.outbox_event.id, e.outbox_event.created_at) for e in (first, second, third)]
    assert given == [("z", 9), ("b", 10), ("a", 12)]
    assert await kept.identities.outbox(set(OURS) - {MAC.partition}) == []

    await kept.identities.published([first])
    assert [each.outbox_event.id for each in await kept.identities.outbox(OURS)] == ["b", "a"]
    await kept.identities.published([first, second, third])
    assert await kept.identities.outbox(OURS) == []


async def test_a_record_says_whether_a_next_enrollment_comes_behind_its_outbox(kept: Kept) -> None:
    await enrolled(kept)
    await kept.identities.quarantine("MAC", "old-MAC", seen("new"), told("1"))
    assert not (await kept.record()).is_behind

    await kept.enrollments.remove({"MAC"}, "removal", {"MAC": removed_by_client("2", 7)})
    assert (await kept.record()).is_behind
    await kept.identities.published(await kept.identities.outbox(OURS))
    assert not (await kept.record()).is_behind

    pad = await enrolled(kept, PAD)
    change = Change(PAD, "out", pad.generation, Topic.CHECK_OUT, NOW)
    change = replace(change, expected_change=pad.changed_by, outbox_event=checked_out("3", 7))
    assert await kept.enrollments.apply([change]) == [True]
    assert (await kept.record("PAD")).is_behind


async def test_a_removal_keeps_an_outbox_event_of_each_device_that_was_there(kept: Kept) -> None:
    await enrolled(kept)
    told = {"MAC": removed_by_client("1", 7), "NOBODY": removed_by_client("2", 7)}

    assert await kept.enrollments.remove({"MAC", "NOBODY"}, "removal", told) == ["MAC"]
    again = {"MAC": removed_by_client("3", 8)}
    assert await kept.enrollments.remove({"MAC"}, "removal", again) == []

    [outgoing] = await kept.identities.outbox(OURS)
    assert (outgoing.outbox_event, outgoing.device.id) == (told["MAC"], "MAC")
    assert (await kept.record()).status is EnrollmentStatus.REMOVED


async def test_a_change_keeps_its_outbox_event_if_it_is_applied(kept: Kept) -> None:
    device = await enrolled(kept)
    late, left = checked_out("late", 7), checked_out("left", 8)
    change = Change(MAC, "out", device.generation, Topic.CHECK_OUT, NOW, outbox_event=left)

    for by, event in (("earlier", late), (device.changed_by, left)):
        await kept.enrollments.apply([replace(change, expected_change=by, outbox_event=event)])

    [outgoing] = await kept.identities.outbox(OURS)
    assert (outgoing.outbox_event, outgoing.device.id) == (left, "MAC")
    assert left.follows


async def test_outbox_events_of_several_devices_leave_together(kept: Kept) -> None:
    for key, id_ in ((MAC, "1"), (PAD, "2"), (PAD, "3")):
        if await kept.enrollments.load([key.id]) == {}:
            await enrolled(kept, key)
        await kept.enrollments.remove({key.id}, "removal", {key.id: removed_by_client(id_, 7)})
        await kept.enrollments.revive({key.id})
    outgoing = await kept.identities.outbox(OURS)

    await kept.identities.published([e for e in outgoing if e.outbox_event.id != "3"])

    assert [each.outbox_event.id for each in await kept.identities.outbox(OURS)] == ["3"]


async def test_a_token_that_dies_keeps_an_outbox_event_once(kept: Kept) -> None:
    device = await enrolled(kept)
    push = PushTarget("topic", b"token", "magic")
    told = Change(MAC, "tok", device.generation, Topic.TOKEN_UPDATE, NOW, push=push)
    assert await kept.enrollments.apply([replace(told, expected_change=device.changed_by)]) == [
        True
    ]

    for number in "12":
        event = token_invalid(number, 7, "410")
        assert await kept.enrollments.mark_token("MAC", b"token", dead=True, event=event)
    other = token_invalid("3", 7, "410")
    assert not await kept.enrollments.mark_token("MAC", b"another", dead=True, event=other)

    assert [each.outbox_event.id for each in await kept.identities.outbox(OURS)] == ["1"]


async def test_bound_devices_of_a_partition_come_in_pages(kept: Kept) -> None:
    pad = EnrollmentKey("PAD-40", device="PAD-40", udid="PAD-40")
    assert pad.partition == MAC.partition
    for key in (pad, MAC):
        await enrolled(kept, key)
    unknown = EnrollmentKey("OLD", device="OLD", udid="OLD")
    await enrolled(kept, unknown, certificate=certificate("old-OLD", None))

    def page(after: str, limit: int = 9) -> Awaitable[list[Enrollment]]:
        return kept.identities.bound(MAC.partition, after, limit)

    assert [each.id for each in await page("")] == ["MAC", "PAD-40"]
    assert [each.id for each in await page("", 1)] == ["MAC"]
    assert [each.id for each in await page("MAC")] == ["PAD-40"]
    assert [each.id for each in await page("PAD-40")] == []
    assert await kept.identities.bound((MAC.partition + 1) % PARTITIONS, "", 9) == []
    [found] = await page("", 1)
    assert (found.identity, found.last_seen, found.generation) == (
        identity("old-MAC"),
        NOW,
        "gen-MAC",
    )
    assert await kept.identities.reset("MAC", "old-MAC")
    assert [each.id for each in await page("")] == ["PAD-40"]


async def test_a_silence_keeps_one_outbox_event_until_the_device_is_seen_again(kept: Kept) -> None:
    device = await enrolled(kept)

    async def report(id_: str, at: datetime) -> bool:
        return await kept.identities.report_silence("MAC", at, silent(id_, 7, device, 1))

    assert not await report("0", NOW - MINUTE)  # it was seen since
    assert await report("1", NOW)
    assert not await report("2", NOW)
    assert (await kept.record()).silent_since == NOW
    await kept.enrollments.seen({"MAC": NOW + DAY})
    assert not await report("3", NOW)
    assert await report("4", NOW + DAY)

    assert [each.outbox_event.id for each in await kept.identities.outbox(OURS)] == ["1", "4"]
    await kept.enrollments.remove({"MAC"}, "removal")
    assert not await report("5", NOW + DAY)
    assert (await kept.record()).silent_since is None


async def test_the_end_of_a_certificate_keeps_one_outbox_event_for_each_report(kept: Kept) -> None:
    device = await enrolled(kept)

    async def report(id_: str, days: int, seen: int | None, name: str = "old-MAC") -> bool:
        before = None if seen is None else ReportedExpiry("old-MAC", seen)
        event = identity_expiring(id_, 7, device, days)
        return await kept.identities.report_expiry("MAC", ReportedExpiry(name, days), before, event)

    assert await report("1", 30, None)
    assert not await report("2", 30, None)
    assert not await report("3", 7, 14)
    assert not await report("4", 7, 30, "another")
    assert await report("5", 7, 30)
    assert (await kept.record()).reported_expiry == ReportedExpiry("old-MAC", 7)

    outbox = [each.outbox_event for each in await kept.identities.outbox(OURS)]
    assert [(each.id, each.facts["days"]) for each in outbox] == [("1", 30), ("5", 7)]
    following = identity("new", BoundBy.RENEWAL)
    assert await kept.enrollments.bind([rebinding(await kept.record(), following, "n1")]) == [True]
    assert not await report("6", 1, 7)
    assert await report("7", 30, 7, "new")
