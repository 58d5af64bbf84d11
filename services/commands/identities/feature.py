"""Wires the certificates by which devices are known."""

from services.commands.identities.routes import identity_routes
from services.commands.identities.service import IdentityService
from services.commands.queue.targets import Targets
from services.runtime.adapters import Adapters
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def identities_feature(adapters: Adapters, targets: Targets, auth: ApiAuth) -> Feature:
    stores = adapters.stores
    service = IdentityService(
        stores.enrollments,
        stores.identities,
        stores.issued,
        targets,
        adapters.clock,
        adapters.ids,
        adapters.metrics,
    )
    return Feature(routers=(identity_routes(service, auth),))
