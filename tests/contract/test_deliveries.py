"""The contract of `Deliveries`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.enrollment import partition_of
from shared.domain.subscription import Delivery, DeliveryQueueKey, DeliveryState
from shared.ports.deliveries import Backlog, Deliveries
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.deliveries import FakeDeliveries

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
LATER = NOW + timedelta(seconds=35)
MAC = DeliveryQueueKey("config", "MAC")
PHONE = DeliveryQueueKey("config", "PHONE")
OTHER = DeliveryQueueKey("other", "MAC")


@pytest.fixture(params=STORES)
async def deliveries(request: pytest.FixtureRequest) -> AsyncIterator[Deliveries]:
    if request.param == "fake":
        yield FakeDeliveries()
        return
    from shared.storage.events.deliveries import INDEXES, MongoDeliveries

    async with open_store(request) as mongo:
        await mongo.ensure(INDEXES)
        yield MongoDeliveries(mongo, KEYRING, page=3)


async def waiting(deliveries: Deliveries, queue: DeliveryQueueKey = MAC) -> list[Delivery]:
    return await deliveries.waiting(queue, 1000)


async def blocked(deliveries: Deliveries, device: str = "MAC") -> dict[DeliveryQueueKey, Backlog]:
    return await deliveries.blocked(partition_of(device))


def owed(event: str, number: int = 1, queue: DeliveryQueueKey = MAC) -> Delivery:
    return Delivery(queue, event, number)


async def test_what_is_stored_waits_in_the_order_of_its_numbers(deliveries: Deliveries) -> None:
    for event, number in (("b", 1), ("c", 3), ("a", 2)):
        await deliveries.store([owed(event, number)])

    found = await waiting(deliveries)

    assert [delivery.event_id for delivery in found] == ["b", "a", "c"]


async def test_the_first_ones_of_a_queue_are_read_however_far_apart_their_numbers_are(
    deliveries: Deliveries,
) -> None:
    for number in (3 * 10**18, 7, 1_790_000_000_000_000_000, 5):
        await deliveries.store([owed(f"e{number}", number)])
    await deliveries.store([owed("of another queue", 1, OTHER)])

    found = await deliveries.waiting(MAC, 4)

    assert [delivery.number for delivery in found] == [5, 7, 1_790_000_000_000_000_000]


async def test_deliveries_of_one_number_are_read_together_by_event(deliveries: Deliveries) -> None:
    for event, number in (("z", 1), ("d", 2), ("c", 2), ("b", 2), ("a", 3)):
        await deliveries.store([owed(event, number)])

    at_the_cut = await deliveries.waiting(MAC, 3)
    await deliveries.delivered(at_the_cut)
    alone = await deliveries.waiting(MAC, 2)

    assert [delivery.event_id for delivery in at_the_cut] == ["z"]
    assert [delivery.event_id for delivery in alone] == ["b", "c", "d"]


async def test_a_delivery_comes_back_as_it_was_stored(deliveries: Deliveries) -> None:
    stored = Delivery(MAC, "a", 7, attempts=1, next_attempt_at=NOW, last_error="answered 500")

    await deliveries.store([stored])

    assert await waiting(deliveries) == [stored]


async def test_the_size_of_a_body_is_kept_and_may_be_unknown(deliveries: Deliveries) -> None:
    await deliveries.store([replace(owed("a", 1), size=250_000)])
    await deliveries.store([owed("b", 2)])

    assert [each.size for each in await waiting(deliveries)] == [250_000, None]


async def test_an_event_that_is_stored_already_keeps_its_number(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a", 4)])

    numbers = await deliveries.store([owed("a", 9), owed("b", 1, PHONE)])

    assert numbers == [4, 1]
    assert await waiting(deliveries) == [owed("a", 4)]
    assert await waiting(deliveries, PHONE) == [owed("b", 1, PHONE)]


async def test_the_same_event_waits_for_each_subscription(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a", 1), owed("a", 5, OTHER)])

    assert await waiting(deliveries) == [owed("a")]
    assert await waiting(deliveries, OTHER) == [owed("a", 5, OTHER)]


async def test_blocked_queues_show_their_numbers_and_oldest_event(
    deliveries: Deliveries,
) -> None:
    await deliveries.store([owed("b", 2), owed("c", 4, OTHER)])
    await deliveries.store([owed("a", 6)])

    assert await blocked(deliveries) == {MAC: Backlog(2, 6, "a", 2), OTHER: Backlog(4, 4, "c")}


async def test_blocked_queues_are_complete_however_long_the_backlog_is(
    deliveries: Deliveries,
) -> None:
    for number in range(1, 9):
        await deliveries.store([owed(f"e{number}", number)])
        await deliveries.store([owed(f"e{number}", number + 10, OTHER)])

    assert await blocked(deliveries) == {
        MAC: Backlog(1, 8, "e1", 8),
        OTHER: Backlog(11, 18, "e1", 8),
    }


async def test_blocked_queues_of_other_partitions_are_left_out(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a"), owed("b", 1, PHONE)])

    assert set(await blocked(deliveries)) == {MAC}


async def test_a_delivered_one_no_longer_waits(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a", 1)])
    await deliveries.store([owed("b", 2)])

    await deliveries.delivered([owed("a", 1)])

    assert await waiting(deliveries) == [owed("b", 2)]


async def test_delivering_twice_is_no_error(deliveries: Deliveries) -> None:
    await deliveries.delivered([owed("a")])

    assert await blocked(deliveries) == {}


async def test_of_two_who_lease_at_once_one_gets_it(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a")])

    one, two = await asyncio.gather(
        deliveries.lease([owed("a")], "h1", LATER, NOW),
        deliveries.lease([owed("a")], "h2", LATER, NOW),
    )

    assert sorted([one, two], key=len) == [set(), {"config:a"}]


async def test_a_lease_that_ran_out_can_be_taken_over(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a")])
    await deliveries.lease([owed("a")], "h1", LATER, NOW)

    taken = await deliveries.lease([owed("a")], "h2", LATER + timedelta(seconds=35), LATER)

    assert taken == {"config:a"}


async def test_leasing_many_says_which_were_free(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a"), owed("b", 1, PHONE)])
    await deliveries.lease([owed("a")], "h1", LATER, NOW)

    taken = await deliveries.lease(
        [owed("a"), owed("b", 1, PHONE), owed("gone", 2)], "h2", LATER, NOW
    )

    assert taken == {"config:b"}


async def test_a_lease_that_is_given_back_leaves_no_trace(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a")])
    await deliveries.store([owed("b", 2)])
    await deliveries.lease([owed("a"), owed("b", 2)], "h1", LATER, NOW)
    before = await deliveries.waiting(owed("a").queue, 9)
    await deliveries.release(["config:a", "config:gone"], "h1")
    await deliveries.release(["config:b"], "h2")

    assert await deliveries.waiting(owed("a").queue, 9) == before
    taken = await deliveries.lease([owed("a"), owed("b", 2)], "h2", LATER, NOW)
    assert taken == {"config:a"}
    await deliveries.release(["config:a"], "h1")
    assert await deliveries.lease([owed("a")], "h3", LATER, NOW) == set()


async def test_a_failed_attempt_is_written_and_ends_the_lease(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a")])
    await deliveries.lease([owed("a")], "h1", LATER, NOW)
    failed = replace(owed("a"), attempts=3, next_attempt_at=LATER, last_error="answered 500")

    await deliveries.failed(failed, "h1")

    assert await waiting(deliveries) == [failed]
    assert await deliveries.lease([failed], "h2", LATER, NOW) == {"config:a"}


async def test_a_failure_of_a_lease_that_was_lost_changes_nothing(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a")])
    await deliveries.lease([owed("a")], "h1", NOW, NOW)
    await deliveries.lease([owed("a")], "h2", LATER, NOW)

    await deliveries.failed(replace(owed("a"), attempts=9), "h1")

    assert await waiting(deliveries) == [owed("a")]
    assert await deliveries.lease([owed("a")], "h3", LATER, NOW) == set()


async def test_a_failure_does_not_bring_a_delivered_one_back(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a")])
    await deliveries.lease([owed("a")], "h1", LATER, NOW)
    await deliveries.delivered([owed("a")])

    await deliveries.failed(replace(owed("a"), attempts=1), "h1")

    assert await waiting(deliveries) == []


async def give_up(
    deliveries: Deliveries, delivery: Delivery, body: bytes | None = None
) -> Delivery:
    dead_lettered = replace(
        delivery, state=DeliveryState.DEAD_LETTERED, attempts=11, last_error="answered 410"
    )
    await deliveries.store([delivery])
    await deliveries.lease([delivery], "h1", LATER, NOW)
    await deliveries.failed(dead_lettered, "h1", body)
    return dead_lettered


async def test_what_is_given_up_on_is_kept_and_blocks_nothing(deliveries: Deliveries) -> None:
    dead_lettered = await give_up(deliveries, owed("a"))

    assert await deliveries.dead_lettered(partition_of("MAC")) == [dead_lettered]
    assert await blocked(deliveries) == {}
    assert await waiting(deliveries) == []


async def test_what_is_given_up_on_is_not_leased(deliveries: Deliveries) -> None:
    dead_lettered = await give_up(deliveries, owed("a"))

    assert await deliveries.lease([dead_lettered], "h2", LATER, LATER) == set()


async def test_an_event_that_was_given_up_on_is_not_stored_anew(deliveries: Deliveries) -> None:
    await give_up(deliveries, owed("a", 3))

    assert await deliveries.store([owed("a", 8)]) == [3]
    assert await waiting(deliveries) == []


async def test_what_is_given_up_on_is_listed_by_partition(deliveries: Deliveries) -> None:
    for event, queue in (("c", MAC), ("a", MAC), ("b", PHONE)):
        await give_up(deliveries, owed(event, 1, queue))

    found = await deliveries.dead_lettered(partition_of("MAC"))

    assert [delivery.event_id for delivery in found] == ["a", "c"]


async def test_a_retry_by_hand_makes_it_pending_with_a_fresh_schedule(
    deliveries: Deliveries,
) -> None:
    await give_up(deliveries, owed("a"))
    await give_up(deliveries, owed("b", 2))

    made = await deliveries.retry(["config:a", "config:unknown"], NOW)

    found = await waiting(deliveries)
    assert made == 1
    assert [(d.event_id, d.attempts, d.next_attempt_at) for d in found] == [("a", 0, NOW)]
    assert set(await blocked(deliveries)) == {MAC}
    assert await deliveries.lease(found, "h2", LATER, NOW) == {"config:a"}


@pytest.mark.parametrize(
    ("event", "number", "again"),
    [
        ("a", 7, 7),
        ("a", 1_790_000_000_000_000_000, 1_790_000_000_000_000_000),
        # beyond all times, as a former version made it
        ("0199b5d0-0000-7000-8000-000000000001", 3 * 10**18 + 4, 0x199B5D00000 * 10**6),
        ("of no time", 3 * 10**18 + 4, 0),
    ],
)
async def test_a_dead_letter_that_is_tried_again_has_its_number(
    deliveries: Deliveries, event: str, number: int, again: int
) -> None:
    await give_up(deliveries, owed(event, number))

    await deliveries.retry([f"config:{event}"], NOW)

    assert [each.number for each in await waiting(deliveries)] == [again]


async def test_what_is_revived_is_pending_again_and_what_is_pending_is_left_alone(
    deliveries: Deliveries,
) -> None:
    await give_up(deliveries, owed("a"))
    await give_up(deliveries, owed("b", 2))
    await deliveries.store([owed("c", 3)])

    await deliveries.revive(["config:a", "config:c", "config:unknown"], LATER)

    found = await waiting(deliveries)
    assert [(d.event_id, d.attempts, d.next_attempt_at) for d in found] == [
        ("a", 0, LATER),
        ("c", 0, owed("c").next_attempt_at),
    ]
    assert await blocked(deliveries) == {MAC: Backlog(1, 3, "a", 2)}
    assert await deliveries.lease(found, "h2", LATER, NOW) == {"config:a", "config:c"}


async def test_what_was_kept_with_a_delivery_stays_when_it_is_retried(
    deliveries: Deliveries,
) -> None:
    await give_up(deliveries, owed("a"), b"the body")
    await deliveries.retry(None, NOW)

    assert await deliveries.body("config:a") == b"the body"
    assert await deliveries.body("config:unknown") is None


async def test_a_lease_further_ahead_than_any_can_be_is_not_good(deliveries: Deliveries) -> None:
    """An hour ahead: the clock of whoever made it was wrong."""
    await deliveries.store([owed("a"), owed("b", 1, PHONE)])
    await deliveries.lease([owed("a")], "h1", LATER + timedelta(hours=1), NOW)
    await deliveries.lease([owed("b")], "h1", LATER, NOW)

    taken = await deliveries.lease([owed("a"), owed("b", 1, PHONE)], "h2", LATER, NOW)

    assert taken == {"config:a"}


async def test_of_two_who_take_over_such_a_lease_one_gets_it(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a")])
    await deliveries.lease([owed("a")], "h1", LATER + timedelta(hours=1), NOW)

    one, two = await asyncio.gather(
        deliveries.lease([owed("a")], "h2", LATER, NOW),
        deliveries.lease([owed("a")], "h3", LATER, NOW),
    )

    assert sorted([one, two], key=len) == [set(), {"config:a"}]


async def test_all_that_was_given_up_on_can_be_retried(deliveries: Deliveries) -> None:
    for event, queue in (("a", MAC), ("b", PHONE)):
        await give_up(deliveries, owed(event, 1, queue))

    assert await deliveries.retry(None, NOW) == 2
    assert await deliveries.dead_lettered(partition_of("MAC")) == []
    assert await deliveries.dead_lettered(partition_of("PHONE")) == []


# --- what was set aside


async def set_aside(deliveries: Deliveries, delivery: Delivery) -> Delivery:
    """Stored in its device's delivery queue, then set aside."""
    beside = replace(delivery, queue=replace(delivery.queue, aside=delivery.event_id), attempts=6)
    await deliveries.store([delivery])
    await deliveries.lease([delivery], "h1", LATER, NOW)
    await deliveries.failed(beside, "h1")
    return beside


