"""Certificates near their end: who is asked to renew, when, how often, and what is reported."""

import asyncio
import plistlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from services.checkin.answers import Answer
from services.checkin.enrollment.identity_payload import OtherScep
from services.checkin.enrollment.profiles import (
    EnrollmentProfiles,
    EnrollmentRules,
)
from services.checkin.renewal.command import COMMAND_LIVES, RenewalCommands
from services.checkin.renewal.policy import (
    FIRST_PAUSE,
    LOOK_AGAIN,
    MISSING_AFTER,
    TOLD_AFTER,
    RenewalRules,
    command_uuid,
)
from services.checkin.renewal.worker import ASKED_AT_ONCE, Renewals
from services.commands.history.cancel import OpenCommands
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.targets import Targets
from services.runtime.wanted_topics import WantedTopics
from shared.apple.messages.connect import Status
from shared.apple.profiles.payloads import Look
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.errors import TooLarge
from shared.domain.event import Topic
from shared.domain.identity import BoundBy, Renewal, RenewalFailure
from shared.domain.outbox import OutboxEvent
from shared.domain.versions import known
from shared.ports.access import Reserved, StoredProfile
from shared.ports.certificates import IssuedCertificate
from shared.security.challenges import ScepChallenges
from tests.support.checkin_world import Device, Replica, World
from tests.support.fakes.challenges import FakeChallenges
from tests.support.fakes.clock import START
from tests.support.fakes.profiles import FakeProfiles, FakePushTopics
from tests.support.fakes.subscriptions import FakeSubscriptions

URL = "https://mdm.example.com"
RULES = EnrollmentRules(
    URL, Look("Example", "com.example"), "Enrollment", 8191, True, subject=(("CN", "Device"),)
)
DAY = timedelta(days=1)
YEAR = 365 * DAY
BEFORE = 30 * DAY


@dataclass
class Renewing:
    """Replicas that renew, and one device whose certificate our SCEP gave out for a year."""

    world: World = field(default_factory=World)
    challenges: FakeChallenges = field(default_factory=FakeChallenges)
    profiles: FakeProfiles = field(default_factory=FakeProfiles)
    rules: RenewalRules = field(default_factory=lambda: RenewalRules(BEFORE))

    def __post_init__(self) -> None:
        self.book = ScepChallenges(self.challenges, self.world.clock, validity=timedelta(hours=1))

    async def replica(self) -> tuple[Replica, Renewals]:
        replica = await self.world.replica()
        await replica.share.refresh()
        profiles = EnrollmentProfiles(
            RULES,
            identities=OtherScep("https://other.example.com/scep", ()),
            challenges=self.book,
            stored=self.profiles,
            topics=FakePushTopics(),
            ids=self.world.ids,
        )
        world = self.world
        commands = RenewalCommands(
            world.queue, world.enrollments, world.push_requests, profiles, self.book, world.ids
        )
        renewals = Renewals(
            world.identities,
            replica.share,
            commands,
            self.rules,
            world.clock,
            world.ids,
            replica.metrics,
        )
        return replica, renewals

    def issue(self, certificate: str, **facts: Any) -> None:
        made = IssuedCertificate(
            transaction=f"t-{certificate}",
            fingerprint=certificate,
            serial=f"s-{certificate}",
            certificate=b"der",
            subject="CN=device",
            public_key="key",
            issued_at=START,
            not_after=START + YEAR,
        )
        self.world.issued.rows[made.transaction] = replace(made, **facts)

    async def enroll(self, replica: Replica, udid: str = "MAC", *, ours: bool = True) -> Device:
        device = Device(udid, f"old-{udid}", not_after=START + YEAR)
        if ours:
            self.issue(device.certificate)
        await device.enroll(replica)
        return device

    def record(self, udid: str = "MAC") -> Enrollment:
        return self.world.enrollments.records[udid]

    @property
    def entries(self) -> list[QueueEntry]:
        return sorted(self.world.queue.entries.values(), key=lambda entry: entry.order)

    @property
    def outbox(self) -> list[OutboxEvent]:
        return [n for kept in self.world.enrollments.kept_outbox.values() for n in kept]

    def go_to(self, moment: datetime) -> None:
        self.world.clock.advance(moment - self.world.clock.now())


