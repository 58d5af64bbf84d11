"""Failed authentications, counted by the address they come from.

Promises: only failures count and only failures are answered 429, so right credentials always let
in, whichever clients share the address (behind a proxy, a company's gateway); memory is bounded. Guessing is
held off by the length of the secrets; this makes it loud, and cheap to answer.
"""

from datetime import timedelta

import structlog

from shared.concurrency.counting_window import CountingWindow
from shared.ports.clock import Clock
from shared.web.client_address import source_of

log = structlog.get_logger()

LIMIT = 10
WINDOW = timedelta(minutes=1)
ADDRESSES = 4096
"""Remembered at most; who failed longest ago is forgotten first."""


class FailedAttempts:
    def __init__(self, clock: Clock) -> None:
        self._failures = CountingWindow(clock, WINDOW, ADDRESSES)

    def note(self, address: str) -> timedelta | None:
        """Count one failure. Returns how long to wait, once there are more than `LIMIT` of them
        within `WINDOW`."""
        source = source_of(address)
        count = self._failures.add(source)
        if count == LIMIT + 1:
            log.warning("api_failures_throttled", address=source)
        return self._failures.left(source) if count > LIMIT else None
