"""What a device request promises: rules 1 to 5 as check-in keeps them (docs/rules.md)."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.exchange import DeviceExchange
from shared.apple.messages.checkin import (
    GetBootstrapToken,
    SetBootstrapToken,
    Unsupported,
    UserAuthenticate,
)
from shared.apple.messages.connect import Status
from shared.domain.command import EntryState
from shared.domain.enrollment import EnrollmentStatus
from shared.domain.errors import Blocked, OfNewerVersion, Overtaken, StoreUnavailable
from shared.domain.event import Topic
from shared.domain.versions import known
from tests.support.checkin_world import Barrier, Device, Killed, Step, World


def topics(world: World) -> list[Topic]:
    return [event.topic for event in world.publisher.published]


# --- rule 1: the order of steps


async def test_rule_01_what_is_refused_leaves_nothing_behind() -> None:
    world = World()
    replica = await world.replica()

    [answer] = await replica.serve(Device().idle())

    assert isinstance(answer, DeviceRefused)
    assert not world.journal.events
    assert not world.enrollments.records


@pytest.mark.parametrize("step", list(Step))
async def test_rule_01_a_kill_between_any_two_steps_is_repaired_by_the_device(step: Step) -> None:
    world = World()
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    await world.enqueue(device.key, "c1")
    first.kill(step)
    with pytest.raises(Killed):
        await first.serve(device.idle())

    [answer] = await second.serve(device.idle())
    [after] = await second.serve(device.reports(Status.ACKNOWLEDGED, "c1"))

    assert answer == Answer(b"plist-c1")
    assert after == Answer()
    assert [p.state for p in world.queue.entries.values()] == [EntryState.ACKNOWLEDGED]


@pytest.mark.parametrize("step", list(Step))
async def test_rule_01_a_kill_during_authenticate_is_repaired_by_the_device(step: Step) -> None:
    world = World()
    first, second = await world.replica(), await world.replica()
    device = Device()
    first.kill(step)
    with pytest.raises(Killed):
        await first.serve(device.authenticate())

    await device.enroll(second)

    assert world.enrollments.records["MAC"].status is EnrollmentStatus.ENROLLED


async def test_rule_01_an_authenticate_whose_device_is_gone_changes_nothing() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    before = world.enrollments.records["MAC"]
    device.is_connected = False

    [answer] = await replica.serve(device.authenticate())

    assert isinstance(answer, Overtaken)
    assert world.enrollments.records["MAC"] == before


async def test_rule_01_a_request_that_its_device_gave_up_does_not_undo_its_repetition() -> None:
    world = World()
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    held = first.hold(Step.JOURNALED)
    zombie = asyncio.create_task(first.serve(device.authenticate()))
    await held.reached.wait()
    assert await second.serve(device.authenticate()) == [Answer()]
    generation = world.enrollments.records["MAC"].generation
    await world.enqueue(device.key, "after")

    held.released.set()
    [answer] = await zombie

    assert isinstance(answer, Overtaken)
    assert world.enrollments.records["MAC"].generation == generation
    assert world.queue.entries[next(iter(world.queue.entries))].state is EntryState.QUEUED


async def test_rule_01_a_late_token_update_of_the_enrollment_before_changes_nothing() -> None:
    world = World()
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    held = first.hold(Step.JOURNALED)
    zombie = asyncio.create_task(first.serve(device.token_update(token=b"old")))
    await held.reached.wait()
    await device.enroll(second)

    held.released.set()
    [answer] = await zombie

    assert isinstance(answer, Overtaken)
    push = world.enrollments.records["MAC"].push
    assert push is not None
    assert push.token == b"t"


@pytest.mark.parametrize("kind", ["push token", "push token of a user", "bootstrap token"])
async def test_rule_01_a_late_token_does_not_undo_the_one_that_its_device_sent_after_it(
    kind: str,
) -> None:
    world = World()
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    await first.serve(device.token_update(device.user("anna")))

    def brings(token: bytes) -> DeviceExchange:
        if kind == "bootstrap token":
            return device.says(SetBootstrapToken(device.key, token))
        key = device.user("anna") if kind == "push token of a user" else device.key
        return device.token_update(key, token)

    held = first.hold(Step.AUTHORIZED)
    late = asyncio.create_task(first.serve(brings(b"old")))
    await held.reached.wait()
    [answer] = await second.serve(brings(b"new"))
    held.released.set()
    [overtaken] = await late

    assert answer == Answer()
    assert isinstance(overtaken, Overtaken)
    record = world.enrollments.records[brings(b"").message.key.id]
    tokens = [record.bootstrap_token, record.push.token if record.push else None]
    assert b"new" in tokens
    assert b"old" not in tokens


async def test_rule_01_a_journal_that_does_not_answer_means_no_200() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)

    async def fail(operation: str) -> None:
        if operation == "append":
            raise StoreUnavailable("cut")

    world.journal.before = fail
    with pytest.raises(StoreUnavailable):
        await replica.serve(device.idle())


# --- rule 2: batches


async def test_rule_02_a_refused_request_does_not_fail_its_neighbours() -> None:
    world = World()
    replica = await world.replica()
    good, thief, stranger = Device("A", "cert-a"), Device("B", "cert-a"), Device("C", "cert-c")
    await good.enroll(replica)

    answers = await replica.serve(good.idle(), thief.authenticate(), stranger.authenticate())

    assert answers[0] == Answer()
    assert isinstance(answers[1], DeviceRefused)
    assert answers[2] == Answer()


async def test_rule_02_of_two_devices_with_one_certificate_in_a_batch_one_wins() -> None:
    world = World()
    replica = await world.replica()
    one, other = Device("A", "same"), Device("B", "same")

    answers = await replica.serve(one.authenticate(), other.authenticate())

    assert sorted(isinstance(answer, Answer) for answer in answers) == [False, True]
    holders = await world.enrollments.holders({"same"})
    assert len(holders) == 1


# --- rule 3: a bulk write gives one sum


async def test_rule_03_a_command_cancelled_beside_its_hand_out_is_not_sent() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enqueue(device.key, "c1")

    async def cancel_first(operation: str) -> None:
        if operation == "mark_sent":
            world.queue.before = undisturbed
            await world.queue.cancel([device.key])

    undisturbed = world.queue.before
    world.queue.before = cancel_first
    [answer] = await replica.serve(device.idle())

    assert answer == Answer()
    assert [p.state for p in world.queue.entries.values()] == [EntryState.CANCELLED]


async def test_a_command_whose_time_ends_while_its_request_is_journaled_is_not_sent() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enqueue(device.key, "c1")
    await world.enqueue(device.key, "c2")
    [first] = [entry for entry in world.queue.entries.values() if entry.command_uuid == "c1"]
    over = world.clock.now() + timedelta(seconds=1)
    world.queue.entries[first.id] = replace(first, expires_at=over)
    held = replica.hold(Step.JOURNALED)
    serving = asyncio.create_task(replica.serve(device.idle()))
    await held.reached.wait()

    world.clock.advance(timedelta(seconds=2))
    held.released.set()
    [answer] = await serving

    assert isinstance(answer, Answer) and b"c2" in answer.body
    assert world.queue.entries[first.id].handed_by is None


@pytest.mark.parametrize("count", [2, 20])
async def test_rule_05_a_replica_whose_clock_is_behind_sends_what_is_not_over(count: int) -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    for number in range(count):
        await world.enqueue(device.key, f"c{number}")
    over = world.clock.now() + timedelta(seconds=1)
    entries = sorted(world.queue.entries.values(), key=lambda entry: entry.order)
    for entry in entries[:-1][:2]:
        world.queue.entries[entry.id] = replace(entry, expires_at=over)
    world.queue.now = over

    [answer] = await replica.serve(device.idle())

    following = entries[min(2, count - 1)].command_uuid
    assert isinstance(answer, Answer) and following.encode() in answer.body


async def test_rule_03_beside_a_cancel_the_neighbours_get_their_commands() -> None:
    world = World()
    replica = await world.replica()
    one, other = Device("A", "cert-a"), Device("B", "cert-b")
    for device in (one, other):
        await device.enroll(replica)
        await world.enqueue(device.key, f"c-{device.udid}")

    async def cancel_first(operation: str) -> None:
        if operation == "mark_sent":
            world.queue.before = undisturbed
            await world.queue.cancel([one.key])

    undisturbed = world.queue.before
    world.queue.before = cancel_first

    assert await replica.serve(one.idle(), other.idle()) == [Answer(), Answer(b"plist-c-B")]


# --- rule 4: generations


async def test_rule_04_authenticate_ends_the_commands_of_the_generation_it_replaces() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await replica.serve(device.token_update(device.user("anna")))
    await world.enqueue(device.key, "of-device")
    await world.enqueue(device.user("anna"), "of-user")

    await device.enroll(replica)

    states = {entry.state for entry in world.queue.entries.values()}
    assert states == {EntryState.DROPPED_REENROLLED}
    assert await replica.serve(device.idle()) == [Answer()]


async def test_rule_04_a_command_of_another_generation_is_never_handed_out() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enqueue(device.key, "stale", generation="an-earlier-one")

    assert await replica.serve(device.idle()) == [Answer()]


async def test_rule_04_check_out_leaves_the_queue_and_ends_user_channels() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await replica.serve(device.token_update(device.user("anna")))
    await world.enqueue(device.key, "c1")

    await replica.serve(device.check_out())

    assert world.enrollments.records["MAC:anna"].status is EnrollmentStatus.CHECKED_OUT
    assert await replica.serve(device.idle()) == [Answer(b"plist-c1")]


async def test_a_command_queued_before_the_device_was_known_is_delivered() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await world.enqueue(device.key, "early")

    await device.enroll(replica)

    assert await replica.serve(device.idle()) == [Answer(b"plist-early")]


# --- rule 5: final states are written once


async def test_rule_05_a_second_report_is_an_event_and_changes_nothing() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    entry = await world.enqueue(device.key, "c1")
    await replica.serve(device.idle())
    await replica.serve(device.reports(Status.ACKNOWLEDGED, "c1"))
    events = len(world.publisher.published)

    [answer] = await replica.serve(device.reports(Status.ERROR, "c1"))

    assert answer == Answer()
    assert world.queue.entries[entry.id].state is EntryState.ACKNOWLEDGED
    late = world.queue.entries[entry.id].late_answer
    assert late is not None and late.state is EntryState.ERROR
    assert len(world.publisher.published) == events + 1


async def test_rule_05_a_report_does_not_close_what_was_not_handed_out() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    entry = await world.enqueue(device.key, "c1")

    [answer] = await replica.serve(device.reports(Status.ACKNOWLEDGED, "c1"))

    assert answer == Answer(b"plist-c1")
    assert world.queue.entries[entry.id].state is EntryState.SENT


async def test_rule_05_not_now_rests_until_the_next_idle() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    for uuid in ("c1", "c2"):
        await world.enqueue(device.key, uuid)

    got = []
    for request in (
        device.idle(),
        device.reports(Status.NOT_NOW, "c1"),
        device.reports(Status.ACKNOWLEDGED, "c2"),
        device.idle(),
    ):
        [answer] = await replica.serve(request)
        assert isinstance(answer, Answer)
        got.append(answer.body)

    assert got == [b"plist-c1", b"plist-c2", b"", b"plist-c1"]


async def test_commands_are_counted_when_handed_out_and_when_finished() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enqueue(device.key, "c1")

    for request in (
        device.idle(),
        device.reports(Status.NOT_NOW, "c1"),
        device.idle(),
        device.reports(Status.ACKNOWLEDGED, "c1"),
        device.reports(Status.ACKNOWLEDGED, "c1"),
    ):
        await replica.serve(request)

    read = replica.metrics.registry.get_sample_value
    assert read("macromdm_commands_handed_out_total") == 2
    assert read("macromdm_commands_finished_total") == 1


async def test_connecting_again_before_answering_gives_the_same_command() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    for uuid in ("c1", "c2"):
        await world.enqueue(device.key, uuid)

    answers = [await replica.serve(device.idle()) for _ in range(3)]

    assert answers == [[Answer(b"plist-c1")]] * 3


async def test_two_requests_at_once_for_one_device_lose_no_command() -> None:
    world = World()
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    for uuid in ("c1", "c2"):
        await world.enqueue(device.key, uuid)

    await asyncio.gather(first.serve(device.idle()), second.serve(device.idle()))
    got = [(await first.serve(device.reports(Status.ACKNOWLEDGED, "c1")))[0]]
    got.append((await first.serve(device.reports(Status.ACKNOWLEDGED, "c2")))[0])

    assert got == [Answer(b"plist-c2"), Answer()]


async def test_a_user_channel_gets_its_own_commands_only() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    anna = device.user("anna")
    await replica.serve(device.token_update(anna))
    await world.enqueue(anna, "for-anna")

    assert await replica.serve(device.idle()) == [Answer()]
    assert await replica.serve(device.idle(anna)) == [Answer(b"plist-for-anna")]


# --- certificates


async def test_another_devices_certificate_is_refused_and_nothing_changes() -> None:
    world = World()
    replica = await world.replica()
    victim, thief = Device("A", "cert-a"), Device("B", "cert-b")
    await victim.enroll(replica)
    await thief.enroll(replica)
    await world.enqueue(victim.key, "secret")
    events = len(world.journal.events)
    thief.udid = "A"

    answers = [
        (await replica.serve(request))[0]
        for request in (thief.idle(), thief.authenticate(), thief.token_update(), thief.check_out())
    ]

    assert all(isinstance(answer, DeviceRefused) for answer in answers)
    assert len(world.journal.events) == events
    assert world.enrollments.records["A"].certificate == "cert-a"


async def test_a_new_certificate_rebinds_by_authenticate_and_the_old_one_is_not_heard() -> None:
    world = World()
    replica = await world.replica()
    before, after = Device("A", "old"), Device("A", "new")
    await before.enroll(replica)

    await after.enroll(replica)

    refused = [
        (await replica.serve(request))[0] for request in (before.idle(), before.authenticate())
    ]
    assert all(isinstance(answer, DeviceRefused) for answer in refused)
    assert world.enrollments.records["A"].certificate == "new"


# --- the other messages


async def test_a_blocked_device_is_refused_at_connect_only() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enrollments.block("MAC", True)

    [connect] = await replica.serve(device.idle())
    [checkin] = await replica.serve(device.token_update())

    assert isinstance(connect, Blocked)
    assert checkin == Answer()
    assert topics(world)[-1] is Topic.TOKEN_UPDATE


async def test_a_removed_device_that_speaks_again_is_known_again() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enrollments.remove(["MAC"], "removal")

    assert await replica.serve(device.idle()) == [Answer()]

    assert world.enrollments.records["MAC"].status is EnrollmentStatus.ENROLLED


async def test_a_removed_user_channel_that_speaks_again_is_known_again() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    anna = device.user("anna")
    await device.enroll(replica)
    await replica.serve(device.token_update(anna))
    await world.enrollments.remove(["MAC"], "removal")

    assert await replica.serve(device.idle(anna)) == [Answer()]

    for enrollment in ("MAC", "MAC:anna"):
        assert world.enrollments.records[enrollment].status is EnrollmentStatus.ENROLLED


async def test_rule_01_a_late_rebinding_does_not_undo_an_answered_enrollment() -> None:
    world = World()
    first, second = await world.replica(), await world.replica()
    await Device("A", "one").enroll(first)
    reading = Barrier()

    async def hold_binding(operation: str) -> None:
        if operation == "bind":
            world.enrollments.before = undisturbed
            await reading.wait()

    undisturbed, world.enrollments.before = world.enrollments.before, hold_binding
    zombie = asyncio.create_task(first.serve(Device("A", "two").authenticate()))
    await reading.reached.wait()
    await Device("A", "three").enroll(second)
    reading.released.set()
    [answer] = await zombie

    assert isinstance(answer, Overtaken)
    assert await second.serve(Device("A", "three").idle()) == [Answer()]


async def test_a_command_that_is_missing_does_not_hold_up_the_next() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    for uuid in ("lost", "c2"):
        await world.enqueue(device.key, uuid)
    await world.queue.forget({"hash-lost": world.clock.now()})

    assert await replica.serve(device.idle()) == [Answer(b"plist-c2")]


async def test_a_push_is_requested_for_a_device_that_can_be_pushed_now() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await replica.serve(device.authenticate())
    before = list(world.push_requests.requested)

    await replica.serve(device.token_update())

    assert before == []
    assert world.push_requests.requested == [{"MAC"}]


async def test_bootstrap_token_is_kept_and_given_back() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)

    [empty] = await replica.serve(device.says(GetBootstrapToken(device.key)))
    await replica.serve(device.says(SetBootstrapToken(device.key, b"boot")))
    [full] = await replica.serve(device.says(GetBootstrapToken(device.key)))

    assert isinstance(empty, Answer)
    assert isinstance(full, Answer)
    assert b"<data>" in empty.body
    assert b"Ym9vdA==" in full.body


async def test_user_authenticate_is_gone_and_makes_no_event() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    events = len(world.journal.events)

    answers = await replica.serve(device.says(UserAuthenticate(device.user("anna"))))
    refused = await replica.serve(device.says(Unsupported(device.key, "GetToken")))

    assert answers == [Answer(status=410)]
    assert isinstance(refused[0], DeviceRefused)
    assert len(world.journal.events) == events


async def test_a_record_in_a_status_of_a_newer_version_refuses_its_own_device_alone() -> None:
    world = World()
    replica = await world.replica()
    ahead, other = Device(), Device("PAD", "certificate-2")
    for device in (ahead, other):
        await device.enroll(replica)
    record = world.enrollments.records["MAC"]
    world.enrollments.records["MAC"] = replace(record, status=known(EnrollmentStatus, "paused"))
    events = len(world.journal.events)

    refused, served = await replica.serve(ahead.idle(), other.idle())

    assert isinstance(refused, OfNewerVersion)
    assert served == Answer()
    assert len(world.journal.events) == events + 1
    assert world.enrollments.records["MAC"].status == "paused"


async def test_an_entry_in_a_state_of_a_newer_version_does_not_hold_up_those_behind_it() -> None:
    world = World()
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    first = await world.enqueue(device.key, "c1")
    await world.enqueue(device.key, "c2")
    ahead = replace(first, state=known(EntryState, "held"))
    world.queue.entries[first.id] = ahead

    [answer] = await replica.serve(device.idle())

    assert answer == Answer(b"plist-c2")
    assert world.queue.entries[first.id] == ahead
