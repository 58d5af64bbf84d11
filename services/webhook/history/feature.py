"""Wires the history of subscriptions, and the worker of replays."""

from services.runtime.adapters import Adapters
from services.webhook.delivery.filters import Filters
from services.webhook.endpoints.sender import EventSender
from services.webhook.history.replay_routes import ReplayService, replay_routes
from services.webhook.history.routes import action_routes, delivery_routes
from services.webhook.history.service import DeliveryHistory
from services.webhook.history.worker import ReplayWorker
from services.webhook.subscriptions.service import SubscriptionService
from shared.domain.event import Event
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def webhook_history_feature(
    adapters: Adapters, service: SubscriptionService, auth: ApiAuth, sender: EventSender
) -> Feature:
    stores, clock, ids = adapters.stores, adapters.clock, adapters.ids
    history = DeliveryHistory(
        stores.deliveries,
        stores.delivery_records,
        stores.activities,
        stores.replays,
        stores.journal,
        sender,
        clock,
        ids,
    )

    async def read(event_id: str) -> Event | None:
        return (await stores.journal.read([event_id])).get(event_id)

    worker = ReplayWorker(
        stores.replays,
        service.subscriptions,
        stores.deliveries,
        stores.delivery_records,
        stores.journal,
        Filters(read, stores.enrollments, stores.queue),
        clock,
        ids,
        ids.new(),
    )
    replays = ReplayService(stores.replays, clock, ids)
    routers = (
        delivery_routes(service, history, auth),
        action_routes(service, history, auth),
        replay_routes(service, replays, auth),
    )
    return Feature(routers, workers=(worker.run,))
