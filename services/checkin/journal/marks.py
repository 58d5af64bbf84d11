"""Marks for events that may be unpublished (rules 6 and 7).

Promise: a record that the store cannot change (it is full) keeps no other device's event from being marked.
The device whose record it is gets no 200 for an event that could not be marked, so nothing is promised of it.
"""

from collections.abc import Sequence

import structlog

from shared.concurrency.batching import verdicts
from shared.domain.errors import Refused
from shared.ports.enrollments import Enrollments, Mark
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()


class Marks:
    """Sets marks, each with its own verdict."""

    def __init__(self, enrollments: Enrollments, metrics: Metrics) -> None:
        self._enrollments = enrollments
        self._metrics = metrics

    async def set(self, marks: Sequence[Mark]) -> bool:
        """Set them. False: the store refused some, which is logged and counted. A device without a record
        has nothing to stay behind."""
        outcomes = await verdicts(self._enrollments.mark_waiting, marks)
        refused = [
            mark for mark, each in zip(marks, outcomes, strict=True) if isinstance(each, Refused)
        ]
        for device in sorted({mark.device for mark in refused}):
            log.error(
                "device_cannot_be_marked",
                device=device,
                reason="its record is too large for the store: let it enroll anew",
            )
        self._metrics.marks_refused.inc(len(refused))
        return not refused
