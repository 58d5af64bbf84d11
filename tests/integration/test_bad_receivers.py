"""Receivers that misbehave, each with a subscription of its own at one whole server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from shared.domain.subscription import DeliveryLimits, Subscription
from shared.messaging.memory.broker import LocalBroker
from shared.storage.database import Database
from shared.storage.events.subscriptions import MongoSubscriptions
from shared.storage.events.webhook_history import MongoActivities
from shared.storage.mongo import Mongo
from shared.times import parse_rfc3339
from tests.contract.stores import KEYRING
from tests.integration.receivers.names import Names
from tests.integration.test_webhook import CLOCK, SCHEDULE, publish, running
from tests.integration.test_webhooks_api import ask, events_of, topics, until
from tests.integration.whole import Whole, whole_server
from tests.support.harness.sink import OK, Arrival, Behaviour, Kind, Sink

TIMEOUT = 1.0
FOLLOWED = 2.0
"""Seconds: all replicas know a change of a subscription by then."""
LAST = 3
"""Events of the device of each test before its receivers are good again."""
BAD = {
    "hanging": Behaviour(Kind.HANG),
    "trickling": Behaviour(Kind.TRICKLE),
    "huge": Behaviour(Kind.HUGE, status=500),
    "resetting": Behaviour(Kind.RESET),
    "redirecting": Behaviour(status=307),
    "busy": Behaviour(status=429, retry_after="4"),
    "busy for a day": Behaviour(status=429, retry_after="86400"),
    "gone": Behaviour(status=410),
}
REASONS = {
    "hanging": "no answer within 1 s",
    "trickling": "no answer within 1 s",
    "huge": "answered 500",
    "resetting": "the connection was closed without an answer; if it speaks TLS, the webhook's url must "
    "say https://",
    "redirecting": "answered 307: redirects are not followed",
    "busy": "answered 429",
    "busy for a day": "answered 429",
    "gone": "answered 410",
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Whole]:
    async with whole_server(tmp_path) as found:
        yield found


async def subscribed(server: Whole, receiver: Sink, **fields: Any) -> dict[str, Any]:
    fields = {"name": "n", "timeout": "1 s", "retry_schedule": ["1 s"] * 20} | fields
    return await ask(server, "POST", "", {"url": receiver.url, **fields})


async def first_failure(server: Whole, id: str) -> dict[str, Any]:
    """Of an attempt at its receiver, once that is written."""
    async with asyncio.timeout(20):
        while not (failure := (await ask(server, "GET", f"/{id}"))["status"]["last_error"]):
            await asyncio.sleep(0.2)
    return dict(failure)


async def test_bad_receivers_hold_up_nobody_and_get_everything_in_order_once_they_are_good(
    server: Whole,
) -> None:
    async with AsyncExitStack() as stack:
        sinks = {name: await stack.enter_async_context(Sink()) for name in (*BAD, "good")}
        elsewhere = await stack.enter_async_context(Sink())
        made = {name: await subscribed(server, sink) for name, sink in sinks.items()}
        for name, behaviour in BAD.items():
            sinks[name].behaviour = behaviour
        sinks["redirecting"].behaviour = replace(BAD["redirecting"], location=elsewhere.url)
        await asyncio.sleep(FOLLOWED)
        device = await server.enrolled()
        await device.connect()
        await until(lambda: len(events_of(sinks["good"], device.id)) == LAST, seconds=5)

        failures = {name: await first_failure(server, made[name]["id"]) for name in BAD}
        asked_until = await next_attempt(server, made["busy for a day"]["id"])
        gone = await ask(server, "GET", f"/{made['gone']['id']}")
        again = await attempts(sinks["busy"], 2)

        for name in BAD:
            sinks[name].behaviour = OK
        await ask(server, "POST", f"/{made['gone']['id']}/resume")
        waiting = events_of(sinks["good"], device.id)
        body = {"event_ids": [each.event_id for each in waiting]}
        await ask(server, "POST", f"/{made['busy for a day']['id']}/deliveries/retry", body)
        expected = [each.event_id for each in waiting]
        for name in BAD:
            await until(lambda name=name: len(set(ids(sinks[name], device.id))) == LAST, 60)  # type: ignore[misc]

    assert {name: each["reason"] for name, each in failures.items()} == REASONS
    assert len(failures["huge"]["answer"]) == 1024
    assert max(failures[name]["latency"] for name in ("hanging", "trickling")) < TIMEOUT + 2
    assert not elsewhere.arrivals
    assert again[1].at - again[0].at >= 4
    assert timedelta(minutes=50) < asked_until - datetime.now(UTC) <= timedelta(hours=1)
    assert (gone["state"], gone["state_reason"]) == ("disabled", "answered 410")
    for name in BAD:
        assert list(dict.fromkeys(ids(sinks[name], device.id))) == expected, name


def ids(sink: Sink, device: str) -> list[str]:
    return [each.event_id for each in events_of(sink, device)]


async def next_attempt(server: Whole, id: str) -> datetime:
    [first, *_] = (await ask(server, "GET", f"/{id}/deliveries"))["deliveries"]
    found = parse_rfc3339(first["next_attempt_at"])
    assert found is not None
    return found


async def attempts(sink: Sink, count: int) -> list[Arrival]:
    """The first ones that came, of one event."""
    first = sink.arrivals[0].event_id
    await until(lambda: sink.count_of(first) >= count)
    return [each for each in sink.arrivals if each.event_id == first]


async def test_while_a_secret_is_replaced_both_sign_and_then_the_new_one_alone(
    server: Whole,
) -> None:
    async with Sink() as receiver:
        made = await subscribed(server, receiver, secret="whsec_" + "A" * 32)
        path = f"/{made['id']}/secret"
        former = "whsec_" + "A" * 32
        first = (await ask(server, "POST", path))["secret"]
        await asyncio.sleep(FOLLOWED)
        device = await server.enrolled()
        await until(lambda: len(events_of(receiver, device.id)) == 2)
        second = (await ask(server, "POST", path, {"keep_former_for": "0 s"}))["secret"]
        await asyncio.sleep(FOLLOWED)
        await device.connect()
        await until(lambda: len(events_of(receiver, device.id)) == 3)
        *during, after = events_of(receiver, device.id)

    assert topics(during) == ["mdm.Authenticate", "mdm.TokenUpdate"]
    for arrival in during:
        assert signers(arrival, former, first, second) == {former, first}
    assert signers(after, former, first, second) == {second}


def signers(arrival: Arrival, *secrets: str) -> set[str]:
    """The secrets by which the signature holds."""
    found = set()
    for secret in secrets:
        try:
            Webhook(secret).verify(arrival.body, arrival.headers)
        except WebhookVerificationError:
            continue
        found.add(secret)
    return found


@pytest.fixture
async def database(mongodb_url: str) -> AsyncIterator[Database]:
    database = Mongo(mongodb_url)
    yield database
    await database.close()


async def test_a_name_that_leads_to_a_refused_address_meanwhile_is_not_posted_to(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events wait until it leads to a good one again."""
    table = {"hooks.example": ["127.0.0.1"]}
    Names(monkeypatch, table)
    broker = LocalBroker(clock=CLOCK)
    await broker.start()
    async with Sink() as receiver:
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        limits = DeliveryLimits(retry_schedule=SCHEDULE)
        await MongoSubscriptions(database, KEYRING).add(Subscription("s", url, limits=limits))
        async with running(database, broker, None):
            made = await publish(database, broker, devices=1, each=1)
            await receiver.wait_for(1)
            table["hooks.example"] = ["169.254.169.254"]
            await asyncio.sleep(11)  # what was looked up, and the connection, are not kept so long
            made["device-0"] += (await publish(database, broker, 1, 2))["device-0"]
            async with asyncio.timeout(20):
                while not (found := await failures(database)):
                    await asyncio.sleep(0.2)
            before = len(receiver.arrivals)
            table["hooks.example"] = ["127.0.0.1"]
            await receiver.wait_for(3, timeout=20)
    await broker.close()

    metadata = "cannot connect: 169.254.169.254 is an address of a cloud's metadata service"
    assert found == {metadata}
    assert before == 1
    assert receiver.first_taken("device-0") == made["device-0"]


async def failures(database: Database) -> set[str | None]:
    found = await MongoActivities(database, KEYRING).of("s")
    return {failure.reason for each in found for failure in each.failures}
