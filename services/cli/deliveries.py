"""`python -m services deliveries list [--blocked] | retry | skip`: what waits and what was dead-lettered.

Promises: it works beside running services. A retry makes deliveries pending and due, a skip gives a pending
one up and keeps it with its body; the service that has their partitions goes on with their queues within
seconds."""

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO, TypeVar

from services.cli.opening import command_settings, opened_stores
from services.webhook.delivery.store import skip
from shared.concurrency.clock import SystemClock
from shared.domain.enrollment import PARTITIONS
from shared.domain.errors import BadRequest
from shared.domain.subscription import Delivery
from shared.ports.clock import Clock
from shared.ports.deliveries import BlockedQueue, Deliveries
from shared.ports.events import Journal

Item = TypeVar("Item")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "retry", "skip"])
    parser.add_argument(
        "ids", nargs="*", help="these deliveries; retry without any: all that were given up on"
    )
    parser.add_argument(
        "--blocked",
        action="store_true",
        help="list what devices wait for, not what was given up on",
    )


async def run(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    async with opened_stores(command_settings(environ)) as stores:
        command = DeliveriesCommand(stores.deliveries, stores.journal, SystemClock(), sys.stdout)
        await command.run(f"{given.action} blocked" if given.blocked else given.action, given.ids)


@dataclass(frozen=True, slots=True)
class DeliveriesCommand:
    deliveries: Deliveries
    journal: Journal
    clock: Clock
    out: TextIO

    async def run(self, action: str, ids: Sequence[str]) -> None:
        """`action` is `list`, `list blocked`, `retry` or `skip`. Raises BadRequest for ids that it cannot
        use."""
        if action.startswith("list"):
            if ids:
                raise BadRequest("deliveries list: takes no ids")
            if action == "list":
                await self._list(self.deliveries.dead_lettered, _line, "nothing was given up on")
            else:
                await self._list(self.deliveries.heads, _blocked_line, "nothing waits")
        elif action == "retry":
            self._say(await self.deliveries.retry(ids or None, self.clock.now()), "tried again")
        elif action == "skip":
            if not ids:
                raise BadRequest(
                    "deliveries skip: name the deliveries, as `list --blocked` shows them"
                )
            skipped = [await skip(self.deliveries, self.journal, each) for each in ids]
            self._say(sum(skipped), "kept for a retry, not tried")
        else:
            raise BadRequest(f"deliveries {action}: takes no --blocked")

    async def _list(
        self,
        read: Callable[[int], Awaitable[Sequence[Item]]],
        line: Callable[[Item], str],
        nothing: str,
    ) -> None:
        count = 0
        for partition in range(PARTITIONS):  # each for itself: there may be very many
            found = await read(partition)
            self.out.writelines(f"{line(each)}\n" for each in found)
            count += len(found)
        if not count:
            self.out.write(f"{nothing}\n")

    def _say(self, count: int, what: str) -> None:
        self.out.write(f"{count} {'delivery' if count == 1 else 'deliveries'} will be {what}\n")


def _line(delivery: Delivery) -> str:
    return (
        f"{delivery.id}  device={delivery.queue.device}  topic={delivery.topic or 'unknown'}"
        f"  attempts={delivery.attempts}  last_error={delivery.last_error}"
    )


def _blocked_line(blocked: BlockedQueue) -> str:
    due = blocked.head.next_attempt_at
    state = "set_aside" if blocked.head.queue.aside else f"behind={blocked.behind}"
    return f"{_line(blocked.head)}  next_attempt={due.isoformat() if due else 'now'}  {state}"
