"""Push topics: those that work, and those that APNs refuses.

Promises: a topic that APNs refuses is stopped, said once in the log and shown as a metric; while it is
stopped no push of it reaches APNs but one probe every quarter of an hour, which notices a mended
certificate.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta

import structlog

from services.push.send.outcomes import TopicRefused
from shared.ports.clock import Clock
from shared.telemetry.metrics import PushOutcome

log = structlog.get_logger()

PAUSE = timedelta(minutes=15)
PROBE = timedelta(minutes=1)
"""The others wait so long for the outcome of a probe."""

MOST_LOGGED = 100
"""Topics come from devices: no more of them than this are remembered as logged."""


class NoCertificate(TopicRefused):
    """We have no push certificate for this topic."""

    counted_as = PushOutcome.NO_CERTIFICATE


@dataclass(slots=True)
class _Stop:
    reason: str
    until: float


class Topics:
    """The stopped topics of our certificates; `certified` may change all the time."""

    def __init__(
        self, certified: Collection[str], clock: Clock, show: Callable[[float], None]
    ) -> None:
        self.certified = certified
        self._clock = clock
        self._show = show
        self._stops: dict[str, _Stop] = {}
        self._logged: set[str] = set()

    def problem(self, topic: str, *, urgent: bool = False) -> TopicRefused | None:
        """Why this topic cannot be pushed now. `urgent` tries a stopped topic all the same."""
        if topic not in self.certified:
            if topic not in self._logged and len(self._logged) < MOST_LOGGED:
                self._logged.add(topic)
                log.warning("push_certificate_missing", topic=topic)
            return NoCertificate(f"no push certificate for topic {topic[:100]}")
        stop = self._stops.get(topic)
        if stop is None or urgent:
            return None
        now = self._clock.monotonic()
        if now < stop.until:
            return TopicRefused(stop.reason)
        stop.until = now + PROBE.total_seconds()
        return None

    def stop(self, topic: str, reason: str) -> None:
        """APNs refused the topic itself."""
        if topic not in self._stops:
            log.error("push_topic_stopped", topic=topic, reason=reason)
        until = self._clock.monotonic() + PAUSE.total_seconds()
        self._stops[topic] = _Stop(reason, until)
        self._show(len(self._stops))

    def works(self, topic: str) -> None:
        """APNs took the topic: it is not stopped any more."""
        if self._stops.pop(topic, None) is not None:
            log.info("push_topic_works_again", topic=topic)
            self._show(len(self._stops))

    def renewed(self, topic: str) -> None:
        """Its certificates have changed: forget what was known of it."""
        self._logged.discard(topic)
        if self._stops.pop(topic, None) is not None:
            self._show(len(self._stops))
