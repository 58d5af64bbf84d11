"""Wires the routes of subscriptions."""

from services.runtime.adapters import Adapters
from services.runtime.api_access import api_auth
from services.webhook.subscriptions.receivers import Receivers
from services.webhook.subscriptions.routes import TAG, state_routes, subscription_routes
from services.webhook.subscriptions.service import SubscriptionService
from shared.ports.deliveries import Subscriptions
from shared.settings.classes import WebhookSettings
from shared.web.server.service import Feature


def subscriptions_feature(
    settings: WebhookSettings, adapters: Adapters, subscriptions: Subscriptions
) -> Feature:
    service = SubscriptionService(
        subscriptions,
        Receivers(settings.address_guard),
        adapters.clock,
        adapters.ids,
        longest_schedule=settings.longest_schedule,
    )
    auth = api_auth(settings, adapters)
    routers = subscription_routes(service, auth), state_routes(service, auth)
    return Feature(routers, openapi_tags=(TAG,))
