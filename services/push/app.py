"""The push service, put together: the one place where its concrete parts meet.

Promises: without a push certificate it runs and is ready, and what should have been pushed meanwhile
is pushed once there is one; a certificate that cannot be used is refused before anything starts.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from random import SystemRandom
from ssl import SSLContext

import structlog

from services.adapters import Adapters
from services.api_access import api_auth
from services.push.apns import Apns
from services.push.attempt import Attempts
from services.push.certificates import (
    PushCertificate,
    client_context,
    load_certificates,
    warn_of_expiry,
)
from services.push.intake import Intake
from services.push.pusher import Pusher, Stores
from services.push.routes import TAG, PushRoutes
from services.push.sweep import Sweep
from services.push.topics import Topics
from services.store_pulse import StorePulse
from shared.domain.errors import MdmError, Unavailable
from shared.ports.clock import Clock
from shared.settings.classes import PushSettings
from shared.sharing import PartitionShare
from shared.storage import pushes as storage
from shared.storage import schema
from shared.storage.enrollments import MongoEnrollments
from shared.storage.members import MongoMembers
from shared.storage.queue import MongoCommandQueue
from shared.web.service import Service

log = structlog.get_logger()

ROLE = "push"
AGAIN = timedelta(seconds=2)
DAY = timedelta(days=1)


async def build(settings: PushSettings, adapters: Adapters) -> Service:
    """Raises Misconfigured for a certificate that cannot be used."""
    certificates = load_certificates(settings.push_pairs, adapters.clock.now())
    apns = Apns(settings.apns_url, _contexts(settings, certificates), adapters.clock)
    enrollments = MongoEnrollments(adapters.mongo, adapters.seal)
    pushes = storage.MongoPushes(adapters.mongo)
    topics = Topics(certificates, adapters.clock, adapters.metrics.push_topics_stopped.set)
    attempts = Attempts(apns, enrollments, topics, adapters.clock, SystemRandom().random)
    queue = MongoCommandQueue(adapters.mongo)
    stores = Stores(enrollments, queue, pushes)
    pusher = Pusher(attempts, stores, adapters.clock, adapters.metrics)
    share = PartitionShare(MongoMembers(adapters.mongo), adapters.clock, ROLE, adapters.ids.new())
    sweep = Sweep(queue, pushes, pusher, share, adapters.clock)
    adapters.metrics.watch(adapters.metrics.oldest_unpushed, lambda: sweep.oldest_unpushed)
    work = _Work(adapters, apns, pusher, sweep, certificates)
    return Service(
        name=ROLE,
        router=PushRoutes(enrollments, pusher, api_auth(settings, adapters)).router,
        run=work.run,
        ready=work.reasons,
        drain=work.drain,
        openapi_tags=[TAG],
    )


def check(settings: PushSettings, clock: Clock) -> None:
    """Raises Misconfigured where `build` would, without any server: for --check-config."""
    _contexts(settings, load_certificates(settings.push_pairs, clock.now()))


def _contexts(
    settings: PushSettings, certificates: Mapping[str, PushCertificate]
) -> dict[str, SSLContext]:
    return {t: client_context(c, settings.apns_ca) for t, c in certificates.items()}


class _Work:
    """What the service does besides answering requests."""

    def __init__(
        self,
        adapters: Adapters,
        apns: Apns,
        pusher: Pusher,
        sweep: Sweep,
        certificates: Mapping[str, PushCertificate],
    ) -> None:
        self._adapters = adapters
        self._clock: Clock = adapters.clock
        self._apns = apns
        self._pusher = pusher
        self._sweep = sweep
        self._certificates = certificates
        self._intake = Intake(
            adapters.wish_consumer, pusher if certificates else None, adapters.clock
        )
        self._pulse = StorePulse(adapters.mongo.ping, adapters.clock)
        self._is_prepared = False

    async def run(self) -> None:
        for certificate in self._certificates.values():
            self._adapters.metrics.push_certificate_expiry.labels(certificate.topic).set(
                certificate.not_after.timestamp()
            )
        if not self._certificates:
            log.warning("push_disabled", reason="MDM_PUSH_CERT is not set: nobody is pushed")
        await self._prepare()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pulse.run())
            group.create_task(self._intake.run())
            group.create_task(self._watch_certificates())
            if self._certificates:
                group.create_task(self._sweep.run())

    async def reasons(self) -> list[str]:
        # The broker may be away: API clients are served, and the sweep finds what was not wished.
        if not self._is_prepared:
            return ["waits for the store"]
        return await self._pulse.reasons()

    async def drain(self) -> None:
        await self._intake.drain()
        await self._pusher.drain()
        try:
            await self._sweep.leave()
        except Unavailable as exc:
            log.info("push_left_without_saying", error=str(exc))
        await self._apns.close()

    async def _prepare(self) -> None:
        """Indexes, and where the sweep begins; again until the store is there."""
        while not self._is_prepared:
            try:
                await schema.ensure(self._adapters.mongo, storage.INDEXES)
                await self._sweep.remember_start()
                self._is_prepared = True
            except MdmError as exc:
                log.info("push_waits_for_the_store", error=str(exc))
                await self._clock.sleep(AGAIN)

    async def _watch_certificates(self) -> None:
        while True:
            warn_of_expiry(self._certificates, self._clock.now())
            await self._clock.sleep(DAY)
