"""Wires the upkeep of queues: expiry, and the janitor, which keeps the share of both."""

from datetime import timedelta

from services.commands.queue.priority import Priority
from services.commands.queue.reconcile import Reconciler
from services.commands.upkeep.expiry import Expiry
from services.commands.upkeep.janitor import Janitor
from services.runtime.adapters import Adapters
from shared.concurrency.partitions import PartitionShare
from shared.web.server.service import Feature

STALE_AFTER = timedelta(minutes=1)
"""The janitor's heartbeat is as slow as its work."""


def upkeep_feature(
    adapters: Adapters, reconciler: Reconciler, priority: Priority
) -> tuple[Expiry, Feature]:
    stores, clock = adapters.stores, adapters.clock
    owner = adapters.ids.new()
    share = PartitionShare(stores.members, clock, "janitor", owner, stale_after=STALE_AFTER)
    expiry = Expiry(
        stores.expiries,
        stores.enrollments,
        stores.journal,
        adapters.publisher,
        share,
        clock,
        priority.yield_to_interactive,
    )
    janitor = Janitor(stores.queue, stores.stored_commands, reconciler, share, clock)
    return expiry, Feature(workers=(janitor.run, expiry.run))