NEAR = START + YEAR - BEFORE + timedelta(hours=1)


async def near_its_end(*, ours: bool = True) -> tuple[Renewing, Replica, Renewals, Device]:
    renewing = Renewing()
    replica, renewals = await renewing.replica()
    device = await renewing.enroll(replica, ours=ours)
    renewing.go_to(NEAR)
    await replica.share.refresh()
    return renewing, replica, renewals, device


def payload(profile: dict[str, Any], kind: str) -> dict[str, Any]:
    [found] = [each for each in profile["PayloadContent"] if each["PayloadType"] == kind]
    return dict(found)


async def test_a_certificate_is_renewed_when_its_time_has_come_and_not_before() -> None:
    renewing = Renewing()
    _, renewals = await renewing.replica()
    replica, _ = await renewing.replica()
    await renewing.enroll(replica)

    renewing.go_to(START + YEAR - BEFORE - timedelta(minutes=1))
    await renewals.look()
    assert renewing.entries == []

    renewing.go_to(START + YEAR - BEFORE)
    await renewals.look()
    [entry] = renewing.entries
    assert entry.request_type == "InstallProfile"
    assert entry.expires_at == renewing.world.clock.now() + COMMAND_LIVES
    assert {"MAC"} in renewing.world.push_requests.requested


async def test_the_command_holds_the_enrollment_profile_with_a_challenge_of_its_own() -> None:
    renewing, replica, renewals, device = await near_its_end()
    await renewals.look()

    [answer] = await replica.serve(device.idle())

    assert isinstance(answer, Answer)
    command = plistlib.loads(answer.body)["Command"]
    profile = plistlib.loads(command["Payload"])
    assert profile["PayloadIdentifier"] == "com.example.enroll"
    scep, mdm = payload(profile, "com.apple.security.scep"), payload(profile, "com.apple.mdm")
    assert mdm["IdentityCertificateUUID"] == scep["PayloadUUID"]
    assert mdm["ServerURL"] == f"{URL}/mdm/connect"
    assert scep["PayloadContent"]["URL"] == f"{URL}/scep"
    grant = await renewing.book.redeem(scep["PayloadContent"]["Challenge"], by="device")
    assert grant is not None
    assert (grant.udid, grant.renews) == ("MAC", "old-MAC")


async def test_the_urls_of_the_new_profile_are_those_of_the_enrollment() -> None:
    renewing, replica, renewals, device = await near_its_end()
    there = renewing.record()
    assert there.identity is not None
    identity = replace(there.identity, parameters={"site": "zürich"})
    renewing.world.enrollments.records["MAC"] = replace(there, identity=identity)
    await renewals.look()

    [answer] = await replica.serve(device.idle())

    assert isinstance(answer, Answer)
    profile = plistlib.loads(plistlib.loads(answer.body)["Command"]["Payload"])
    assert payload(profile, "com.apple.mdm")["CheckInURL"].endswith("?site=z%C3%BCrich")


async def test_whoever_reads_the_queue_does_not_see_the_challenge() -> None:
    renewing, _, renewals, _ = await near_its_end()
    await renewals.look()
    world = renewing.world
    targets = Targets(world.enrollments)
    reconciler = Reconciler(world.queue, world.queue, targets, world.clock)

    [command] = await OpenCommands(
        world.queue, targets, reconciler, WantedTopics(FakeSubscriptions())
    ).of("MAC")

    assert command.plist == b""


async def test_rule_16_two_replicas_that_look_at_once_queue_one_command() -> None:
    renewing, _, first, _ = await near_its_end()
    replica, second = await renewing.replica()
    replica.share.partitions = frozenset(range(32))  # for a moment both may think so

    await asyncio.gather(first.look(), second.look())

    assert len(renewing.entries) == 1
    assert len(renewing.challenges.rows) == 1