async def test_what_is_set_aside_waits_in_a_queue_of_its_own(deliveries: Deliveries) -> None:
    beside = await set_aside(deliveries, owed("a", 1))
    await deliveries.store([owed("b", 2)])

    assert await waiting(deliveries) == [owed("b", 2)]
    assert await waiting(deliveries, beside.queue) == [beside]
    assert await blocked(deliveries) == {MAC: Backlog(2, 2, "b"), beside.queue: Backlog(1, 1, "a")}


async def test_what_is_set_aside_stays_aside_until_it_is_delivered(deliveries: Deliveries) -> None:
    """Whoever read it in its device's delivery queue may have it under a lease still."""
    beside = await set_aside(deliveries, owed("a"))
    assert await deliveries.lease([owed("a")], "h2", LATER, NOW) == {"config:a"}
    await deliveries.failed(replace(owed("a"), attempts=7), "h2")
    assert await waiting(deliveries, beside.queue) == [replace(beside, attempts=7)]

    await deliveries.delivered([beside])

    assert await blocked(deliveries) == {}


async def test_setting_aside_under_a_lease_that_was_lost_changes_nothing(
    deliveries: Deliveries,
) -> None:
    await deliveries.store([owed("a")])
    await deliveries.lease([owed("a")], "h1", LATER, NOW)

    await deliveries.failed(replace(owed("a"), queue=replace(MAC, aside="a")), "h2")

    assert await waiting(deliveries) == [owed("a")]


