"""A recorded message is not taken again once its device has spoken since."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.authorization.certificate_policy import BindingRules
from services.checkin.exchange import DeviceExchange
from shared.apple.messages.checkin import SetBootstrapToken
from shared.domain.enrollment import EnrollmentStatus
from tests.support.checkin_world import Device, Replica, World
from tests.support.fakes.clock import START

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


def signed(request: DeviceExchange, at: datetime | None) -> DeviceExchange:
    return replace(request, signed_at=at)


async def outcome(replica: Replica, request: DeviceExchange) -> Answer | Exception:
    [found] = await replica.serve(request)
    return found


async def enrolled(world: World, device: Device) -> Replica:
    """It enrolled at START, and again, with the same certificate, two days later."""
    replica = await world.replica()
    for _ in range(2):
        for request in (device.authenticate(), device.token_update()):
            answer = await outcome(replica, signed(request, world.clock.now()))
            assert isinstance(answer, Answer)
        world.clock.advance(2 * DAY)
    return replica


def recorded(device: Device) -> dict[str, DeviceExchange]:
    bootstrap = device.says(SetBootstrapToken(device.key, b"old"))
    return {
        "Authenticate": device.authenticate(),
        "TokenUpdate": device.token_update(),
        "CheckOut": device.check_out(),
        "SetBootstrapToken": bootstrap,
    }


@pytest.mark.parametrize("kind", recorded(Device()))
async def test_a_recorded_message_of_before_is_refused_and_changes_nothing(kind: str) -> None:
    world, device = World(), Device()
    replica = await enrolled(world, device)
    before = world.enrollments.records["MAC"]

    refused = await outcome(replica, signed(recorded(device)[kind], START))

    assert isinstance(refused, DeviceRefused) and "MAC: signed 2" in str(refused)
    assert world.enrollments.records["MAC"] == before


@pytest.mark.parametrize("kind", recorded(Device()))
async def test_within_a_day_and_without_a_time_messages_are_taken(kind: str) -> None:
    for at in (START + DAY, None):
        world, device = World(), Device()
        replica = await enrolled(world, device)

        assert isinstance(await outcome(replica, signed(recorded(device)[kind], at)), Answer)


async def test_steps_of_a_day_do_not_lead_back() -> None:
    world, device = World(), Device()
    replica = await enrolled(world, device)

    for hours in (24, 47):
        at = START + 2 * DAY - timedelta(hours=hours)
        answer = await outcome(replica, signed(device.token_update(), at))
        assert isinstance(answer, Answer) is (hours == 24)


async def test_a_device_whose_clock_was_ahead_is_heard_when_it_is_right_again() -> None:
    world, device = World(), Device()
    replica = await world.replica()
    await outcome(replica, signed(device.authenticate(), START + 300 * DAY))

    assert world.enrollments.records["MAC"].signed_at == world.clock.now()
    world.clock.advance(SECOND)
    answer = await outcome(replica, signed(device.token_update(), world.clock.now()))
    assert isinstance(answer, Answer)


async def test_what_changes_nothing_is_heard_whenever_it_was_signed() -> None:
    world, device = World(), Device()
    replica = await enrolled(world, device)

    assert isinstance(await outcome(replica, signed(device.idle(), START)), Answer)


async def test_the_guard_can_be_turned_off() -> None:
    world, device = World(), Device()
    world.rules = BindingRules(guards_replays=False)
    replica = await enrolled(world, device)

    assert isinstance(await outcome(replica, signed(device.check_out(), START)), Answer)
    assert world.enrollments.records["MAC"].status is EnrollmentStatus.CHECKED_OUT
