"""Puts together who may call the API: the same for every service that has one."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from services.runtime.adapters import Adapters
from shared.settings.access import AccessSettings
from shared.web.api.audit import AuditTrail
from shared.web.api.auth import ApiAuth
from shared.web.api.throttle import FailedAttempts
from shared.web.api.tokens import TokenCache
from shared.web.client_address import ClientAddresses


def api_auth(
    settings: AccessSettings,
    adapters: Adapters,
    interactive: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> ApiAuth:
    """The `auth` of the routers of a service; `interactive` as of its audit trail."""
    stores, clock = adapters.stores, adapters.clock
    return ApiAuth(
        settings.api_keys,
        tokens=TokenCache(stores.tokens, clock),
        failures=FailedAttempts(clock),
        trail=AuditTrail(stores.audit, clock, adapters.ids, interactive),
        addresses=ClientAddresses(settings.trusted_proxies),
    )