async def test_an_event_that_was_set_aside_is_not_stored_anew(deliveries: Deliveries) -> None:
    await set_aside(deliveries, owed("a", 4))

    assert await deliveries.store([owed("a", 9)]) == [4]
    assert await waiting(deliveries) == []


async def test_what_was_set_aside_and_given_up_on_is_retried_in_its_devices_queue(
    deliveries: Deliveries,
) -> None:
    beside = await set_aside(deliveries, owed("a"))
    await deliveries.lease([beside], "h2", LATER, NOW)
    await deliveries.failed(replace(beside, state=DeliveryState.DEAD_LETTERED), "h2")
    [dead_lettered] = await deliveries.dead_lettered(partition_of("MAC"))

    await deliveries.retry([dead_lettered.id], NOW)

    assert dead_lettered.queue == MAC
    assert await waiting(deliveries) == [
        replace(owed("a"), attempts=0, next_attempt_at=NOW),
    ]


# --- what an operator asks for


async def test_a_pending_one_that_is_asked_for_is_due_and_shows_until_it_is_tried(
    deliveries: Deliveries,
) -> None:
    await deliveries.store([replace(owed("a"), attempts=7, next_attempt_at=LATER)])

    made = await deliveries.retry(["config:a"], NOW)

    [found] = await waiting(deliveries)
    assert (made, found.attempts, found.next_attempt_at) == (1, 7, NOW)
    assert await blocked(deliveries) == {MAC: Backlog(1, 1, "a", asked=frozenset({("a", NOW)}))}
    await deliveries.lease([found], "h1", LATER, NOW)
    await deliveries.failed(found, "h1")
    assert await blocked(deliveries) == {MAC: Backlog(1, 1, "a")}


