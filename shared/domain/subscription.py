"""Subscriptions to events, and the deliveries that are due to them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from shared.times import nanoseconds, time_of_event

CONFIG_SUBSCRIPTION = "config"
"""The id of the subscription that MDM_WEBHOOK_URL makes."""
MICROMDM_TOPICS = "mdm.*"
"""The pattern of MicroMDM's topics."""
BEYOND_TIMES = 3 * 10**18
"""No event has a time (nanoseconds) from here on. A former version stored live events with such numbers while
the history of their subscription was being stored."""


class SubscriptionState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    """By an API client. Events wait."""
    DISABLED = "disabled"
    """By the server: it failed for days, or answered 410. Events wait."""
    PREPARING = "preparing"
    """The history that it begins with is being stored. Events wait."""
    DELETED = "deleted"
    """It gets nothing any more, and leaves once its deliveries are removed."""


@dataclass(frozen=True, slots=True)
class EventFilters:
    """An event must match each of these that is not empty. An event that has no such value, as a check-in
    message has no status, does not match.

    `enrollments`: a device's id stands for all its channels. `request_types`: of the command that an event
    is about."""

    enrollments: frozenset[str] = frozenset()
    serial_numbers: frozenset[str] = frozenset()
    request_types: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.enrollments or self.serial_numbers or self.request_types or self.statuses)


@dataclass(frozen=True, slots=True)
class BodyForm:
    """The form of its requests; by default MicroMDM's, one event in each. `batch`: the most events of a
    request."""

    extra_keys: frozenset[str] = frozenset()
    is_redacted: bool = False
    batch: int = 1


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """`concurrency`: requests at once, of each replica. `rate`: requests a second, of all replicas together;
    None: any. `retry_schedule`: None is that of the settings."""

    timeout: timedelta = timedelta(seconds=30)
    concurrency: int = 64
    rate: float | None = None
    retry_schedule: tuple[timedelta, ...] | None = None


@dataclass(frozen=True, slots=True)
class SigningSecret:
    """A secret of Standard Webhooks, `whsec_` and base64. It signs until `expires_at`; None: no end."""

    value: str = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RequestSecrets:
    """What authenticates its requests. `authorization`: the value of that header. `hmac_key`: for NanoMDM's
    X-Hmac-Signature."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    authorization: str | None = field(default=None, repr=False)
    signing: tuple[SigningSecret, ...] = ()
    hmac_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A receiver of events. The URL may hold credentials: no repr has it. `ca`: PEM, the CAs to trust instead
    of the system's.

    `revision` changes with every change. `state_reason` says why it is disabled. `starts_at` (nanoseconds):
    it begins with the events since then; while it is PREPARING these are being stored. `failing_since`: noted
    of an outage that lasts, so that a restart does not forget it. `disabled_at`: when the server disabled it
    last. `unreadable` says why its URL and secrets cannot be decrypted; it is never stored."""

    id: str
    url: str = field(repr=False)
    extra_topics: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset({MICROMDM_TOPICS})
    name: str = ""
    filters: EventFilters = EventFilters()
    form: BodyForm = BodyForm()
    limits: DeliveryLimits = DeliveryLimits()
    secrets: RequestSecrets = field(default=RequestSecrets(), repr=False)
    ca: str | None = None
    state: SubscriptionState = SubscriptionState.ACTIVE
    state_reason: str | None = None
    revision: str = ""
    created_at: datetime | None = None
    changed_at: datetime | None = None
    starts_at: int | None = None
    failing_since: datetime | None = None
    disabled_at: datetime | None = None
    unreadable: str | None = None

    @property
    def is_configured(self) -> bool:
        """It is MDM_WEBHOOK_URL's: the operator's word, and not to be changed by API."""
        return self.id == CONFIG_SUBSCRIPTION

    @property
    def is_held(self) -> bool:
        """All its events are stored, and none is sent, until it is active again and can be read."""
        if self.state is SubscriptionState.ACTIVE:
            return self.unreadable is not None
        return self.state is not SubscriptionState.DELETED

    @property
    def all_topics(self) -> frozenset[str]:
        """Exact topics and patterns."""
        return self.topics | self.extra_topics

    def wants(self, topic: str) -> bool:
        """By its topics alone."""
        return is_asked_for(self.all_topics, topic)


