"""`python -m services deliveries list|retry`: what the webhook gave up on, and again.

Promises: it works beside running services; retrying makes deliveries pending, and whoever serves
their partitions finds them within seconds.
"""

from collections.abc import Collection
from datetime import datetime
from typing import TextIO

from shared.domain.enrollment import PARTITIONS
from shared.domain.subscription import Delivery
from shared.ports.deliveries import Deliveries


async def list_given_up(deliveries: Deliveries, out: TextIO) -> int:
    """Print one line for each, with the id that `retry` takes; returns how many there were."""
    count = 0
    for partition in range(PARTITIONS):  # each for itself: there may be very many
        found = await deliveries.given_up(partition)
        out.writelines(map(_line, found))
        count += len(found)
    if not count:
        out.write("nothing was given up on\n")
    return count


async def retry(
    deliveries: Deliveries, ids: Collection[str] | None, now: datetime, out: TextIO
) -> int:
    """Make these (None: all) pending again; returns how many there were."""
    made = await deliveries.retry(ids, now)
    out.write(f"{made} {'delivery' if made == 1 else 'deliveries'} will be tried again\n")
    return made


def _line(delivery: Delivery) -> str:
    lane = delivery.lane
    return (
        f"{delivery.id}  device={lane.device}  attempts={delivery.attempts}"
        f"  last_error={delivery.last_error}\n"
    )
