"""The webhook service: its features, and what they share.

Promises: it starts without a store and without a broker, is ready once both are there, and stays so, as API
clients ask about webhooks in an outage too; no event is taken before the subscriptions are known; on the way
out it finishes the attempts under way, and what it leaves un-acked comes to the next replica.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import structlog

from services.runtime.adapters import Adapters
from services.runtime.api_access import api_auth
from services.webhook.delivery.feature import NewQueues, delivery_feature
from services.webhook.endpoints.activity import RecordedSender
from services.webhook.endpoints.disabling import Disabling
from services.webhook.endpoints.sender import HttpSender
from services.webhook.endpoints.subscribers import Subscribers
from services.webhook.history.feature import webhook_history_feature
from services.webhook.partitions import Partitions
from services.webhook.subscriptions.feature import subscriptions_feature
from services.webhook.upkeep.feature import cleanup_feature, disabled_feature
from shared.concurrency.partitions import PartitionShare
from shared.concurrency.periodic import Loops, Pace
from shared.domain.enrollment import PARTITIONS
from shared.network.trusted_cas import client_tls
from shared.ports.clock import Clock
from shared.settings.classes import WebhookSettings
from shared.times import time_of_event
from shared.web.server.service import Feature, Service

log = structlog.get_logger()

ROLE = "webhook"
_PACE = Pace(every=timedelta(), after_failure=timedelta(seconds=2))
_DRAINED_WITHIN = timedelta(seconds=3.5)
"""Less than the process gives it, so that it ends in good order."""


def check(settings: WebhookSettings, clock: Clock) -> None:
    """Raises Misconfigured where `build` would, without any server: for --check-config."""
    client_tls("MDM_WEBHOOK_CA", settings.webhook_ca)


async def build(settings: WebhookSettings, adapters: Adapters) -> Service:
    stores, loops = adapters.stores, adapters.loops
    url = settings.webhook_url.get_secret_value() if settings.webhook_url else None
    tls = client_tls("MDM_WEBHOOK_CA", settings.webhook_ca)
    sender = HttpSender(adapters.clock, tls, guard=settings.address_guard)
    subscriptions = stores.subscriptions(url, settings.webhook_extra_topics)
    recorded = RecordedSender(sender, stores.activities, adapters.clock, adapters.ids.new())
    share = PartitionShare(stores.members, adapters.clock, ROLE, adapters.ids.new())
    subscribers = Subscribers(
        subscriptions,
        recorded,
        adapters.clock,
        adapters.metrics,
        portion=lambda: len(share.partitions) / PARTITIONS,
        verdicts=Disabling(subscriptions, adapters.clock, adapters.ids),
    )
    new_queues, delivery = delivery_feature(settings, adapters, subscribers)
    partitions, serving = _partitions_feature(adapters, share, subscribers, new_queues)
    _show_what_waits(adapters, subscribers, partitions)
    prepared = asyncio.Event()

    async def prepare() -> None:
        await stores.prepare("deliveries", webhook_history=settings.event_retention)
        await subscriptions.note_configured()
        await adapters.wanted.refresh()  # the other services of this process know it at once
        prepared.set()

    auth = api_auth(settings, adapters)
    known, api = subscriptions_feature(settings, adapters, subscriptions, auth)
    history = webhook_history_feature(adapters, known, auth, recorded)
    retention = settings.event_retention
    upkeep = cleanup_feature(adapters, subscriptions, retention, recorded.forget)
    reading = Feature(workers=(subscribers.run, recorded.run))
    disabled = disabled_feature(adapters, subscriptions, share)
    features = [api, history, upkeep, disabled, reading, delivery, serving]
    ready = _readiness(adapters, partitions, prepared)
    service = Service.of(ROLE, features, loops, ready=ready)

    async def run() -> None:
        await loops.until_done(
            "webhook_start", prepare, _PACE, "webhook_waits_for_the_store", may_wait=True
        )
        async with sender:
            await service.run()

    async def drain() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAINED_WITHIN.total_seconds()):
                await service.drain()

    return replace(service, run=run, drain=drain)


def _readiness(
    adapters: Adapters, partitions: Partitions, prepared: asyncio.Event
) -> Callable[[], Awaitable[list[str]]]:
    """Why it is not ready yet; once it was, it stays so."""
    opened = asyncio.Event()

    async def ready() -> list[str]:
        if opened.is_set():
            return []
        reasons = []
        if not prepared.is_set() or not partitions.has_share:
            reasons.append("waits for the store")
        if not adapters.broker.healthy:
            reasons.append("the broker does not answer")
        elif partitions.untried:
            reasons.append(f"{partitions.untried} partitions are not open yet")
        if not reasons:
            opened.set()
        return reasons

    return ready


def _partitions_feature(
    adapters: Adapters, share: PartitionShare, subscribers: Subscribers, new_queues: NewQueues
) -> tuple[Partitions, Feature]:
    partitions = Partitions(
        adapters.partitions,
        share,
        adapters.stores.deliveries,
        adapters.clock,
        adapters.loops,
        new_queues,
        is_cut_off=lambda: subscribers.is_cut_off,
    )

    async def serve(_: Loops) -> None:
        await subscribers.was_read.wait()
        if not subscribers.current():
            log.warning(
                "no_webhooks",
                reason="none was made by POST /v1/webhooks, and MDM_WEBHOOK_URL is not set",
            )
        await partitions.run()

    return partitions, Feature(workers=(serve,), drain=partitions.drain)


def _show_what_waits(adapters: Adapters, subscribers: Subscribers, partitions: Partitions) -> None:
    metrics = adapters.metrics

    def oldest_age() -> float:
        """Age in seconds of the oldest event that waits, by the time in its UUIDv7."""
        since = time_of_event(partitions.oldest) if partitions.oldest else None
        return 0.0 if since is None else max(0.0, (adapters.clock.now() - since).total_seconds())

    metrics.watch(metrics.partitions_served, lambda: len(partitions.open))
    metrics.watch(metrics.queues_blocked, lambda: sum(q.blocked_count for q in partitions.served))
    metrics.watch(metrics.deliveries_aside, lambda: sum(len(q.aside) for q in partitions.served))
    metrics.watch(metrics.subscriptions_paused, lambda: subscribers.paused_count)
    metrics.watch(metrics.oldest_undelivered, oldest_age)