async def test_not_now_is_left_to_the_queue() -> None:
    renewing, replica, renewals, device = await near_its_end()
    await renewals.look()
    [entry] = renewing.entries
    await replica.serve(device.idle())
    await replica.serve(device.reports(Status.NOT_NOW, entry.command_uuid))

    for _ in range(8):
        renewing.go_to(renewing.world.clock.now() + LOOK_AGAIN)
        await renewals.look()

    assert [each.state for each in renewing.entries] == [EntryState.NOT_NOW]


@pytest.mark.parametrize("status", [Status.ERROR, Status.COMMAND_FORMAT_ERROR, Status.ACKNOWLEDGED])
async def test_what_ended_without_a_new_certificate_is_asked_again_after_a_pause(
    status: Status,
) -> None:
    renewing, replica, renewals, device = await near_its_end()
    await renewals.look()
    [entry] = renewing.entries
    await replica.serve(device.idle())
    await replica.serve(device.reports(status, entry.command_uuid))
    ended = renewing.world.clock.now()

    renewing.go_to(ended + MISSING_AFTER)
    await renewals.look()
    renewing.go_to(ended + FIRST_PAUSE - timedelta(minutes=1))
    await renewals.look()
    assert len(renewing.entries) == 1

    renewing.go_to(ended + FIRST_PAUSE)
    await renewals.look()
    first, second = renewing.entries
    assert first.command_uuid != second.command_uuid
    assert second.state is EntryState.QUEUED


async def test_a_renewed_device_is_asked_no_more() -> None:
    renewing, replica, renewals, device = await near_its_end()
    await renewals.look()
    [entry] = renewing.entries
    await replica.serve(device.idle())
    now = renewing.world.clock.now()
    renewing.issue("next", renewed_from="old-MAC", udid="MAC")
    renewed = Device("MAC", "next", not_after=now + YEAR)

    assert await replica.serve(renewed.reports(Status.ACKNOWLEDGED, entry.command_uuid)) == [
        Answer()
    ]

    renewing.go_to(now + 200 * DAY)
    await renewals.look()
    assert len(renewing.entries) == 1
    assert renewing.record().renewal is None
    renewing.go_to(now + YEAR - BEFORE)
    await renewals.look()
    assert len(renewing.entries) == 2


async def test_rule_16_a_command_that_a_dying_process_did_not_queue_is_queued_later() -> None:
    renewing, _, renewals, _ = await near_its_end()
    undisturbed = renewing.world.queue.before

    async def die(operation: str) -> None:
        if operation == "insert":
            raise KeyboardInterrupt

    renewing.world.queue.before = die
    with pytest.raises(KeyboardInterrupt):
        await renewals.look()
    renewing.world.queue.before = undisturbed
    assert renewing.entries == []

    renewing.go_to(NEAR + MISSING_AFTER)
    await renewals.look()

    [entry] = renewing.entries
    assert entry.command_uuid == command_uuid(renewing.record(), 1)


async def test_a_renewal_beside_a_new_enrollment_is_of_the_new_generation() -> None:
    renewing, replica, renewals, device = await near_its_end()
    undisturbed = renewing.world.queue.before

    async def enroll_first(operation: str) -> None:
        if operation == "insert":
            renewing.world.queue.before = undisturbed
            await device.enroll(replica)

    renewing.world.queue.before = enroll_first
    await renewals.look()

    [entry] = renewing.entries
    assert entry.generation == renewing.record().generation
    [answer] = await replica.serve(device.idle())
    assert isinstance(answer, Answer) and answer.body


