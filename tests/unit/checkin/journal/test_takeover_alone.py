"""A process alone with its broker takes over at its start what earlier ones left (rule 10).

In memory a publish that was taken is not yet safe: only its consumer's ack settles it. So here the
broker takes everything and settles nothing, and the process dies with all of it.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta

from shared.apple.messages.connect import Status
from shared.domain.event import Event
from tests.support.checkin_world import Device, Replica, World


class Memory:
    """An in-process broker whose consumer never acked anything."""

    async def publish(
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        return [True] * len(events)


async def died_with_everything_in_memory() -> tuple[World, Device]:
    world = World()
    working = world.publisher
    world.publisher = Memory()  # type: ignore[assignment]  # the port, not the fake of it
    device = Device()
    dead = await world.replica()
    await device.enroll(dead)
    await dead.serve(device.idle())
    await dead.writer.raise_heartbeat()
    world.publisher = working
    return world, device


async def started(world: World) -> Replica:
    """A new process up to the moment in which its port opens."""
    replica = Replica(world)
    await replica.takeover.take_all(replica.writer.id)
    await replica.writer.register()
    return replica


async def test_rule_10_what_earlier_processes_left_is_marked_before_the_first_request() -> None:
    world, _ = await died_with_everything_in_memory()

    replica = await started(world)

    times = [event.created_at for event in world.journal.events.values()]
    waiting = world.enrollments.records["MAC"].waiting
    assert (waiting.since, waiting.upto) == (min(times), max(times))
    assert list(world.writers.records) == [replica.writer.id]


async def test_rule_10_new_events_come_after_the_rest_though_the_clock_was_set_back() -> None:
    world, device = await died_with_everything_in_memory()
    world.clock.set_back(timedelta(hours=1))

    replica = await started(world)
    await replica.serve(device.reports(Status.ACKNOWLEDGED, "nobody-knows"))
    await replica.relay_all()

    assert world.publisher.firsts("MAC") == list(world.journal.events)