async def test_each_time_that_an_operator_asks_is_another_one(deliveries: Deliveries) -> None:
    for number, event in enumerate("abc", start=1):
        await deliveries.store([owed(event, number)])
    await deliveries.retry(["config:b", "config:c"], NOW)

    first = (await blocked(deliveries))[MAC].asked
    await deliveries.retry(["config:b"], LATER)

    assert first == {("b", NOW), ("c", NOW)}
    assert (await blocked(deliveries))[MAC].asked == {("b", LATER), ("c", NOW)}


async def test_retrying_all_leaves_what_is_pending_alone(deliveries: Deliveries) -> None:
    await deliveries.store([replace(owed("a"), attempts=7, next_attempt_at=LATER)])

    assert await deliveries.retry(None, NOW) == 0
    assert (await waiting(deliveries))[0].next_attempt_at == LATER


@pytest.mark.parametrize("is_aside", [False, True])
async def test_what_is_skipped_is_given_up_on_with_its_body(
    deliveries: Deliveries, is_aside: bool
) -> None:
    await deliveries.store([owed("a", 1)])
    if is_aside:
        await set_aside(deliveries, owed("a", 1))
    await deliveries.store([owed("b", 2)])

    assert await deliveries.skip("config:a", b"the body")

    assert set(await blocked(deliveries)) == {MAC}
    assert await waiting(deliveries) == [owed("b", 2)]
    assert [each.event_id for each in await deliveries.dead_lettered(partition_of("MAC"))] == ["a"]
    assert await deliveries.body("config:a") == b"the body"


