"""Warnings that an outage would repeat by the thousand: a few a minute."""

from datetime import timedelta

import structlog

from shared.ports.clock import Clock

log = structlog.get_logger()

A_MINUTE = timedelta(minutes=1)
MOST = 10


class LimitedLog:
    """At most `MOST` warnings of one event in a minute; `left_out` of the next one counts the others."""

    def __init__(self, event: str, clock: Clock) -> None:
        self._event = event
        self._clock = clock
        self._began = float("-inf")
        self._said = 0
        self._left_out = 0

    def warning(self, **fields: object) -> None:
        now = self._clock.monotonic()
        if now - self._began >= A_MINUTE.total_seconds():
            self._began, self._said = now, 0
        if self._said == MOST:
            self._left_out += 1
            return
        self._said += 1
        if self._left_out:
            fields["left_out"] = self._left_out
        self._left_out = 0
        log.warning(self._event, **fields)
