"""The webhook service, put together: the one place where its concrete parts meet.

Promises: it starts without a store and without a broker and is ready once both are there; no event
is taken before the subscriptions are known; on the way out it finishes the attempts under way, and
what it leaves un-acked comes to the next replica.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from random import SystemRandom
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter

from services.runtime.adapters import Adapters
from services.webhook.delivery.bodies import Bodies
from services.webhook.delivery.first_attempt import Crew, PartitionQueues
from services.webhook.delivery.retry import QueueRetry, RetryPolicy
from services.webhook.delivery.scheduler import Retries
from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.attempts import Attempts
from services.webhook.endpoints.sender import HttpSender
from services.webhook.partitions import Partitions
from services.webhook.subscribers import Subscribers
from shared.concurrency.partitions import PartitionShare
from shared.concurrency.periodic import Loops, Pace
from shared.messaging.envelope import event_json
from shared.network.trusted_cas import client_tls
from shared.ports.clock import Clock
from shared.settings.classes import WebhookSettings
from shared.web.server.service import Service

log = structlog.get_logger()

ROLE = "webhook"
_PACE = Pace(every=timedelta(), after_failure=timedelta(seconds=2))
_DRAINED_WITHIN = 3.5
"""Less than the process gives it, so that it ends in good order."""


def check(settings: WebhookSettings, clock: Clock) -> None:
    """Raises Misconfigured where `build` would, without any server: for --check-config."""
    client_tls("MDM_WEBHOOK_CA", settings.webhook_ca)


async def build(settings: WebhookSettings, adapters: Adapters) -> Service:
    work = _Work(settings, adapters)
    return Service(
        name=ROLE, router=APIRouter(), run=work.run, ready=work.reasons, drain=work.drain
    )


class _Work:
    """The work of the service, all of it in the background."""

    def __init__(self, settings: WebhookSettings, adapters: Adapters) -> None:
        self._adapters = adapters
        self._clock = adapters.clock
        self._group: asyncio.TaskGroup | None = None
        self._loops: Loops = adapters.loops
        self._is_prepared = False
        url = settings.webhook_url.get_secret_value() if settings.webhook_url else None
        deliveries = adapters.stores.deliveries
        journal = adapters.stores.journal
        self._sender = HttpSender(self._clock, client_tls("MDM_WEBHOOK_CA", settings.webhook_ca))
        subscriptions = adapters.stores.subscriptions(url, settings.webhook_extra_topics)
        self._subscribers = Subscribers(subscriptions, self._clock)
        self._store = DeliveryStore(deliveries, journal, self._clock, adapters.ids)
        attempts = self._attempts = Attempts(
            self._sender, self._clock, adapters.metrics.deliveries_delivered
        )
        bodies = Bodies(
            settings.webhook_body_budget,
            self._store,
            event_json,
            adapters.metrics.bodies_read_back,
        )
        policy = RetryPolicy(
            settings.webhook_retry_schedule,
            SystemRandom().random,
            self._subscribers.get,
            bodies,
        )
        queue_retry = QueueRetry(self._store, attempts, policy, self._clock, adapters.metrics)
        self._retries = Retries(queue_retry, attempts, self._clock)
        crew = Crew(
            subscribers=self._subscribers.current,
            attempts=attempts,
            store=self._store,
            bodies=bodies,
            retries=self._retries,
            clock=self._clock,
            next_attempt=policy.next_attempt,
            spawn=self._spawn,
        )
        members = adapters.stores.members
        self._partitions = Partitions(
            adapters.partitions,
            PartitionShare(members, self._clock, ROLE, adapters.ids.new()),
            deliveries,
            self._clock,
            partial(PartitionQueues, crew),
        )
        self._show_what_waits()

    async def run(self) -> None:
        waits = "webhook_waits_for_the_store"
        await self._loops.until_done("webhook_start", self._prepare, _PACE, waits)
        async with self._sender, asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._subscribers.run(self._loops))
            group.create_task(self._retries.run(self._loops))
            await self._subscribers.first_read()
            if not self._subscribers.current():
                log.warning("webhook_disabled", reason="MDM_WEBHOOK_URL is not set")
            await self._partitions.run(self._spawn, self._loops)
            await asyncio.Event().wait()  # drained: stay until cancelled

    async def reasons(self) -> list[str]:
        reasons = []
        if not self._is_prepared or not self._partitions.has_share:
            reasons.append("waits for the store")
        if not self._adapters.broker.healthy:
            reasons.append("the broker does not answer")
        elif self._partitions.untried:
            reasons.append(f"{self._partitions.untried} partitions are not open yet")
        return reasons

    async def drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAINED_WITHIN):
                await self._partitions.drain()
                await self._store.drain()

    async def _prepare(self) -> None:
        await self._adapters.stores.prepare("deliveries")
        self._is_prepared = True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        if self._group is None:
            raise RuntimeError("the webhook service is not running")
        attempt = self._loops.attempt("webhook_task", lambda: work, "webhook_task_failed")
        try:
            task = self._group.create_task(attempt)
        except RuntimeError:  # the service ends: what comes now is not acked, and comes again
            attempt.close()
            work.close()
            raise
        task.add_done_callback(
            lambda _: work.close()
        )  # one that is cancelled at once never began it
        return task

    def _show_what_waits(self) -> None:
        metrics, partitions = self._adapters.metrics, self._partitions
        metrics.watch(metrics.partitions_served, lambda: len(partitions.open))
        metrics.watch(
            metrics.queues_blocked,
            lambda: sum(queues.blocked_count for queues in partitions.served),
        )
        metrics.watch(
            metrics.deliveries_aside, lambda: sum(len(queues.aside) for queues in partitions.served)
        )
        metrics.watch(metrics.subscriptions_paused, lambda: self._attempts.paused_count)
        metrics.watch(metrics.oldest_undelivered, self._oldest_age)

    def _oldest_age(self) -> float:
        """Age in seconds of the oldest event that waits, by the time in its UUIDv7."""
        if self._partitions.oldest is None:
            return 0.0
        milliseconds = UUID(self._partitions.oldest).int >> 80
        return max(0.0, self._clock.now().timestamp() - milliseconds / 1000)
