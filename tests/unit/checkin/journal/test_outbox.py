"""Events of the outbox keep to the order of their device: docs/rules.md, rule 8."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from services.checkin.journal.outbox import KEPT_FOR
from shared.domain.enrollment import partition_of
from shared.domain.errors import BrokerUnavailable, StoreUnavailable
from shared.domain.event import Event, Topic
from shared.domain.outbox import checked_out, removed_by_client, token_invalid
from shared.ports.enrollments import Mark
from shared.ports.events import Appended
from tests.support.checkin_world import Device, Replica, World
from tests.support.fakes.journal import Confirm


async def enrolled() -> tuple[World, Replica, Device]:
    world, device = World(), Device()
    replica = await world.replica()
    await device.enroll(replica)
    await replica.share.refresh()
    return world, replica, device


async def removed(world: World) -> None:
    """An API client removes the device."""
    world.clock.advance(timedelta(seconds=1))
    event = removed_by_client(world.ids.new(), world.clock.time_ns())
    await world.enrollments.remove(["MAC"], "removal", {"MAC": event})


def topics(world: World) -> list[Topic]:
    return [event.topic for event in world.publisher.published]


async def test_without_a_backlog_an_event_is_published_at_once_with_its_time() -> None:
    world, replica, _ = await enrolled()
    await removed(world)
    [kept] = world.enrollments.kept_outbox["MAC"]

    await replica.outbox.look()

    event = world.publisher.published[-1]
    assert (event.id, event.created_at) == (kept.id, kept.created_at)
    assert world.enrollments.records["MAC"].waiting.since is None


@pytest.mark.parametrize("ahead", [0, 10**12], ids=["clocks agree", "clock ahead"])
async def test_rule_08_an_event_of_ours_stays_behind_the_backlog_of_its_device(ahead: int) -> None:
    world, replica, device = await enrolled()
    world.publisher.outcome = lambda _: Confirm.LOST
    await replica.serve(device.idle())
    if ahead:
        await world.enrollments.mark_waiting([Mark("MAC", world.clock.time_ns() + ahead)])
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    await removed(world)

    await replica.outbox.look()

    assert Topic.DEVICE_REMOVED not in topics(world)
    assert await world.identities.outbox(range(32)) == []
    await replica.serve(device.idle())
    await replica.relay_all()
    assert topics(world)[2:] == [Topic.CONNECT, Topic.DEVICE_REMOVED, Topic.CONNECT]
    times = [event.created_at for event in world.publisher.published[2:]]
    assert times == sorted(set(times))


async def test_rule_08_what_the_broker_does_not_take_is_not_overtaken() -> None:
    world, replica, device = await enrolled()
    await removed(world)
    world.publisher.outcome = lambda _: Confirm.LOST
    await replica.outbox.look()
    world.publisher.outcome = lambda _: Confirm.CONFIRMED

    await replica.serve(device.idle())
    await replica.relay_all()

    assert topics(world)[2:] == [Topic.DEVICE_REMOVED, Topic.CONNECT]
    assert world.enrollments.records["MAC"].waiting.since is None


async def test_rule_08_of_two_events_of_a_device_the_later_does_not_overtake_the_other() -> None:
    world, replica, _ = await enrolled()
    at = world.clock.time_ns()
    world.enrollments.keep("MAC", token_invalid("1", at, "Unregistered"))
    world.enrollments.keep("MAC", removed_by_client("2", at + 1))
    world.publisher.outcome = lambda e: Confirm.LOST if e.id == "1" else Confirm.CONFIRMED

    await replica.outbox.look()
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    await replica.relay_all()

    assert world.publisher.firsts("MAC")[2:] == ["1", "2"]


async def test_events_of_one_time_are_journaled_one_after_the_other() -> None:
    world, replica, _ = await enrolled()
    at = world.clock.time_ns()
    world.enrollments.keep("MAC", removed_by_client("1", at))
    world.enrollments.keep("MAC", token_invalid("2", at, "Unregistered"))

    await replica.outbox.look()

    first, second = world.publisher.published[-2:]
    assert (first.id, second.id) == ("1", "2")
    assert second.created_at == first.created_at + 1


async def test_what_an_earlier_pass_has_journaled_is_published_as_it_is_there() -> None:
    world, replica, device = await enrolled()
    await removed(world)
    publish, world.publisher.publish = world.publisher.publish, killed  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await replica.outbox.look()
    world.publisher.publish = publish  # type: ignore[method-assign]
    world.publisher.outcome = lambda _: Confirm.LOST
    await replica.serve(device.idle())
    world.publisher.outcome = lambda _: Confirm.CONFIRMED

    await replica.outbox.look()
    await replica.relay_all()

    [event] = [e for e in world.publisher.published if e.topic is Topic.DEVICE_REMOVED]
    assert event == world.journal.events[event.id]


async def killed(events: Sequence[Event], settled: object = None) -> list[bool]:
    raise ConnectionError("the process ends here")


async def test_rule_08_a_backlog_that_a_deposed_primary_did_not_show_is_not_overtaken() -> None:
    world, replica, _ = await enrolled()
    await removed(world)
    append = world.journal.append

    async def of_another_primary(events: Sequence[Event]) -> list[Appended]:
        world.journal.term = "second"
        return await append(events)

    world.journal.append = of_another_primary  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await replica.outbox.look()
    assert Topic.DEVICE_REMOVED not in topics(world)
    world.journal.append = append  # type: ignore[method-assign]
    await replica.outbox.look()
    assert topics(world).count(Topic.DEVICE_REMOVED) == 1


async def test_beside_a_full_record_events_of_others_go_and_its_own_is_kept() -> None:
    world, replica, _ = await enrolled()
    other = next(f"M{n}" for n in range(99) if partition_of(f"M{n}") != partition_of("MAC"))
    await Device(other, "certificate-2").enroll(replica)
    for device in ("MAC", other):
        world.enrollments.keep(device, removed_by_client(f"of {device}", world.clock.time_ns()))
    world.enrollments.full = {"MAC"}
    world.publisher.outcome = lambda _: Confirm.LOST

    with pytest.raises(BrokerUnavailable):
        await replica.outbox.look()
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    await replica.outbox.look()
    await replica.relay_all()

    told = [e.key.device for e in world.publisher.published if e.topic is Topic.DEVICE_REMOVED]
    assert sorted(told) == sorted(["MAC", other])
    assert await world.identities.outbox(range(32)) == []


@pytest.mark.parametrize("channel", ["MAC", "MAC:anna"])
async def test_rule_08_an_event_of_a_user_channel_stays_behind_its_device(channel: str) -> None:
    world, replica, device = await enrolled()
    anna = device.user("anna")
    await replica.serve(device.token_update(anna))
    world.publisher.outcome = lambda _: Confirm.LOST
    world.clock.advance(timedelta(seconds=1))
    await replica.serve(device.token_update(anna, token=b"token 2"))
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    before = len(world.publisher.published)
    await token_dies(world, channel)

    await replica.outbox.look()
    assert topics(world)[before:] == []

    await replica.relay_all()
    assert topics(world)[before:] == [Topic.TOKEN_UPDATE, Topic.PUSH_TOKEN_INVALID]


async def test_rule_08_an_event_of_a_user_channel_waits_for_what_is_left_to_another_process() -> (
    None
):
    world, replica, device = await enrolled()
    await replica.serve(device.token_update(device.user("anna")))
    await token_dies(world, "MAC:anna")
    earlier = checked_out("1", world.clock.time_ns() - 1)
    world.enrollments.keep("MAC", earlier)
    before = len(world.publisher.published)

    await replica.outbox.look()
    assert topics(world)[before:] == []

    world.clock.advance(KEPT_FOR)
    await replica.outbox.look()
    assert topics(world)[before:] == [Topic.DEVICE_REMOVED, Topic.PUSH_TOKEN_INVALID]


async def token_dies(world: World, channel: str) -> None:
    world.clock.advance(timedelta(seconds=1))
    push = world.enrollments.records[channel].push
    assert push is not None
    event = token_invalid(world.ids.new(), world.clock.time_ns(), "410")
    assert await world.enrollments.mark_token(channel, push.token, dead=True, event=event)


async def test_rule_08_the_record_says_which_of_two_events_came_first_not_their_clocks() -> None:
    world, replica, _ = await enrolled()
    at = world.clock.time_ns()
    world.enrollments.keep("MAC", removed_by_client("2", at + 15 * 10**9))
    world.enrollments.keep("MAC", token_invalid("1", at, "Unregistered"))

    await replica.outbox.look()

    assert world.publisher.firsts("MAC")[2:] == ["2", "1"]
    first, second = world.publisher.published[-2:]
    assert first.created_at < second.created_at


async def test_rule_08_an_event_of_ours_is_journaled_once_the_one_before_it_is_safe() -> None:
    """What is in the journal and under no mark yet, the relay may publish with what is around it."""
    world, replica, _ = await enrolled()
    at = world.clock.time_ns()
    world.enrollments.keep("MAC", token_invalid("1", at, "Unregistered"))
    world.enrollments.keep("MAC", removed_by_client("2", at))
    publish, world.publisher.publish = world.publisher.publish, killed  # type: ignore[method-assign]

    with pytest.raises(ConnectionError):
        await replica.outbox.look()
    assert "1" in world.journal.events
    assert "2" not in world.journal.events

    world.publisher.publish = publish  # type: ignore[method-assign]
    await replica.outbox.look()
    assert world.publisher.firsts("MAC")[2:] == ["1", "2"]
