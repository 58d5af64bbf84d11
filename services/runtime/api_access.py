"""Puts together who may call the API: the same for every service that has one."""

from services.runtime.adapters import Adapters
from shared.settings.access import AccessSettings
from shared.web.api.audit import AuditTrail
from shared.web.api.auth import ApiAuth, Watch
from shared.web.api.throttle import FailedAttempts
from shared.web.api.tokens import TokenBook
from shared.web.client_address import Peers


def api_auth(settings: AccessSettings, adapters: Adapters) -> ApiAuth:
    """What the routers of a service take as `auth`."""
    stores, clock = adapters.stores, adapters.clock
    watch = Watch(
        tokens=TokenBook(stores.tokens, clock),
        failures=FailedAttempts(clock),
        trail=AuditTrail(stores.audit, clock, adapters.ids),
        peers=Peers(settings.trusted_proxies),
    )
    return ApiAuth(settings.api_keys, watch)
