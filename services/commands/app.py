"""The commands service: its features, and what they share."""

from services.commands.access.feature import access_feature, challenges_feature
from services.commands.devices.feature import devices_feature
from services.commands.history.feature import history_feature
from services.commands.identities.feature import identities_feature
from services.commands.jobs.feature import jobs_feature
from services.commands.migration.feature import migration_feature
from services.commands.profiles.feature import profiles_feature
from services.commands.profiles.schemas import LARGEST_REQUEST
from services.commands.queue.feature import queue_feature
from services.commands.queue.priority import Priority
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.targets import Targets
from services.commands.submit.feature import submit_feature
from services.commands.submit.routes import json_limit
from services.commands.submit.service import SubmitService
from services.commands.upkeep.feature import upkeep_feature
from services.runtime.adapters import Adapters
from services.runtime.api_access import api_auth
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.settings import CommandsSettings
from shared.web.server.service import Service


async def build(settings: CommandsSettings, adapters: Adapters) -> Service:
    """Build the service. Raises StoreUnavailable when the store does not answer; build it again then."""
    stores = adapters.stores
    await stores.prepare(
        "enrollments",
        "members",
        "challenges",
        "identities",
        "issued",
        "tokens",
        audit=settings.audit_retention,
        jobs=settings.command_retention,
        journal=settings.event_retention,
        queue=settings.command_retention,
    )
    await adapters.wanted.refresh()
    catalogue = CommandCatalogue.load()
    priority = Priority()
    auth = api_auth(settings, adapters, priority.interactive)
    targets = Targets(stores.enrollments)
    reconciler = Reconciler(stores.queue, stores.expiries, targets, adapters.clock)
    expiry, upkeep = upkeep_feature(adapters, reconciler, priority)
    queue_service, queue = queue_feature(
        settings, adapters, targets, reconciler, expiry.hand_over, catalogue.advise, priority
    )
    lookup, poll, history = history_feature(settings, adapters, targets, reconciler, auth)
    worker, jobs = jobs_feature(adapters, queue_service, auth)
    size = settings.max_command_size
    service = SubmitService(queue_service, lookup, poll, worker, stores.jobs, size)
    features = [
        queue,
        upkeep,
        submit_feature(adapters, catalogue, service, targets, auth),
        history,
        devices_feature(adapters, targets, auth),
        identities_feature(adapters, targets, auth),
        jobs,
        profiles_feature(adapters, auth),
        challenges_feature(settings, adapters, auth),
        migration_feature(settings, adapters, auth),
        access_feature(adapters, auth),
    ]
    largest = max(json_limit(size), LARGEST_REQUEST, settings.max_body)
    return Service.of("commands", features, adapters.loops, max_body=largest)
