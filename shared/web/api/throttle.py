"""Failed authentications, counted by the address they come from.

Promises: only failures count and only failures are answered 429, so right credentials always let
in, whichever clients share the address (behind a proxy, a company's gateway); memory is bounded. Guessing is
held off by the length of the secrets; this makes it loud, and cheap to answer.
"""

from dataclasses import dataclass
from datetime import timedelta

import structlog

from shared.concurrency.bounded_cache import BoundedCache
from shared.ports.clock import Clock
from shared.web.client_address import source_of

log = structlog.get_logger()

LIMIT = 10
WINDOW = timedelta(minutes=1)
ADDRESSES = 4096
"""Remembered at most; who failed longest ago is forgotten first."""


@dataclass(slots=True)
class _Failures:
    since: float
    count: int = 0


class FailedAttempts:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: BoundedCache[str, _Failures] = BoundedCache(ADDRESSES)

    def note(self, address: str) -> timedelta | None:
        """Count one failure. Returns how long to wait, once there are more than `LIMIT` of them
        within `WINDOW`."""
        source, now = source_of(address), self._clock.monotonic()
        failures = self._failures.get(source)
        if failures is None or now - failures.since >= WINDOW.total_seconds():
            failures = _Failures(now)
            self._failures.put(source, failures)
        failures.count += 1
        if failures.count <= LIMIT:
            return None
        if failures.count == LIMIT + 1:
            log.warning("api_failures_throttled", address=source)
        return WINDOW - timedelta(seconds=now - failures.since)
