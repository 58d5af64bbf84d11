"""A metric for every promise; one object, handed to the part that keeps the promise.

Names and labels are for dashboards and never change. Labels come from closed sets only, so a
stranger's input can never make a new time series.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from typing import Generic, TypeVar

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)
from prometheus_client.metrics import MetricWrapperBase

from shared.domain.event import Topic
from shared.domain.identity import BoundBy, QuarantineReason

MetricT = TypeVar("MetricT", bound=MetricWrapperBase)


class Reason(StrEnum):
    """Why a request was refused."""

    TOO_LARGE = "too_large"
    SIGNATURE = "signature"
    CERTIFICATE = "certificate"
    BINDING = "binding"
    REPLAYED = "replayed"
    PLIST = "plist"
    MESSAGE = "message"
    UNKNOWN_DEVICE = "unknown_device"
    USER_CHANNELS = "user_channels"
    BLOCKED = "blocked"
    OVERTAKEN = "overtaken"
    UNAVAILABLE = "unavailable"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    TOO_MANY_REQUESTS = "too_many_requests"
    BAD_REQUEST = "bad_request"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"


class PushOutcome(StrEnum):
    """The outcome of a push."""

    SENT = "sent"
    DEAD_TOKEN = "dead_token"
    REFUSED = "refused"
    THROTTLED = "throttled"
    FAILED = "failed"
    NO_CERTIFICATE = "no_certificate"


class ScepIssue(StrEnum):
    """The ground on which a SCEP client got its certificate."""

    ENROLLMENT = "enrollment"
    RENEWAL = "renewal"
    REPEATED = "repeated"


class ScepRefusal(StrEnum):
    """Why a SCEP client got no certificate."""

    ALGORITHM = "algorithm"
    MESSAGE = "message"
    REQUEST = "request"
    CHALLENGE = "challenge"
    TRANSACTION = "transaction"
    TIME = "time"
    CERTIFICATE = "certificate"
    LIMIT = "limit"


class RenewalOutcome(StrEnum):
    """The outcome of a renewal. The last four will not be renewed, or have not been."""

    ASKED = "asked"
    ASKED_AGAIN = "asked_again"
    OTHER_AUTHORITY = "other_authority"
    PROFILE = "profile"
    ATTEMPTS = "attempts"
    EXPIRED = "expired"


class _Family(Generic[MetricT]):
    """Declares a metric: the names of its labels, each with the values that show at 0 from the start."""

    def __init__(
        self,
        kind: Callable[..., MetricT],
        text: str,
        /,
        name: str | None = None,
        **labels: Iterable[str],
    ) -> None:
        self._kind = kind
        self._text = text
        self._name = name
        self._labels = labels

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = self._name or name

    def __get__(self, instance: object, owner: type | None = None) -> MetricT:
        raise AttributeError("each instance of Metrics has its own")

    def make(self, registry: CollectorRegistry) -> MetricT:
        made = self._kind(
            f"macromdm_{self._name}", self._text, tuple(self._labels), registry=registry
        )
        for values in self._labels.values():
            for value in values:
                made.labels(value)
        return made


_counter, _gauge = partial(_Family[Counter], Counter), partial(_Family[Gauge], Gauge)


class Metrics:
    """Counters go up by `inc(n)`, gauges take `set(value)`; all belong to one registry."""

    loop_failures = _counter("Steps of background work that failed, and for no outage", loop=())

    messages_accepted = _counter("Device messages answered 200", topic=Topic)
    requests_refused = _counter("Requests refused", reason=Reason)
    events_journaled = _counter("Events stored in the journal")
    events_published = _counter("Events that the broker confirmed")
    events_unpublished = _counter("Events answered without a confirm, left to the relay")
    events_relayed = _counter("Events that the relay published")
    events_unroutable = _counter("Events that no queue of the broker took")
    events_without_body = _counter("Events too large for the broker, published without their body")
    marks_refused = _counter(
        "Events left unpublished: the store cannot mark the record of their device"
    )
    writers_taken_over = _counter("Stale writers whose events were taken over")
    batch_size = _Family(
        partial(Histogram, buckets=(1, 2, 4, 8, 16, 32, 64, 128)),
        "Requests that went through the store together",
        name="cohort_size",
    )

    deliveries_delivered = _counter("Events that a subscriber took")
    deliveries_retried = _counter("Failed attempts that are tried again")
    deliveries_dead_lettered = _counter(
        "Deliveries past their retry schedule, kept for the operator", name="deliveries_given_up"
    )
    deliveries_expired = _counter(
        "Events removed from a paused or disabled subscription once the journal forgot them"
    )
    deliveries_set_aside = _counter(
        "Events that their subscriber cannot take: those of the device behind it go on"
    )
    bodies_read_back = _counter("Event bodies that the webhook read from the journal")
    messages_dead_lettered = _counter(
        "Broker messages put aside because they cannot be understood", name="messages_parked"
    )

    commands_accepted = _counter("Commands answered 201: stored, and in a queue")
    commands_sent = _counter("Commands handed to a device", name="commands_handed_out")
    commands_finished = _counter("Commands that a device gave a final answer to")
    commands_moved_back = _counter(
        "Commands that a device fetched again and again, and that went behind its others"
    )
    jobs_failed = _counter("Commands for many devices that were given up")
    pushes = _counter("Pushes by what became of them", outcome=PushOutcome)

    scep_issued = _counter("Certificates given out by SCEP", kind=ScepIssue)
    scep_refused = _counter("SCEP requests answered with a failure", reason=ScepRefusal)
    weak_device_keys = _counter(
        "Certificates of MDM_DEVICE_CA let in with an RSA key under 2048 bits"
    )
    certificates_rebound = _counter("Devices that were bound to another certificate", how=BoundBy)
    quarantine_refused = _counter(
        "Requests of devices that are seen and not served", reason=QuarantineReason
    )
    renewals = _counter(
        "Certificates of devices near their end: what was done", outcome=RenewalOutcome
    )
    migrated_bound = _counter("Migrated devices bound to the first certificate that they showed")

    oldest_unpublished = _gauge(
        "Age of the oldest event that the broker does not have", name="oldest_unpublished_seconds"
    )
    event_time_ahead = _gauge(
        "By how much the newest event that waits is ahead of our clock",
        name="event_time_ahead_seconds",
    )
    oldest_undelivered = _gauge(
        "Age of the oldest event owed to a subscriber", name="oldest_undelivered_seconds"
    )
    oldest_unpushed = _gauge(
        "Age of the oldest open command that was never pushed", name="oldest_unpushed_seconds"
    )
    queues_blocked = _gauge("Lanes that wait for a retry", name="lanes_blocked")
    deliveries_aside = _gauge("Events that wait for a retry beside their device's lane")
    subscriptions_paused = _gauge("Subscriptions that answered 410, asked once an hour")
    partitions_served = _gauge("Partitions of the event stream that this process serves")
    push_certificate_expiry = _gauge(
        "When the push certificate of a topic expires; topics are those configured",
        topic=(),
        name="push_certificate_expiry_timestamp_seconds",
    )
    push_certificates_refused = _gauge(
        "Push certificates that APNs refuses while another one of their topic serves"
    )
    push_topics_stopped = _gauge("Push topics that APNs refuses: their certificates need care")
    loops_hanging = _gauge("Loops of background work whose step has not gone on for five minutes")
    request_body_bytes = _gauge("Bytes of request bodies that this process holds")
    broker_up = _gauge("1 while the broker confirms")
    store_up = _gauge("1 while the store answers")
    queues_away = _gauge(
        "Queues that do not answer though the broker does: nothing is published to them"
    )

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        for name, family in vars(Metrics).items():
            if isinstance(family, _Family):
                setattr(self, name, family.make(self.registry))

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Let a gauge read its value when it is asked for."""
        gauge.set_function(read)

    def with_process(self) -> "Metrics":
        """Add this process's CPU, memory and garbage collection."""
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        return self
