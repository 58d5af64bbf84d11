"""F11: a subscriber that misbehaves in every known way, over real HTTP on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from structlog.testing import capture_logs

from services.webhook.endpoints.request import single
from services.webhook.endpoints.sender import AttemptOutcome, HttpSender
from services.webhook.endpoints.target import CONTENT_TYPE
from shared.concurrency.clock import SystemClock
from shared.domain.subscription import Subscription
from shared.web.version import USER_AGENT
from tests.support.harness.servers import free_port
from tests.support.harness.sink import Behaviour, Kind, Sink

BODY = b'{"topic":"mdm.Connect","event_id":"e1"}'
TIMEOUT = timedelta(milliseconds=400)
REFUSED = "connection refused: nothing listens at this address and port"


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as sink:
        yield sink


@pytest.fixture
async def sender() -> AsyncIterator[HttpSender]:
    async with HttpSender(SystemClock(), timeout=TIMEOUT) as sender:
        yield sender


async def send(sender: HttpSender, url: str) -> AttemptOutcome:
    return await sender.send(Subscription("config", url), single("e1", "mdm.Connect", BODY))


async def test_the_body_arrives_byte_for_byte_under_the_documented_content_type(
    sink: Sink, sender: HttpSender
) -> None:
    outcome = await send(sender, sink.url)

    assert outcome.delivered
    assert sink.arrivals[0].body == BODY
    assert sink.arrivals[0].headers["content-type"] == CONTENT_TYPE
    assert sink.arrivals[0].headers["user-agent"] == USER_AGENT


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_delivery(sink: Sink, sender: HttpSender, status: int) -> None:
    sink.behaviour = Behaviour(status=status)

    assert (await send(sender, sink.url)).delivered


@pytest.mark.parametrize("status", [302, 307, 308, 400, 401, 410, 429, 500, 503])
async def test_every_other_status_is_a_failure_that_names_it(
    sink: Sink, sender: HttpSender, status: int
) -> None:
    sink.behaviour = Behaviour(status=status)

    reason = (await send(sender, sink.url)).reason
    assert reason is not None
    assert reason.partition(":")[0] == f"answered {status}"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_subscriber_says_when_to_come_again(
    sink: Sink, sender: HttpSender, status: int
) -> None:
    sink.behaviour = Behaviour(status=status, retry_after="6")
    in_seconds = await send(sender, sink.url)
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    sink.behaviour = Behaviour(status=status, retry_after=date)
    as_date = await send(sender, sink.url)

    assert in_seconds.asked == timedelta(seconds=6)
    assert timedelta(minutes=4) < as_date.asked <= timedelta(minutes=5)


@pytest.mark.parametrize("status", [200, 301, 410, 500, 502])
async def test_a_retry_after_of_other_answers_says_nothing(
    sink: Sink, sender: HttpSender, status: int
) -> None:
    sink.behaviour = Behaviour(status=status, retry_after="6")

    assert (await send(sender, sink.url)).asked == timedelta()


async def test_a_retry_after_that_cannot_be_read_is_ignored_and_logged_a_few_times(
    sink: Sink, sender: HttpSender
) -> None:
    sink.behaviour = Behaviour(status=503, retry_after="soon " * 100)
    with capture_logs() as said:
        outcomes = [await send(sender, sink.url) for _ in range(30)]

    assert {outcome.asked for outcome in outcomes} == {timedelta()}
    lines = [line for line in said if line["event"] == "retry_after_ignored"]
    assert len(lines) == 10
    assert lines[0]["value"] == "soon " * 8


async def test_a_redirect_is_not_followed(sink: Sink, sender: HttpSender) -> None:
    async with Sink() as elsewhere:
        sink.behaviour = Behaviour(status=307, location=elsewhere.url)

        outcome = await send(sender, sink.url)

        assert elsewhere.arrivals == []
        assert outcome.reason == "answered 307: redirects are not followed"


@pytest.mark.parametrize("kind", [Kind.HANG, Kind.TRICKLE])
async def test_an_answer_that_does_not_come_ends_at_the_timeout(
    sink: Sink, sender: HttpSender, kind: Kind
) -> None:
    sink.behaviour = Behaviour(kind=kind)
    began = time.monotonic()

    outcome = await send(sender, sink.url)

    assert outcome.reason == "no answer within 0.4 s"
    assert time.monotonic() - began < 5


async def test_a_reset_is_a_failure(sink: Sink, sender: HttpSender) -> None:
    sink.behaviour = Behaviour(kind=Kind.RESET)

    assert not (await send(sender, sink.url)).delivered


async def test_a_huge_answer_is_not_read_and_its_status_counts(
    sink: Sink, sender: HttpSender
) -> None:
    sink.behaviour = Behaviour(kind=Kind.HUGE)
    began = time.monotonic()

    outcome = await send(sender, sink.url)

    assert outcome.delivered
    assert time.monotonic() - began < 1


async def test_nobody_listening_is_a_failure_without_the_address(sender: HttpSender) -> None:
    outcome = await send(sender, f"http://user:secret@127.0.0.1:{free_port()}/hook")

    assert outcome.reason == f"cannot connect: {REFUSED}"


async def test_credentials_in_the_url_become_basic_authentication(
    sink: Sink, sender: HttpSender
) -> None:
    url = sink.url.replace("http://", "http://anna:p%40ss@")

    await send(sender, url)

    assert sink.arrivals[0].headers["authorization"] == "Basic YW5uYTpwQHNz"
    assert "anna" not in sink.arrivals[0].path


async def test_connections_are_used_again(sink: Sink, sender: HttpSender) -> None:
    for _ in range(20):
        await send(sender, sink.url)

    assert sink.connections == 1


async def test_one_hanging_subscriber_does_not_slow_another(sender: HttpSender) -> None:
    async with Sink() as hanging, Sink() as good:
        hanging.behaviour = Behaviour(kind=Kind.HANG)
        stuck = [asyncio.ensure_future(send(sender, hanging.url)) for _ in range(200)]
        await asyncio.sleep(0)
        began = time.monotonic()

        outcome = await send(sender, good.url)

        assert outcome.delivered
        assert time.monotonic() - began < TIMEOUT.total_seconds()
        assert not any(one.delivered for one in await asyncio.gather(*stuck))
