"""Promises of `python -m services deliveries list [--blocked] | retry | skip | replay | replays`."""

import argparse
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from services.cli.deliveries import DeliveriesCommand, add_arguments, run
from services.webhook.history.service import MOST_PAGES, PAGE
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import BadRequest, Misconfigured, Unavailable
from shared.domain.event import Event, Topic
from shared.domain.subscription import (
    Delivery,
    DeliveryQueueKey,
    DeliveryState,
    ReplayChoice,
    Subscription,
)
from shared.messaging.envelope import event_json
from shared.times import nanoseconds
from tests.support.fakes.clock import START
from tests.support.webhook_world import CONFIGURED, WebhookApi

QUEUE = DeliveryQueueKey("config", "MAC")
WAITING = Delivery(QUEUE, "e1", 1)
DEAD_LETTERED = Delivery(
    QUEUE, "e1", 1, DeliveryState.DEAD_LETTERED, 11, None, "answered 500", topic="mdm.Connect"
)
EVENT = Event(
    "e1", Topic.CONNECT, EnrollmentKey("MAC", device="MAC", udid="MAC"), 1, b"<plist/>", "w", 1
)
MADE = Subscription("w1", "https://receiver.example/", name="made")


async def holding(*deliveries: Delivery) -> WebhookApi:
    """MDM_WEBHOOK_URL and one made by API, with these deliveries."""
    api = WebhookApi(MADE, configured=CONFIGURED)
    api.journal.events["e1"] = EVENT
    for each in deliveries:
        await api.deliveries.store([each])
    return api


async def said(api: WebhookApi, *arguments: str) -> str:
    """What one run writes."""
    return await said_by(api.http, *arguments)


async def said_by(http: httpx.AsyncClient, *arguments: str) -> str:
    parser, out = argparse.ArgumentParser(), io.StringIO()
    add_arguments(parser)
    await DeliveriesCommand(http, out).run(parser.parse_args(arguments))
    return out.getvalue()


async def test_dead_letters_are_listed_with_the_id_that_retry_takes() -> None:
    assert await said(await holding(DEAD_LETTERED, replace(WAITING, event_id="e2")), "list") == (
        "config:e1  device=MAC  topic=mdm.Connect  attempts=11  last_error=answered 500\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list"], "no dead letters\n"),
        (["list", "--blocked"], "nothing waits\n"),
        (["replays", "w1"], "no replays\n"),
    ],
)
async def test_an_empty_list_says_so(arguments: list[str], expected: str) -> None:
    assert await said(await holding(), *arguments) == expected


async def test_dead_letters_of_every_device_and_every_webhook_are_listed_over_all_pages() -> None:
    queues = [DeliveryQueueKey(w, f"device {n}") for w in ("config", "w1") for n in range(1100)]
    made = [replace(DEAD_LETTERED, queue=queue, event_id=f"of {queue.device}") for queue in queues]

    lines = (await said(await holding(*made), "list")).splitlines()

    assert len(set(lines)) == 2200


async def test_retry_makes_those_named_pending_and_says_how_many() -> None:
    api = await holding(DEAD_LETTERED, replace(DEAD_LETTERED, event_id="e2"))

    assert await said(api, "retry", "config:e1") == "1 delivery will be tried again\n"

    assert api.deliveries.in_queue("MAC") == ["e1"]
    assert [entry.action for entry in api.audit.entries] == ["webhook.retry"]


async def test_retry_without_ids_makes_the_dead_letters_of_every_webhook_pending() -> None:
    made = replace(DEAD_LETTERED, queue=DeliveryQueueKey("w1", "MAC"), event_id="e2")
    api = await holding(DEAD_LETTERED, made)

    assert await said(api, "retry") == "2 deliveries will be tried again\n"

    assert api.deliveries.in_queue("MAC") == ["e1", "e2"]


async def test_retry_says_that_more_than_a_request_reads_goes_on_as_a_replay() -> None:
    many = [replace(DEAD_LETTERED, event_id=f"e{n:05}") for n in range(MOST_PAGES * PAGE + 1)]

    answer = await said(await holding(*many), "retry")

    rest, count = answer.splitlines()
    assert rest.startswith("the rest of config goes on as its replay ")
    assert count == f"{MOST_PAGES * PAGE} deliveries will be tried again"


