"""Promises of `python -m services deliveries list [--blocked] | retry | skip`."""

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest

from services.cli.deliveries import DeliveriesCommand
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import BadRequest, StoreUnavailable
from shared.domain.event import Event, Topic
from shared.domain.subscription import Delivery, DeliveryQueueKey, DeliveryState
from shared.messaging.envelope import event_json
from tests.support.fakes.clock import START, FakeClock
from tests.support.fakes.deliveries import FakeDeliveries
from tests.support.fakes.journal import FakeJournal

QUEUE = DeliveryQueueKey("config", "MAC")
DEAD_LETTERED = Delivery(
    QUEUE, "e1", 1, DeliveryState.DEAD_LETTERED, 11, None, "answered 500", topic="mdm.Connect"
)
EVENT = Event(
    "e1", Topic.CONNECT, EnrollmentKey("MAC", device="MAC", udid="MAC"), 1, b"<plist/>", "w", 1
)


async def holding(*deliveries: Delivery) -> FakeDeliveries:
    made = FakeDeliveries()
    for each in deliveries:
        await made.store([each])
    return made


async def said(deliveries: FakeDeliveries, action: str, ids: Sequence[str] = ()) -> str:
    """What one run writes."""
    out, journal = io.StringIO(), FakeJournal()
    journal.events["e1"] = EVENT
    await DeliveriesCommand(deliveries, journal, FakeClock(), out).run(action, ids)
    return out.getvalue()


async def test_what_was_given_up_on_is_listed_with_the_id_that_retry_takes() -> None:
    assert await said(await holding(DEAD_LETTERED), "list") == (
        "config:e1  device=MAC  topic=mdm.Connect  attempts=11  last_error=answered 500\n"
    )


@pytest.mark.parametrize(
    ("action", "expected"),
    [("list", "nothing was given up on\n"), ("list blocked", "nothing waits\n")],
)
async def test_an_empty_list_says_so(action: str, expected: str) -> None:
    assert await said(FakeDeliveries(), action) == expected


async def test_what_was_given_up_on_is_listed_for_every_device() -> None:
    queues = [DeliveryQueueKey("config", f"device {number}") for number in range(100)]
    made = [replace(DEAD_LETTERED, queue=queue, event_id=f"of {queue.device}") for queue in queues]

    lines = (await said(await holding(*made), "list")).splitlines()

    assert len(set(lines)) == 100


async def test_retry_makes_those_named_pending_and_says_how_many() -> None:
    deliveries = await holding(DEAD_LETTERED, replace(DEAD_LETTERED, event_id="e2"))

    assert await said(deliveries, "retry", ["config:e1"]) == "1 delivery will be tried again\n"

    assert deliveries.in_queue("MAC") == ["e1"]


async def test_what_devices_wait_for_is_listed_with_its_last_answer_and_next_attempt() -> None:
    head = Delivery(QUEUE, "e1", 1, attempts=6, next_attempt_at=START, last_error="answered 503")
    aside = replace(head, queue=replace(QUEUE, aside="e0"), event_id="e0", topic="mdm.Connect")

    lines = await said(await holding(head, Delivery(QUEUE, "e2", 2), aside), "list blocked")

    at = "next_attempt=2026-01-02T03:04:05+00:00"
    assert lines.splitlines() == [
        f"config:e0  device=MAC  topic=mdm.Connect  attempts=6  last_error=answered 503  {at}  set_aside",
        f"config:e1  device=MAC  topic=unknown  attempts=6  last_error=answered 503  {at}  behind=1",
    ]


async def test_a_skip_keeps_the_event_as_its_subscriber_would_get_it() -> None:
    deliveries = await holding(Delivery(QUEUE, "e1", 1), Delivery(QUEUE, "e2", 2))

    answer = await said(deliveries, "skip", ["config:e1", "config:unknown"])

    assert answer == "1 delivery will be kept for a retry, not tried\n"
    assert deliveries.in_queue("MAC") == ["e2"]
    assert [each.id for each in deliveries.all_dead_lettered] == ["config:e1"]
    assert await deliveries.body("config:e1") == event_json(EVENT)


async def test_a_skip_of_an_event_that_is_too_large_keeps_it_without_its_body() -> None:
    deliveries = await holding(Delivery(QUEUE, "e1", 1))
    deliveries.largest_body = 5

    await said(deliveries, "skip", ["config:e1"])

    assert [each.id for each in deliveries.all_dead_lettered] == ["config:e1"]
    assert await deliveries.body("config:e1") is None


@pytest.mark.parametrize(
    ("action", "ids", "named"),
    [("skip", [], "skip"), ("list", ["config:e1"], "list"), ("retry blocked", [], "--blocked")],
)
async def test_what_makes_no_sense_is_refused(action: str, ids: list[str], named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        await said(FakeDeliveries(), action, ids)


async def test_a_store_that_is_away_is_no_empty_list() -> None:
    deliveries = FakeDeliveries()

    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    deliveries.before = away
    with pytest.raises(StoreUnavailable):
        await said(deliveries, "list blocked")