def is_asked_for(wanted: Collection[str], topic: str) -> bool:
    """Whether one of these topics and patterns is the topic, or matches it. A pattern such as `mdm.*` matches
    topics that only a newer version knows."""
    return topic in wanted or f"{topic.partition('.')[0]}.*" in wanted


class DeliveryState(StrEnum):
    PENDING = "pending"
    DEAD_LETTERED = "given_up"


@dataclass(frozen=True, slots=True)
class DeliveryQueueKey:
    """Deliveries of one device to one subscription, strictly in order. `aside` names an event that has a
    separate delivery queue: the subscriber refused it, so the others of the device do not wait for it. Or a
    replay, as `replay.` and its id: neither waits for the other."""

    subscription: str
    device: str
    aside: str | None = None

    @property
    def replay(self) -> str | None:
        """The id of its replay."""
        kind, _, replay = (self.aside or "").partition(".")
        return replay if kind == "replay" else None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that a subscriber has not taken yet; exists only while pending or dead-lettered.

    `number` is its order within the queue (docs/rules.md, rule 11). `size` is that of its body, as nearly
    as it is known. `topic` is unknown where a former version stored it."""

    queue: DeliveryQueueKey
    event_id: str
    number: int
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    next_attempt_at: datetime | None = None
    last_error: str | None = None
    size: int | None = None
    topic: str | None = None

    @property
    def id(self) -> str:
        return f"{self.queue.subscription}:{self.event_id}"

    @property
    def number_again(self) -> int:
        """That of a dead letter which is tried again: its own, about its event's time, is below those of
        newer events. Of one that a former version made beyond all times it is the time in its event's id."""
        if self.number < BEYOND_TIMES:
            return self.number
        moment = time_of_event(self.event_id)
        return min(nanoseconds(moment) if moment else 0, BEYOND_TIMES)


START = "start"
"""The id of the replay that prepares a subscription with a start in the past."""


class ReplayState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    """All events of it are stored as deliveries."""
    CANCELLED = "cancelled"
    """Its subscription was deleted."""


@dataclass(frozen=True, slots=True)
class ReplayChoice:
    """The events of a replay: these, or those with since <= created_at < until (nanoseconds) that fit all
    of the rest. `has_failed`: those that are dead letters of the subscription; they are tried again."""

    event_ids: tuple[str, ...] = ()
    since: int = 0
    until: int = 0
    topics: frozenset[str] = frozenset()
    device: str | None = None
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """A job. `position`: how far it has come, an event id or a time in nanoseconds. `owner`: the
    process that works on it, which raises `heartbeats`."""

    id: str
    subscription: str
    choice: ReplayChoice
    created_at: datetime
    created_by: str = ""
    state: ReplayState = ReplayState.RUNNING
    position: str = ""
    stored: int = 0
    finished_at: datetime | None = None
    owner: str = ""
    heartbeats: int = 0

    @property
    def key(self) -> str:
        """Its id among the replays of all subscriptions."""
        return f"{self.subscription}:{self.id}"

    @property
    def aside(self) -> str | None:
        """Of its delivery queues; None: the ordinary ones."""
        return None if self.id == START else f"replay.{self.id}"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt. `events`: how many it carried, the first of which is `event_id`. `answer`: how the text of
    a failed one begins; it may hold anything."""

    event_id: str
    at: datetime
    attempt: int = 1
    events: int = 1
    status: int | None = None
    latency: timedelta | None = None
    reason: str | None = None
    answer: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Activity:
    """Attempts of one process at one subscription, since its start. `failures`: the latest ones, by time."""

    subscription: str
    process: str
    at: datetime
    delivered: int = 0
    failed: int = 0
    last_success: AttemptRecord | None = None
    failures: tuple[AttemptRecord, ...] = ()
