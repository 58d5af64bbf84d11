"""Wires the upkeep of subscriptions."""

from collections.abc import Callable
from datetime import timedelta

from services.runtime.adapters import Adapters
from services.webhook.upkeep.cleanup import Cleanup
from services.webhook.upkeep.disabled import DisabledEvents
from shared.concurrency.partitions import Share
from shared.ports.deliveries import Subscriptions
from shared.web.server.service import Feature


def cleanup_feature(
    adapters: Adapters,
    subscriptions: Subscriptions,
    retention: timedelta,
    forgotten: Callable[[str], None],
) -> Feature:
    stores = adapters.stores
    cleanup = Cleanup(
        subscriptions,
        stores.delivery_records,
        stores.replays,
        stores.activities,
        stores.journal,
        adapters.clock,
        adapters.metrics,
        retention,
        forgotten,
    )
    return Feature(workers=(cleanup.run,))


def disabled_feature(adapters: Adapters, subscriptions: Subscriptions, share: Share) -> Feature:
    journal, publisher = adapters.stores.journal, adapters.publisher
    events = DisabledEvents(
        subscriptions, journal, publisher, adapters.wanted, share, adapters.clock
    )
    return Feature(workers=(events.run,))
