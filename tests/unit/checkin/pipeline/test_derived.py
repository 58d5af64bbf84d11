"""Events that follow from the messages of devices: docs/rules.md, rules 1, 6 and 8, as they hold for them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.exchange import DeviceExchange
from services.checkin.journal.outbox import KEPT_FOR, Outbox
from services.checkin.journal.takeover import STALE_AFTER
from services.checkin.pipeline.batch import FOLLOWING_WITHIN
from services.checkin.pipeline.derived import LARGEST_ANSWER, LARGEST_READ
from shared.apple.messages.checkin import CheckOut
from shared.apple.messages.connect import Status
from shared.domain.enrollment import EnrollmentStatus
from shared.domain.errors import Overtaken, StoreUnavailable
from shared.domain.event import Event, Topic, derived_id, milliseconds_of
from shared.domain.outbox import removed_by_client
from shared.domain.subscription import Subscription, SubscriptionState
from shared.messaging.envelope import event_json
from shared.ports.enrollments import Mark
from shared.ports.events import Appended
from tests.support.checkin_world import Device, Killed, Replica, Step, World
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.journal import MOST_BYTES, Confirm

OURS = "macromdm.*"
End = Callable[[World, Replica, Device], Awaitable[None]]


def asking(*topics: str) -> World:
    world = World()
    world.subscriptions.stored["1"] = Subscription(
        "1", "https://x.example/", topics=frozenset(topics)
    )
    return world


def plist(text: str) -> bytes:
    return f"<plist><dict><key>Text</key><string>{text}</string></dict></plist>".encode()


def facts(event: Event) -> dict[str, Any]:
    return dict(orjson.loads(event.raw_payload))


def published(world: World, *topics: Topic) -> list[Event]:
    """First publications, in their order."""
    firsts = {event.id: event for event in reversed(world.publisher.published)}
    order = list(dict.fromkeys(event.id for event in world.publisher.published))
    return [firsts[id_] for id_ in order if firsts[id_].topic in topics]


async def take_over(world: World, replica: Replica) -> None:
    """All other processes are dead: what they left is published."""
    await replica.takeover.look(replica.writer.id)
    world.clock.advance(STALE_AFTER + timedelta(seconds=1))
    await replica.takeover.look(replica.writer.id)
    await replica.relay_all()
    await replica.outbox.look()
    world.clock.advance(KEPT_FOR)
    await replica.outbox.look()


async def work(world: World, replica: Replica, *, seconds: int) -> None:
    """What the loops of a replica do in that time."""
    for second in range(seconds):
        await replica.share.refresh()
        if second % 2 == 0:
            await replica.outbox.look()
        if second % 3 == 0:
            await replica.takeover.look(replica.writer.id)
        await replica.relay.relay_waiting()
        world.clock.advance(timedelta(seconds=1))


async def killed_in_check_out(world: World, device: Device) -> None:
    """The replica that enrolled the device dies when the CheckOut is applied."""
    replica = await world.replica()
    await device.enroll(replica)
    replica.kill(Step.APPLIED)
    with pytest.raises(Killed):
        await replica.serve(device.check_out())


async def removed(world: World) -> str:
    """A client removes the device a second later; returns the id of the event."""
    world.clock.advance(timedelta(seconds=1))
    event = removed_by_client(world.ids.new(), world.clock.time_ns())
    await world.enrollments.remove(["MAC"], "removal", {"MAC": event})
    return event.id


async def answered(world: World, replica: Replica, device: Device) -> DeviceExchange:
    """The device has got command c1, and reports on it."""
    await world.enqueue(device.key, "c1")
    assert await replica.serve(device.idle()) == [Answer(b"plist-c1")]
    return replace(device.reports(Status.ACKNOWLEDGED, "c1"), body=plist("yes"))


# --- nobody asks


async def test_without_a_subscriber_nothing_is_made_or_read() -> None:
    world = asking("mdm.*")
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    reads: list[str] = []

    async def note(operation: str) -> None:
        reads.append(operation)

    world.queue.before = note
    await replica.serve(report)

    assert not [event for event in world.journal.events.values() if event.topic.startswith("mac")]
    assert "entries_of" not in reads


async def test_only_what_is_asked_for_is_made() -> None:
    world = asking("mdm.*", Topic.COMMAND_SENT)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await replica.serve(await answered(world, replica, device))

    topics = {event.topic for event in world.journal.events.values()}
    assert {topic for topic in topics if topic.startswith("mac")} == {Topic.COMMAND_SENT}


async def test_for_a_subscriber_that_is_paused_events_are_made_all_the_same() -> None:
    world = asking(OURS)
    asks = world.subscriptions.stored["1"]
    world.subscriptions.stored["1"] = replace(asks, state=SubscriptionState.PAUSED)
    replica = await world.replica()

    await Device().enroll(replica)

    assert published(world, Topic.DEVICE_ENROLLED)


async def test_a_new_subscriber_is_known_after_the_next_read() -> None:
    world = asking("mdm.*")
    replica = await world.replica()
    world.subscriptions.stored["2"] = Subscription("2", "https://y.example/", frozenset({OURS}))

    await replica.wanted.refresh()
    await Device().enroll(replica)

    assert published(world, Topic.DEVICE_ENROLLED)


# --- commands


@pytest.mark.parametrize(
    ("status", "topic", "state"),
    [
        (Status.ACKNOWLEDGED, Topic.COMMAND_ACKNOWLEDGED, "acknowledged"),
        (Status.ERROR, Topic.COMMAND_FAILED, "error"),
        (Status.COMMAND_FORMAT_ERROR, Topic.COMMAND_FAILED, "format_error"),
        (Status.NOT_NOW, Topic.COMMAND_NOT_NOW, "not_now"),
    ],
)
async def test_an_answer_is_told_behind_its_message(
    status: Status, topic: Topic, state: str
) -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await answered(world, replica, device)

    await replica.serve(replace(device.reports(status, "c1"), body=plist("yes")))

    *_, cause, event = world.publisher.published
    assert (cause.topic, event.topic) == (Topic.CONNECT, topic)
    assert event.created_at > cause.created_at
    assert orjson.loads(event_json(event))["command_event"] == {
        "udid": "MAC",
        "command_uuid": "c1",
        "version": 1,
        "request_type": "DeviceInformation",
        "state": state,
        "status": status.value,
        "answer": {"Text": "yes"},
        "answer_url": None,
    }


async def test_behind_the_mark_of_a_clock_that_is_ahead_answer_and_send_keep_their_order() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    await world.enqueue(device.key, "c2")
    await world.enrollments.mark_waiting([Mark("MAC", world.clock.time_ns() + 10**12)])
    before = len(world.publisher.published)

    await replica.serve(report)
    await replica.relay_all()

    events = world.publisher.published[before:]
    assert [event.topic for event in events] == [
        Topic.CONNECT,
        Topic.COMMAND_ACKNOWLEDGED,
        Topic.COMMAND_SENT,
    ]
    assert len({event.created_at for event in events}) == 3


async def test_a_command_is_told_each_time_it_is_sent() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enqueue(device.key, "c1")

    await replica.serve(device.idle())
    await replica.serve(device.idle())

    first, second = published(world, Topic.COMMAND_SENT)
    assert [facts(each)["attempt"] for each in (first, second)] == [1, 2]
    assert first.id != second.id
    assert first.command_uuid == "c1"


async def test_an_answer_and_the_next_command_come_in_order() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    await world.enqueue(device.key, "c2")

    await replica.serve(report)

    last = world.publisher.published[-3:]
    assert [event.topic for event in last] == [
        Topic.CONNECT,
        Topic.COMMAND_ACKNOWLEDGED,
        Topic.COMMAND_SENT,
    ]
    assert sorted(last, key=lambda event: event.created_at) == last


async def test_commands_that_are_sent_together_have_events_of_their_own() -> None:
    world = asking(OURS)
    replica = await world.replica()
    mac, pad = Device(), Device("PAD", "certificate-2")
    for device in (mac, pad):
        await device.enroll(replica)
        await world.enqueue(device.key, "c1")

    await replica.serve(mac.idle(), pad.idle())

    first, second = published(world, Topic.COMMAND_SENT)
    assert {first.key, second.key} == {mac.key, pad.key}


async def test_a_command_that_is_sent_and_whose_device_gets_503_is_not_told() -> None:
    world = asking(OURS)
    replica = await world.replica()
    mac, pad = Device(), Device("PAD", "certificate-2")
    await mac.enroll(replica)
    await replica.serve(pad.authenticate())
    await world.enqueue(mac.key, "c1")
    undisturbed = world.enrollments.before

    async def away(operation: str) -> None:
        if operation == "apply":
            raise StoreUnavailable("away")

    world.enrollments.before = away
    answers = await replica.serve(mac.idle(), pad.token_update())
    world.enrollments.before = undisturbed

    assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
    assert not [e for e in world.journal.events.values() if e.topic is Topic.COMMAND_SENT]
    await replica.serve(mac.idle())
    [event] = published(world, Topic.COMMAND_SENT)
    assert facts(event)["attempt"] == 2


async def test_a_command_is_told_each_time_that_it_was_put_off_and_when_it_is_done() -> None:
    """The clock stands still: nothing but the send and the topic tells the events apart."""
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enqueue(device.key, "c1")

    for _ in range(2):
        assert await replica.serve(device.idle()) == [Answer(b"plist-c1")]
        await replica.serve(device.reports(Status.NOT_NOW, "c1"))
        await replica.serve(device.reports(Status.NOT_NOW, "c1"))
    await replica.serve(device.reports(Status.ACKNOWLEDGED, "c1"))

    told = published(world, Topic.COMMAND_NOT_NOW, Topic.COMMAND_ACKNOWLEDGED)
    assert [event.topic for event in told] == [
        Topic.COMMAND_NOT_NOW,
        Topic.COMMAND_NOT_NOW,
        Topic.COMMAND_ACKNOWLEDGED,
    ]


async def test_what_the_device_did_not_get_is_not_told() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enqueue(device.key, "c1")

    await replica.serve(device.reports(Status.ACKNOWLEDGED, "c1"))
    await replica.serve(device.reports(Status.ACKNOWLEDGED, "unknown"))

    assert not published(world, Topic.COMMAND_ACKNOWLEDGED)


async def test_an_answer_to_a_command_of_the_enrollment_before_is_not_told() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    await device.enroll(replica)

    await replica.serve(report)

    assert not published(world, Topic.COMMAND_ACKNOWLEDGED)


async def test_an_answer_after_the_end_says_how_it_ended() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    await world.queue.cancel([device.key])

    await replica.serve(report)
    await replica.serve(report)

    [event] = published(world, Topic.COMMAND_ACKNOWLEDGED)
    assert (facts(event)["state"], facts(event)["status"]) == ("cancelled", "Acknowledged")
    assert world.publisher.published.count(event) == 1


async def test_a_repeated_answer_is_not_told_again() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)

    await replica.serve(report)
    await replica.serve(report)

    events = [e for e in world.publisher.published if e.topic is Topic.COMMAND_ACKNOWLEDGED]
    assert len(events) == 1


async def test_a_command_that_is_queued_again_has_another_event() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await replica.serve(await answered(world, replica, device))
    world.queue.entries.clear()

    await replica.serve(await answered(world, replica, device))

    assert len(published(world, Topic.COMMAND_ACKNOWLEDGED)) == 2


@pytest.mark.parametrize(
    "body",
    [
        plist("x" * (LARGEST_ANSWER + 1)),
        plist("<" * 5),
        plist("x" * 70_000).replace(b"<dict>", b"<dict>" + b" " * LARGEST_READ),
        b"no plist",
    ],
    ids=["large", "broken", "long", "none"],
)
async def test_what_cannot_be_shown_in_an_event_has_a_link(body: bytes) -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await answered(world, replica, device)

    await replica.serve(replace(device.reports(Status.ACKNOWLEDGED, "c1"), body=body))

    [event] = published(world, Topic.COMMAND_ACKNOWLEDGED)
    assert facts(event)["answer"] is None
    assert facts(event)["answer_url"] == "/v1/commands/MAC/c1"


async def test_an_answer_that_just_fits_is_there() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await answered(world, replica, device)
    text = "x" * (LARGEST_ANSWER - len('{"Text":""}'))

    await replica.serve(replace(device.reports(Status.ACKNOWLEDGED, "c1"), body=plist(text)))

    [event] = published(world, Topic.COMMAND_ACKNOWLEDGED)
    assert facts(event)["answer"] == {"Text": text}


# --- enrollments


async def test_an_enrollment_is_told_once_by_its_first_token_update() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()

    await device.enroll(replica)
    await replica.serve(device.token_update(token=b"other"))
    await replica.serve(device.token_update(device.user("anna")))

    [event] = published(world, Topic.DEVICE_ENROLLED)
    assert orjson.loads(event_json(event))["device_event"] == {
        "udid": "MAC",
        "version": 1,
        "serial_number": "S-MAC",
        "model": None,
        "os_version": None,
    }
    assert not published(world, Topic.DEVICE_REENROLLED)
    assert world.enrollments.records["MAC"].waiting.count == 0, "it is not made again"


async def test_a_device_that_enrolls_again_is_told_as_such() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)

    await device.enroll(replica)
    await device.enroll(replica)

    enrolled, *again = published(world, Topic.DEVICE_ENROLLED, Topic.DEVICE_REENROLLED)
    assert enrolled.topic is Topic.DEVICE_ENROLLED
    assert [event.topic for event in again] == [Topic.DEVICE_REENROLLED] * 2
    assert len({event.id for event in (enrolled, *again)}) == 3


async def test_an_authenticate_that_was_repeated_is_no_earlier_enrollment() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await replica.serve(device.authenticate())

    await device.enroll(replica)

    assert published(world, Topic.DEVICE_ENROLLED)
    assert not published(world, Topic.DEVICE_REENROLLED)


async def test_an_enrollment_after_an_unfinished_one_remembers_the_first() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await replica.serve(device.authenticate())

    await device.enroll(replica)

    assert published(world, Topic.DEVICE_REENROLLED)


async def test_a_device_that_checks_out_is_told_once() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)

    await replica.serve(device.check_out())
    await replica.serve(device.check_out())

    [event] = published(world, Topic.DEVICE_REMOVED)
    assert facts(event) == {"version": 1, "reason": "check_out"}


@pytest.mark.parametrize("is_idle", [False, True])
async def test_an_enrollment_is_told_though_a_client_removed_the_device_meanwhile(
    is_idle: bool,
) -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await replica.serve(device.authenticate())
    await world.enrollments.remove(["MAC"], "removal")
    if is_idle:
        await replica.serve(device.idle())

    await replica.serve(device.token_update())

    assert published(world, Topic.DEVICE_ENROLLED)
    assert world.enrollments.records["MAC"].status is EnrollmentStatus.ENROLLED


async def test_a_device_that_comes_back_after_its_removal_has_not_enrolled_again() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enrollments.remove(["MAC"], "removal")

    await replica.serve(device.idle())
    await replica.serve(device.token_update(token=b"other"))

    assert len(published(world, Topic.DEVICE_ENROLLED, Topic.DEVICE_REENROLLED)) == 1


async def leaves(world: World, replica: Replica, device: Device) -> None:
    await replica.serve(device.check_out())


async def is_removed(world: World, replica: Replica, device: Device) -> None:
    await world.enrollments.remove(["MAC"], "removal")


async def is_removed_and_idle(world: World, replica: Replica, device: Device) -> None:
    await world.enrollments.remove(["MAC"], "removal")
    await replica.serve(device.idle())


@pytest.mark.parametrize("end", [leaves, is_removed, is_removed_and_idle])
async def test_an_enrollment_that_was_never_finished_is_no_earlier_one(end: End) -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await replica.serve(device.authenticate())
    await end(world, replica, device)

    await device.enroll(replica)

    assert published(world, Topic.DEVICE_ENROLLED)
    assert not published(world, Topic.DEVICE_REENROLLED)


@pytest.mark.parametrize("end", [leaves, is_removed, is_removed_and_idle])
async def test_an_enrollment_that_was_finished_is_an_earlier_one_however_it_ended(end: End) -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await end(world, replica, device)

    await device.enroll(replica)

    assert published(world, Topic.DEVICE_REENROLLED)


async def test_user_channels_make_no_events_about_their_device() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device, anna = Device(), Device().user("anna")
    await replica.serve(device.authenticate())

    await replica.serve(device.token_update(anna))
    await replica.serve(device.says(CheckOut(anna)))

    assert not [e for e in world.journal.events.values() if e.topic.startswith("macromdm.")]
    await replica.serve(device.token_update())
    assert [e.key for e in published(world, Topic.DEVICE_ENROLLED)] == [device.key]


async def test_rule_01_an_enrollment_that_did_not_come_to_be_is_not_told() -> None:
    """Another Authenticate is applied while the TokenUpdate of the one before is on its way."""
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    await first.serve(device.authenticate())
    held = first.hold(Step.JOURNALED)
    serving = asyncio.create_task(first.serve(device.token_update()))
    await held.reached.wait()
    await second.serve(device.authenticate())
    held.released.set()

    [answer] = await serving
    await take_over(world, second)

    assert isinstance(answer, Overtaken)
    assert not published(world, Topic.DEVICE_ENROLLED)
    await second.serve(device.token_update())
    assert len(published(world, Topic.DEVICE_ENROLLED)) == 1


async def test_rule_01_a_check_out_that_a_new_enrollment_overtook_is_not_told() -> None:
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    held = first.hold(Step.JOURNALED)
    serving = asyncio.create_task(first.serve(device.check_out()))
    await held.reached.wait()
    await device.enroll(second)
    held.released.set()

    await serving
    await take_over(world, second)

    assert Topic.CHECK_OUT in [event.topic for event in world.publisher.published]
    assert not published(world, Topic.DEVICE_REMOVED)


@pytest.mark.parametrize("step", [Step.JOURNALED, Step.APPLIED])
async def test_rule_01_a_check_out_that_comes_twice_is_told_once(step: Step) -> None:
    """Its device gives it up at one replica, and sends it to another."""
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    held = first.hold(step)
    serving = asyncio.create_task(first.serve(device.check_out()))
    await held.reached.wait()
    await second.serve(device.check_out())
    held.released.set()

    await serving
    await take_over(world, second)

    assert len(published(world, Topic.DEVICE_REMOVED)) == 1


async def test_the_event_of_an_enrollment_comes_behind_its_message_and_leaves_the_record() -> None:
    world = asking(OURS)
    replica = await world.replica()

    await Device().enroll(replica)

    *_, cause, event = world.publisher.published
    assert (cause.topic, event.topic) == (Topic.TOKEN_UPDATE, Topic.DEVICE_ENROLLED)
    assert event.created_at > cause.created_at
    assert await world.identities.outbox(range(32)) == []


async def test_what_could_not_leave_the_record_is_published_once_more_and_the_same() -> None:
    world = asking(OURS)
    replica = await world.replica()
    undisturbed = world.identities.before

    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    world.identities.before = away
    await Device().enroll(replica)
    world.identities.before = undisturbed
    await replica.share.refresh()
    await replica.outbox.look()
    before = world.publisher.published.count(published(world, Topic.DEVICE_ENROLLED)[0])
    world.clock.advance(KEPT_FOR)
    await replica.outbox.look()

    told = [e for e in world.publisher.published if e.topic is Topic.DEVICE_ENROLLED]
    assert (before, len(told)) == (1, 2)
    assert told[0] == told[1]
    assert await world.identities.outbox(range(32)) == []


@contextmanager
def not_journaling(world: World, topic: Topic) -> Iterator[None]:
    """The journal does not say whether it took what begins with an event of this topic."""
    append = world.journal.append

    async def all_but_it(events: Any) -> list[Appended]:
        return [Appended.UNKNOWN] if events[0].topic is topic else await append(events)

    world.journal.append = all_but_it  # type: ignore[method-assign]
    yield
    world.journal.append = append  # type: ignore[method-assign]


async def test_an_enrollment_whose_event_is_not_journaled_is_told_later() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await replica.serve(device.authenticate())
    with not_journaling(world, Topic.DEVICE_ENROLLED):
        [answer] = await replica.serve(device.token_update())
    await replica.serve(device.token_update())
    await take_over(world, replica)

    assert isinstance(answer, StoreUnavailable)
    assert len(published(world, Topic.DEVICE_ENROLLED)) == 1


# --- rules 1, 6 and 8


Message = Callable[[World, Replica, Device], Any]


async def _token_update(world: World, replica: Replica, device: Device) -> DeviceExchange:
    await replica.serve(device.authenticate())
    return device.token_update()


async def _report(world: World, replica: Replica, device: Device) -> DeviceExchange:
    await device.enroll(replica)
    return await answered(world, replica, device)


async def _not_now(world: World, replica: Replica, device: Device) -> DeviceExchange:
    await _report(world, replica, device)
    return device.reports(Status.NOT_NOW, "c1")


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize(
    ("message", "topic"),
    [
        (_token_update, Topic.DEVICE_ENROLLED),
        (_report, Topic.COMMAND_ACKNOWLEDGED),
        (_not_now, Topic.COMMAND_NOT_NOW),
    ],
)
async def test_rule_01_a_kill_between_any_two_steps_leaves_one_event_of_one_id(
    step: Step, message: Message, topic: Topic
) -> None:
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    request = await message(world, first, device)
    first.kill(step)
    with pytest.raises(Killed):
        await first.serve(request)
    world.clock.advance(timedelta(seconds=1))

    assert isinstance((await second.serve(request))[0], Answer)
    await take_over(world, second)

    events = [event for event in world.publisher.published if event.topic is topic]
    assert len({event.id for event in events}) == 1
    assert len({event_json(event) for event in events}) == 1
    assert {event_json(event) for event in events} == {
        event_json(world.journal.events[events[0].id])
    }


@pytest.mark.parametrize("step", list(Step))
async def test_rule_01_a_kill_during_a_check_out_leaves_its_event_if_it_was_applied(
    step: Step,
) -> None:
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    first.kill(step)
    with pytest.raises(Killed):
        await first.serve(device.check_out())

    await take_over(world, second)

    is_applied = world.enrollments.records["MAC"].status is EnrollmentStatus.CHECKED_OUT
    assert is_applied is (step not in (Step.AUTHORIZED, Step.JOURNALED))
    order = [event.topic for event in published(world, *Topic)]
    told = [Topic.CHECK_OUT, Topic.DEVICE_REMOVED]
    assert order[3:] == told[: 0 if step is Step.AUTHORIZED else 1 + is_applied]
    assert await world.identities.outbox(range(32)) == []


@pytest.mark.parametrize("step", list(Step))
async def test_rule_01_a_kill_leaves_no_command_that_was_sent_and_not_told(step: Step) -> None:
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    await world.enqueue(device.key, "c1")
    first.kill(step)
    with pytest.raises(Killed):
        await first.serve(device.idle())

    assert await second.serve(device.idle()) == [Answer(b"plist-c1")]
    await take_over(world, second)

    stored = {e.id for e in world.journal.events.values() if e.topic is Topic.COMMAND_SENT}
    assert stored == {event.id for event in published(world, Topic.COMMAND_SENT)}
    assert stored


@pytest.mark.parametrize("down", [20, 300])
async def test_rule_08_after_a_restart_the_end_of_an_enrollment_is_told_behind_its_check_out(
    down: int,
) -> None:
    world = asking(OURS)
    await killed_in_check_out(world, Device())
    world.clock.advance(timedelta(seconds=down))

    await work(world, await world.replica(), seconds=60)

    order = [event.topic for event in published(world, *Topic)]
    assert order[3:] == [Topic.CHECK_OUT, Topic.DEVICE_REMOVED]


async def test_rule_08_a_clock_that_is_ahead_tells_no_enrollment_before_its_token_update() -> None:
    world, device = asking(OURS), Device()
    replica = await world.replica()
    await replica.serve(device.authenticate())
    await replica.share.refresh()
    held = replica.hold(Step.APPLIED)
    serving = asyncio.create_task(replica.serve(device.token_update()))
    await held.reached.wait()
    ahead = FakeClock(world.clock.now() + KEPT_FOR + timedelta(seconds=1))
    stores = (world.identities, world.enrollments, world.journal)

    await Outbox(*stores, world.publisher, replica.share, ahead).look()
    held.released.set()
    await serving

    order = [event.topic for event in published(world, *Topic)]
    assert order[1:] == [Topic.TOKEN_UPDATE, Topic.DEVICE_ENROLLED]


async def test_rule_08_an_enrollment_is_told_behind_the_end_that_a_dead_process_left() -> None:
    world, device = asking(OURS), Device()
    replica = await world.replica()
    await killed_in_check_out(world, device)
    await work(world, replica, seconds=20)

    await device.enroll(replica)
    await work(world, replica, seconds=60)

    told = published(world, Topic.CHECK_OUT, Topic.DEVICE_REMOVED, Topic.DEVICE_REENROLLED)
    order = [event.topic for event in told]
    assert order == [Topic.CHECK_OUT, Topic.DEVICE_REMOVED, Topic.DEVICE_REENROLLED]
    assert await world.identities.outbox(range(32)) == []


async def test_rule_08_an_end_is_told_behind_the_enrollment_that_a_dead_process_left() -> None:
    world, device = asking(OURS), Device()
    first, second = await world.replica(), await world.replica()
    await first.serve(device.authenticate())
    first.kill(Step.APPLIED)
    with pytest.raises(Killed):
        await first.serve(device.token_update())

    await second.serve(device.check_out())
    await work(world, second, seconds=60)

    told = published(world, Topic.DEVICE_ENROLLED, Topic.DEVICE_REMOVED)
    assert [event.topic for event in told] == [Topic.DEVICE_ENROLLED, Topic.DEVICE_REMOVED]


async def test_rule_08_an_enrollment_is_told_behind_the_removal_by_a_client_before_it() -> None:
    world, device = asking(OURS), Device()
    replica = await world.replica()
    await device.enroll(replica)
    await removed(world)

    await device.enroll(replica)
    await work(world, replica, seconds=60)

    told = published(world, Topic.DEVICE_REMOVED, Topic.DEVICE_REENROLLED)
    assert [event.topic for event in told] == [Topic.DEVICE_REMOVED, Topic.DEVICE_REENROLLED]


async def test_rule_08_a_removal_by_a_client_is_told_behind_what_a_dead_process_left() -> None:
    world = asking(OURS)
    replica = await world.replica()
    await killed_in_check_out(world, Device())
    id_ = await removed(world)

    await work(world, replica, seconds=60)

    check_out, end, removal = published(world, Topic.CHECK_OUT, Topic.DEVICE_REMOVED)
    assert (check_out.topic, removal.id) == (Topic.CHECK_OUT, id_)
    assert facts(end)["reason"] == "check_out"


async def test_rule_08_without_a_confirm_all_of_a_message_waits_in_its_order() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    await world.enqueue(device.key, "c2")
    world.publisher.outcome = lambda event: (
        Confirm.LOST if event.topic is Topic.COMMAND_ACKNOWLEDGED else Confirm.CONFIRMED
    )

    assert await replica.serve(report) == [Answer(b"plist-c2")]
    assert not published(world, Topic.COMMAND_ACKNOWLEDGED)
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    await replica.serve(device.idle())
    await replica.relay_all()

    order = [world.journal.events[id_] for id_ in world.publisher.firsts("MAC")]
    assert order == sorted(order, key=lambda event: event.created_at)
    assert {event.id for event in order} == world.journal.events.keys()
    assert world.enrollments.records["MAC"].waiting.since is None


async def test_rule_09_of_a_slow_broker_a_request_waits_for_one_publish() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    await world.enqueue(device.key, "c2")
    before = len(world.publisher.published)

    async def slow(operation: str) -> None:
        world.clock.advance(FOLLOWING_WITHIN)

    world.publisher.before = slow
    assert await replica.serve(report) == [Answer(b"plist-c2")]
    assert [event.topic for event in world.publisher.published[before:]] == [Topic.CONNECT]
    await replica.relay_all()

    assert [event.topic for event in world.publisher.published[before:]] == [
        Topic.CONNECT,
        Topic.COMMAND_ACKNOWLEDGED,
        Topic.COMMAND_SENT,
    ]


async def test_rule_08_behind_a_backlog_nothing_of_a_message_is_published() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    world.publisher.outcome = lambda _: Confirm.LOST
    await replica.serve(device.idle())
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    before = len(world.publisher.published)

    await replica.serve(report)

    assert len(world.publisher.published) == before
    waiting = world.enrollments.records["MAC"].waiting
    assert waiting.upto == max(event.created_at for event in world.journal.events.values())


async def test_rule_06_the_watermark_waits_for_all_of_a_message() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    await replica.writer.raise_heartbeat()
    before = world.writers.records[replica.writer.id].watermark
    held = replica.hold(Step.APPLIED)
    serving = asyncio.create_task(replica.serve(report))
    await held.reached.wait()

    await replica.writer.raise_heartbeat()
    assert world.writers.records[replica.writer.id].watermark == before
    held.released.set()
    await serving
    await replica.writer.raise_heartbeat()

    assert world.writers.records[replica.writer.id].watermark == before + 2


async def test_rule_06_an_event_that_is_there_from_a_dead_process_is_left_to_its_writer() -> None:
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    report = await answered(world, first, device)
    first.kill(Step.JOURNALED)
    with pytest.raises(Killed):
        await first.serve(report)

    await second.serve(report)
    await second.writer.raise_heartbeat()

    assert not published(world, Topic.COMMAND_ACKNOWLEDGED)
    assert world.writers.records[second.writer.id].watermark == 2
    await take_over(world, second)
    assert published(world, Topic.COMMAND_ACKNOWLEDGED)


async def test_rule_06_of_two_failures_of_one_message_no_number_stays_open() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)
    append = world.journal.append

    async def unknown(events: Any) -> list[Appended]:
        return [Appended.UNKNOWN] * len(events)

    world.journal.append = unknown  # type: ignore[method-assign]
    for _ in range(2):
        [answer] = await replica.serve(report)
        assert isinstance(answer, StoreUnavailable)
    world.journal.append = append  # type: ignore[method-assign]
    [answer] = await replica.serve(report)
    await replica.writer.raise_heartbeat()

    stamped = replica.writer.stamp(after=0)[0] - 1
    assert world.writers.records[replica.writer.id].watermark == stamped


@pytest.mark.parametrize("is_same_replica", [True, False])
async def test_rule_06_what_follows_is_published_though_it_was_stored_late(
    is_same_replica: bool,
) -> None:
    """Its writer finds nothing and passes over it, the insert arrives, the device repeats its message."""
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    report = await answered(world, first, device)
    append = world.journal.append
    late = await not_stored_yet(world, first, report)
    await append(late)
    replica = first if is_same_replica else second

    assert isinstance((await replica.serve(report))[0], Answer)

    await replica.relay_all()
    [event] = published(world, Topic.COMMAND_ACKNOWLEDGED)
    assert event in late


@pytest.mark.parametrize("is_refused", [True, False])
async def test_rule_06_what_is_there_and_cannot_be_marked_costs_the_200(is_refused: bool) -> None:
    world = asking(OURS)
    first, second = await world.replica(), await world.replica()
    device = Device()
    await device.enroll(first)
    report = await answered(world, first, device)
    append = world.journal.append
    await append(await not_stored_yet(world, first, report))
    mark = world.enrollments.mark_waiting

    async def no_mark(marks: Any) -> list[bool]:
        if is_refused:
            return [False] * len(marks)
        raise StoreUnavailable("away")

    world.enrollments.mark_waiting = no_mark  # type: ignore[method-assign]
    [answer] = await second.serve(report)
    assert isinstance(answer, StoreUnavailable)
    world.enrollments.mark_waiting = mark  # type: ignore[method-assign]

    assert isinstance((await second.serve(report))[0], Answer)
    await second.relay_all()
    await second.writer.raise_heartbeat()

    assert published(world, Topic.COMMAND_ACKNOWLEDGED)
    stamped = second.writer.stamp(after=0)[0] - 1
    assert world.writers.records[second.writer.id].watermark == stamped


async def not_stored_yet(world: World, replica: Replica, report: DeviceExchange) -> list[Event]:
    """The events of a request that is answered 503, and which its writer has passed over."""
    append, late = world.journal.append, list[Event]()

    async def slow(events: Any) -> list[Appended]:
        late.extend(events)
        return [Appended.UNKNOWN] * len(events)

    world.journal.append = slow  # type: ignore[method-assign]
    [answer] = await replica.serve(report)
    assert isinstance(answer, StoreUnavailable)
    await replica.writer.raise_heartbeat()
    world.journal.append = append  # type: ignore[method-assign]
    return late


async def test_a_command_whose_event_is_not_journaled_is_not_sent() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    await world.enqueue(device.key, "c1")
    with not_journaling(world, Topic.COMMAND_SENT):
        [answer] = await replica.serve(device.idle())

    assert isinstance(answer, StoreUnavailable)
    assert world.publisher.published[-1].topic is Topic.CONNECT


def test_an_id_follows_from_its_cause_and_has_its_time() -> None:
    first = derived_id("cause", 1_767_323_045_678)

    assert first == derived_id("cause", 1_767_323_045_678)
    assert first != derived_id("other", 1_767_323_045_678)
    assert milliseconds_of(first) == 1_767_323_045_678
    assert (first[14], first[19] in "89ab") == ("7", True)


async def test_nothing_follows_from_a_message_that_the_journal_cannot_hold() -> None:
    world = asking(OURS)
    replica = await world.replica()
    device = Device()
    await device.enroll(replica)
    report = await answered(world, replica, device)

    [answer] = await replica.serve(replace(report, body=b"x" * (MOST_BYTES + 1)))
    await replica.writer.raise_heartbeat()
    await replica.relay_all()

    assert isinstance(answer, DeviceRefused)
    assert not published(world, Topic.COMMAND_ACKNOWLEDGED)
    stamped = replica.writer.stamp(after=0)[0] - 1
    assert world.writers.records[replica.writer.id].watermark == stamped
