"""The pusher: push requests collapse, every push ends in a known state, and nothing is lost on the way."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
import structlog

from services.push.intake import Intake
from services.push.send.attempt import EXPIRES_AFTER, PushAttempts
from services.push.send.outcomes import (
    Accepted,
    BackOff,
    Outcome,
    Rejected,
    Retry,
    TokenDead,
    TopicRefused,
    Unreachable,
)
from services.push.send.pusher import Pusher
from services.push.send.topics import Topics
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.periodic import Loops
from shared.domain.command import QueueEntry
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, PushTarget
from shared.domain.errors import StoreUnavailable
from shared.domain.event import Topic
from shared.domain.subscription import Subscription
from shared.ports.pushes import PushRecord
from shared.telemetry.metrics import Metrics
from tests.support.fakes.apns import FakeApnsSender
from tests.support.fakes.clock import FakeClock, FakeIds, settle
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.pushes import FakePushes
from tests.support.fakes.queue import FakeCommandQueue
from tests.support.fakes.subscriptions import FakeSubscriptions

TOPIC = "com.apple.mgmt.External.test"
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


class Bench:
    """A pusher on fakes, without jitter."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.apns = FakeApnsSender()
        self.enrollments = FakeEnrollments()
        self.pushes = FakePushes()
        self.metrics = Metrics()
        self.stopped: list[float] = []
        self.topics = Topics([TOPIC], self.clock, self.stopped.append)
        self.subscriptions = FakeSubscriptions()
        self.wanted = WantedTopics(self.subscriptions)
        attempts = PushAttempts(
            self.apns,
            self.enrollments,
            self.topics,
            self.clock,
            lambda: 0.0,
            self.wanted,
            FakeIds(),
        )
        self.queue = FakeCommandQueue()
        self.pusher = Pusher(
            attempts, self.enrollments, self.queue, self.pushes, self.clock, self.metrics
        )

    def enroll(self, device: str, **changes: object) -> Enrollment:
        made = Enrollment(
            EnrollmentKey(device, device, udid=device),
            EnrollmentStatus.ENROLLED,
            push=PushTarget(TOPIC, device.encode(), "magic"),
            token_updated_at=self.clock.now(),
        )
        enrollment = replace(made, **changes)  # type: ignore[arg-type]  # any field
        self.enrollments.add(enrollment)
        self.queue_command(device)
        return enrollment

    def queue_command(self, device: str) -> QueueEntry:
        entry = QueueEntry(
            enrollment=device,
            device=device,
            command_uuid="c1",
            command_hash="a" * 64,
            request_type="DeviceInformation",
            generation=None,
            order="1",
            accepted_at=self.clock.now(),
        )
        self.queue.entries[entry.id] = entry
        return entry

    def waits(self, device: str) -> timedelta:
        """How long until the sweep looks at it again."""
        return self.pushes.rows[device].next_at - self.clock.now()

    def pushed(self, outcome: str) -> float:
        return (
            self.metrics.registry.get_sample_value("macromdm_pushes_total", {"outcome": outcome})
            or 0.0
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


@asynccontextmanager
async def running(
    *works: Coroutine[object, object, None],
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run in the background; what is still running at the end is a failure of the test."""
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        yield [group.create_task(work) for work in works]


async def test_a_push_request_becomes_one_push_that_is_recorded(bench: Bench) -> None:
    bench.enroll("MAC")

    await bench.pusher.push_requests(["MAC"])

    push = bench.apns.pushes[0]
    assert (push.topic, push.token, push.magic) == (TOPIC, b"MAC", "magic")
    assert push.expires_at == bench.clock.now() + EXPIRES_AFTER
    assert bench.pushes.rows["MAC"].pushed_at == bench.clock.now().replace(microsecond=0)
    assert bench.waits("MAC") == 5 * MINUTE
    assert bench.pushed("sent") == 1


async def test_the_same_push_request_many_times_at_once_is_one_push(bench: Bench) -> None:
    bench.enroll("MAC")

    await bench.pusher.push_requests(["MAC"] * 50)

    assert bench.apns.tokens() == [b"MAC"]


async def test_push_requests_during_a_push_fold_into_one_more_push(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.gate.clear()
    async with running(*[bench.pusher.push_requests(["MAC"]) for _ in range(10)]):
        await settle()
        under_way = bench.apns.tokens()
        bench.apns.gate.set()
        await bench.clock.run(2 * SECOND)

    assert under_way == [b"MAC"]
    assert bench.apns.tokens() == [b"MAC", b"MAC"]


async def test_a_push_request_right_after_a_push_waits_for_the_rest_of_a_second(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    await bench.pusher.push_requests(["MAC"])
    async with running(bench.pusher.push_requests(["MAC"]), bench.pusher.push_requests(["MAC"])):
        await bench.clock.run(timedelta(milliseconds=999))
        within = len(bench.apns.pushes)
        await bench.clock.run(timedelta(milliseconds=1))

    assert within == 1
    assert len(bench.apns.pushes) == 2


async def test_a_folded_push_request_returns_only_while_another_one_carries_its_promise(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    bench.apns.gate.clear()
    push_requests = [bench.pusher.push_requests(["MAC"]) for _ in range(3)]
    async with running(*push_requests) as (begun, waiting, folded):
        await settle()
        done = [begun.done(), waiting.done(), folded.done()]
        bench.apns.gate.set()
        await bench.clock.run(2 * SECOND)

    assert done == [False, False, True]


async def test_when_the_push_request_that_carries_the_promise_is_given_up_the_next_one_pushes(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    await bench.pusher.push_requests(["MAC"])
    async with running(bench.pusher.push_requests(["MAC"])) as (dead_lettered,):
        await settle()
        dead_lettered.cancel()
    async with running(bench.pusher.push_requests(["MAC"])):
        await bench.clock.run(SECOND)

    assert len(bench.apns.pushes) == 2


async def test_devices_do_not_wait_for_each_other(bench: Bench) -> None:
    for number in range(30):
        bench.enroll(f"D{number}")
    bench.apns.gate.clear()
    async with running(bench.pusher.push_requests([f"D{number}" for number in range(30)])):
        await settle()
        in_flight = len(bench.apns.pushes)
        bench.apns.gate.set()

    assert in_flight == 30


async def test_pushes_that_end_together_are_recorded_together(bench: Bench) -> None:
    for number in range(30):
        bench.enroll(f"D{number}")

    await bench.pusher.push_requests([f"D{number}" for number in range(30)])

    assert sum(bench.pushes.batches) == 30
    assert len(bench.pushes.batches) <= 3


@pytest.mark.parametrize(
    "changes",
    [
        {"status": EnrollmentStatus.AUTHENTICATED, "push": None},
        {"status": EnrollmentStatus.ENROLLED, "push": None},
    ],
    ids=["authenticated", "no token"],
)
async def test_a_device_without_a_token_is_left_to_the_sweep_for_some_seconds(
    bench: Bench, changes: dict[str, object]
) -> None:
    bench.enroll("MAC", **changes)

    await bench.pusher.push_requests(["MAC"])

    assert bench.apns.pushes == []
    assert bench.waits("MAC") == 10 * SECOND
    assert bench.pushes.rows["MAC"].error == "no push token yet"


async def test_a_device_that_nobody_knows_yet_is_left_to_the_sweep(bench: Bench) -> None:
    bench.queue_command("GHOST")

    await bench.pusher.push_requests(["GHOST"])

    assert bench.waits("GHOST") == 10 * SECOND


@pytest.mark.parametrize("status", [EnrollmentStatus.CHECKED_OUT, EnrollmentStatus.REMOVED])
async def test_a_device_that_left_is_not_pushed_and_not_remembered(
    bench: Bench, status: EnrollmentStatus
) -> None:
    bench.enroll("MAC", status=status)

    await bench.pusher.push_requests(["MAC"])

    assert bench.apns.pushes == []
    assert bench.pushes.rows == {}


async def test_a_push_request_of_an_enrollment_without_an_open_command_wakes_nobody(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    bench.queue.entries.clear()

    await bench.pusher.push_requests(["MAC"])

    assert bench.apns.pushes == []
    assert bench.pushes.batches == []


async def test_a_push_request_that_woke_nobody_does_not_delay_the_next_one(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.queue.entries.clear()
    await bench.pusher.push_requests(["MAC"])
    bench.queue_command("MAC")

    async with asyncio.timeout(5):
        await bench.pusher.push_requests(["MAC"])

    assert bench.apns.tokens() == [b"MAC"]


async def test_a_command_that_waited_for_its_token_is_pushed_when_a_push_is_requested_for_the_token(
    bench: Bench,
) -> None:
    bench.queue_command("MAC")
    await bench.pusher.push_requests(["MAC"])
    bench.enroll("MAC")
    async with running(bench.pusher.push_requests(["MAC"])):
        await bench.clock.run(SECOND)

    assert bench.apns.tokens() == [b"MAC"]


async def test_a_dead_token_that_apns_takes_is_alive_again(bench: Bench) -> None:
    bench.enroll("MAC", push=PushTarget(TOPIC, b"MAC", "magic", dead=True))

    await bench.pusher.push_requests(["MAC"])

    target = bench.enrollments.records["MAC"].push
    assert target is not None
    assert not target.dead
    assert bench.pushes.rows["MAC"].error is None


async def test_a_dead_token_that_an_api_client_pushes_is_alive_again(bench: Bench) -> None:
    device = bench.enroll("MAC", push=PushTarget(TOPIC, b"MAC", "magic", dead=True))
    assert device.push is not None

    await bench.pusher.push_now(device, device.push, None)

    target = bench.enrollments.records["MAC"].push
    assert target is not None
    assert not target.dead


async def test_a_token_that_stays_dead_is_pushed_less_and_less_often_but_every_day(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    bench.apns.by_token[b"MAC"] = TokenDead("410 Unregistered", None)
    waits = []
    with structlog.testing.capture_logs() as logged:
        await bench.pusher.push_requests(["MAC"])
        for _ in range(6):
            waits.append(bench.waits("MAC"))
            await bench.clock.run(bench.waits("MAC"))
            await bench.pusher.again([bench.pushes.rows["MAC"]])

    hour = timedelta(hours=1)
    assert waits == [5 * MINUTE, 30 * MINUTE, 2 * hour, 6 * hour, 24 * hour, 24 * hour]
    assert len(bench.apns.pushes) == 7
    assert [line["event"] for line in logged] == ["push_token_dead"]


async def test_a_blocked_device_is_pushed_so_that_it_comes_and_unenrolls(bench: Bench) -> None:
    bench.enroll("MAC", blocked=True)

    await bench.pusher.push_requests(["MAC"])

    assert bench.apns.tokens() == [b"MAC"]


async def test_what_may_work_in_a_moment_is_tried_again(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.script.extend([Retry("503"), Retry("ReadError")])
    async with running(bench.pusher.push_requests(["MAC"])):
        await bench.clock.run(timedelta(milliseconds=750))

    assert len(bench.apns.pushes) == 3
    assert bench.pushes.rows["MAC"].error is None


async def test_what_never_works_is_left_to_the_sweep_after_four_tries(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.by_token[b"MAC"] = Retry("503 ServiceUnavailable")
    async with running(bench.pusher.push_requests(["MAC"])):
        await bench.clock.run(10 * SECOND)

    assert len(bench.apns.pushes) == 4
    assert bench.pushes.rows["MAC"].error == "503 ServiceUnavailable"
    assert bench.pushed("failed") == 1


@pytest.mark.parametrize(
    ("outcome", "wait"),
    [
        (BackOff("429", None), 10 * SECOND),
        (BackOff("429", 7 * MINUTE), 7 * MINUTE),
        (Rejected("413"), 5 * MINUTE),
        (TokenDead("400 BadDeviceToken", None), 5 * MINUTE),
        (TopicRefused("403"), 15 * MINUTE),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_refused_push_is_not_repeated_at_once_but_left_to_the_sweep(
    bench: Bench, outcome: Outcome, wait: timedelta
) -> None:
    bench.enroll("MAC")
    bench.apns.script.append(outcome)

    await bench.pusher.push_requests(["MAC"])

    assert len(bench.apns.pushes) == 1
    assert bench.waits("MAC") == wait


async def test_a_token_that_apns_does_not_know_is_marked_dead(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.script.append(TokenDead("400 BadDeviceToken", None))

    await bench.pusher.push_requests(["MAC"])

    target = bench.enrollments.records["MAC"].push
    assert target is not None
    assert target.dead
    assert bench.pushed("dead_token") == 1


async def test_rule_12_a_token_replaced_while_apns_answered_stays_alive_and_is_pushed_soon(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    bench.apns.script.append(TokenDead("410 Unregistered", bench.clock.now() + MINUTE))
    bench.apns.gate.clear()
    async with running(bench.pusher.push_requests(["MAC"])):
        await settle()
        bench.enroll("MAC", push=PushTarget(TOPIC, b"NEW", "magic"))
        bench.apns.gate.set()

    target = bench.enrollments.records["MAC"].push
    assert target is not None
    assert not target.dead
    assert bench.waits("MAC") == 10 * SECOND


async def test_a_refused_topic_stops_every_push_of_it_and_is_logged_once(bench: Bench) -> None:
    for number in range(5):
        bench.enroll(f"D{number}")
    bench.apns.by_token = {f"D{n}".encode(): TopicRefused("403 BadCertificate") for n in range(5)}

    with structlog.testing.capture_logs() as logged:
        for number in range(5):
            await bench.pusher.push_requests([f"D{number}"])

    assert len(bench.apns.pushes) == 1
    assert [bench.waits(f"D{number}") for number in range(5)] == [15 * MINUTE] * 5
    assert [line["event"] for line in logged] == ["push_topic_stopped"]
    assert bench.stopped == [1]


async def test_a_stopped_topic_is_probed_after_a_while_and_works_again(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.enroll("PAD")
    bench.apns.script.append(TopicRefused("403 BadCertificate"))
    await bench.pusher.push_requests(["MAC"])

    await bench.clock.run(15 * MINUTE)
    await bench.pusher.push_requests(["MAC"])
    await bench.pusher.push_requests(["PAD"])

    assert bench.apns.tokens() == [b"MAC", b"MAC", b"PAD"]
    assert bench.stopped == [1, 0]


async def test_only_one_push_probes_a_stopped_topic_at_a_time(bench: Bench) -> None:
    devices = [f"D{number}" for number in range(5)]
    for device in devices:
        bench.enroll(device)
    bench.apns.script.append(TopicRefused("403 BadCertificate"))
    await bench.pusher.push_requests(["D0"])
    await bench.clock.run(15 * MINUTE)
    bench.apns.gate.clear()
    async with running(bench.pusher.push_requests(devices)):
        await settle()
        probes = len(bench.apns.pushes) - 1
        bench.apns.gate.set()

    assert probes == 1


async def test_a_topic_without_a_certificate_is_left_to_the_sweep_and_logged_once(
    bench: Bench,
) -> None:
    for number in range(5):
        bench.enroll(f"D{number}", push=PushTarget("com.apple.mgmt.other", b"D", "magic"))

    with structlog.testing.capture_logs() as logged:
        await bench.pusher.push_requests([f"D{number}" for number in range(5)])

    assert bench.apns.pushes == []
    assert bench.waits("D0") == 15 * MINUTE
    assert [line["event"] for line in logged] == ["push_certificate_missing"]
    assert bench.pushed("no_certificate") == 5


async def test_a_push_that_could_not_be_recorded_is_given_back_and_later_ones_go_on(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    bench.enroll("PAD")
    bench.apns.gate.clear()

    async def fail_once(operation: str) -> None:
        bench.pushes.before = nothing
        raise StoreUnavailable("away")

    async def nothing(operation: str) -> None:
        return None

    bench.pushes.before = fail_once
    first = asyncio.gather(bench.pusher.push_requests(["MAC"]), return_exceptions=True)
    await settle()
    bench.apns.gate.set()
    failed = await first
    await bench.pusher.push_requests(["PAD"])

    assert isinstance(failed[0], StoreUnavailable)
    assert set(bench.pushes.rows) == {"PAD"}


async def test_a_push_request_is_given_back_while_the_store_is_away(bench: Bench) -> None:
    bench.enroll("MAC")

    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    bench.enrollments.before = away

    with pytest.raises(StoreUnavailable):
        await bench.pusher.push_requests(["MAC", "PAD"])


async def test_the_backoff_of_a_silent_device_goes_on_where_it_was(bench: Bench) -> None:
    bench.enroll("MAC")
    waits = []
    await bench.pusher.push_requests(["MAC"])
    for _ in range(6):
        waits.append(bench.waits("MAC"))
        await bench.clock.run(bench.waits("MAC"))
        await bench.pusher.again([bench.pushes.rows["MAC"]])

    hour = timedelta(hours=1)
    assert waits == [5 * MINUTE, 30 * MINUTE, 2 * hour, 6 * hour, 24 * hour, 24 * hour]


async def test_a_new_push_request_resets_the_backoff(bench: Bench) -> None:
    bench.enroll("MAC")
    await bench.pusher.push_requests(["MAC"])
    await bench.clock.run(5 * MINUTE)
    await bench.pusher.again([bench.pushes.rows["MAC"]])
    await bench.clock.run(MINUTE)

    await bench.pusher.push_requests(["MAC"])

    assert bench.waits("MAC") == 5 * MINUTE


async def test_a_push_request_that_folds_into_a_push_of_the_sweep_resets_the_backoff(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    await bench.pusher.push_requests(["MAC"])
    row = replace(bench.pushes.rows["MAC"], attempts=3)
    async with running(bench.pusher.again([row]), bench.pusher.push_requests(["MAC"])):
        await bench.clock.run(SECOND)

    assert len(bench.apns.pushes) == 2
    assert bench.waits("MAC") == 5 * MINUTE


async def test_a_device_that_gets_its_token_starts_with_a_fresh_backoff(bench: Bench) -> None:
    bench.enroll("MAC")
    now = bench.clock.now()
    row = PushRecord("MAC", now, now, attempts=6, error="no push token yet")

    await bench.pusher.again([row])

    assert bench.waits("MAC") == 5 * MINUTE


async def test_the_sweep_leaves_a_device_alone_whose_push_is_under_way(bench: Bench) -> None:
    bench.enroll("MAC")
    now = bench.clock.now()
    bench.apns.gate.clear()
    async with running(bench.pusher.push_requests(["MAC"])):
        await settle()
        await bench.pusher.again([PushRecord("MAC", now, now)])
        bench.apns.gate.set()

    assert len(bench.apns.pushes) == 1


async def test_devices_that_are_at_rest_cost_no_memory(bench: Bench) -> None:
    for number in range(3000):
        await bench.pusher.push_requests([f"G{number}"])
        bench.clock.advance(SECOND)

    assert len(bench.pusher.lines) <= 1001


class ScriptedPushRequests:
    """A consumer that hands over one batch of push requests and says whether it was acked."""

    def __init__(self, push_requests: list[str]) -> None:
        self._push_requests = push_requests
        self.is_acked = False
        self.error: Exception | None = None

    async def consume(self, on_requests: object) -> None:
        assert callable(on_requests)
        try:
            await on_requests(self._push_requests)
        except Exception as exc:
            self.error = exc
            raise
        self.is_acked = True


async def test_a_push_request_is_acked_after_its_push_is_recorded(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.gate.clear()
    push_requests = ScriptedPushRequests(["MAC"])
    async with running(Intake(push_requests, bench.pusher, bench.clock).run(Loops(bench.clock))):
        await settle()
        during = push_requests.is_acked
        bench.apns.gate.set()

    assert during is False
    assert push_requests.is_acked
    assert "MAC" in bench.pushes.rows


async def test_a_push_request_whose_push_is_slow_is_acked_once_the_sweep_knows_of_it(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    bench.enroll("PAD")
    bench.apns.gate.clear()
    push_requests = ScriptedPushRequests(["MAC", "PAD"])
    async with running(Intake(push_requests, bench.pusher, bench.clock).run(Loops(bench.clock))):
        await bench.clock.run(timedelta(milliseconds=1499))
        early = push_requests.is_acked
        await bench.clock.run(timedelta(milliseconds=1))
        late, waits, known = push_requests.is_acked, bench.waits("MAC"), set(bench.pushes.rows)
        bench.apns.gate.set()

    assert (early, late) == (False, True)
    assert waits == MINUTE
    assert known == {"MAC", "PAD"}
    assert bench.pushes.rows["MAC"].error is None


async def test_a_slow_push_that_the_sweep_cannot_be_told_of_is_not_acked(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.gate.clear()

    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    bench.pushes.before = away
    push_requests = ScriptedPushRequests(["MAC"])
    async with running(
        Intake(push_requests, bench.pusher, bench.clock).run(Loops(bench.clock))
    ) as (consuming,):
        await bench.clock.run(2 * SECOND)
        is_consuming = not consuming.done()
        consuming.cancel()

    assert isinstance(push_requests.error, ExceptionGroup) and push_requests.error.subgroup(
        StoreUnavailable
    )
    assert not push_requests.is_acked
    assert is_consuming


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ValueError("a poison record")])
async def test_a_push_request_that_could_not_be_recorded_is_given_back(
    bench: Bench, error: Exception
) -> None:
    bench.enroll("MAC")

    async def away(operation: str) -> None:
        raise error

    bench.pushes.before = away
    push_requests = ScriptedPushRequests(["MAC"])

    async with running(
        Intake(push_requests, bench.pusher, bench.clock).run(Loops(bench.clock))
    ) as (consuming,):
        await settle()
        is_consuming = not consuming.done()
        consuming.cancel()

    assert push_requests.error is not None
    assert not push_requests.is_acked
    assert is_consuming


async def test_what_cannot_be_reached_is_not_tried_again_at_once(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.script.append(Unreachable("APNs cannot be reached"))

    await bench.pusher.push_requests(["MAC"])

    assert len(bench.apns.pushes) == 1
    assert bench.waits("MAC") == 10 * SECOND


async def test_draining_waits_for_the_pushes_under_way(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.gate.clear()
    intake = Intake(ScriptedPushRequests(["MAC"]), bench.pusher, bench.clock)
    async with running(intake.run(Loops(bench.clock)), settle()):
        await settle()
        drained = asyncio.ensure_future(intake.drain())
        await settle()
        is_drained_early = drained.done()
        bench.apns.gate.set()
        await drained

    assert is_drained_early is False
    assert "MAC" in bench.pushes.rows


async def test_push_requests_that_come_after_draining_began_are_not_acked(bench: Bench) -> None:
    push_requests = ScriptedPushRequests(["MAC"])
    intake = Intake(push_requests, bench.pusher, bench.clock)
    await intake.drain()
    async with running(intake.run(Loops(bench.clock))) as (consuming,):
        await settle()
        consuming.cancel()

    assert push_requests.is_acked is False
    assert bench.pushes.rows == {}


async def test_without_a_certificate_push_requests_are_left_to_the_sweep_without_a_write(
    bench: Bench,
) -> None:
    bench.enroll("MAC")
    push_requests = ScriptedPushRequests(["MAC"])

    await Intake(push_requests, bench.pusher, bench.clock, lambda: False).run(Loops(bench.clock))

    assert push_requests.is_acked
    assert bench.apns.pushes == []
    assert bench.pushes.batches == []


async def test_an_outcome_for_an_api_client_is_what_apns_said(bench: Bench) -> None:
    device = bench.enroll("MAC")
    assert device.push is not None
    bench.apns.script.append(Rejected("413 PayloadTooLarge"))

    refused = await bench.pusher.push_now(device, device.push, None)
    taken = await bench.pusher.push_now(device, device.push, bench.clock.now() + MINUTE)

    assert refused == Rejected("413 PayloadTooLarge")
    assert taken == Accepted("apns-2")
    assert bench.apns.pushes[1].expires_at == bench.clock.now() + MINUTE


async def test_a_dead_token_is_reported_once_where_a_subscription_asks(bench: Bench) -> None:
    asking = Subscription("1", "https://x.example/", topics=frozenset({"macromdm.*"}))
    bench.subscriptions.stored["1"] = asking
    await bench.wanted.refresh()
    bench.enroll("MAC")
    bench.apns.by_token[b"MAC"] = TokenDead("410 Unregistered", None)

    for _ in range(2):
        await bench.pusher.push_requests(["MAC"])
        bench.clock.advance(MINUTE)

    [event] = bench.enrollments.kept_outbox["MAC"]
    assert event.topic is Topic.PUSH_TOKEN_INVALID
    assert event.facts == {"version": 1, "reason": "410 Unregistered"}


async def test_without_such_a_subscription_a_dead_token_is_not_reported(bench: Bench) -> None:
    bench.enroll("MAC")
    bench.apns.by_token[b"MAC"] = TokenDead("410 Unregistered", None)

    await bench.pusher.push_requests(["MAC"])

    assert not bench.enrollments.kept_outbox
