"""Puts the commands service together: the only place where its concrete adapters meet."""

import asyncio
from datetime import timedelta

from services.commands.access.challenge_routes import TAG as CHALLENGES_TAG
from services.commands.access.challenge_routes import challenge_routes
from services.commands.access.openapi import TAG as ACCESS_TAG
from services.commands.access.routes import audit_routes, token_routes
from services.commands.access.tokens import ApiTokens
from services.commands.devices.openapi import MIGRATION_TAG
from services.commands.devices.routes import DeviceParts, device_routes
from services.commands.devices.service import DeviceInventory
from services.commands.history.cancel import QueueLife
from services.commands.history.listing import EntryList
from services.commands.history.long_poll import Slots, Waiting
from services.commands.history.lookup import CommandLookup
from services.commands.history.results import Answers
from services.commands.history.routes import LifeParts, add_life
from services.commands.identities.routes import identity_routes
from services.commands.identities.service import IdentityDesk, IdentityPorts
from services.commands.jobs.openapi import TAG as JOBS_TAG
from services.commands.jobs.routes import job_routes
from services.commands.jobs.schemas import JobView
from services.commands.jobs.worker import JobPorts, JobWork
from services.commands.migration.routes import migration_routes
from services.commands.migration.service import Migrations
from services.commands.openapi import TAGS
from services.commands.profiles.routes import TAG as PROFILES_TAG
from services.commands.profiles.routes import profile_routes
from services.commands.profiles.service import LARGEST_REQUEST
from services.commands.queue.limits import SizeLimits
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.requeue import EntryResolver, QueueRules
from services.commands.queue.service import QueueService
from services.commands.queue.targets import Targets
from services.commands.submit.routes import Parts, router
from services.commands.submit.service import Posting, Waits
from services.commands.submit.stored_unlock import StoredUnlockToken
from services.commands.upkeep.expiry import Expiry
from services.commands.upkeep.janitor import Janitor
from services.runtime.adapters import Adapters
from services.runtime.api_access import api_auth
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.concurrency.partitions import PartitionShare
from shared.ports.enrollments import Enrollments
from shared.security.challenges import ChallengeBook
from shared.settings import CommandsSettings
from shared.web.server.service import Service

ROLE = "janitor"
STALE_AFTER = timedelta(minutes=1)
"""The janitor's heartbeat is as slow as its work."""


async def build(settings: CommandsSettings, adapters: Adapters) -> Service:
    """Build the service. Raises StoreUnavailable when the store does not answer; build it again
    then."""
    stores, clock = adapters.stores, adapters.clock
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
    queue, records = stores.queue, stores.enrollments
    targets = Targets(records)
    expiries, events = stores.expiries, stores.journal
    reconciler = Reconciler(queue, expiries, targets, clock)
    life = QueueLife(queue, targets, reconciler)
    rules = QueueRules(
        settings.retry_window, settings.accept_unknown_devices, settings.max_open_commands
    )
    catalogue = CommandCatalogue.load()
    share = PartitionShare(stores.members, clock, ROLE, adapters.ids.new(), stale_after=STALE_AFTER)
    expiry = Expiry(expiries, records, events, adapters.publisher, share, clock)
    queue_service = QueueService(
        queue,
        targets,
        adapters.push_requests,
        clock,
        adapters.ids,
        adapters.metrics,
        rules,
        catalogue.advise,
        EntryResolver(queue, targets, reconciler, expiry.hand_over, clock, rules),
    )
    janitor = Janitor(queue, stores.stored_commands, reconciler, share, clock)
    answers = Answers(events)
    lookup = CommandLookup(queue, stores.pushes, answers, targets, reconciler)
    waits = Waits(Waiting(queue, clock, Slots(settings.max_waiting)), lookup, settings.max_wait)
    job_ports = JobPorts(
        stores.jobs, queue, clock, adapters.ids, adapters.metrics, adapters.is_alone
    )
    work, job_view = JobWork(job_ports, queue_service), JobView(job_ports.jobs)
    sizes = SizeLimits(settings.max_command_size)
    parts = Parts(
        catalogue=catalogue,
        posting=Posting(queue_service, waits, work, job_view, sizes),
        life=life,
        inventory=DeviceInventory(records, queue, targets),
        ids=adapters.ids,
        unlock=StoredUnlockToken(stores.devices, targets),
    )

    auth = api_auth(settings, adapters)
    routes = router(parts, auth)
    listing = EntryList(queue, reconciler, clock)
    add_life(routes, LifeParts(lookup, listing, life, targets, waits), auth)
    tokens = ApiTokens(stores.tokens, clock, adapters.ids)
    challenges = ChallengeBook(stores.challenges, clock, validity=settings.scep_challenge_validity)
    routes.include_router(challenge_routes(challenges, auth))
    routes.include_router(profile_routes(stores.profiles, auth))
    routes.include_router(device_routes(DeviceParts(stores.devices, targets), auth))
    migrations = Migrations(stores.migration, clock, adapters.ids, settings.migration_window)
    routes.include_router(migration_routes(migrations, auth, settings.max_body))
    routes.include_router(identity_routes(_desk(adapters, records, targets), auth))
    routes.include_router(token_routes(tokens, auth))
    routes.include_router(audit_routes(stores.audit, clock, auth))

    routes.include_router(job_routes(job_view, auth))

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for each in (janitor, expiry, waits.waiting, work):
                group.create_task(each.run(adapters.loops))

    def release() -> None:
        waits.waiting.stop()
        work.stop()

    async def drain() -> None:
        await work.drain()
        await queue_service.drain()

    return Service(
        name="commands",
        router=routes,
        run=run,
        release=release,
        drain=drain,
        max_body=max(sizes.json, LARGEST_REQUEST, settings.max_body),
        openapi_tags=(*TAGS, JOBS_TAG, PROFILES_TAG, CHALLENGES_TAG, MIGRATION_TAG, ACCESS_TAG),
    )


def _desk(adapters: Adapters, records: Enrollments, targets: Targets) -> IdentityDesk:
    ports = IdentityPorts(records, adapters.stores.identities, adapters.stores.issued, targets)
    return IdentityDesk(ports, adapters.clock, adapters.ids, adapters.metrics)
