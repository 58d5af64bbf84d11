"""GET /v1/webhooks/{id} and what is below it: deliveries, retries, skips and tests; on fakes."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from services.webhook.endpoints.sender import AttemptOutcome
from services.webhook.history.service import MOST_PAGES, MOST_RUNNING, PAGE
from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Event, Topic
from shared.domain.subscription import (
    Activity,
    AttemptRecord,
    Delivery,
    DeliveryQueueKey,
    Subscription,
)
from shared.times import event_ids_from, nanoseconds
from shared.web.api.cursor import write_cursor
from tests.support.webhook_world import CONFIGURED, URL, WebhookApi

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
STORED = Subscription("1", URL, name="inventory", revision="r")


class World(WebhookApi):
    def __init__(self) -> None:
        super().__init__(STORED, configured=CONFIGURED)

    async def store(self, event: str, device: str = "MAC", **more: Any) -> None:
        queue = DeliveryQueueKey("1", device, more.pop("aside", None))
        await self.deliveries.store([Delivery(queue, event, 1, **more)])

    async def listed(self, query: str = "") -> tuple[list[str], str | None]:
        status, answer = await self.ask("GET", f"/1/deliveries{query}")
        assert status == 200, answer
        return [each["event_id"] for each in answer["deliveries"]], answer["next_cursor"]


async def test_a_subscription_is_shown_with_what_waits_for_it() -> None:
    world = World()
    old = event_ids_from(world.clock.now() - timedelta(seconds=90)) + "-7000"
    await world.store(old, "MAC")
    await world.store("zz", "PAD")
    await world.store("0dead", "TV")
    await world.deliveries.skip("1:0dead", None)
    now = world.clock.now()
    took = AttemptRecord("e1", now, latency=timedelta(milliseconds=5))
    failed = AttemptRecord("e2", now, 2, 1, 500, None, "answered 500", "no")
    earlier = AttemptRecord("e0", now - timedelta(hours=1))
    await world.activities.note(
        [Activity("1", "p", now, 5, 2, took, (failed,)), Activity("1", "q", now, 1, 0, earlier)]
    )

    _, shown = await world.ask("GET", "/1")

    assert shown["name"] == "inventory"
    status = shown["status"]
    assert (status["waiting"], status["dead_letters"], status["is_complete"]) == (2, 1, True)
    assert status["blocked_devices"] == ["MAC", "PAD"]
    assert status["lag"] == 90.0
    assert (status["delivered"], status["failed_attempts"]) == (6, 2)
    assert status["last_success"]["event_id"] == "e1"
    assert status["last_success"]["latency"] == 0.005
    assert status["last_error"] == {
        "event_id": "e2",
        "at": "2026-01-02T03:04:05Z",
        "attempt": 2,
        "events": 1,
        "status": 500,
        "latency": None,
        "reason": "answered 500",
        "answer": "no",
    }


async def test_the_lag_is_that_of_events_and_not_of_what_they_follow_from() -> None:
    """The id of an answer to a command has the time when the command was sent."""
    world = World()
    now = world.clock.now()
    answer = event_ids_from(now - timedelta(days=2)) + "-7000"
    older = event_ids_from(now - timedelta(hours=1)) + "-7000"
    for id_, age in ((answer, timedelta(seconds=5)), (older, timedelta(seconds=60))):
        event = Event(id_, Topic.CONNECT, MAC, nanoseconds(now - age), b"", "w", 1)
        await world.journal.append([event])
        await world.store(id_)

    _, shown = await world.ask("GET", "/1")

    assert shown["status"]["lag"] == 60.0


async def test_a_subscription_for_which_nothing_waits_has_no_lag() -> None:
    _, shown = await World().ask("GET", "/1")

    assert shown["status"] == {
        "waiting": 0,
        "dead_letters": 0,
        "is_complete": True,
        "blocked_devices": [],
        "lag": None,
        "delivered": 0,
        "failed_attempts": 0,
        "last_success": None,
        "last_error": None,
    }


async def test_of_a_large_backlog_a_bounded_part_is_counted() -> None:
    world = World()
    for n in range(PAGE * MOST_PAGES + 1):
        await world.store(f"{n:06}", f"D{n}")

    _, shown = await world.ask("GET", "/1")

    assert shown["status"]["waiting"] == PAGE * MOST_PAGES
    assert shown["status"]["is_complete"] is False
    assert len(shown["status"]["blocked_devices"]) == 100


async def test_deliveries_are_listed_with_their_last_attempts() -> None:
    world = World()
    due = world.clock.now() + timedelta(minutes=1)
    await world.store(
        "a", attempts=3, next_attempt_at=due, last_error="answered 500", topic="mdm.Connect"
    )
    await world.store("b", aside="b")
    await world.store("c", aside="replay.r")
    failure = AttemptRecord("a", due, 3, 1, 500, None, "answered 500", "no")
    await world.activities.note([Activity("1", "p", due, 0, 1, None, (failure,))])

    _, answer = await world.ask("GET", "/1/deliveries")

    [a, b, c] = answer["deliveries"]
    assert a["last_attempt"]["answer"] == "no"
    del a["last_attempt"]
    assert a == {
        "event_id": "a",
        "topic": "mdm.Connect",
        "device": "MAC",
        "state": "waiting",
        "is_set_aside": False,
        "replay": None,
        "attempts": 3,
        "next_attempt_at": "2026-01-02T03:05:05Z",
        "last_error": "answered 500",
    }
    assert (b["is_set_aside"], b["replay"], b["last_attempt"]) == (True, None, None)
    assert (c["is_set_aside"], c["replay"]) == (False, "r")


async def test_deliveries_are_filtered_and_come_in_pages() -> None:
    world = World()
    for event in "abcdef":
        await world.store(event, "PAD" if event in "be" else "MAC")
    await world.deliveries.skip("1:c", None)

    assert await world.listed() == (list("abcdef"), None)
    assert await world.listed("?state=dead_letter") == (["c"], None)
    assert await world.listed("?state=waiting&device=MAC") == (["a", "d", "f"], None)
    first, cursor = await world.listed("?limit=4")
    assert first == list("abcd")
    assert await world.listed(f"?limit=4&cursor={cursor}") == (list("ef"), None)
    assert await world.listed("?limit=6") == (list("abcdef"), None)


async def test_a_filter_that_nothing_fits_reads_a_bounded_part() -> None:
    world = World()
    for n in range(PAGE * MOST_PAGES + 1):
        await world.store(f"{n:06}", "MAC")
    await world.store("z", "PAD")

    found, cursor = await world.listed("?device=PAD")

    assert (found, cursor is not None) == ([], True)
    assert await world.listed(f"?device=PAD&cursor={cursor}") == (["z"], None)


@pytest.mark.parametrize("query", ["?state=gone", "?limit=0", "?cursor=%21", "?devise=MAC"])
async def test_a_filter_that_cannot_be_used_is_refused(query: str) -> None:
    assert (await World().ask("GET", f"/1/deliveries{query}"))[0] == 400


async def test_a_replay_goes_on_where_there_are_too_many_dead_letters_for_one_request() -> None:
    world = World()
    for number in range(PAGE * MOST_PAGES + 2):
        await world.store(f"{number:05d}")
        await world.deliveries.skip(f"1:{number:05d}", None)

    status, answer = await world.ask("POST", "/1/deliveries/retry")
    again = (await world.ask("POST", "/1/deliveries/retry"))[1]
    left, _ = await world.listed("?state=dead_letter&cursor=" + write_cursor("09000"))
    await world.worker.look()

    assert (status, answer["count"]) == (200, PAGE * MOST_PAGES)
    assert again == {"count": 0, "replay": answer["replay"]}
    assert left == ["10000", "10001"]
    [replay] = (await world.ask("GET", "/1/replays"))[1]["replays"]
    assert (replay["id"], replay["state"], replay["stored"]) == (answer["replay"], "done", 2)
    assert await world.listed("?state=dead_letter&cursor=" + write_cursor("09000")) == ([], None)


async def test_where_too_many_replays_run_no_other_one_begins() -> None:
    world = World()
    for number in range(PAGE * MOST_PAGES):
        await world.store(f"{number:05d}")
    for _ in range(MOST_RUNNING):
        assert (await world.ask("POST", "/1/replay", {"event_ids": ["a"]}))[0] == 202

    assert (await world.ask("POST", "/1/deliveries/retry"))[0] == 409
    assert len(world.replays.stored) == MOST_RUNNING


async def test_dead_letters_are_tried_again() -> None:
    world = World()
    for event in "abc":
        await world.store(event)
        await world.deliveries.skip(f"1:{event}", None)

    assert await world.ask("POST", "/1/deliveries/retry", {"event_ids": ["a"]}) == (
        200,
        {"count": 1, "replay": None},
    )
    assert await world.listed("?state=waiting") == (["a"], None)
    assert await world.ask("POST", "/1/deliveries/retry") == (200, {"count": 2, "replay": None})
    assert await world.listed("?state=dead_letter") == ([], None)
    assert [entry.targets for entry in world.audit.entries] == [("1", "a"), ("1",)]


async def test_events_that_wait_are_skipped_and_kept() -> None:
    world = World()
    await world.store("a")
    await world.store("b")

    assert await world.ask("POST", "/1/deliveries/skip", {"event_ids": ["a", "none"]}) == (
        200,
        {"count": 1},
    )
    assert await world.listed("?state=dead_letter") == (["a"], None)
    assert (await world.ask("POST", "/1/deliveries/skip", {}))[0] == 400


async def test_a_test_event_goes_to_one_subscription_and_says_what_became_of_it() -> None:
    world = World()
    world.receiver.outcome = AttemptOutcome(
        "answered 500", status=500, answer="no", latency=timedelta(milliseconds=12)
    )

    status, answer = await world.ask("POST", "/1/test")

    assert (status, answer["delivered"]) == (200, False)
    assert {key: answer[key] for key in ("status", "latency", "reason", "answer")} == {
        "status": 500,
        "latency": 0.012,
        "reason": "answered 500",
        "answer": "no",
    }
    [request] = world.receiver.requests
    [event] = request.events
    assert orjson.loads(event.body) == {
        "topic": "macromdm.Test",
        "event_id": answer["event_id"],
        "created_at": "2026-01-02T03:04:05Z",
        "webhook_event": {"version": 1, "webhook": "1", "name": "inventory"},
    }
    assert event.topic == "macromdm.Test"
    assert (world.deliveries.records, world.journal.events) == ({}, {})
    assert [entry.action for entry in world.audit.entries] == ["webhook.test"]


async def test_the_configured_subscription_gets_no_test_event() -> None:
    world = World()

    assert (await world.ask("POST", "/config/test"))[0] == 409
    assert world.receiver.requests == []


async def test_nothing_is_shown_of_a_subscription_that_is_not_there() -> None:
    world = World()
    for method, path in (
        ("GET", ""),
        ("GET", "/deliveries"),
        ("POST", "/deliveries/retry"),
        ("POST", "/test"),
    ):
        assert (await world.ask(method, f"/2{path}"))[0] == 404
