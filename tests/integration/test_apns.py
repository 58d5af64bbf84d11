"""What APNs answers, over real HTTP/2 and TLS with client certificates: every push ends in a known state.

The rows are those of the table of answers; `Apns` makes one attempt, `Attempts` the repetitions.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.push.certificates.tls import client_context, load_certificates
from services.push.send.apns import Apns, Push
from services.push.send.attempt import PushAttempts
from services.push.send.outcomes import (
    Accepted,
    BackOff,
    Outcome,
    Rejected,
    Retry,
    TokenDead,
    TopicRefused,
    Unanswered,
    Unreachable,
)
from services.push.send.topics import Topics
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.clock import SystemClock
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, PushTarget
from shared.web.version import USER_AGENT
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.harness.apns import (
    Breaks,
    FakeApns,
    GoesAway,
    Hangs,
    Resets,
    Says,
    reason,
    running,
)
from tests.support.harness.push_certificates import TOPIC, PushAuthority

TOKEN = bytes.fromhex("00ff" * 16)
EXPIRES = datetime(2026, 5, 1, tzinfo=UTC)
OTHER_TOPIC = "com.apple.mgmt.External.other"
LONG = timedelta(seconds=10)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeApns]:
    async with running(tmp_path / "apns") as apns:
        yield apns


def contexts(server: FakeApns, *topics: str) -> dict[str, ssl.SSLContext]:
    pairs = [server.certificate(topic) for topic in topics]
    loaded = load_certificates([(p.certificate, p.key) for p in pairs], datetime.now(UTC))
    return {t: client_context(c, server.authority.ca_file) for t, c in loaded.items()}


@asynccontextmanager
async def client(server: FakeApns, *topics: str, timeout: timedelta = LONG) -> AsyncIterator[Apns]:
    apns = Apns(server.url, contexts(server, *topics or (TOPIC,)), SystemClock(), timeout=timeout)
    try:
        yield apns
    finally:
        await apns.close()


def push(token: bytes = TOKEN, topic: str = TOPIC) -> Push:
    return Push(topic, token, "the-magic", EXPIRES)


async def test_a_push_has_apples_headers_and_body(server: FakeApns) -> None:
    async with client(server) as apns:
        outcome = await apns.push(push(), TOPIC)

    taken = server.pushes[0]
    assert isinstance(outcome, Accepted)
    assert len(outcome.apns_id) == 36
    assert taken.token == TOKEN
    assert taken.body == {"mdm": "the-magic"}
    wanted = {
        ":method": "POST",
        ":path": f"/3/device/{TOKEN.hex()}",
        "apns-push-type": "mdm",
        "apns-topic": TOPIC,
        "apns-expiration": str(int(EXPIRES.timestamp())),
        "apns-priority": "10",
        "user-agent": USER_AGENT,
    }
    assert {name: taken.headers.get(name) for name in wanted} == wanted


SINCE = datetime(2026, 4, 1, 10, 20, 30, 123000, tzinfo=UTC)
ROWS: list[tuple[Says, Outcome]] = [
    (
        reason(410, "Unregistered", timestamp=int(SINCE.timestamp() * 1000)),
        TokenDead("410 Unregistered", SINCE),
    ),
    (reason(400, "BadDeviceToken"), TokenDead("400 BadDeviceToken", None)),
    (reason(400, "BadTopic"), TopicRefused("400 BadTopic")),
    (reason(403, "BadCertificate"), TopicRefused("403 BadCertificate")),
    (reason(403, "BadCertificateEnvironment"), TopicRefused("403 BadCertificateEnvironment")),
    (reason(429, "TooManyRequests"), BackOff("429 TooManyRequests", None)),
    (
        Says(429, {"reason": "TooManyRequests"}, {"retry-after": "120"}),
        BackOff("429 TooManyRequests", timedelta(minutes=2)),
    ),
    (reason(500, "InternalServerError"), Retry("500 InternalServerError")),
    (reason(503, "ServiceUnavailable"), Retry("503 ServiceUnavailable")),
    (Says(503), Retry("503")),
    (reason(413, "PayloadTooLarge"), Rejected("413 PayloadTooLarge")),
]


@pytest.mark.parametrize(("answer", "expected"), ROWS, ids=lambda row: getattr(row, "reason", ""))
async def test_each_answer_of_the_table_has_its_outcome(
    server: FakeApns, answer: Says, expected: Outcome
) -> None:
    server.answers(TOKEN, answer)

    async with client(server) as apns:
        outcome = await apns.push(push(), TOPIC)

    assert outcome == expected


@pytest.mark.parametrize("fault", [Resets(), GoesAway(), Breaks()], ids=lambda f: type(f).__name__)
async def test_a_lost_request_is_a_retry_and_the_next_one_goes_on_a_new_connection(
    server: FakeApns, fault: Resets | GoesAway | Breaks
) -> None:
    server.script.append(fault)

    async with client(server) as apns:
        lost, repeated = await apns.push(push(), TOPIC), await apns.push(push(), TOPIC)

    assert isinstance(lost, Retry)
    assert isinstance(repeated, Accepted)
    assert server.pushes[0].connection == 2


async def test_a_slow_answer_ends_at_the_timeout_without_disturbing_its_neighbours(
    server: FakeApns,
) -> None:
    server.answers(b"slow", Hangs())
    server.answers(b"late", Says(after=0.6))

    async with client(server, timeout=timedelta(seconds=1)) as apns:
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(apns.push(push(b"slow"), TOPIC))
            await asyncio.sleep(0.5)
            late = group.create_task(apns.push(push(b"late"), TOPIC))
        after = await apns.push(push(b"after"), TOPIC)

    assert slow.result() == Unanswered("no answer in time")
    assert isinstance(late.result(), Accepted)
    assert isinstance(after, Accepted)
    assert [taken.connection for taken in server.pushes] == [1, 2]


async def test_a_refused_client_certificate_is_a_retry(server: FakeApns) -> None:
    server.refuses_clients = True
    await server.restart()

    async with client(server) as apns:
        outcome = await apns.push(push(), TOPIC)

    assert isinstance(outcome, Retry)
    assert server.requests == 0


async def test_a_server_of_another_ca_is_not_trusted(server: FakeApns, tmp_path: Path) -> None:
    stranger = PushAuthority(tmp_path / "stranger")
    pair = server.certificate()
    loaded = load_certificates([(pair.certificate, pair.key)], datetime.now(UTC))
    trusting = {TOPIC: client_context(loaded[TOPIC], stranger.ca_file)}
    apns = Apns(server.url, trusting, SystemClock())

    outcome = await apns.push(push(), TOPIC)
    await apns.close()

    assert isinstance(outcome, Retry)
    assert server.requests == 0


async def test_while_apns_cannot_be_reached_pushes_fail_at_once_and_later_work_again(
    server: FakeApns,
) -> None:
    clock = FakeClock()
    await server.stop()
    apns = Apns(server.url, contexts(server, TOPIC), clock)

    tried = [await apns.push(push(), TOPIC) for _ in range(3)]
    await server.start()
    held_back = await apns.push(push(), TOPIC)
    clock.advance(timedelta(seconds=5))
    mended = await apns.push(push(), TOPIC)
    await apns.close()

    assert all(isinstance(outcome, Retry) for outcome in tried)
    refused = "connection refused: nothing listens at this address and port"
    assert held_back == Unreachable(f"APNs cannot be reached: {refused}")
    assert isinstance(mended, Accepted)
    assert server.connections == 1


async def test_connections_that_break_now_and_then_do_not_hold_pushes_up(
    server: FakeApns,
) -> None:
    server.script.extend([Breaks(), Breaks(), Says(), Breaks(), Breaks()])

    async with client(server) as apns:
        outcomes = [type(await apns.push(push(), TOPIC)) for _ in range(6)]

    assert outcomes == [Unanswered, Unanswered, Accepted, Unanswered, Unanswered, Accepted]


async def test_each_topic_has_a_connection_of_its_own(server: FakeApns) -> None:
    async with client(server, TOPIC, OTHER_TOPIC) as apns:
        for topic in (TOPIC, OTHER_TOPIC, TOPIC):
            await apns.push(push(topic=topic), topic)

    assert [taken.connection for taken in server.pushes] == [1, 2, 1]


async def test_hundreds_of_pushes_share_one_connection(server: FakeApns) -> None:
    tokens = [number.to_bytes(4, "big") for number in range(300)]

    async with client(server) as apns, asyncio.TaskGroup() as group:
        pushed = [group.create_task(apns.push(push(token), TOPIC)) for token in tokens]

    assert all(isinstance(task.result(), Accepted) for task in pushed)
    assert sorted(server.tokens()) == tokens
    assert server.connections == 1


def enrolled(device: str, token: bytes, updated: datetime) -> Enrollment:
    return Enrollment(
        EnrollmentKey(device, device),
        EnrollmentStatus.ENROLLED,
        push=PushTarget(TOPIC, token, "the-magic"),
        token_updated_at=updated,
    )


class OfTopic:
    """Pushes with the one certificate of each topic."""

    def __init__(self, apns: Apns) -> None:
        self._apns = apns

    async def push(self, push: Push) -> Outcome:
        return await self._apns.push(push, push.topic)


async def tried(apns: Apns, enrollments: FakeEnrollments, *devices: Enrollment) -> list[Outcome]:
    """Push to the end, with its repetitions; their pauses are real and as short as they can be."""
    topics = Topics([TOPIC], SystemClock(), lambda _: None)
    attempts = PushAttempts(
        OfTopic(apns),
        enrollments,
        topics,
        SystemClock(),
        lambda: 0.0,
        WantedTopics(FakeSubscriptions()),
        FakeIds(),
    )
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(attempts.push(device, device.push))
            for device in devices
            if device.push is not None
        ]
    return [task.result() for task in tasks]


async def test_every_push_of_a_burst_that_a_goaway_cut_short_is_repeated(
    server: FakeApns,
) -> None:
    fleet = [enrolled(f"D{n}", n.to_bytes(4, "big"), SINCE) for n in range(150)]
    server.script.extend([Says(after=0.05)] * 40 + [GoesAway()])

    async with client(server) as apns:
        outcomes = await tried(apns, FakeEnrollments(), *fleet)

    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert set(server.tokens()) == {n.to_bytes(4, "big") for n in range(150)}
    assert server.connections == 2


@pytest.mark.parametrize(
    ("updated", "is_dead"),
    [(SINCE - timedelta(hours=1), True), (SINCE + timedelta(hours=1), False)],
    ids=["410 newer than the token", "410 older than the token"],
)
async def test_a_410_counts_only_if_the_token_is_older(
    server: FakeApns, updated: datetime, is_dead: bool
) -> None:
    device = enrolled("MAC", TOKEN, updated)
    enrollments = FakeEnrollments()
    enrollments.add(device)
    server.answers(TOKEN, reason(410, "Unregistered", timestamp=int(SINCE.timestamp() * 1000)))

    async with client(server) as apns:
        await tried(apns, enrollments, device)

    target = enrollments.records["MAC"].push
    assert target is not None
    assert target.dead is is_dead


async def test_a_push_that_never_works_ends_after_a_bounded_number_of_tries(
    server: FakeApns,
) -> None:
    server.answers(TOKEN, *[reason(503, "ServiceUnavailable")] * 20)

    async with client(server) as apns:
        outcomes = await tried(apns, FakeEnrollments(), enrolled("MAC", TOKEN, SINCE))

    assert outcomes == [Retry("503 ServiceUnavailable")]
    assert server.requests == 4
