"""Wires the journal's side of check-in: the writer of this process, and the workers that publish."""

from functools import partial

import structlog

from services.checkin.journal.outbox import Outbox
from services.checkin.journal.relay import Relay
from services.checkin.journal.takeover import TakeOver
from services.checkin.journal.writer import Marks, Writer
from services.runtime.adapters import Adapters
from shared.concurrency.partitions import PartitionShare
from shared.domain.errors import Unavailable
from shared.web.server.service import Feature

log = structlog.get_logger()


async def journal_feature(adapters: Adapters) -> tuple[Writer, PartitionShare, Feature]:
    """The registered writer, and the relay's share of the partitions. Raises StoreUnavailable."""
    stores, clock, metrics = adapters.stores, adapters.clock, adapters.metrics
    marks = Marks(stores.enrollments, metrics)
    writer = Writer(stores.writers, stores.journal, marks, clock, adapters.ids)
    share = PartitionShare(stores.members, clock, "relay", writer.id)
    publisher = adapters.publisher
    relay = Relay(stores.enrollments, stores.journal, publisher, share, clock, metrics)
    outbox = Outbox(stores.identities, stores.enrollments, stores.journal, publisher, share, clock)
    takeover = TakeOver(stores.writers, stores.journal, marks, clock, metrics)
    if adapters.is_alone:
        await takeover.take_all(writer.id)
    await writer.register()

    async def leave() -> None:
        try:
            await writer.leave()
        except (Unavailable, TimeoutError):
            log.warning("writer_left_silently", writer=writer.id)

    workers = (partial(takeover.run, writer.id), writer.run, relay.run, outbox.run)
    return writer, share, Feature(workers=workers, drain=leave)