async def test_more_than_a_request_may_name_are_retried() -> None:
    names = [f"e{number:04d}" for number in range(1100)]
    api = await holding(*(replace(DEAD_LETTERED, event_id=name) for name in names))

    answer = await said(api, "retry", *(f"config:{name}" for name in names))

    assert answer == "1100 deliveries will be tried again\n"


async def test_what_devices_wait_for_is_listed_with_its_last_answer_and_next_attempt() -> None:
    head = replace(WAITING, attempts=6, next_attempt_at=START, last_error="answered 503")
    aside = replace(head, queue=replace(QUEUE, aside="e0"), event_id="e0", topic="mdm.Connect")

    api = await holding(head, replace(WAITING, event_id="e", number=2), aside)
    lines = await said(api, "list", "--blocked")

    at = "next_attempt=2026-01-02T03:04:05Z"
    assert lines.splitlines() == [
        f"config:e1  device=MAC  topic=unknown  attempts=6  last_error=answered 503  {at}  behind=1",
        f"config:e0  device=MAC  topic=mdm.Connect  attempts=6  last_error=answered 503  {at}  set_aside",
    ]


async def test_a_skip_keeps_the_event_as_its_subscriber_would_get_it() -> None:
    api = await holding(WAITING, replace(WAITING, event_id="e2", number=2))

    answer = await said(api, "skip", "config:e1", "config:unknown")

    assert answer == "1 delivery will be kept for a retry, not tried\n"
    assert api.deliveries.in_queue("MAC") == ["e2"]
    assert [each.id for each in api.deliveries.all_dead_lettered] == ["config:e1"]
    assert await api.deliveries.body("config:e1") == event_json(EVENT)


async def test_a_replay_of_a_time_is_started_and_listed_with_its_progress() -> None:
    api = await holding()
    day = "2026-01-01T00:00:00Z"

    started = await said(
        api, "replay", "w1", "--since", day, "--topic", "mdm.Connect", "--device", "MAC"
    )

    [replay] = api.replays.stored.values()
    assert replay.choice == ReplayChoice(
        since=nanoseconds(START.replace(day=1, hour=0, minute=0, second=0)),
        until=nanoseconds(START),
        topics=frozenset(["mdm.Connect"]),
        device="MAC",
    )
    assert started == await said(api, "replays", "w1")
    assert started.startswith(f"{replay.id}  state=running  stored=0  progress=0%")


async def test_events_and_dead_letters_are_replayed() -> None:
    api = await holding()

    await said(api, "replay", "w1", "e1", "e2")
    await said(api, "replay", "w1", "--failed")

    assert [each.choice.event_ids for each in api.replays.stored.values()] == [("e1", "e2"), ()]
    assert [each.choice.has_failed for each in api.replays.stored.values()] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["skip"], "skip"),
        (["skip", "e1"], "e1"),
        (["replay"], "the webhook"),
        (["replays"], "the webhook"),
        (["list", "config:e1"], "list"),
        (["retry", "--blocked"], "--blocked"),
        (["retry", "--device", "MAC"], "--device"),
        (["retry", "--topic", "mdm.Connect"], "--topic"),
        (["retry", "--since", "2026-01-01T00:00:00Z"], "--since"),
        (["skip", "config:e1", "--until", "2026-01-01T00:00:00Z"], "--until"),
        (["list", "--since", "2026-01-01T00:00:00Z"], "--since"),
        (["replays", "w1", "--failed"], "--failed"),
    ],
)
async def test_arguments_that_make_no_sense_are_refused_before_the_server_is_asked(
    arguments: list[str], named: str
) -> None:
    with pytest.raises(Misconfigured, match=named):
        await said(await holding(), *arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["replay", "../w1/test", "e1"], "there is no webhook ../w1/test"),
        (["replay", "..", "e1"], r"there is no webhook \.\."),
        (["replays", "w1?x"], r"there is no webhook w1\?x"),
        (["skip", "w2/../w1:e1"], "there is no webhook w2/../w1"),
        (["replay", "w1"], "or else `event_ids`, or `failed`"),
        (["replay", "w1", "--since", "yesterday"], "since"),
        (["replay", "config", "--failed"], "MDM_WEBHOOK_URL"),
        (["retry", "w2:e1"], "there is no webhook w2"),
    ],
)
async def test_what_the_server_refuses_is_said(arguments: list[str], named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        await said(await holding(), *arguments)


def answers(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://mdm.example")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("refused"), r"\(refused\): does it run\? See --server"),
        (httpx.ReadTimeout(""), "within 30 s$"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "set SSL_CERT_FILE"),
    ],
)
async def test_a_server_that_does_not_answer_is_no_empty_list(error: Exception, said: str) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    async with answers(answer) as http:
        with pytest.raises(Unavailable, match=f"no answer from http://mdm.example.* ?{said}"):
            await said_by(http, "list", "--blocked")


