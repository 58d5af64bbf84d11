"""Which certificate may speak for a device: every refusal by name, renewal, quarantine, and the races."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.authorization.certificate_policy import LONGEST_CHAIN as CHAIN
from services.checkin.authorization.certificate_policy import BindingRules
from services.checkin.authorization.quarantine import AT_MOST_EVERY, MOST_AT_ONCE
from services.checkin.scep.certificate_status import CertificateStatuses
from shared.apple.messages.checkin import Authenticate
from shared.apple.messages.connect import Status
from shared.domain.binding import MOST_RETIRED
from shared.domain.enrollment import Enrollment, Inventory, partition_of
from shared.domain.errors import Blocked, Overtaken, StoreUnavailable
from shared.domain.event import Topic
from shared.domain.identity import BoundBy, QuarantineReason
from shared.ports.certificates import IssuedCertificate
from shared.telemetry.metrics import Reason
from tests.support.checkin_world import Device, Killed, Replica, Step, World
from tests.support.fakes.clock import START
from tests.support.fakes.journal import Confirm

YEAR = timedelta(days=365)
DAY = timedelta(days=1)


def issue(world: World, certificate: str, **facts: str | None) -> None:
    """What SCEP records of a certificate."""
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
    world.issued.rows[made.transaction] = replace(made, **facts)  # type: ignore[arg-type]


def record(world: World, device: str = "MAC") -> Enrollment:
    return world.enrollments.records[device]


def refused(answers: Sequence[Answer | Exception], reason: Reason = Reason.BINDING) -> bool:
    [answer] = answers
    return isinstance(answer, DeviceRefused) and answer.reason is reason


async def enrolled(certificate: str = "old") -> tuple[World, Replica, Device]:
    world = World()
    replica = await world.replica()
    device = Device(certificate=certificate)
    await device.enroll(replica)
    return world, replica, device


async def outbox_facts(replica: Replica) -> None:
    await replica.share.refresh()
    await replica.outbox.look()


def topics(world: World) -> list[Topic]:
    return [event.topic for event in world.publisher.published]


# --- certificates that are meant for one device


@pytest.mark.parametrize("mode", [False, True], ids=["open", "bound"])
async def test_a_certificate_for_another_udid_is_refused(mode: bool) -> None:
    world = World()
    world.rules = BindingRules(only_meant=mode)
    replica = await world.replica()
    issue(world, "theirs", udid="ANOTHER")

    assert refused(await replica.serve(Device(certificate="theirs").authenticate()))
    assert not world.enrollments.records
    assert await world.enrollments.holders({"theirs"}) == {}


@pytest.mark.parametrize("mode", [False, True], ids=["open", "bound"])
async def test_a_certificate_for_another_serial_number_is_refused(mode: bool) -> None:
    world = World()
    world.rules = BindingRules(only_meant=mode)
    replica = await world.replica()
    issue(world, "theirs", serial_number="ANOTHER")

    assert refused(await replica.serve(Device(certificate="theirs").authenticate()))


async def test_a_serial_number_that_only_the_body_tells_takes_no_device_over() -> None:
    world, replica, _device = await enrolled()
    issue(world, "theirs", serial_number="S-THIEF")
    thief = Device(certificate="theirs")
    claim = Authenticate(thief.key, "", Inventory(serial_number="S-THIEF"))

    assert refused(await replica.serve(thief.says(claim)))
    assert record(world).certificate == "old"


@pytest.mark.parametrize("meant", [{"udid": "MAC"}, {"serial_number": "S-MAC"}, {}])
async def test_the_device_that_a_certificate_is_meant_for_is_served(meant: dict[str, str]) -> None:
    world = World()
    replica = await world.replica()
    issue(world, "mine", **meant)

    assert await replica.serve(Device(certificate="mine").authenticate()) == [Answer()]
    identity = record(world).identity
    assert identity is not None
    assert (identity.is_ours, identity.how) == (True, BoundBy.AUTHENTICATE)


# --- re-enrollment


async def test_open_any_trusted_certificate_may_enroll_a_device_anew_and_an_event_tells() -> None:
    world, replica, device = await enrolled()

    await Device(certificate="new").enroll(replica)
    await outbox_facts(replica)

    assert record(world).certificate == "new"
    assert topics(world)[-1] is Topic.CERTIFICATE_REBOUND
    assert refused(await replica.serve(device.idle()))


async def test_bound_only_what_was_given_out_for_a_device_enrolls_it_anew() -> None:
    world, _replica, _device = await enrolled()
    world.rules = BindingRules(only_meant=True)
    strict = await world.replica()
    issue(world, "any")
    issue(world, "by-udid", udid="MAC")
    issue(world, "by-serial", serial_number="S-MAC")

    for certificate in ("unknown", "any"):
        assert refused(await strict.serve(Device(certificate=certificate).authenticate()))
    assert record(world).certificate == "old"

    for certificate in ("by-serial", "by-udid"):
        assert await strict.serve(Device(certificate=certificate).authenticate()) == [Answer()]
        assert record(world).certificate == certificate


async def test_bound_a_device_may_enroll_anew_with_its_own_certificate_or_its_renewal() -> None:
    world, _, device = await enrolled()
    world.rules = BindingRules(only_meant=True)
    strict = await world.replica()
    issue(world, "renewed", renewed_from="old")

    assert await strict.serve(device.authenticate()) == [Answer()]
    assert await strict.serve(Device(certificate="renewed").authenticate()) == [Answer()]


@pytest.mark.parametrize("mode", [False, True], ids=["open", "bound"])
@pytest.mark.parametrize("udid", [None, "MAC"])
@pytest.mark.parametrize("links", [1, 2, CHAIN, CHAIN + 1])
async def test_what_follows_a_replaced_certificate_enrolls_nothing_anew(
    mode: bool, udid: str | None, links: int
) -> None:
    world, replica, _ = await enrolled()
    issue(world, "next", renewed_from="old", udid=udid)
    for link in range(links):  # made while the old one was bound, and kept
        issue(world, f"kept-{link}", renewed_from=f"kept-{link - 1}" if link else "old", udid=udid)
    assert await replica.serve(Device(certificate="next").idle()) == [Answer()]
    world.rules = BindingRules(only_meant=mode)

    kept = Device(certificate=f"kept-{links - 1}")

    assert refused(await (await world.replica()).serve(kept.authenticate()))
    assert record(world).certificate == "next"


async def test_a_renewal_of_a_renewal_that_was_never_shown_enrolls_its_device_anew() -> None:
    world, _, _ = await enrolled()
    world.rules = BindingRules(only_meant=True)
    issue(world, "next", renewed_from="old", udid="MAC")
    issue(world, "after-next", renewed_from="next", udid="MAC")

    assert await (await world.replica()).serve(Device(certificate="after-next").authenticate()) == [
        Answer()
    ]


@pytest.mark.parametrize("mode", [False, True], ids=["open", "bound"])
async def test_after_a_reset_what_follows_a_replaced_certificate_enrolls_the_device(
    mode: bool,
) -> None:
    world, replica, _ = await enrolled()
    for certificate in ("next", "kept"):
        issue(world, certificate, renewed_from="old")
    await replica.serve(Device(certificate="next").idle())
    world.rules = BindingRules(only_meant=mode)
    strict = await world.replica()
    bound = Device(certificate="next")
    assert await strict.serve(bound.authenticate()) == [Answer()]  # its own, as ever

    await world.identities.reset("MAC", "next")

    assert await strict.serve(bound.authenticate()) == [Answer()]
    await world.identities.reset("MAC", "next")
    assert await strict.serve(Device(certificate="kept").authenticate()) == [Answer()]


async def test_bound_a_device_that_nobody_knows_enrolls_with_any_trusted_certificate() -> None:
    world = World()
    world.rules = BindingRules(only_meant=True)

    assert await (await world.replica()).serve(Device().authenticate()) == [Answer()]


async def test_after_a_reset_any_trusted_certificate_enrolls_the_device() -> None:
    world, _, device = await enrolled()
    world.rules = BindingRules(only_meant=True)
    strict = await world.replica()

    assert await world.identities.reset("MAC", "old")
    assert refused(await strict.serve(device.idle()))
    assert await strict.serve(Device(certificate="new").authenticate()) == [Answer()]

    assert refused(await strict.serve(device.authenticate()))  # now it was replaced
    assert record(world).retired_certificates == ("old",)


async def test_after_a_reset_by_mistake_the_same_certificate_comes_back_by_authenticate() -> None:
    world, replica, device = await enrolled()
    await world.identities.reset("MAC", "old")

    assert await replica.serve(device.authenticate()) == [Answer()]
    assert await replica.serve(device.idle()) == [Answer()]
    assert record(world).retired_certificates == ()


async def test_a_certificate_of_a_device_that_was_reset_stays_reserved_for_it() -> None:
    world, replica, _ = await enrolled()
    await world.identities.reset("MAC", "old")

    assert refused(await replica.serve(Device("OTHER", "old").authenticate()))


async def test_a_replayed_authenticate_of_the_enrollment_before_brings_nothing_back() -> None:
    world, replica, device = await enrolled()
    recorded = device.authenticate()
    await Device(certificate="new").enroll(replica)

    assert refused(await replica.serve(recorded))
    assert record(world).certificate == "new"


async def test_one_certificate_for_two_devices_is_refused_whoever_is_first() -> None:
    world, replica, _ = await enrolled("same")

    assert refused(await replica.serve(Device("OTHER", "same").authenticate()))
    assert "OTHER" not in world.enrollments.records


@pytest.mark.parametrize("says", ["authenticate", "idle", "token_update", "check_out"])
async def test_an_expired_certificate_is_refused_whatever_it_says(says: str) -> None:
    world, replica, device = await enrolled()
    device.is_expired = True
    before, events = record(world), len(world.journal.events)

    assert refused(await replica.serve(getattr(device, says)()), Reason.CERTIFICATE)
    assert record(world) == before
    assert len(world.journal.events) == events


@pytest.mark.parametrize("says", ["authenticate", "idle"])
async def test_a_certificate_that_left_the_list_of_its_record_does_not_come_back(says: str) -> None:
    world, replica, device = await enrolled()
    for number in range(MOST_RETIRED + 1):
        assert await replica.serve(Device(certificate=f"c{number}").authenticate()) == [Answer()]
    before = record(world)

    for _ in range(2):
        assert refused(await replica.serve(getattr(device, says)()), Reason.BINDING)
    await replica.quarantine.flush()

    assert (await CertificateStatuses(world.enrollments, world.issued).of("old")).is_replaced
    assert "old" not in before.retired_certificates
    assert record(world) == before


async def test_a_renewal_that_was_kept_since_then_does_not_come_back_either() -> None:
    world, replica, _ = await enrolled()
    issue(world, "kept", renewed_from="old", udid="MAC")
    for number in range(MOST_RETIRED + 1):
        assert await replica.serve(Device(certificate=f"c{number}").authenticate()) == [Answer()]

    assert refused(await replica.serve(Device(certificate="kept").authenticate()), Reason.BINDING)


# --- renewal: the next certificate becomes the present one at its first use


@pytest.mark.parametrize("says", ["idle", "token_update", "user"])
async def test_a_renewal_is_bound_by_its_first_message_whichever_that_is(says: str) -> None:
    world, replica, device = await enrolled()
    await world.enqueue(device.key, "c1")
    generation = record(world).generation
    issue(world, "next", renewed_from="old", udid="MAC")
    renewed = Device(certificate="next", not_after=START + YEAR)
    anna = device.user("anna")
    request = {
        "idle": renewed.idle(),
        "token_update": renewed.token_update(),
        "user": renewed.token_update(anna),
    }[says]

    [answer] = await replica.serve(request)

    assert isinstance(answer, Answer)
    there = record(world)
    assert (there.certificate, there.retired_certificates) == ("next", ("old",))
    assert there.generation == generation
    assert there.identity is not None
    assert (there.identity.how, there.identity.is_ours) == (BoundBy.RENEWAL, True)
    assert all(entry.state.is_open for entry in world.queue.entries.values())
    assert refused(await replica.serve(device.idle()))


async def test_a_renewal_of_another_certificate_is_bound_to_nothing() -> None:
    world, replica, _ = await enrolled()
    issue(world, "of-another", renewed_from="another")
    issue(world, "for-another", renewed_from="old", udid="ANOTHER")
    issue(world, "not-a-renewal", udid="MAC")

    for certificate in ("of-another", "for-another", "not-a-renewal", "unknown"):
        assert refused(await replica.serve(Device(certificate=certificate).idle()))
    assert record(world).certificate == "old"


async def test_rule_16_of_two_renewals_the_one_that_was_not_used_proves_nothing() -> None:
    world, replica, _ = await enrolled()
    for certificate in ("first", "second"):
        issue(world, certificate, renewed_from="old")

    assert await replica.serve(Device(certificate="second").idle()) == [Answer()]
    assert refused(await replica.serve(Device(certificate="first").idle()))


async def test_a_renewal_of_a_blocked_device_is_answered_401_and_not_bound() -> None:
    world, replica, _ = await enrolled()
    issue(world, "next", renewed_from="old")
    await world.enrollments.block("MAC", True)

    [answer] = await replica.serve(Device(certificate="next").idle())

    assert isinstance(answer, Blocked)
    assert record(world).certificate == "old"


async def test_rule_16_two_replicas_that_see_a_renewal_at_once_serve_it_both_and_one_event_tells() -> (
    None
):
    world, first, device = await enrolled()
    second = await world.replica()
    issue(world, "next", renewed_from="old")
    renewed = Device(certificate="next")

    answers = await asyncio.gather(
        first.serve(renewed.idle()), second.serve(renewed.token_update(device.user("anna")))
    )
    await outbox_facts(first)

    assert list(answers) == [[Answer()], [Answer()]]
    assert topics(world).count(Topic.CERTIFICATE_REBOUND) == 1


async def test_old_and_new_certificate_at_once_leave_the_new_one() -> None:
    world, first, device = await enrolled()
    second = await world.replica()
    issue(world, "next", renewed_from="old")
    held = first.hold(Step.AUTHORIZED)
    late = asyncio.create_task(first.serve(device.idle()))
    await held.reached.wait()
    assert await second.serve(Device(certificate="next").idle()) == [Answer()]

    held.released.set()
    assert await late == [Answer()]  # it came before the other one

    assert record(world).certificate == "next"
    assert refused(await first.serve(device.idle()))


async def test_rule_16_a_renewal_beside_a_new_enrollment_is_overtaken() -> None:
    world, first, _device = await enrolled()
    second = await world.replica()
    issue(world, "next", renewed_from="old")

    async def enroll_first(operation: str) -> None:
        if operation == "bind":
            world.enrollments.before = undisturbed
            await Device(certificate="wiped").enroll(second)

    undisturbed = world.enrollments.before
    world.enrollments.before = enroll_first
    [answer] = await first.serve(Device(certificate="next").idle())

    assert isinstance(answer, Overtaken)
    assert record(world).certificate == "wiped"
    assert refused(await first.serve(Device(certificate="next").idle()))


@pytest.mark.parametrize("step", list(Step))
async def test_rule_16_a_kill_while_a_renewal_is_bound_is_repaired_by_the_device(
    step: Step,
) -> None:
    world, first, _ = await enrolled()
    second = await world.replica()
    issue(world, "next", renewed_from="old")
    first.kill(step)
    with pytest.raises(Killed):
        await first.serve(Device(certificate="next").idle())

    assert await second.serve(Device(certificate="next").idle()) == [Answer()]
    await outbox_facts(second)

    assert record(world).certificate == "next"
    assert topics(world).count(Topic.CERTIFICATE_REBOUND) == 1


async def test_ordinary_messages_look_nothing_up_but_their_records() -> None:
    world, replica, device = await enrolled()
    reads: list[str] = []

    async def listen(operation: str) -> None:
        reads.append(operation)

    world.enrollments.before = listen
    await replica.serve(device.idle(), Device("UNKNOWN").idle())

    assert reads == ["load"]


# --- quarantine


async def test_a_device_whose_certificate_expired_is_seen_and_not_served() -> None:
    world, replica, device = await enrolled()
    device.is_expired = True
    await replica.serve(device.idle())
    await replica.quarantine.flush()
    await outbox_facts(replica)

    found = record(world).quarantine
    assert found is not None
    assert (found.reason, found.certificate.fingerprint) == (QuarantineReason.EXPIRED, "old")
    assert topics(world)[-1] is Topic.DEVICE_QUARANTINED


async def test_a_device_that_lost_its_certificate_is_seen_and_not_served() -> None:
    world, replica, device = await enrolled()

    assert refused(await replica.serve(Device(certificate="lost-and-found").idle()))
    await replica.quarantine.flush()

    found = record(world).quarantine
    assert found is not None
    assert found.reason is QuarantineReason.OTHER_CERTIFICATE
    assert found.certificate.fingerprint == "lost-and-found"
    assert await replica.serve(device.idle()) == [Answer()]  # the holder of the bound one is served


async def test_another_devices_certificate_puts_nobody_into_quarantine() -> None:
    world, replica, _ = await enrolled()
    await Device("OTHER", "theirs").enroll(replica)
    issue(world, "meant-for-other", udid="OTHER")

    for certificate in ("theirs", "meant-for-other"):
        assert refused(await replica.serve(Device(certificate=certificate).idle()))
    expired = Device(certificate="unheard-of", is_expired=True)
    assert refused(await replica.serve(expired.idle()), Reason.CERTIFICATE)
    await replica.quarantine.flush()

    assert record(world).quarantine is None


async def test_a_replaced_certificate_puts_nobody_into_quarantine() -> None:
    world, replica, device = await enrolled()
    await Device(certificate="new").enroll(replica)

    assert refused(await replica.serve(device.idle()))
    await replica.quarantine.flush()

    assert record(world).quarantine is None


async def test_quarantine_costs_one_write_a_minute_and_one_event() -> None:
    world, replica, _ = await enrolled()
    stranger = Device(certificate="stranger")
    writes: list[str] = []

    async def listen(operation: str) -> None:
        writes.append(operation)

    world.identities.before = listen
    for _ in range(10):
        await replica.serve(stranger.idle())
        await replica.quarantine.flush()
    assert writes == ["quarantine"]

    world.clock.advance(AT_MOST_EVERY)
    await replica.serve(stranger.idle())
    await replica.quarantine.flush()
    await outbox_facts(replica)

    found = record(world).quarantine
    assert found is not None
    assert found.last_seen - found.since == AT_MOST_EVERY
    assert topics(world).count(Topic.DEVICE_QUARANTINED) == 1


async def test_a_flood_over_many_devices_is_noted_for_a_few_at_a_time() -> None:
    world, replica, _ = await enrolled()
    devices = [Device(f"D{n}", f"c{n}") for n in range(MOST_AT_ONCE + 10)]
    for device in devices:
        await device.enroll(replica)

    for device in devices:
        await replica.serve(Device(device.udid, "stranger").idle())
    await replica.quarantine.flush()

    outgoing = [r for r in world.enrollments.records.values() if r.quarantine is not None]
    assert len(outgoing) == MOST_AT_ONCE


async def test_what_could_not_be_noted_is_noted_later() -> None:
    world, replica, _ = await enrolled()
    undisturbed = world.identities.before

    async def fail(operation: str) -> None:
        raise StoreUnavailable("cut")

    await replica.serve(Device(certificate="stranger").idle())
    world.identities.before = fail
    with pytest.raises(StoreUnavailable):
        await replica.quarantine.flush()

    world.identities.before = undisturbed
    await replica.quarantine.flush()

    assert record(world).quarantine is not None


async def test_an_expired_certificate_is_served_while_the_administrators_patience_lasts() -> None:
    world, replica, device = await enrolled()
    device.is_expired = True
    await world.identities.accept_expired("MAC", "old", world.clock.now() + DAY)

    assert await replica.serve(device.idle()) == [Answer()]
    assert refused(await replica.serve(device.authenticate()), Reason.CERTIFICATE)

    world.clock.advance(DAY)
    assert refused(await replica.serve(device.idle()), Reason.CERTIFICATE)


async def test_quarantine_ends_with_another_binding() -> None:
    world, replica, _device = await enrolled()
    await replica.serve(Device(certificate="stranger").idle())
    await replica.quarantine.flush()

    await Device(certificate="new").enroll(replica)

    assert record(world).quarantine is None


# --- events


async def test_rule_16_an_event_of_a_rebinding_outlives_a_broker_that_is_away() -> None:
    world, replica, _ = await enrolled()
    world.publisher.outcome = lambda _: Confirm.LOST
    await Device(certificate="new").enroll(replica)
    await outbox_facts(replica)

    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    await outbox_facts(await world.replica())
    await replica.relay_all()

    assert topics(world).count(Topic.CERTIFICATE_REBOUND) == 1
    assert await world.identities.outbox(range(32)) == []


async def test_an_event_of_a_partition_that_is_away_waits_and_holds_up_no_other() -> None:
    world, replica, _ = await enrolled()
    other = next(f"M{n}" for n in range(99) if partition_of(f"M{n}") != partition_of("MAC"))
    await Device(other, certificate="old-too").enroll(replica)
    for device in (Device(certificate="new"), Device(other, certificate="new-too")):
        await device.enroll(replica)
    world.publisher.away = frozenset({partition_of("MAC")})

    await outbox_facts(replica)

    def rebound() -> list[str]:
        events = world.publisher.published
        return [e.key.device for e in events if e.topic is Topic.CERTIFICATE_REBOUND]

    assert rebound() == [other]
    world.publisher.away = frozenset()
    await replica.relay_all()
    assert rebound() == [other, "MAC"]
    assert await world.identities.outbox(range(32)) == []


async def test_an_event_that_is_published_twice_is_the_same_event() -> None:
    world, replica, _ = await enrolled()
    await Device(certificate="new").enroll(replica)
    undisturbed = world.identities.before

    async def die(operation: str) -> None:
        if operation == "published":
            raise Killed

    world.identities.before = die
    with pytest.raises(Killed):
        await outbox_facts(replica)
    world.identities.before = undisturbed
    second = await world.replica()
    second.share.partitions = frozenset(range(32))  # the first one's heartbeat still counts
    await second.outbox.look()

    first, again = (e for e in world.publisher.published if e.topic is Topic.CERTIFICATE_REBOUND)
    assert first == again
    assert first.id in world.journal.events


async def test_reports_go_on_over_a_renewal() -> None:
    world, replica, device = await enrolled()
    await world.enqueue(device.key, "c1")
    assert await replica.serve(device.idle()) == [Answer(b"plist-c1")]
    issue(world, "next", renewed_from="old")

    answers = await replica.serve(Device(certificate="next").reports(Status.ACKNOWLEDGED, "c1"))

    assert answers == [Answer()]
    assert not any(entry.state.is_open for entry in world.queue.entries.values())
