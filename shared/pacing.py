"""Work that is done again and again, at its pace and through outages.

Promises: it ends only when it is cancelled; a store or a broker that is away is waited for, and
logged once for each time that it went.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from shared.domain.errors import Unavailable
from shared.ports.clock import Clock

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to rest after a step, and after one that could not be done."""

    every: timedelta
    after_failure: timedelta


async def keep_doing(
    step: Callable[[], Awaitable[object]], clock: Clock, pace: Pace, *, waits: str
) -> None:
    """Do a step, rest, and so on. `waits` names the event in the log when the step raises Unavailable."""
    is_failing = False
    while True:
        try:
            await step()
            is_failing = False
        except Unavailable as exc:
            if not is_failing:
                log.warning(waits, error=str(exc))
            is_failing = True
        await clock.sleep(pace.after_failure if is_failing else pace.every)