@pytest.mark.parametrize("status", [200, 301, 404, 502, 503])
@pytest.mark.parametrize("body", ["<html>", "[]", "{}", "7"])
async def test_a_page_of_another_server_is_no_empty_list(status: int, body: str) -> None:
    async with answers(lambda _: httpx.Response(status, text=body)) as http:
        with pytest.raises(
            Unavailable if status > 500 else BadRequest,
            match=rf"http://mdm\.example answered {status}, and not as MacroMDM does",
        ):
            await said_by(http, "list")


async def test_lines_are_written_as_they_come() -> None:
    found = {"event_id": "e1", "device": "MAC", "topic": None, "attempts": 1, "last_error": "no"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/webhooks":
            return httpx.Response(200, json={"webhooks": [{"id": "w1"}]})
        if "cursor" in request.url.params:
            raise httpx.ReadTimeout("")
        return httpx.Response(200, json={"deliveries": [found], "next_cursor": "2"})

    parser, out = argparse.ArgumentParser(), io.StringIO()
    add_arguments(parser)
    async with answers(answer) as http:
        with pytest.raises(Unavailable):
            await DeliveriesCommand(http, out).run(parser.parse_args(["list"]))

    assert out.getvalue().startswith("w1:e1  device=MAC")


@pytest.mark.parametrize("url", ["http://[::1", "localhost:8080", "mdm.example", "https://", "x\n"])
async def test_what_is_no_url_is_said_to_be_none(url: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    with pytest.raises(Misconfigured, match="--server"):
        await run(parser.parse_args(["list", "--server", url]), {"MDM_API_KEY": "k" * 32})


@pytest.mark.parametrize(
    ("arguments", "environ", "url"),
    [
        ([], {}, "http://127.0.0.1:1"),
        ([], {"MDM_HTTP": ":1"}, "http://127.0.0.1:1"),
        (["--server", "http://localhost:1/"], {"MDM_API_KEY": "k" * 32}, "http://localhost:1"),
    ],
)
async def test_it_asks_the_server_of_the_settings_with_the_key_of_the_data_folder(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], url: str
) -> None:
    if "MDM_API_KEY" not in environ:
        (tmp_path / "api-key").write_text("k" * 32 + "\n")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    settings = {"MDM_DATA_DIR": str(tmp_path), "MDM_HTTP": "127.0.0.1:1"} | environ

    with pytest.raises(Unavailable, match=f"no answer from {url}"):
        await run(parser.parse_args(["list", *arguments]), settings)


async def test_a_wrong_key_is_said_to_be_wrong_with_the_setting_or_file_that_has_it() -> None:
    said = {"error": "Unauthorized", "detail": "the API key or token is wrong"}
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    async with answers(lambda _: httpx.Response(401, json=said)) as http:
        command = DeliveriesCommand(http, io.StringIO(), "MDM_API_KEY_FILE")
        with pytest.raises(Misconfigured) as refused:
            await command.run(parser.parse_args(["list"]))

    expected = "MDM_API_KEY_FILE: the API key or token is wrong (http://mdm.example)"
    assert str(refused.value) == expected


async def test_without_a_key_it_says_which_setting_is_missing(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    with pytest.raises(Misconfigured, match="MDM_API_KEY"):
        await run(parser.parse_args(["list"]), {"MDM_DATA_DIR": str(tmp_path)})
