"""Removes what deleted subscriptions leave behind, and waiting events that the journal has forgotten.

Promises: every read and write is a page; a record leaves once nothing of its subscription came for a minute,
so that a replica which had not noticed the deletion leaves nothing behind; of a subscription that sends
nothing, and of a MDM_WEBHOOK_URL that is gone, a waiting event leaves with its event in the journal, is
counted and logged, but for a dead letter that is tried again: that has its body (docs/rules.md, rule 14).
Every replica does it: what is removed twice is removed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from shared.concurrency.periodic import Loops, Pace
from shared.domain.subscription import CONFIG_SUBSCRIPTION, DeliveryState, SubscriptionState
from shared.ports.clock import Clock
from shared.ports.deliveries import Activities, DeliveryRecords, Replays, Subscriptions
from shared.ports.events import Journal
from shared.telemetry.metrics import Metrics
from shared.times import event_ids_from

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=10), after_failure=timedelta(seconds=10))
QUIET = timedelta(minutes=1)
PAGE = 1000
MOST_PAGES = 50
"""Pages of one subscription in one round."""


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Runs in every replica of the webhook service. `forgotten` is called for each removed subscription."""

    subscriptions: Subscriptions
    deliveries: DeliveryRecords
    replays: Replays
    activities: Activities
    journal: Journal
    clock: Clock
    metrics: Metrics
    retention: timedelta
    forgotten: Callable[[str], None]
    _quiet_since: dict[str, float] = field(default_factory=dict)

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("webhook_cleanup", self.clean, PACE, waits="webhook_cleanup_waits")

    async def clean(self) -> None:
        """One round."""
        found = await self.subscriptions.all()
        known = {each.id for each in found}
        for id in self._quiet_since.keys() - known:
            self._forget(id)  # another replica has removed it
        if CONFIG_SUBSCRIPTION not in known:  # MDM_WEBHOOK_URL was taken away
            await self._expire(CONFIG_SUBSCRIPTION)
        for subscription in found:
            if subscription.state is SubscriptionState.DELETED:
                await self._remove(subscription.id)
            elif subscription.is_held:
                await self._expire(subscription.id)

    async def _remove(self, id: str) -> None:
        now = self.clock.monotonic()
        for _ in range(MOST_PAGES):
            page = await self.deliveries.page(id, "", PAGE)
            await self.deliveries.forget([delivery.id for delivery in page])
            if page:
                self._quiet_since[id] = now
            if len(page) < PAGE:
                break
        if now - self._quiet_since.setdefault(id, now) < QUIET.total_seconds():
            return
        await self.replays.remove([replay.key for replay in await self.replays.of(id)])
        await self.activities.remove(id)
        await self.subscriptions.remove(id)
        self._forget(id)
        log.info("webhook_removed", subscription=id)

    def _forget(self, id: str) -> None:
        del self._quiet_since[id]
        self.forgotten(id)

    async def _expire(self, subscription: str) -> None:
        before = event_ids_from(self.clock.now() - self.retention)
        after, expired = "", 0
        for _ in range(MOST_PAGES):
            page = await self.deliveries.page(subscription, after, PAGE, before)
            pending = [each for each in page if each.state is DeliveryState.PENDING]
            # One that follows from another may be younger than the time in its id.
            kept = await self.journal.stored([each.event_id for each in pending])
            gone = [each.id for each in pending if each.event_id not in kept]
            expired += await self.deliveries.forget(gone, pending=True) if gone else 0
            if len(page) < PAGE:
                break
            after = page[-1].event_id
        if expired:
            self.metrics.deliveries_expired.inc(expired)
            log.warning("deliveries_expired", subscription=subscription, count=expired)
