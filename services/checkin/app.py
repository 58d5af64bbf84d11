"""Puts the check-in service together: the only place where its concrete adapters meet."""

import asyncio

import structlog
from fastapi import APIRouter

from services.checkin.authorization.authorizer import Admission
from services.checkin.authorization.certificate_policy import BindingRules
from services.checkin.authorization.quarantine import QuarantineNotes
from services.checkin.enrollment import routes as enroll_routes
from services.checkin.enrollment.assets import EnrollmentFiles, identity_payloads, read_files
from services.checkin.enrollment.ota import Judges, OverTheAir
from services.checkin.enrollment.profiles import EnrollmentParts, EnrollmentProfiles
from services.checkin.journal.last_seen import LastSeen
from services.checkin.journal.marks import Marks
from services.checkin.journal.outbox import Outbox
from services.checkin.journal.relay import Relay
from services.checkin.journal.takeover import TakeOver
from services.checkin.journal.writer import Writer
from services.checkin.pipeline.batch import DeviceBatch
from services.checkin.pipeline.device_auth import DeviceAuthentication
from services.checkin.pipeline.exchange import Answer, DeviceRequest
from services.checkin.pipeline.parts import Parts
from services.checkin.pipeline.routes import TAG, router
from services.checkin.refusals.record import RefusalLog
from services.checkin.refusals.requests import RefusedRequests
from services.checkin.refusals.senders import Senders
from services.checkin.renewal.policy import RenewalRules
from services.checkin.renewal.worker import RenewalParts, Renewals
from services.checkin.scep import routes as scep_routes
from services.checkin.scep.certificate_status import Standings
from services.checkin.scep.issuing import Certifier, Issuing
from services.checkin.scep.server import ScepServer
from services.runtime.adapters import Adapters
from shared.concurrency.batching import BatchExecutor
from shared.concurrency.heavy_work import HeavyWork
from shared.concurrency.partitions import PartitionShare
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.security.authority import Authority, open_authority
from shared.security.challenge_tokens import KEY_SIZE, PURPOSE, ChallengeTokens
from shared.security.challenges import ChallengeBook
from shared.security.client_certificate import ClientCertificateHeader
from shared.security.identity import DeviceIdentities, WeakKeys, load_trust
from shared.security.lenient.certificate import AnyCertificate
from shared.security.push_topic import CurrentTopic
from shared.settings import CheckinSettings
from shared.web.client_address import ClientAddresses
from shared.web.device_route import direct_routes
from shared.web.server.bodies import MOST_UNDER_WAY
from shared.web.server.service import Service

log = structlog.get_logger()

BATCH_LIMIT = 64
IN_FLIGHT = 1
"""While one batch is in the store, the next one gathers. With two under way the steps overlap more and
the batches are smaller, which cost a tenth of the rate on the embedded store (docs/adr/0007)."""


async def build(settings: CheckinSettings, adapters: Adapters) -> Service:
    """Build the service. Raises StoreUnavailable when the store does not answer; build it again then."""
    stores, clock = adapters.stores, adapters.clock
    await stores.prepare(
        "enrollments",
        "identities",
        "members",
        "challenges",
        "issued",
        journal=settings.event_retention,
        queue=settings.command_retention,
    )
    records, events = stores.enrollments, stores.journal
    writers = stores.writers
    marks = Marks(records, adapters.metrics)
    writer = Writer(writers, events, marks, clock, adapters.ids)
    parts = Parts(
        enrollments=records,
        journal=events,
        queue=stores.queue,
        publisher=adapters.publisher,
        push_requests=adapters.push_requests,
        writer=writer,
        clock=clock,
        ids=adapters.ids,
        metrics=adapters.metrics,
        audit=stores.audit,
    )
    seen, senders = LastSeen(records, stores.refusals, clock), Senders(records)
    refusals = RefusalLog(senders, seen, clock)
    bindings = stores.identities
    notes = QuarantineNotes(bindings, clock, adapters.ids, adapters.metrics)
    rules = BindingRules(
        only_meant=settings.reenrollment == "bound", guards_replays=settings.replay_guard
    )
    admission = Admission(parts, stores.issued, notes, rules)
    batch = DeviceBatch(parts, seen, admission, senders)
    batches: BatchExecutor[DeviceRequest, Answer] = BatchExecutor(
        batch.handle, BATCH_LIMIT, IN_FLIGHT
    )
    share = PartitionShare(stores.members, clock, "relay", writer.id)
    outbox = Outbox(bindings, events, adapters.publisher, share, clock)
    takeover = TakeOver(writers, events, marks, clock, adapters.metrics)
    authority = await open_authority(stores.authority, clock)
    files = read_files(settings)
    work = HeavyWork("large or unknown messages", threads=1, most_waiting=MOST_UNDER_WAY)
    judges = Judges(files.apple, _identities(settings, adapters, authority), work)
    challenges = ChallengeBook(
        stores.challenges,
        clock,
        validity=settings.scep_challenge_validity,
        static=settings.scep_challenge,
        tokens=ChallengeTokens(authority.derived_key(PURPOSE, KEY_SIZE)),
    )
    routes = APIRouter()
    devices = _devices(settings, judges)
    routes.include_router(mdm := router(batches, devices, work, settings.max_body))
    refused = RefusedRequests(refusals, devices, ClientAddresses(settings.trusted_proxies), clock)
    profiles = _profiles(settings, adapters, challenges, files)
    routes.include_router(_enrollment(settings, adapters, profiles, challenges, judges))
    routes.include_router(scep_routes.router(_scep(settings, adapters, authority, challenges)))
    when = RenewalRules(settings.renew_before, takes_over=settings.gives_identities)
    renewals = Renewals(parts, bindings, share, RenewalParts(profiles, challenges, when))
    if adapters.is_alone:
        await takeover.take_all(writer.id)
    await writer.register()

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(takeover.run(writer.id, adapters.loops))
            for each in (writer, Relay(parts, share), seen, notes, refusals, outbox, renewals):
                group.create_task(each.run(adapters.loops))

    async def drain() -> None:
        await batches.drain()
        refusals.end()
        try:
            await seen.flush()
            await notes.flush()
            await writer.leave()
        except (Unavailable, TimeoutError):
            log.warning("writer_left_silently", writer=writer.id)

    return Service(
        name="checkin",
        router=routes,
        run=run,
        drain=drain,
        direct=direct_routes(mdm),
        note_refused=refused.note,
        openapi_tags=[TAG, enroll_routes.TAG, scep_routes.TAG],
    )


