"""Wires delivery: the delivery queues of partitions, and the retries that all of them share."""

from collections.abc import Callable
from functools import partial
from random import SystemRandom

from services.runtime.adapters import Adapters
from services.webhook.delivery.bodies import Bodies
from services.webhook.delivery.filters import Filters
from services.webhook.delivery.first_attempt import PartitionQueues, Spawn
from services.webhook.delivery.retry import QueueRetry
from services.webhook.delivery.schedule import RetryPolicy
from services.webhook.delivery.scheduler import Retries
from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.subscribers import Subscribers
from shared.messaging.envelope import event_json
from shared.settings.classes import WebhookSettings
from shared.web.server.service import Feature

NewQueues = Callable[[Spawn, Callable[[], object]], PartitionQueues]
"""Makes the delivery queues of a partition that is opened."""


def delivery_feature(
    settings: WebhookSettings, adapters: Adapters, subscribers: Subscribers
) -> tuple[NewQueues, Feature]:
    stores, clock, metrics = adapters.stores, adapters.clock, adapters.metrics
    store = DeliveryStore(stores.deliveries, stores.journal, clock, adapters.ids)
    bodies = Bodies(settings.webhook_body_budget, store, event_json, metrics)
    policy = RetryPolicy(settings.webhook_retry_schedule, SystemRandom().random)
    retries = Retries(
        QueueRetry(store, subscribers, bodies, policy, clock, metrics), subscribers, clock
    )
    filters = Filters(store.event, stores.enrollments, stores.queue)
    new_queues = partial(
        PartitionQueues, subscribers, store, bodies, filters.pass_id, retries, clock
    )
    return new_queues, Feature(workers=(retries.run,), drain=store.drain)
