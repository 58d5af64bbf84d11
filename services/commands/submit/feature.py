"""Wires the queueing of commands by API clients."""

from services.commands.queue.targets import Targets
from services.commands.submit.routes import TAG, submit_routes
from services.commands.submit.service import SubmitService
from services.commands.submit.stored_unlock import StoredUnlockToken
from services.runtime.adapters import Adapters
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.web.api.auth import ApiAuth
from shared.web.server.service import Feature


def submit_feature(
    adapters: Adapters,
    catalogue: CommandCatalogue,
    service: SubmitService,
    targets: Targets,
    auth: ApiAuth,
) -> Feature:
    unlock = StoredUnlockToken(adapters.stores.devices, targets)
    routes = submit_routes(catalogue, service, adapters.ids, unlock, auth)
    return Feature(routers=(routes,), openapi_tags=(TAG,))
