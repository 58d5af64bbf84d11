"""Push topics: those that work, and those that APNs refuses.

Promises: a topic that APNs refuses is stopped, said once in the log and shown as a metric; while it is
stopped no push of it reaches APNs but one probe every quarter of an hour, which notices a mended
certificate.
"""

from collections.abc import Callable, Collection
from datetime import timedelta

import structlog

from services.push.send.outcomes import TopicRefused
from shared.ports.clock import Clock
from shared.telemetry.metrics import PushOutcome

log = structlog.get_logger()

_INSTALL = "install one by PUT /v1/config/certificate, or name it in MDM_PUSH_CERT and MDM_PUSH_KEY"

PAUSE = timedelta(minutes=15)
PROBE = timedelta(minutes=1)
"""The others wait so long for the outcome of a probe."""

MOST_LOGGED = 100
"""Topics come from devices: no more of them than this are remembered as logged."""


class NoCertificate(TopicRefused):
    """We have no push certificate for this topic."""

    counted_as = PushOutcome.NO_CERTIFICATE


class Stops:
    """Names that APNs refuses; `show` takes their number."""

    def __init__(self, clock: Clock, show: Callable[[float], None]) -> None:
        self._clock = clock
        self._show = show
        self._stops: dict[str, tuple[str, float]] = {}

    def reason(self, name: str) -> str | None:
        """Why it cannot be tried now. After None for a stopped one, the others wait for that probe."""
        reason, until = self._stops.get(name, (None, 0.0))
        if reason is None or (now := self._clock.monotonic()) < until:
            return reason
        self._stops[name] = reason, now + PROBE.total_seconds()
        return None

    def add(self, name: str, reason: str) -> bool:
        """False: it was stopped already; its pause begins again."""
        is_new = name not in self._stops
        self._stops[name] = reason, self._clock.monotonic() + PAUSE.total_seconds()
        self._show(len(self._stops))
        return is_new

    def remove(self, name: str) -> bool:
        """False: it was not stopped."""
        was_stopped = self._stops.pop(name, None) is not None
        if was_stopped:
            self._show(len(self._stops))
        return was_stopped

    def keep(self, names: Collection[str]) -> None:
        self._stops = {name: stop for name, stop in self._stops.items() if name in names}
        self._show(len(self._stops))


def _missing(topic: str) -> str:
    if not topic:
        return (
            f"no push certificate: {_INSTALL}, and enroll the device again, which has no topic yet"
        )
    return f"no push certificate for topic {topic[:100]}: {_INSTALL}"


class Topics:
    """The stopped topics of our certificates; `certified` may change all the time."""

    def __init__(
        self, certified: Collection[str], clock: Clock, show: Callable[[float], None]
    ) -> None:
        self.certified = certified
        self._stops = Stops(clock, show)
        self._logged: set[str] = set()

    def problem(self, topic: str, *, urgent: bool = False) -> TopicRefused | None:
        """Why this topic cannot be pushed now. `urgent` tries a stopped topic all the same."""
        if topic not in self.certified:
            if topic not in self._logged and len(self._logged) < MOST_LOGGED:
                self._logged.add(topic)
                log.warning("push_certificate_missing", topic=topic)
            return NoCertificate(_missing(topic))
        reason = None if urgent else self._stops.reason(topic)
        return None if reason is None else TopicRefused(reason)

    def stop(self, topic: str, reason: str) -> None:
        """APNs refused the topic itself."""
        if self._stops.add(topic, reason):
            log.error("push_topic_stopped", topic=topic, reason=reason)

    def works(self, topic: str) -> None:
        """APNs took the topic: it is not stopped any more."""
        if self._stops.remove(topic):
            log.info("push_topic_works_again", topic=topic)

    def renewed(self, topic: str) -> None:
        """Its certificates have changed: forget what was known of it."""
        self._logged.discard(topic)
        self._stops.remove(topic)