def check(settings: CheckinSettings, clock: Clock) -> None:
    """Raises Misconfigured where `build` would, without any server: for --check-config."""
    _operators_trust(settings)
    read_files(settings)


def _operators_trust(settings: CheckinSettings) -> list[AnyCertificate]:
    return [] if settings.device_ca is None else load_trust(settings.device_ca.read_bytes())


def _identities(
    settings: CheckinSettings, adapters: Adapters, authority: Authority
) -> DeviceIdentities:
    operators = _operators_trust(settings)
    weak = WeakKeys(operators, adapters.metrics)
    return DeviceIdentities([authority.certificate, *operators], adapters.clock, weak)


def _devices(settings: CheckinSettings, judges: Judges) -> DeviceAuthentication:
    return DeviceAuthentication(
        judges.identities,
        judges.work,
        proxy_header=settings.client_cert_header,
        proxies=ClientCertificateHeader(settings.trusted_proxies),
    )


def _profiles(
    settings: CheckinSettings, adapters: Adapters, challenges: ChallengeBook, files: EnrollmentFiles
) -> EnrollmentProfiles:
    if files.signer is not None:
        files.signer.warn_of_expiry(adapters.clock.now())
    parts = EnrollmentParts(
        identities=identity_payloads(settings, challenges, adapters.ids),
        challenges=challenges,
        stored=adapters.stores.profiles,
        topics=CurrentTopic(adapters.stores.push_certificates, files.topics, adapters.clock),
        ids=adapters.ids,
        signer=files.signer,
    )
    return EnrollmentProfiles(files.rules, parts)


def _enrollment(
    settings: CheckinSettings,
    adapters: Adapters,
    profiles: EnrollmentProfiles,
    challenges: ChallengeBook,
    judges: Judges,
) -> APIRouter:
    standings = Standings(
        adapters.stores.enrollments,
        adapters.stores.issued,
    )
    ota = OverTheAir(profiles, challenges, standings, judges)
    door = enroll_routes.Door(settings.enroll_tokens)
    return enroll_routes.router(profiles, ota, judges, door, settings.max_body)


def _scep(
    settings: CheckinSettings, adapters: Adapters, authority: Authority, challenges: ChallengeBook
) -> ScepServer:
    work, clock = HeavyWork("SCEP requests"), adapters.clock
    issuing = Issuing(
        Certifier(authority, clock, settings.scep_validity, work),
        challenges if settings.gives_identities else _renewals_only(settings, adapters),
        adapters.stores.issued,
        adapters.stores.enrollments,
        adapters.stores.identities,
        clock,
    )
    return ScepServer(authority, issuing, work, adapters.metrics, allow_legacy=settings.scep_legacy)


def _renewals_only(settings: CheckinSettings, adapters: Adapters) -> ChallengeBook:
    validity = settings.scep_challenge_validity
    store = adapters.stores.challenges
    return ChallengeBook(store, adapters.clock, validity=validity, renews_only=True)
