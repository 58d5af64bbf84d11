"""The push service, put together: the one place where its concrete parts meet.

Promises: without a push certificate it runs and is ready, and what should have been pushed meanwhile
is pushed once there is one; a file that cannot be used is refused before anything starts.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from random import SystemRandom

import structlog

from services.push.certificates.install import Installation, InstallationParts
from services.push.certificates.rotation import Rotation, RotationParts
from services.push.certificates.routes import TAG as CERTIFICATES_TAG
from services.push.certificates.routes import CertificateRoutes
from services.push.certificates.sender import CertifiedSender
from services.push.certificates.store import CertificateBook
from services.push.certificates.tls import client_context, load_certificates, must_be_trust
from services.push.intake import Intake
from services.push.routes import TAG, PushRoutes
from services.push.send.apns import Apns
from services.push.send.attempt import Attempts
from services.push.send.pusher import Pusher, Stores
from services.push.send.topics import Topics
from services.push.sweep import Sweep
from services.runtime.adapters import Adapters
from services.runtime.api_access import api_auth
from shared.concurrency.partitions import PartitionShare
from shared.concurrency.periodic import Loops, Pace
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.settings.classes import PushSettings
from shared.web.server.service import Service

log = structlog.get_logger()

ROLE = "push"
AGAIN = timedelta(seconds=2)
PACE = Pace(every=timedelta(), after_failure=AGAIN)


async def build(settings: PushSettings, adapters: Adapters) -> Service:
    """Raises Misconfigured for a certificate that cannot be used."""
    pushing = _pushing(settings, adapters)
    enrollments = adapters.stores.enrollments
    pushes = adapters.stores.pushes
    attempts = Attempts(
        CertifiedSender(pushing.apns, pushing.book),
        enrollments,
        pushing.topics,
        adapters.clock,
        SystemRandom().random,
    )
    queue = adapters.stores.queue
    stores = Stores(enrollments, queue, pushes)
    pusher = Pusher(attempts, stores, adapters.clock, adapters.metrics)
    share = PartitionShare(adapters.stores.members, adapters.clock, ROLE, adapters.ids.new())
    sweep = Sweep(queue, pushes, pusher, share, adapters.clock)
    adapters.metrics.watch(adapters.metrics.oldest_unpushed, lambda: sweep.oldest_unpushed)
    work = _Work(adapters, pushing, pusher, sweep)
    auth = api_auth(settings, adapters)
    router = PushRoutes(enrollments, pusher, auth).router
    router.include_router(
        CertificateRoutes(_installation(settings, adapters, pushing), adapters.clock, auth).router
    )
    return Service(
        name=ROLE,
        router=router,
        run=work.run,
        ready=work.reasons,
        drain=work.drain,
        openapi_tags=[TAG, CERTIFICATES_TAG],
    )


def check(settings: PushSettings, clock: Clock) -> None:
    """Raises Misconfigured where `build` would, without any server: for --check-config."""
    must_be_trust(settings.apns_ca)
    load_certificates(settings.push_pairs, clock.now())


@dataclass(frozen=True, slots=True)
class _Pushing:
    """The parts that push with the certificates and keep them up to date."""

    book: CertificateBook
    topics: Topics
    apns: Apns
    rotation: Rotation


def _pushing(settings: PushSettings, adapters: Adapters) -> _Pushing:
    clock, metrics = adapters.clock, adapters.metrics
    must_be_trust(settings.apns_ca)
    files = load_certificates(settings.push_pairs, clock.now())
    book = CertificateBook(files, clock, metrics.push_certificates_refused.set)
    topics = Topics(book.topics, clock, metrics.push_topics_stopped.set)
    contexts = {c.fingerprint: client_context(c, settings.apns_ca) for c in files.values()}
    apns = Apns(settings.apns_url, contexts, clock)
    parts = RotationParts(
        installed=adapters.stores.push_certificates,
        apns=apns,
        topics=topics,
        metrics=metrics,
        clock=clock,
        ids=adapters.ids,
        trusted=settings.apns_ca,
    )
    return _Pushing(book, topics, apns, Rotation(book, parts, contexts))


def _installation(settings: PushSettings, adapters: Adapters, pushing: _Pushing) -> Installation:
    parts = InstallationParts(
        installed=adapters.stores.push_certificates,
        enrolled=adapters.stores.enrolled_topics,
        clock=adapters.clock,
        ids=adapters.ids,
        trusted=settings.apns_ca,
    )
    return Installation(pushing.book, pushing.rotation, parts)


class _Work:
    """The background work of the service."""

    def __init__(self, adapters: Adapters, pushing: _Pushing, pusher: Pusher, sweep: Sweep) -> None:
        self._adapters = adapters
        self._clock: Clock = adapters.clock
        self._pushing = pushing
        self._pusher = pusher
        self._sweep = sweep
        self._intake = Intake(
            adapters.push_request_consumer,
            pusher,
            adapters.clock,
            lambda: bool(pushing.book.topics),
        )
        self._loops: Loops = adapters.loops
        self._is_prepared = False

    async def run(self) -> None:
        waits = "push_waits_for_the_store"
        await self._loops.until_done("push_start", self._prepare, PACE, waits)
        if not self._pushing.book.topics:
            log.warning("push_disabled", reason="there is no push certificate: nobody is pushed")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._intake.run(self._loops))
            group.create_task(self._pushing.rotation.run(self._loops))
            group.create_task(self._sweep_once_certified())

    async def reasons(self) -> list[str]:
        # The broker may be away: API clients are served, and the sweep finds what nobody requested.
        return [] if self._is_prepared else ["waits for the store"]

    async def drain(self) -> None:
        await self._intake.drain()
        await self._pusher.drain()
        try:
            await self._sweep.leave()
        except Unavailable as exc:
            log.info("push_left_without_saying", error=str(exc))
        await self._pushing.apns.close()

    async def _prepare(self) -> None:
        """Indexes, certificates, and where the sweep begins."""
        await self._adapters.stores.prepare("pushes")
        await self._sweep.remember_start()
        await self._pushing.rotation.look()
        self._is_prepared = True

    async def _sweep_once_certified(self) -> None:
        while not self._pushing.book.topics:
            await self._clock.sleep(AGAIN)
        await self._sweep.run(self._loops)
