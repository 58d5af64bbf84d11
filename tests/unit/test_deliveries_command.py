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


async def test_a_long_list_is_shown_whole_page_by_page() -> None:
    out = io.StringIO()

    count = await list_given_up(await given_up("e1", "e2", "e3"), out, page=2)

    assert count == 3
    assert [line.split()[0] for line in out.getvalue().splitlines()] == [
        "config:e1",
        "config:e2",
        "config:e3",
    ]


async def test_retry_makes_those_named_pending_and_says_how_many() -> None:
    deliveries, out = await given_up("e1", "e2"), io.StringIO()

    await retry(deliveries, ["config:e1"], START, out)

    assert out.getvalue() == "1 delivery will be tried again\n"
    assert deliveries.in_lane("MAC") == ["e1"]
