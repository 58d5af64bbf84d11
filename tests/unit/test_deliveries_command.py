"""Promises of `python -m services deliveries list|retry`."""

import io

from services.webhook.deliveries_command import list_given_up, retry
from shared.domain.subscription import Delivery, DeliveryState, Lane
from tests.fakes.clock import START
from tests.fakes.deliveries import FakeDeliveries

LANE = Lane("config", "MAC")


async def given_up(*events: str) -> FakeDeliveries:
    deliveries = FakeDeliveries()
    for number, event in enumerate(events):
        await deliveries.store(
            [Delivery(LANE, event, number, DeliveryState.GIVEN_UP, 11, None, "answered 410")]
        )
    return deliveries


async def test_what_was_given_up_on_is_listed_with_the_id_that_retry_takes() -> None:
    out = io.StringIO()

    count = await list_given_up(await given_up("e1"), out)

    assert count == 1
    assert out.getvalue() == "config:e1  device=MAC  attempts=11  last_error=answered 410\n"


async def test_an_empty_list_says_so() -> None:
    out = io.StringIO()

    await list_given_up(FakeDeliveries(), out)

    assert out.getvalue() == "nothing was given up on\n"


async def test_what_was_given_up_on_is_listed_for_every_device() -> None:
    deliveries, out = FakeDeliveries(), io.StringIO()
    for number in range(100):
        lane = Lane("config", f"device {number}")
        await deliveries.store([Delivery(lane, f"e{number}", 1, DeliveryState.GIVEN_UP)])

    count = await list_given_up(deliveries, out)

    assert count == 100
    assert len(set(out.getvalue().splitlines())) == 100


async def test_retry_makes_those_named_pending_and_says_how_many() -> None:
    deliveries, out = await given_up("e1", "e2"), io.StringIO()

    await retry(deliveries, ["config:e1"], START, out)

    assert out.getvalue() == "1 delivery will be tried again\n"
    assert deliveries.in_lane("MAC") == ["e1"]
