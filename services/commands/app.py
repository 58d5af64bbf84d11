"""Puts the commands service together: the only place where its concrete adapters meet."""

import asyncio
from datetime import timedelta

from fastapi import APIRouter

from services.commands.access import routes as access
from services.commands.access.tokens import ApiTokens
from services.commands.devices import routes as devices
from services.commands.devices.service import DeviceInventory
from services.commands.history.cancel import QueueLife
from services.commands.history.listing import EntryList
from services.commands.history.long_poll import Slots, Waiting
from services.commands.history.lookup import CommandLookup
from services.commands.history.results import Answers
from services.commands.history.routes import history_routes
from services.commands.identities.routes import identity_routes
from services.commands.identities.service import IdentityDesk, IdentityPorts
from services.commands.jobs import routes as jobs
from services.commands.jobs.schemas import JobView
from services.commands.jobs.worker import JobPorts, JobWork
from services.commands.migration import routes as migration
from services.commands.migration.service import Migrations
from services.commands.profiles import routes as profiles
from services.commands.profiles.schemas import LARGEST_REQUEST
from services.commands.queue.limits import SizeLimits
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.requeue import EntryResolver, QueueRules
from services.commands.queue.service import QueueService
from services.commands.queue.targets import Targets
from services.commands.submit import routes as submit
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
    posting = Posting(queue_service, waits, work, job_view, sizes)
    unlock = StoredUnlockToken(stores.devices, targets)
    inventory = DeviceInventory(records, stores.devices, queue, targets)
    listing = EntryList(queue, reconciler, clock)
    tokens = ApiTokens(stores.tokens, clock, adapters.ids)
    challenges = ChallengeBook(stores.challenges, clock, validity=settings.scep_challenge_validity)
    migrations = Migrations(stores.migration, clock, adapters.ids, settings.migration_window)
    auth = api_auth(settings, adapters)
    routes = APIRouter()
    for each in (
        submit.submit_routes(catalogue, posting, adapters.ids, unlock, auth),
        history_routes(listing, life, targets, waits, auth),
        jobs.job_routes(job_view, auth),
        devices.device_routes(inventory, auth),
        identity_routes(_desk(adapters, records, targets), auth),
        migration.migration_routes(migrations, auth, settings.max_body),
        profiles.profile_routes(stores.profiles, auth),
        access.challenge_routes(challenges, auth),
        access.token_routes(tokens, auth),
        access.audit_routes(stores.audit, clock, auth),
    ):
        routes.include_router(each)

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
        openapi_tags=(
            submit.TAG,
            devices.TAG,
            jobs.TAG,
            profiles.TAG,
            access.CHALLENGES_TAG,
            migration.TAG,
            access.TAG,
        ),
    )


def _desk(adapters: Adapters, records: Enrollments, targets: Targets) -> IdentityDesk:
    ports = IdentityPorts(records, adapters.stores.identities, adapters.stores.issued, targets)
    return IdentityDesk(ports, adapters.clock, adapters.ids, adapters.metrics)
