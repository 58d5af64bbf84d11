"""Disables subscriptions made by API whose subscriber is gone (410), or has taken nothing for days.

Promises: a subscription is disabled once, by a conditional change of its record, and never MDM_WEBHOOK_URL's.
An outage is noted in the record after an hour, so its count goes on after a restart; any replica whose
subscriber takes an event after its beginning ends it. A replica notes an outage once an hour at most, and
neither notes nor disables unless an attempt of its own failed since, and lately: silence is no failure.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from services.webhook.endpoints.endpoint import PAUSED, Endpoint
from shared.domain.subscription import Subscription, SubscriptionState
from shared.ports.clock import Clock, Ids
from shared.ports.deliveries import Subscriptions

log = structlog.get_logger()

DISABLED_AFTER = timedelta(days=5)
NOTED_AFTER = timedelta(hours=1)
_NOTED_AT_MOST = _LATELY = 2 * NOTED_AFTER
"""While something waits, an attempt is made each hour at least."""
NOTHING_TAKEN = "took no event for 5 days"


class Disabling:
    def __init__(self, subscriptions: Subscriptions, clock: Clock, ids: Ids) -> None:
        self._subscriptions = subscriptions
        self._clock = clock
        self._ids = ids
        self._noted_at: dict[str, float] = {}

    async def __call__(self, subscription: Subscription, endpoint: Endpoint) -> None:
        """Look at one subscription, as it was just read, and at what this process has seen of it."""
        if subscription.is_configured or subscription.is_held:
            return
        if subscription.disabled_at is not None:
            # A former version resumed it, and would keep this time for when it disables it again.
            await self._change(subscription, disabled_at=None)
            return
        now, since = self._clock.now(), subscription.failing_since
        lately = self._clock.monotonic() - _LATELY.total_seconds()
        is_down = endpoint.is_down and endpoint.failing_for >= NOTED_AFTER
        if endpoint.is_gone:
            await self._disable(subscription, PAUSED.reason or "")
        elif since is None:
            noted_at = self._noted_at.get(subscription.id, float("-inf"))
            if is_down and endpoint.failed(max(noted_at, lately)):
                # No longer ago: another replica may have delivered all the while.
                await self._note(subscription, now - min(endpoint.failing_for, _NOTED_AT_MOST))
        elif endpoint.took(self._clock.monotonic() - (now - since).total_seconds()):
            await self._change(subscription, failing_since=None)
        elif is_down and endpoint.failed(lately) and now - since >= DISABLED_AFTER:
            await self._disable(subscription, NOTHING_TAKEN)

    async def _note(self, subscription: Subscription, since: datetime) -> None:
        monotonic = self._clock.monotonic()
        latest = self._noted_at.get(subscription.id, float("-inf"))
        if monotonic - latest >= NOTED_AFTER.total_seconds():
            self._noted_at[subscription.id] = monotonic
            await self._change(subscription, failing_since=since)

    async def _disable(self, subscription: Subscription, reason: str) -> None:
        now = self._clock.now()
        is_disabled = await self._change(
            subscription,
            state=SubscriptionState.DISABLED,
            state_reason=reason,
            failing_since=None,
            changed_at=now,
            disabled_at=now,
        )
        if is_disabled:
            log.warning(
                "subscription_disabled",
                subscription=subscription.id,
                name=subscription.name,
                reason=reason,
            )

    async def _change(self, subscription: Subscription, **changes: Any) -> bool:
        """False: it was changed since it was read, and is looked at again."""
        wanted = replace(subscription, revision=self._ids.new(), **changes)
        return await self._subscriptions.change(wanted, subscription.revision)
