"""Wires the way of a device's request: routes, authorization, batches, and the records of refusals."""

from contextlib import suppress

from services.checkin.answers import Answer
from services.checkin.authorization.authorizer import Authorizer
from services.checkin.authorization.certificate_policy import BindingRules
from services.checkin.authorization.quarantine import QuarantineRecorder
from services.checkin.exchange import DeviceExchange
from services.checkin.journal.last_seen import LastSeen
from services.checkin.journal.writer import Writer
from services.checkin.pipeline.batch import DeviceBatch, DeviceEvents
from services.checkin.pipeline.changes import EnrollmentChanges
from services.checkin.pipeline.commands import NextCommands
from services.checkin.pipeline.derived import DerivedEvents
from services.checkin.pipeline.device_auth import DeviceAuthentication
from services.checkin.pipeline.requests import DeviceRequests
from services.checkin.pipeline.routes import TAG, refusal_listener, router
from services.checkin.refusals.record import RefusalLog
from services.checkin.refusals.senders import Senders
from services.runtime.adapters import Adapters
from shared.concurrency.batching import BatchExecutor
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.errors import Unavailable
from shared.security.client_certificate import ClientCertificateHeader
from shared.security.identity import DeviceIdentities
from shared.settings import CheckinSettings
from shared.web.client_address import ClientAddresses
from shared.web.device_route import NoteRefused
from shared.web.server.service import Feature

BATCH_LIMIT = 64
IN_FLIGHT = 1
"""While one batch is in the store, the next one gathers. With two under way the steps overlap more and
the batches are smaller, which cost a tenth of the rate on the embedded store (docs/adr/0007)."""


def pipeline_feature(
    settings: CheckinSettings,
    adapters: Adapters,
    writer: Writer,
    identities: DeviceIdentities,
    work: HeavyWork,
) -> tuple[NoteRefused, Feature]:
    """The feature, and the listener of requests that are refused."""
    stores, clock, ids, metrics = adapters.stores, adapters.clock, adapters.ids, adapters.metrics
    enrollments, queue, journal = stores.enrollments, stores.queue, stores.journal
    seen = LastSeen(enrollments, stores.refusals, clock)
    senders = Senders(enrollments)
    refusals = RefusalLog(senders, seen, clock)
    quarantine = QuarantineRecorder(stores.identities, clock, ids, metrics)
    rules = BindingRules(
        only_meant=settings.reenrollment == "bound", guards_replays=settings.replay_guard
    )
    authorizer = Authorizer(
        enrollments, stores.issued, stores.audit, quarantine, rules, clock, ids, metrics
    )
    derived = DerivedEvents(adapters.wanted, queue, stores.identities, writer, work)
    events = DeviceEvents(
        journal, writer, adapters.publisher, enrollments, derived, clock, ids, metrics
    )
    changes = EnrollmentChanges(
        enrollments, queue, adapters.push_requests, authorizer, derived, clock
    )
    commands = NextCommands(queue, clock, ids, metrics)
    batch = DeviceBatch(authorizer, events, changes, commands, seen, senders, clock, metrics)
    batches: BatchExecutor[DeviceExchange, Answer] = BatchExecutor(
        batch.handle, BATCH_LIMIT, IN_FLIGHT
    )
    devices = DeviceAuthentication(
        identities,
        work,
        proxy_header=settings.client_cert_header,
        proxies=ClientCertificateHeader(settings.trusted_proxies),
    )
    requests = DeviceRequests(batches, devices, derived.read, work, settings.max_body)
    routes = router(requests)

    async def drain() -> None:
        await batches.drain()
        refusals.end()
        with suppress(Unavailable, TimeoutError):
            await seen.flush()
            await quarantine.flush()

    feature = Feature(
        routers=(routes,),
        workers=(seen.run, quarantine.run, refusals.run),
        drain=drain,
        openapi_tags=(TAG,),
    )
    addresses = ClientAddresses(settings.trusted_proxies)
    return refusal_listener(refusals, devices, addresses), feature
