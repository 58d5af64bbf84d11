"""The history of subscriptions in the API."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from services.webhook.endpoints.sender import AttemptOutcome
from services.webhook.history.service import DeliveryFilter, ReceiverStatus
from services.webhook.subscriptions.fields import Text
from services.webhook.subscriptions.requests import Patch
from services.webhook.subscriptions.schemas import SubscriptionOut, subscription_out
from shared.domain.errors import unfit
from shared.domain.subscription import (
    AttemptRecord,
    Delivery,
    DeliveryState,
    Replay,
    ReplayState,
    Subscription,
)
from shared.times import rfc3339, rfc3339_or_null
from shared.web.api.cursor import EXPECTED, read_cursor
from shared.web.api.openapi import UDID, UUID, NoText, NoTime, Time, about, like, one_of
from shared.web.api.requests import Expected, PageSize

WAITING, DEAD = "waiting", "dead_letter"
MOST_EVENTS = 1000
EventIds = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=64), Expected("an event id")]],
    Field(min_length=1, max_length=MOST_EVENTS),
    Expected(f"a list of 1 to {MOST_EVENTS} event ids"),
    like([UUID]),
]


class DeliveryFilters(BaseModel):
    state: Literal["waiting", "dead_letter"] | None = None
    device: str | None = Field(None, description="Its UDID, or the EnrollmentID.", max_length=256)
    limit: PageSize = 100
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")

    def wanted(self) -> DeliveryFilter:
        states = {WAITING: DeliveryState.PENDING, DEAD: DeliveryState.DEAD_LETTERED}
        return DeliveryFilter(states.get(self.state or ""), self.device or None)

    def after(self) -> str:
        """Raises BadRequest."""
        position = read_cursor(self.cursor) if self.cursor else ""
        if position is None:
            raise unfit("cursor", EXPECTED)
        return position


class RetryRequest(Patch):
    event_ids: Annotated[EventIds | None, about("Without them: all dead letters.")] = None


class SkipRequest(Patch):
    event_ids: EventIds


class CountOut(TypedDict):
    count: Annotated[int, like(1)]


class RetryOut(CountOut):
    replay: Annotated[NoText, about("The id of the replay that goes on with the rest.")]


class AttemptOut(TypedDict):
    event_id: Annotated[str, like(UUID)]
    at: Time
    attempt: Annotated[int, like(1)]
    events: Annotated[int, about("How many its request carried.", 1)]
    status: Annotated[int | None, about("Of an answer that is no 2xx.", 500)]
    latency: Annotated[float | None, about("Seconds.", 0.012)]
    reason: Annotated[str | None, like("answered 500")]
    answer: Annotated[NoText, about("How the text of a failed one begins.")]


class StatusOut(TypedDict):
    waiting: Annotated[int, like(0)]
    dead_letters: Annotated[int, like(0)]
    is_complete: Annotated[bool, about("False: only the oldest 10,000 were counted.", True)]
    blocked_devices: Annotated[
        list[str],
        about(
            "The first 100 whose events wait; `webhook:ID` and `push:TOPIC` stand for events that "
            "have no device.",
            [UDID],
        ),
    ]
    lag: Annotated[float | None, about("Seconds since the oldest event that waits.", 0.5)]
    delivered: Annotated[int, about("Events since the start of each replica.", 1234)]
    failed_attempts: Annotated[int, like(2)]
    last_success: AttemptOut | None
    last_error: AttemptOut | None


class SubscriptionStatus(SubscriptionOut):
    status: StatusOut


class DeliveryOut(TypedDict):
    event_id: Annotated[str, like(UUID)]
    topic: Annotated[str | None, like("mdm.Connect")]
    device: Annotated[str, about("Or `webhook:ID`, `push:TOPIC`: it has no device.", UDID)]
    state: Annotated[str, one_of((WAITING, DEAD)), like(WAITING)]
    is_set_aside: Annotated[bool, about("Its device does not wait for it.", False)]
    replay: Annotated[NoText, about("The replay by which it comes again.")]
    attempts: Annotated[int, like(3)]
    next_attempt_at: NoTime
    last_error: Annotated[str | None, like("answered 500")]
    last_attempt: Annotated[AttemptOut | None, about("Where it is one of the latest that failed.")]


class DeliveryPage(TypedDict):
    deliveries: list[DeliveryOut]
    next_cursor: NoText


class TestOut(TypedDict):
    event_id: Annotated[str, like(UUID)]
    delivered: Annotated[bool, like(True)]
    status: Annotated[int | None, about("Of an answer that is no 2xx.", None)]
    latency: Annotated[float | None, about("Seconds.", 0.012)]
    reason: Annotated[NoText, about("Why it was not delivered.")]
    answer: NoText


class ReplayOut(TypedDict):
    id: Annotated[
        str, about("In the header `X-MacroMDM-Replay`; `start`: a start in the past.", UUID)
    ]
    state: Annotated[str, one_of(ReplayState), like("running")]
    stored: Annotated[int, about("Events that wait, or waited, to be sent again.", 17)]
    progress: Annotated[float, about("From 0 to 1.", 0.25)]
    created_at: Time
    created_by: Annotated[str, like("api-key")]
    finished_at: NoTime


class ReplayList(TypedDict):
    replays: list[ReplayOut]


def status_out(
    subscription: Subscription, status: ReceiverStatus, now: datetime
) -> SubscriptionStatus:
    lag = None if status.oldest is None else max(0.0, (now - status.oldest).total_seconds())
    return {
        **subscription_out(subscription),
        "status": {
            "waiting": status.waiting,
            "dead_letters": status.dead_letters,
            "is_complete": status.is_complete,
            "blocked_devices": status.devices,
            "lag": lag,
            "delivered": status.delivered,
            "failed_attempts": status.failed,
            "last_success": _attempt(status.last_success),
            "last_error": _attempt(status.last_failure),
        },
    }


def delivery_out(delivery: Delivery, attempt: AttemptRecord | None) -> DeliveryOut:
    is_waiting = delivery.state is DeliveryState.PENDING
    return {
        "event_id": delivery.event_id,
        "topic": delivery.topic,
        "device": delivery.queue.device,
        "state": WAITING if is_waiting else DEAD,
        "is_set_aside": bool(delivery.queue.aside) and not delivery.queue.replay,
        "replay": delivery.queue.replay,
        "attempts": delivery.attempts,
        "next_attempt_at": rfc3339_or_null(delivery.next_attempt_at),
        "last_error": delivery.last_error,
        "last_attempt": _attempt(attempt),
    }


def test_out(event_id: str, outcome: AttemptOutcome) -> TestOut:
    return {
        "event_id": event_id,
        "delivered": outcome.delivered,
        "status": outcome.status,
        "latency": _seconds(outcome.latency),
        "reason": outcome.reason,
        "answer": outcome.answer,
    }


def replay_out(replay: Replay, progress: float) -> ReplayOut:
    return {
        "id": replay.id,
        "state": replay.state.value,
        "stored": replay.stored,
        "progress": progress,
        "created_at": rfc3339(replay.created_at),
        "created_by": replay.created_by,
        "finished_at": rfc3339_or_null(replay.finished_at),
    }


def _attempt(attempt: AttemptRecord | None) -> AttemptOut | None:
    if attempt is None:
        return None
    return {
        "event_id": attempt.event_id,
        "at": rfc3339(attempt.at),
        "attempt": attempt.attempt,
        "events": attempt.events,
        "status": attempt.status,
        "latency": _seconds(attempt.latency),
        "reason": attempt.reason,
        "answer": attempt.answer,
    }


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()