async def test_after_some_attempts_in_vain_one_event_tells() -> None:
    renewing, replica, renewals, device = await near_its_end()

    for _ in range(TOLD_AFTER + 1):
        await renewals.look()
        [answer] = await replica.serve(device.idle())
        assert isinstance(answer, Answer)
        uuid = plistlib.loads(answer.body)["CommandUUID"]
        await replica.serve(device.reports(Status.ERROR, uuid))
        renewing.world.clock.advance(MISSING_AFTER)
        await renewals.look()
        renewing.world.clock.advance(5 * DAY)

    assert [outbox_event.topic for outbox_event in renewing.outbox] == [Topic.RENEWAL_FAILED]
    assert renewing.outbox[0].facts["reason"] == RenewalFailure.ATTEMPTS


async def test_one_that_expires_unrenewed_is_told_of_and_left() -> None:
    renewing, _, renewals, _ = await near_its_end()
    await renewals.look()
    renewing.go_to(START + YEAR)

    for _ in range(3):
        await renewals.look()
        renewing.world.clock.advance(DAY)

    assert [outbox_event.facts["reason"] for outbox_event in renewing.outbox] == [
        RenewalFailure.EXPIRED
    ]
    assert len(renewing.entries) == 1


async def test_patience_with_an_expired_certificate_renews_it_at_once() -> None:
    renewing, replica, renewals, device = await near_its_end()
    renewing.go_to(START + YEAR + DAY)
    await renewals.look()
    assert renewing.entries == []
    now = renewing.world.clock.now()

    await renewing.world.identities.accept_expired("MAC", "old-MAC", now + 7 * DAY)
    await renewals.look()

    device.is_expired = True
    [answer] = await replica.serve(device.idle())
    assert isinstance(answer, Answer) and answer.body


async def test_patience_renews_at_once_though_earlier_attempts_were_in_vain() -> None:
    renewing, replica, renewals, device = await near_its_end()
    await renewals.look()
    [vain] = renewing.entries
    await replica.serve(device.idle())
    await replica.serve(device.reports(Status.ERROR, vain.command_uuid))
    renewing.go_to(START + YEAR + DAY)
    await renewals.look()
    now = renewing.world.clock.now()

    await renewing.world.identities.accept_expired("MAC", "old-MAC", now + 7 * DAY)
    await renewals.look()

    assert [entry.state for entry in renewing.entries] == [EntryState.ERROR, EntryState.QUEUED]


async def test_a_certificate_of_another_authority_is_told_of_once_and_not_renewed() -> None:
    renewing, _, renewals, _ = await near_its_end(ours=False)

    for _ in range(3):
        await renewals.look()
        renewing.world.clock.advance(DAY)

    assert [outbox_event.facts["reason"] for outbox_event in renewing.outbox] == [
        RenewalFailure.OTHER_AUTHORITY
    ]
    assert renewing.entries == []


@pytest.mark.parametrize("takes_over", [True, False])
async def test_a_device_that_came_by_migration_gets_its_next_certificate_here(
    takes_over: bool,
) -> None:
    renewing = Renewing(rules=RenewalRules(BEFORE, takes_over=takes_over))
    replica, renewals = await renewing.replica()
    await renewing.enroll(replica, ours=False)
    there = renewing.record()
    assert there.identity is not None
    identity = replace(there.identity, how=BoundBy.MIGRATION)
    renewing.world.enrollments.records["MAC"] = replace(there, identity=identity)
    renewing.go_to(NEAR)

    await renewals.look()

    assert len(renewing.entries) == (1 if takes_over else 0)
    assert len(renewing.outbox) == (0 if takes_over else 1)


async def test_a_device_that_left_is_neither_asked_nor_told_of() -> None:
    renewing, replica, renewals, device = await near_its_end()
    await replica.serve(device.check_out())

    await renewals.look()
    renewing.go_to(START + YEAR + DAY)
    await renewals.look()

    assert renewing.entries == []
    assert renewing.outbox == []


async def test_a_few_are_asked_at_a_time() -> None:
    renewing = Renewing()
    replica, renewals = await renewing.replica()
    for number in range(ASKED_AT_ONCE + 5):
        await renewing.enroll(replica, f"D{number:02}")
    renewing.go_to(NEAR)

    await renewals.look()
    assert len(renewing.entries) == ASKED_AT_ONCE
    await renewals.look()
    assert len(renewing.entries) == ASKED_AT_ONCE + 5


