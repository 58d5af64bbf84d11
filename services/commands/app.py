"""Puts the commands service together: the only place where its concrete adapters meet."""

import asyncio
from datetime import timedelta

from services import api_access
from services.adapters import Adapters
from services.api_access import api_auth
from services.api_tokens import ApiTokens
from services.commands.access_openapi import TAG as ACCESS_TAG
from services.commands.access_routes import audit_routes, token_routes
from services.commands.answers import Answers
from services.commands.challenge import TAG as CHALLENGES_TAG
from services.commands.challenge import challenge_routes
from services.commands.collisions import Collisions, QueueingRules
from services.commands.device_openapi import MIGRATION_TAG
from services.commands.device_routes import DeviceParts, device_routes
from services.commands.expiry import Expiry
from services.commands.identities import IdentityDesk, IdentityPorts
from services.commands.identity_routes import identity_routes
from services.commands.inventory import DeviceInventory
from services.commands.janitor import Janitor
from services.commands.job_openapi import TAG as JOBS_TAG
from services.commands.job_routes import job_routes
from services.commands.job_view import JobView
from services.commands.jobs import JobPorts, JobWork
from services.commands.life import QueueLife
from services.commands.life_routes import LifeParts, add_life
from services.commands.limits import SizeLimits
from services.commands.listing import EntryList
from services.commands.lookup import CommandLookup
from services.commands.migration import Migrations
from services.commands.migration_routes import migration_routes
from services.commands.openapi import TAGS
from services.commands.posting import Posting, Waits
from services.commands.profile_routes import TAG as PROFILES_TAG
from services.commands.profile_routes import profile_routes
from services.commands.profiles import LARGEST_REQUEST
from services.commands.queueing import Queueing
from services.commands.routes import Parts, router
from services.commands.settling import Settling
from services.commands.stored_unlock import StoredUnlockToken
from services.commands.targets import Targets
from services.commands.waiting import Slots, Waiting
from shared.apple.catalogue import CommandCatalogue
from shared.security.challenges import ChallengeBook
from shared.settings import CommandsSettings
from shared.sharing import PartitionShare
from shared.storage import challenges as challenge_documents
from shared.storage import enrollments, entry_documents, issued, journal, members
from shared.storage import identities as identity_storage
from shared.storage import jobs as job_documents
from shared.storage.audit import MongoAuditLog
from shared.storage.challenges import MongoChallenges
from shared.storage.devices import MongoDevices
from shared.storage.enrollments import MongoEnrollments
from shared.storage.expiries import MongoExpiries
from shared.storage.identities import MongoIdentities
from shared.storage.issued import MongoIssuedCertificates
from shared.storage.jobs import MongoJobs
from shared.storage.journal import MongoJournal
from shared.storage.members import MongoMembers
from shared.storage.migration import MongoMigration
from shared.storage.profiles import MongoProfiles
from shared.storage.pushes import MongoPushes
from shared.storage.queue import MongoCommandQueue
from shared.storage.stored_commands import MongoStoredCommands
from shared.storage.tokens import MongoTokens
from shared.web.service import Service

ROLE = "janitor"
STALE_AFTER = timedelta(minutes=1)
"""The janitor's heartbeat is as slow as its work."""


async def build(settings: CommandsSettings, adapters: Adapters) -> Service:
    """Build the service. Raises StoreUnavailable when the store does not answer; build it again
    then."""
    database, clock, keyring = adapters.database, adapters.clock, adapters.keyring
    await database.ensure(
        (
            *enrollments.INDEXES,
            *entry_documents.indexes(settings.command_retention),
            *journal.indexes(settings.event_retention),
            *members.INDEXES,
            *job_documents.indexes(settings.command_retention),
            *challenge_documents.INDEXES,
            *identity_storage.INDEXES,
            *issued.INDEXES,
            *api_access.indexes(settings),
        ),
    )
    queue, records = MongoCommandQueue(database, keyring), MongoEnrollments(database, keyring)
    targets = Targets(records)
    expiries, events = MongoExpiries(database), MongoJournal(database, adapters.keyring)
    settling = Settling(queue, expiries, targets, clock)
    life = QueueLife(queue, targets, settling)
    rules = QueueingRules(
        settings.retry_window, settings.accept_unknown_devices, settings.max_open_commands
    )
    catalogue = CommandCatalogue.load()
    share = PartitionShare(
        MongoMembers(database), clock, ROLE, adapters.ids.new(), stale_after=STALE_AFTER
    )
    expiry = Expiry(expiries, records, events, adapters.publisher, share, clock)
    queueing = Queueing(
        queue,
        targets,
        adapters.push_requests,
        clock,
        adapters.ids,
        adapters.metrics,
        rules,
        catalogue.advise,
        Collisions(queue, targets, settling, expiry.hand_over, clock, rules),
    )
    janitor = Janitor(queue, MongoStoredCommands(database), settling, share, clock)
    answers = Answers(events)
    lookup = CommandLookup(queue, MongoPushes(database), answers, targets, settling)
    waits = Waits(Waiting(queue, clock, Slots(settings.max_waiting)), lookup, settings.max_wait)
    job_ports = JobPorts(
        MongoJobs(database), queue, clock, adapters.ids, adapters.metrics, adapters.is_alone
    )
    work, job_view = JobWork(job_ports, queueing), JobView(job_ports.jobs)
    sizes = SizeLimits(settings.max_command_size)
    parts = Parts(
        catalogue=catalogue,
        posting=Posting(queueing, waits, work, job_view, sizes),
        life=life,
        inventory=DeviceInventory(records, queue, targets),
        ids=adapters.ids,
        unlock=StoredUnlockToken(MongoDevices(database, adapters.keyring), targets),
    )

    auth = api_auth(settings, adapters)
    routes = router(parts, auth)
    listing = EntryList(queue, settling, clock)
    add_life(routes, LifeParts(lookup, listing, life, targets, waits), auth)
    tokens = ApiTokens(MongoTokens(database), clock, adapters.ids)
    challenges = ChallengeBook(
        MongoChallenges(database), clock, validity=settings.scep_challenge_validity
    )
    routes.include_router(challenge_routes(challenges, auth))
    routes.include_router(profile_routes(MongoProfiles(database), auth))
    routes.include_router(
        device_routes(DeviceParts(MongoDevices(database, adapters.keyring), targets), auth)
    )
    migrations = Migrations(
        MongoMigration(database, adapters.keyring), clock, adapters.ids, settings.migration_window
    )
    routes.include_router(migration_routes(migrations, auth, settings.max_body))
    routes.include_router(identity_routes(_desk(adapters, records, targets), auth))
    routes.include_router(token_routes(tokens, auth))
    routes.include_router(audit_routes(MongoAuditLog(database), clock, auth))

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
        await queueing.drain()

    return Service(
        name="commands",
        router=routes,
        run=run,
        release=release,
        drain=drain,
        max_body=max(sizes.json, LARGEST_REQUEST, settings.max_body),
        openapi_tags=(*TAGS, JOBS_TAG, PROFILES_TAG, CHALLENGES_TAG, MIGRATION_TAG, ACCESS_TAG),
    )


def _desk(adapters: Adapters, records: MongoEnrollments, targets: Targets) -> IdentityDesk:
    database, keyring = adapters.database, adapters.keyring
    ports = IdentityPorts(
        records, MongoIdentities(database, keyring), MongoIssuedCertificates(database), targets
    )
    return IdentityDesk(ports, adapters.clock, adapters.ids, adapters.metrics)
