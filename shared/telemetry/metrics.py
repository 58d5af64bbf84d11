"""A metric for every promise; one object, handed to whoever keeps the promise.

Names and labels are for dashboards and never change. Labels come from closed sets only, so a
stranger's input can never make a new time series.
"""

from collections.abc import Callable
from enum import StrEnum

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)

from shared.domain.event import Topic
from shared.domain.identity import BoundBy, QuarantineReason


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
    """The outcome of a renewal. The last four will not be renewed, or have not
    been."""

    ASKED = "asked"
    ASKED_AGAIN = "asked_again"
    OTHER_AUTHORITY = "other_authority"
    PROFILE = "profile"
    ATTEMPTS = "attempts"
    EXPIRED = "expired"


class Metrics:
    """Counters go up by `inc(n)`, gauges take `set(value)`; all belong to one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._count_messages()
        self._count_deliveries()
        self._count_commands()
        self._count_certificates()
        self._measure_what_waits()
        self.loop_failures = self._counter(
            "loop_failures", "Steps of background work that failed, and for no outage", "loop"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"macromdm_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"macromdm_{name}", text, labels, registry=self.registry)

    def _count_messages(self) -> None:
        self.messages_accepted = self._counter(
            "messages_accepted", "Device messages answered 200", "topic"
        )
        self.requests_refused = self._counter("requests_refused", "Requests refused", "reason")
        self.events_journaled = self._counter("events_journaled", "Events stored in the journal")
        self.events_published = self._counter(
            "events_published", "Events that the broker confirmed"
        )
        self.events_unpublished = self._counter(
            "events_unpublished", "Events answered without a confirm, left to the relay"
        )
        self.events_relayed = self._counter("events_relayed", "Events that the relay published")
        self.events_unroutable = self._counter(
            "events_unroutable", "Events that no queue of the broker took"
        )
        self.events_without_body = self._counter(
            "events_without_body",
            "Events too large for the broker, published without their body",
        )
        self.marks_refused = self._counter(
            "marks_refused",
            "Events left unpublished: the store cannot mark the record of their device",
        )
        self.writers_taken_over = self._counter(
            "writers_taken_over", "Stale writers whose events were taken over"
        )
        self.batch_size = Histogram(
            "macromdm_cohort_size",
            "Requests that went through the store together",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        for topic in Topic:
            self.messages_accepted.labels(topic)
        for reason in Reason:
            self.requests_refused.labels(reason)

    def _count_deliveries(self) -> None:
        self.deliveries_delivered = self._counter(
            "deliveries_delivered", "Events that a subscriber took"
        )
        self.deliveries_retried = self._counter(
            "deliveries_retried", "Failed attempts that are tried again"
        )
        self.deliveries_dead_lettered = self._counter(
            "deliveries_given_up", "Deliveries past their retry schedule, kept for the operator"
        )
        self.deliveries_set_aside = self._counter(
            "deliveries_set_aside",
            "Events that their subscriber cannot take: those of the device behind it go on",
        )
        self.bodies_read_back = self._counter(
            "bodies_read_back", "Event bodies that the webhook read from the journal"
        )
        self.messages_dead_lettered = self._counter(
            "messages_parked", "Broker messages put aside because nobody can understand them"
        )

    def _count_commands(self) -> None:
        self.commands_accepted = self._counter(
            "commands_accepted", "Commands answered 201: stored, and in a queue"
        )
        self.commands_sent = self._counter("commands_handed_out", "Commands handed to a device")
        self.commands_finished = self._counter(
            "commands_finished", "Commands that a device gave a final answer to"
        )
        self.commands_moved_back = self._counter(
            "commands_moved_back",
            "Commands that a device fetched again and again, and that went behind its others",
        )
        self.jobs_failed = self._counter(
            "jobs_failed", "Commands for many devices that were given up"
        )
        self.pushes = self._counter("pushes", "Pushes by what became of them", "outcome")
        for outcome in PushOutcome:
            self.pushes.labels(outcome)

    def _count_certificates(self) -> None:
        self.scep_issued = self._counter("scep_issued", "Certificates given out by SCEP", "kind")
        self.scep_refused = self._counter(
            "scep_refused", "SCEP requests answered with a failure", "reason"
        )
        self.weak_device_keys = self._counter(
            "weak_device_keys",
            "Certificates of MDM_DEVICE_CA let in with an RSA key under 2048 bits",
        )
        self.certificates_rebound = self._counter(
            "certificates_rebound", "Devices that were bound to another certificate", "how"
        )
        for how in BoundBy:
            self.certificates_rebound.labels(how)
        self.quarantine_refused = self._counter(
            "quarantine_refused", "Requests of devices that are seen and not served", "reason"
        )
        for why in QuarantineReason:
            self.quarantine_refused.labels(why)
        self.renewals = self._counter(
            "renewals", "Certificates of devices near their end: what was done", "outcome"
        )
        for outcome in RenewalOutcome:
            self.renewals.labels(outcome)
        self.migrated_bound = self._counter(
            "migrated_bound", "Migrated devices bound to the first certificate that they showed"
        )
        for kind in ScepIssue:
            self.scep_issued.labels(kind)
        for refusal in ScepRefusal:
            self.scep_refused.labels(refusal)

    def _measure_what_waits(self) -> None:
        self.oldest_unpublished = self._gauge(
            "oldest_unpublished_seconds", "Age of the oldest event that the broker does not have"
        )
        self.event_time_ahead = self._gauge(
            "event_time_ahead_seconds",
            "By how much the newest event that waits is ahead of our clock",
        )
        self.oldest_undelivered = self._gauge(
            "oldest_undelivered_seconds", "Age of the oldest event owed to a subscriber"
        )
        self.oldest_unpushed = self._gauge(
            "oldest_unpushed_seconds", "Age of the oldest open command that was never pushed"
        )
        self.queues_blocked = self._gauge("lanes_blocked", "Lanes that wait for a retry")
        self.deliveries_aside = self._gauge(
            "deliveries_aside", "Events that wait for a retry beside their device's lane"
        )
        self.subscriptions_paused = self._gauge(
            "subscriptions_paused", "Subscriptions that answered 410, asked once an hour"
        )
        self.partitions_served = self._gauge(
            "partitions_served", "Partitions of the event stream that this process serves"
        )
        self.push_certificate_expiry = self._gauge(
            "push_certificate_expiry_timestamp_seconds",
            "When the push certificate of a topic expires; topics are those configured",
            "topic",
        )
        self.push_certificates_refused = self._gauge(
            "push_certificates_refused",
            "Push certificates that APNs refuses while another one of their topic serves",
        )
        self.push_topics_stopped = self._gauge(
            "push_topics_stopped", "Push topics that APNs refuses: their certificates need care"
        )
        self.request_body_bytes = self._gauge(
            "request_body_bytes", "Bytes of request bodies that this process holds"
        )
        self.broker_up = self._gauge("broker_up", "1 while the broker confirms")
        self.store_up = self._gauge("store_up", "1 while the store answers")
        self.queues_away = self._gauge(
            "queues_away",
            "Queues that do not answer though the broker does: nothing is published to them",
        )

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Let a gauge read its value when somebody asks for it."""
        gauge.set_function(read)

    def with_process(self) -> "Metrics":
        """Add this process's CPU, memory and garbage collection."""
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        return self