def own_profile(url: str) -> bytes:
    scep = {
        "PayloadType": "com.apple.security.scep",
        "PayloadContent": {"URL": url, "Challenge": "x"},
    }
    return plistlib.dumps({"PayloadIdentifier": "com.own", "PayloadContent": [scep]})


async def test_an_operators_own_profile_is_installed_anew_with_our_challenge_in_it() -> None:
    renewing, replica, renewals, device = await near_its_end()
    await renewing.profiles.put(StoredProfile(Reserved.ENROLL, own_profile(f"{URL}/scep")))
    await renewals.look()

    [answer] = await replica.serve(device.idle())

    assert isinstance(answer, Answer)
    profile = plistlib.loads(plistlib.loads(answer.body)["Command"]["Payload"])
    assert profile["PayloadIdentifier"] == "com.own"
    challenge = payload(profile, "com.apple.security.scep")["PayloadContent"]["Challenge"]
    assert await renewing.book.redeem(challenge, by="device") is not None


@pytest.mark.parametrize("own", [own_profile("https://other.example.com"), b"\x30\x82signed"])
async def test_an_operators_own_profile_without_an_entry_for_a_challenge_is_told_of(
    own: bytes,
) -> None:
    renewing, _, renewals, _ = await near_its_end()
    await renewing.profiles.put(StoredProfile(Reserved.ENROLL, own))

    for _ in range(3):
        await renewals.look()
        renewing.world.clock.advance(DAY)
    assert [outbox_event.facts["reason"] for outbox_event in renewing.outbox] == [
        RenewalFailure.PROFILE
    ]
    assert renewing.entries == []

    await renewing.profiles.put(StoredProfile(Reserved.ENROLL, own_profile(f"{URL}/scep")))
    renewing.world.clock.advance(DAY)
    await renewals.look()
    assert len(renewing.entries) == 1


@pytest.mark.parametrize("what", ["status", "bound by", "failure"])
async def test_a_device_of_which_a_newer_version_wrote_more_than_we_know_is_left_to_it(
    what: str,
) -> None:
    renewing, _, renewals, _ = await near_its_end()
    record = renewing.record()
    assert record.identity is not None
    match what:
        case "status":
            changed = replace(record, status=known(EnrollmentStatus, "paused"))
        case "bound by":
            how = known(BoundBy, "attestation")
            changed = replace(record, identity=replace(record.identity, how=how, is_ours=False))
        case _:
            failed = known(RenewalFailure, "frozen")
            changed = replace(record, renewal=Renewal(4, "c", START, failed))
    renewing.world.enrollments.records["MAC"] = changed

    await renewals.look()

    assert (renewing.entries, renewing.outbox, renewing.record()) == ([], [], changed)
    assert renewing.world.enrollments.looks["MAC"] == NEAR + LOOK_AGAIN


async def test_a_renewal_whose_entry_is_in_a_state_of_a_newer_version_is_not_asked_again() -> None:
    renewing, _, renewals, _ = await near_its_end()
    await renewals.look()
    [entry] = renewing.entries
    renewing.world.queue.entries[entry.id] = replace(entry, state=known(EntryState, "held"))

    renewing.go_to(NEAR + COMMAND_LIVES - timedelta(hours=1))
    await renewals.look()

    assert len(renewing.entries) == 1


async def test_a_device_whose_attempt_cannot_be_stored_holds_up_no_other_one() -> None:
    renewing, replica, renewals, _ = await near_its_end()
    renewing.world.clock.advance(START - NEAR)
    await renewing.enroll(replica, "PAD")
    renewing.go_to(NEAR)
    full = []

    async def first_is_full(operation: str) -> None:
        if operation == "attempt" and not full:
            full.append(operation)
            raise TooLarge("a record of 16 MB")

    renewing.world.identities.before = first_is_full
    await replica.share.refresh()
    await renewals.look()

    assert full and len(renewing.entries) == 1