async def test_a_skip_wins_over_an_attempt_that_fails_meanwhile(deliveries: Deliveries) -> None:
    await deliveries.store([owed("a")])
    await deliveries.lease([owed("a")], "h1", LATER, NOW)
    await deliveries.skip("config:a", None)

    await deliveries.failed(replace(owed("a"), attempts=1), "h1")

    assert await waiting(deliveries) == []
    assert len(await deliveries.dead_lettered(partition_of("MAC"))) == 1


async def test_what_is_not_pending_is_not_skipped(deliveries: Deliveries) -> None:
    dead_lettered = await give_up(deliveries, owed("a"), b"the body")

    assert not await deliveries.skip("config:a", b"another")
    assert not await deliveries.skip("config:unknown", None)
    assert await deliveries.dead_lettered(partition_of("MAC")) == [dead_lettered]
    assert await deliveries.body("config:a") == b"the body"


async def test_a_queue_of_a_subscription_or_a_push_certificate_is_its_own(
    deliveries: Deliveries,
) -> None:
    """They have no device: their names hold a colon, which no device's id does."""
    queue = DeliveryQueueKey("2", "webhook:1")
    await deliveries.store([owed("e", 5, queue)])

    assert await blocked(deliveries, "webhook:1") == {queue: Backlog(5, 5, "e")}
    [found] = await waiting(deliveries, queue)
    assert found.id == "2:e"
    assert await deliveries.lease([found], "holder", LATER, NOW) == {"2:e"}
