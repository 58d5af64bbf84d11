"""Wires the routes of subscriptions."""

from services.runtime.adapters import Adapters
from services.webhook.subscriptions.receivers import Receivers
from services.webhook.subscriptions.routes import TAG, state_routes, subscription_routes
from services.webhook.subscriptions.service import SubscriptionService
from shared.ports.deliveries import Subscriptions
from shared.settings.classes import WebhookSettings
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def subscriptions_feature(
    settings: WebhookSettings, adapters: Adapters, subscriptions: Subscriptions, auth: ApiAuth
) -> tuple[SubscriptionService, Feature]:
    service = SubscriptionService(
        subscriptions,
        Receivers(settings.address_guard),
        adapters.stores.journal,
        adapters.clock,
        adapters.ids,
        longest_schedule=settings.longest_schedule,
        retention=settings.event_retention,
    )
    routers = subscription_routes(service, auth), state_routes(service, auth)
    return service, Feature(routers, openapi_tags=(TAG,))
