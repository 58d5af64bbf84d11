"""Puts the check-in service together: the only place where its concrete adapters meet."""

import asyncio

import structlog
from cryptography.x509 import Certificate

from services.adapters import Adapters
from services.checkin.cohort import DeviceCohort
from services.checkin.device_auth import DeviceAuthentication
from services.checkin.parts import Parts
from services.checkin.relay import Relay
from services.checkin.routes import TAG, router
from services.checkin.seen import LastSeen
from services.checkin.takeover import TakeOver
from services.checkin.turns import Answer, DeviceRequest
from services.checkin.writer import Writer
from shared.batching import Cohorts
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.security.authority import open_authority
from shared.security.client_certificate import ClientCertificateHeader
from shared.security.identity import DeviceIdentities, load_trust
from shared.settings import CheckinSettings
from shared.sharing import PartitionShare
from shared.storage import enrollments, journal, members, place_documents, schema
from shared.storage.authority import MongoAuthorityStore
from shared.storage.enrollments import MongoEnrollments
from shared.storage.journal import MongoJournal
from shared.storage.members import MongoMembers
from shared.storage.queue import MongoCommandQueue
from shared.storage.writers import MongoWriters
from shared.web.service import Service

log = structlog.get_logger()

COHORT_LIMIT = 64
IN_FLIGHT = 1
"""While one cohort is in the store, the next one gathers. With two under way the steps overlap more and
the cohorts are smaller, which cost a tenth of the rate on the embedded store (docs/adr/0007)."""


async def build(settings: CheckinSettings, adapters: Adapters) -> Service:
    """Build the service. Raises StoreUnavailable when the store does not answer; build it again then."""
    mongo, clock = adapters.mongo, adapters.clock
    await _prepare_store(settings, adapters)
    records, events = MongoEnrollments(mongo, adapters.seal), MongoJournal(mongo, adapters.seal)
    writers = MongoWriters(mongo)
    writer = Writer(writers, events, records, clock, adapters.ids)
    parts = Parts(
        enrollments=records,
        journal=events,
        queue=MongoCommandQueue(mongo),
        publisher=adapters.publisher,
        wishes=adapters.wishes,
        writer=writer,
        clock=clock,
        ids=adapters.ids,
        metrics=adapters.metrics,
    )
    seen = LastSeen(records, clock)
    cohort = DeviceCohort(parts, seen)
    cohorts: Cohorts[DeviceRequest, Answer] = Cohorts(cohort.handle, COHORT_LIMIT, IN_FLIGHT)
    share = PartitionShare(MongoMembers(mongo), clock, "relay", writer.id)
    takeover = TakeOver(writers, events, records, clock, adapters.metrics)
    devices = await _device_authentication(settings, adapters)
    if adapters.is_alone:
        await takeover.take_all(writer.id)
    await writer.register()

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.run())
            group.create_task(takeover.run(writer.id))
            group.create_task(Relay(parts, share).run())
            group.create_task(seen.run())

    async def drain() -> None:
        await cohorts.drain()
        try:
            await seen.flush()
            await writer.leave()
        except (Unavailable, TimeoutError):
            log.warning("writer_left_silently", writer=writer.id)

    return Service(
        name="checkin",
        router=router(cohorts, devices, settings.max_body),
        run=run,
        ready=writer.reasons,
        drain=drain,
        openapi_tags=[TAG],
    )


def check(settings: CheckinSettings, clock: Clock) -> None:
    """Raises Misconfigured where `build` would, without any server: for --check-config."""
    _operators_trust(settings)


def _operators_trust(settings: CheckinSettings) -> list[Certificate]:
    return [] if settings.device_ca is None else load_trust(settings.device_ca.read_bytes())


async def _device_authentication(
    settings: CheckinSettings, adapters: Adapters
) -> DeviceAuthentication:
    store = MongoAuthorityStore(adapters.mongo, adapters.seal)
    authority = await open_authority(store, adapters.clock)
    trust = load_trust(authority.certificate_pem) + _operators_trust(settings)
    return DeviceAuthentication(
        DeviceIdentities(trust, adapters.clock),
        proxy_header=settings.client_cert_header,
        proxies=ClientCertificateHeader(settings.trusted_proxies),
    )


async def _prepare_store(settings: CheckinSettings, adapters: Adapters) -> None:
    await schema.ensure(
        adapters.mongo,
        (
            *enrollments.INDEXES,
            *journal.indexes(settings.event_retention),
            *place_documents.indexes(settings.command_retention),
            *members.INDEXES,
        ),
    )
