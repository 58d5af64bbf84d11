"""Puts together who may call the API: the same for every service that has one."""

from services.runtime.adapters import Adapters
from shared.settings.access import AccessSettings
from shared.storage.access import audit, tokens
from shared.storage.indexes import Index
from shared.web.api.audit import AuditTrail
from shared.web.api.auth import ApiAuth, Watch
from shared.web.api.throttle import FailedAttempts
from shared.web.api.tokens import TokenBook
from shared.web.client_address import Peers


def api_auth(settings: AccessSettings, adapters: Adapters) -> ApiAuth:
    """What the routers of a service take as `auth`."""
    database, clock = adapters.database, adapters.clock
    watch = Watch(
        tokens=TokenBook(tokens.MongoTokens(database), clock),
        failures=FailedAttempts(clock),
        trail=AuditTrail(audit.MongoAuditLog(database), clock, adapters.ids),
        peers=Peers(settings.trusted_proxies),
    )
    return ApiAuth(settings.api_keys, watch)


def indexes(settings: AccessSettings) -> tuple[Index, ...]:
    """Of what `api_auth` reads and writes."""
    return (*tokens.INDEXES, *audit.indexes(settings.audit_retention))
