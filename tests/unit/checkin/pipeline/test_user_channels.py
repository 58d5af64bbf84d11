"""A device may have so many user channels and no more."""

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.authorization.authorizer import LOOKED_UP_FOR
from shared.domain.enrollment import MOST_USER_CHANNELS, Enrollment, EnrollmentStatus
from tests.support.checkin_world import Device, Replica, World


async def full(device: Device, world: World, replica: Replica) -> None:
    await device.enroll(replica)
    for n in range(MOST_USER_CHANNELS):
        world.enrollments.add(Enrollment(device.user(f"u{n}"), EnrollmentStatus.CHECKED_OUT))


async def test_a_user_channel_too_many_is_refused_and_leaves_nothing() -> None:
    world, device = World(), Device()
    replica = await world.replica()
    await full(device, world, replica)
    journaled = len(world.journal.events)

    [refused] = await replica.serve(device.token_update(device.user("one-more")))

    assert isinstance(refused, DeviceRefused)
    assert f"MAC has {MOST_USER_CHANNELS} user channels" in str(refused)
    assert "MAC:one-more" not in world.enrollments.records
    assert len(world.journal.events) == journaled


async def test_a_full_device_and_its_known_users_are_served_and_so_are_others() -> None:
    world, device, other = World(), Device(), Device("PAD", "certificate-2")
    replica = await world.replica()
    await full(device, world, replica)
    await other.enroll(replica)

    answers = [
        *await replica.serve(device.token_update(device.user("u7"))),
        *await replica.serve(device.token_update()),
        *await replica.serve(other.token_update(other.user("u1"))),
    ]

    assert answers == [Answer()] * 3


async def test_removing_a_device_makes_room_for_its_users_after_a_minute() -> None:
    world, device, asked = World(), Device(), []
    replica = await world.replica()
    await full(device, world, replica)

    async def note(operation: str) -> None:
        asked.append(operation)

    world.enrollments.before = note
    for n in range(3):
        await replica.serve(device.token_update(device.user(f"more-{n}")))
    assert asked.count("count_users") == 1
    await world.enrollments.remove(["MAC"], "removal")
    world.clock.advance(LOOKED_UP_FOR)

    [answer] = await replica.serve(device.token_update(device.user("one-more")))

    assert answer == Answer()


async def test_an_ordinary_message_does_not_count_users() -> None:
    world, device, asked = World(), Device(), []
    replica = await world.replica()
    await device.enroll(replica)
    await replica.serve(device.token_update(device.user("anna")))

    async def note(operation: str) -> None:
        asked.append(operation)

    world.enrollments.before = note
    await replica.serve(device.idle(device.user("anna")))
    await replica.serve(device.idle(device.user("unknown")))
    await replica.serve(device.token_update())

    assert "load" in asked
    assert "count_users" not in asked
