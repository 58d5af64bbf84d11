"""A command that its device never answers moves behind the others (docs/rules.md, rule 5)."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.checkin.answers import Answer
from services.checkin.exchange import DeviceExchange
from shared.apple.messages.connect import Status
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import StoreUnavailable
from tests.support.checkin_world import Device, Killed, Replica, Step, World
from tests.support.fakes.queue import FEW

TEN_MINUTES = timedelta(minutes=10)
LENGTHS = [0, FEW]
"""How many commands of another user wait too: with so many the queue is too long to be read."""


class Scene:
    """One device, one replica, commands c1, c2, ... in this order."""

    def __init__(self, world: World, replica: Replica) -> None:
        self.world = world
        self.replica = replica
        self.device = Device()

    async def says(self, request: DeviceExchange) -> str | None:
        """The command that is the answer."""
        [answer] = await self.replica.serve(request)
        assert isinstance(answer, Answer), answer
        return answer.body.decode().removeprefix("plist-") or None

    async def idle(self, key: EnrollmentKey | None = None) -> str | None:
        return await self.says(self.device.idle(key))

    async def answers(self, uuid: str, status: Status = Status.ACKNOWLEDGED) -> str | None:
        return await self.says(self.device.reports(status, uuid))

    async def never_answers(self, uuid: str) -> None:
        """The device fetches it three times, over ten minutes."""
        for _ in range(3):
            assert await self.idle() == uuid
            self.world.clock.advance(TEN_MINUTES / 2)

    def entry(self, uuid: str) -> QueueEntry:
        [entry] = [p for p in self.world.queue.entries.values() if p.command_uuid == uuid]
        return entry

    @property
    def moved_back(self) -> float | None:
        return self.replica.metrics.registry.get_sample_value("macromdm_commands_moved_back_total")


async def scene(*uuids: str, beside: int = 0) -> Scene:
    world = World()
    made = Scene(world, await world.replica())
    await made.device.enroll(made.replica)
    for uuid in uuids:
        await world.enqueue(made.device.key, uuid)
    for number in range(beside):
        await world.enqueue(made.device.user("anna"), f"u{number}")
    return made


@pytest.mark.parametrize("beside", LENGTHS)
async def test_rule_05_what_is_never_answered_moves_behind_the_others(beside: int) -> None:
    it = await scene("c1", "c2", "c3", beside=beside)
    await it.never_answers("c1")

    with capture_logs() as logs:
        assert await it.idle() == "c2"

    assert await it.answers("c2") == "c3"
    assert await it.answers("c3") == "c1"
    assert await it.answers("c1") is None
    assert it.moved_back == 1
    [line] = [each for each in logs if each["event"] == "command_moved_back"]
    assert (line["command_uuid"], line["enrollment"]) == ("c1", "MAC")
    assert line["unanswered_attempts"] == 3


async def test_rule_05_whatever_its_priority() -> None:
    it = await scene("c1", "c2")
    urgent = it.entry("c2")
    it.world.queue.entries[urgent.id] = replace(urgent, priority=0)
    await it.never_answers("c2")

    assert await it.idle() == "c1"


async def test_rule_05_before_ten_minutes_it_stays_where_it_is() -> None:
    it = await scene("c1", "c2")

    for _ in range(10):
        assert await it.idle() == "c1"
        it.world.clock.advance(timedelta(seconds=59))
    assert it.entry("c1").unanswered == 9

    it.world.clock.advance(timedelta(seconds=10))
    assert await it.idle() == "c2"
    assert it.entry("c1").unanswered == 10


async def test_rule_05_two_attempts_of_any_age_do_not_move_it() -> None:
    it = await scene("c1", "c2")

    assert await it.idle() == "c1"
    it.world.clock.advance(timedelta(days=30))
    assert await it.idle() == "c1"
    it.world.clock.advance(timedelta(days=30))

    assert await it.idle() == "c1"
    assert it.moved_back == 0


@pytest.mark.parametrize("beside", LENGTHS)
async def test_the_only_command_is_offered_at_each_idle(beside: int) -> None:
    it = await scene("c1", beside=beside)
    await it.never_answers("c1")

    for attempt in range(4, 8):
        assert await it.idle() == "c1"
        found = it.entry("c1")
        assert (found.attempts, found.unanswered) == (attempt, attempt - 1)

    assert it.moved_back == 1


@pytest.mark.parametrize("beside", LENGTHS)
async def test_rule_05_of_two_that_moved_each_has_its_turn(beside: int) -> None:
    it = await scene("c1", "c2", beside=beside)
    await it.never_answers("c1")
    await it.never_answers("c2")

    taken = []
    for _ in range(6):
        taken.append(await it.idle())
        it.world.clock.advance(timedelta(minutes=1))

    assert taken == ["c1", "c2"] * 3
    assert it.moved_back == 2


@pytest.mark.parametrize("status", [Status.ACKNOWLEDGED, Status.ERROR])
async def test_a_late_answer_closes_one_that_moved(status: Status) -> None:
    it = await scene("c1", "c2")
    await it.never_answers("c1")
    assert await it.idle() == "c2"

    assert await it.answers("c1", status) == "c2"

    assert it.entry("c1").state.is_device_final
    assert it.entry("c1").unanswered == 0


async def test_rule_05_not_now_puts_it_back_among_those_that_rest() -> None:
    it = await scene("c1", "c2")
    await it.never_answers("c1")
    assert await it.idle() == "c2"

    assert await it.answers("c1", Status.NOT_NOW) == "c2"
    found = it.entry("c1")
    assert (found.state, found.unanswered, found.moved) == (EntryState.NOT_NOW, 0, None)

    await it.never_answers("c1")
    assert await it.idle() == "c2"
    assert it.entry("c1").unanswered == 3
    assert it.moved_back == 2


async def test_one_that_moved_comes_before_what_is_not_due_and_what_rests_elsewhere() -> None:
    it = await scene("c1", "c2", "c3")
    later = it.entry("c3")
    tomorrow = it.world.clock.now() + timedelta(days=1)
    it.world.queue.entries[later.id] = replace(later, not_before=tomorrow)
    await it.never_answers("c1")
    assert await it.idle() == "c2"
    assert await it.answers("c2", Status.NOT_NOW) == "c1"

    assert await it.idle() == "c2", "on Idle what rests is due again"
    assert await it.answers("c2") == "c1"


async def test_each_enrollment_counts_for_itself() -> None:
    it = await scene("c1", "c2")
    anna = it.device.user("anna")
    [answer] = await it.replica.serve(it.device.token_update(anna))
    assert answer == Answer()
    await it.world.enqueue(anna, "u1")
    await it.never_answers("c1")

    assert await it.idle(anna) == "u1"
    assert await it.idle() == "c2"
    assert it.entry("u1").unanswered == 0


@pytest.mark.parametrize("beside", LENGTHS)
async def test_rule_05_behind_one_that_is_put_off_each_time_it_moves_too(beside: int) -> None:
    it = await scene("c1", "c2", "c3", beside=beside)
    for attempt in range(3):
        assert await it.idle() == "c1"
        assert await it.answers("c1", Status.NOT_NOW) == "c2"
        assert it.entry("c2").unanswered == attempt
        it.world.clock.advance(TEN_MINUTES / 2)

    assert await it.idle() == "c1"
    assert await it.answers("c1", Status.NOT_NOW) == "c3"
    assert await it.answers("c3") == "c2"
    found = it.entry("c2")
    assert (found.attempts, found.unanswered, it.moved_back) == (4, 3, 1)


async def test_the_answer_to_what_came_before_does_not_count() -> None:
    it = await scene("c0", "c1", "c2")
    assert await it.idle() == "c0"

    for _ in range(5):
        assert await it.answers("c0") == "c1"
        it.world.clock.advance(TEN_MINUTES)

    found = it.entry("c1")
    assert (found.attempts, found.unanswered) == (5, 0)


async def test_an_authenticate_ends_one_that_moved() -> None:
    it = await scene("c1", "c2")
    await it.never_answers("c1")
    assert await it.idle() == "c2"

    await it.device.enroll(it.replica)

    assert it.entry("c1").state is EntryState.DROPPED_REENROLLED
    assert await it.idle() is None


async def test_rule_05_two_replicas_that_meet_it_at_once_move_it_once() -> None:
    it = await scene("c1", "c2")
    other = await it.world.replica()
    await it.never_answers("c1")
    held, other_held = it.replica.hold(Step.JOURNALED), other.hold(Step.JOURNALED)
    requests = [asyncio.create_task(each.serve(it.device.idle())) for each in (it.replica, other)]
    for barrier in (held, other_held):
        await barrier.reached.wait()
    for barrier in (held, other_held):
        barrier.released.set()

    answers = [answer for each in requests for answer in await each]

    assert answers == [Answer(b"plist-c2")] * 2
    assert it.entry("c1").unanswered == 3
    moved = [
        each.metrics.registry.get_sample_value("macromdm_commands_moved_back_total")
        for each in (it.replica, other)
    ]
    assert sum(number or 0 for number in moved) == 1


async def test_rule_05_an_answer_beside_the_idle_that_would_move_it_wins() -> None:
    it = await scene("c1", "c2")
    other = await it.world.replica()
    await it.never_answers("c1")
    held = it.replica.hold(Step.JOURNALED)
    late = asyncio.create_task(it.replica.serve(it.device.idle()))
    await held.reached.wait()
    await other.serve(it.device.reports(Status.NOT_NOW, "c1"))
    held.released.set()

    assert await late == [Answer(b"plist-c1")]
    found = it.entry("c1")
    assert (found.unanswered, found.moved, it.moved_back) == (0, None, 0)


@pytest.mark.parametrize("operation", ["move_back", "mark_sent", "open_of_devices"])
async def test_rule_05_a_kill_around_the_move_is_repaired_by_the_next_idle(operation: str) -> None:
    it = await scene("c1", "c2")
    await it.never_answers("c1")
    queue, undisturbed = it.world.queue, it.world.queue.before
    seen: list[str] = []

    async def die(step: str) -> None:
        seen.append(step)
        if step == operation and ("move_back" in seen or operation != "open_of_devices"):
            raise Killed

    queue.before = die
    with pytest.raises(Killed):
        await it.idle()
    queue.before = undisturbed

    assert await it.idle() == "c2"
    assert (it.entry("c1").unanswered, it.entry("c2").attempts) == (3, 1)


async def test_a_store_that_is_away_while_it_moves_is_a_503() -> None:
    it = await scene("c1", "c2")
    await it.never_answers("c1")
    queue, undisturbed = it.world.queue, it.world.queue.before

    async def away(step: str) -> None:
        if step == "move_back":
            raise StoreUnavailable("away")

    queue.before = away
    [answer] = await it.replica.serve(it.device.idle())
    queue.before = undisturbed

    assert isinstance(answer, StoreUnavailable)
    assert await it.idle() == "c2"


async def test_an_attempt_that_counts_costs_no_further_operation() -> None:
    it = await scene("c1", "c2")
    steps: list[str] = []

    async def noted(step: str) -> None:
        steps.append(step)

    it.world.queue.before = noted
    assert await it.idle() == "c1"
    first, steps = steps.copy(), []

    assert await it.idle() == "c1"

    assert it.entry("c1").unanswered == 1
    assert steps == first


@given(
    can_answer=st.lists(st.booleans(), min_size=1, max_size=5),
    beside=st.sampled_from(LENGTHS),
    waits=st.lists(st.integers(1, 8), min_size=1, max_size=6),
)
@settings(max_examples=30, deadline=None)
def test_all_that_can_be_answered_is_within_so_many_idles(
    can_answer: Sequence[bool], beside: int, waits: Sequence[int]
) -> None:
    """`waits`: minutes between the Idles, over and over."""
    asyncio.run(_serve(list(can_answer), beside, list(waits)))


async def _serve(can_answer: list[bool], beside: int, waits: list[int]) -> None:
    it = await scene(*(f"c{number}" for number in range(len(can_answer))), beside=beside)
    bad = {f"c{number}" for number, can in enumerate(can_answer) if not can}
    # One that cannot be answered takes three attempts and ten minutes, whichever is longer.
    offered = [
        await _one_idle(it, bad, timedelta(minutes=waits[exchange % len(waits)]))
        for exchange in range(len(bad) * (3 + 10) + 1)
    ]

    still_open = {p.command_uuid for p in it.world.queue.entries.values() if p.state.is_open}
    assert still_open == bad | {f"u{number}" for number in range(beside)}
    assert it.moved_back == len(bad)
    assert set(offered[len(offered) - len(bad) :]) >= bad, "each has its turn"


async def _one_idle(it: Scene, bad: set[str], wait: timedelta) -> str | None:
    """The device answers what it can; the command that it dies of."""
    uuid = await it.idle()
    while uuid is not None and uuid not in bad:
        uuid = await it.answers(uuid)
    it.world.clock.advance(wait)
    return uuid
