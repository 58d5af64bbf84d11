"""Devices that came by migration are bound to the certificate that they show first."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.exchange import DeviceExchange
from shared.apple.messages.checkin import SetBootstrapToken, Unsupported
from shared.domain.access import AuditEntry
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, PushTarget
from shared.domain.errors import Blocked, Overtaken, StoreUnavailable
from tests.support.checkin_world import Device, Killed, Replica, Step, World

WINDOW = timedelta(days=30)
PUSH = PushTarget("topic", b"token", "magic")


def migrated(world: World, key: EnrollmentKey) -> Enrollment:
    """A record as a migration leaves it."""
    record = Enrollment(
        key,
        EnrollmentStatus.ENROLLED,
        generation="import-1",
        push=PUSH,
        migrating_until=world.clock.now() + WINDOW,
    )
    if not key.is_device_channel:
        record = replace(record, migrating_until=None)
    world.enrollments.add(record)
    return record


def bound_to(world: World, device: str = "MAC") -> str | None:
    return world.enrollments.records[device].certificate


def entries(world: World) -> list[AuditEntry]:
    return [entry for entry in world.audit.entries if entry.action == "device.first_certificate"]


async def refused(replica: Replica, request: DeviceExchange) -> str:
    """The words of a refusal."""
    [outcome] = await replica.serve(request)
    assert isinstance(outcome, DeviceRefused), outcome
    return str(outcome)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def device(world: World) -> Device:
    made = Device()
    migrated(world, made.key)
    return made


FIRST = ["idle", "token_update", "authenticate", "check_out", "bootstrap"]


def says(device: Device, first: str) -> DeviceExchange:
    if first == "bootstrap":
        return device.says(SetBootstrapToken(device.key, b"token"))
    request: DeviceExchange = getattr(device, first)()
    return request


@pytest.mark.parametrize("first", FIRST)
async def test_whatever_a_migrated_device_says_first_binds_its_certificate(
    world: World, device: Device, first: str
) -> None:
    replica = await world.replica()

    assert await replica.serve(says(device, first)) == [Answer()]

    record = world.enrollments.records["MAC"]
    assert record.certificate == device.certificate
    assert record.migrating_until is None


async def test_the_binding_is_audited_counted_and_made_once(world: World, device: Device) -> None:
    replica = await world.replica()

    await replica.serve(device.idle())
    await replica.serve(device.idle())

    [entry] = entries(world)
    assert entry.targets == ("MAC",)
    assert entry.detail == f"certificate {device.certificate}"
    assert replica.metrics.migrated_bound._value.get() == 1


async def test_a_bound_device_is_given_what_was_queued_since_its_migration(
    world: World, device: Device
) -> None:
    replica = await world.replica()
    place = await world.enqueue(device.key, "command-1")

    [answer] = await replica.serve(device.idle())

    assert place.generation == "import-1"
    assert answer == Answer(b"plist-command-1")


async def test_a_user_channel_that_speaks_first_binds_its_device(
    world: World, device: Device
) -> None:
    anna = device.user("anna")
    migrated(world, anna)
    replica = await world.replica()

    assert await replica.serve(device.token_update(anna)) == [Answer()]

    assert bound_to(world) == device.certificate
    assert world.enrollments.records[anna.id].push is not None


async def test_the_second_certificate_is_refused(world: World, device: Device) -> None:
    replica = await world.replica()
    await replica.serve(device.idle())
    other = replace(device, certificate="certificate-2")

    assert "not bound" in await refused(replica, other.idle())

    assert bound_to(world) == "certificate-1"


async def test_another_devices_certificate_is_refused(world: World, device: Device) -> None:
    replica = await world.replica()
    neighbour = Device("PAD", "certificate-of-pad")
    await neighbour.enroll(replica)
    thief = replace(device, certificate="certificate-of-pad")

    assert "another enrollment" in await refused(replica, thief.idle())

    assert bound_to(world) is None
    assert entries(world) == []


async def test_one_certificate_does_not_bind_two_migrated_devices(
    world: World, device: Device
) -> None:
    second = Device("PAD", device.certificate)
    migrated(world, second.key)
    replica = await world.replica()

    outcomes = await replica.serve(device.idle(), second.idle())
    again = await replica.serve(device.idle(), second.idle())

    assert {type(outcome) for outcome in outcomes} == {Answer, Overtaken}
    assert {type(outcome) for outcome in again} == {Answer, DeviceRefused}
    assert {bound_to(world, "MAC"), bound_to(world, "PAD")} == {device.certificate, None}


async def test_after_the_window_no_certificate_is_bound(world: World, device: Device) -> None:
    replica = await world.replica()
    world.clock.advance(WINDOW + timedelta(seconds=1))

    assert "over" in await refused(replica, device.idle())

    assert bound_to(world) is None
    assert world.journal.events == {}


async def test_after_the_window_the_device_may_still_enroll_anew(
    world: World, device: Device
) -> None:
    replica = await world.replica()
    world.clock.advance(WINDOW + timedelta(seconds=1))

    await device.enroll(replica)

    assert bound_to(world) == device.certificate


async def test_a_blocked_device_is_not_bound_by_its_connect(world: World, device: Device) -> None:
    await world.enrollments.block("MAC", True)
    replica = await world.replica()

    [outcome] = await replica.serve(device.idle())

    assert isinstance(outcome, Blocked)
    assert bound_to(world) is None


async def test_a_message_that_is_not_served_binds_nothing(world: World, device: Device) -> None:
    replica = await world.replica()

    await replica.serve(device.says(Unsupported(device.key, "GetToken")))

    assert bound_to(world) is None


async def test_of_two_certificates_at_once_exactly_one_is_bound(
    world: World, device: Device
) -> None:
    one, other = await world.replica(), await world.replica()
    second = replace(device, certificate="certificate-2")
    held = one.hold(Step.AUTHORIZED)

    first = asyncio.create_task(one.serve(device.idle()))
    await held.reached.wait()
    [late] = await other.serve(second.idle())
    held.released.set()

    assert await first == [Answer()]
    assert isinstance(late, DeviceRefused)
    assert bound_to(world) == "certificate-1"


async def test_of_two_certificates_that_were_admitted_together_exactly_one_is_bound(
    world: World, device: Device
) -> None:
    one, other = await world.replica(), await world.replica()
    second = replace(device, certificate="certificate-2")

    outcomes = await asyncio.gather(one.serve(device.idle()), other.serve(second.idle()))

    assert sorted(type(outcome).__name__ for [outcome] in outcomes) == ["Answer", "Overtaken"]
    [winner] = [
        shown
        for shown, [outcome] in zip(("certificate-1", "certificate-2"), outcomes, strict=True)
        if isinstance(outcome, Answer)
    ]
    assert bound_to(world) == winner


async def test_killed_after_the_binding_the_device_is_served_by_the_next_replica(
    world: World, device: Device
) -> None:
    one, other = await world.replica(), await world.replica()
    one.kill(Step.AUTHORIZED)

    with pytest.raises(Killed):
        await one.serve(device.token_update())

    assert await other.serve(device.token_update()) == [Answer()]
    assert bound_to(world) == device.certificate


async def test_what_cannot_be_audited_is_not_bound(world: World, device: Device) -> None:
    replica = await world.replica()
    world.audit.is_away = True

    with pytest.raises(StoreUnavailable):
        await replica.serve(device.idle())

    assert bound_to(world) is None


async def test_a_device_that_never_migrated_is_refused_as_before(world: World) -> None:
    replica = await world.replica()

    assert "never authenticated" in await refused(replica, Device().idle())
