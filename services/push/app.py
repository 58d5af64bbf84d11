"""The push service: its features, and what they share.

Promises: without a push certificate it runs and is ready, and what should have been pushed meanwhile
is pushed once there is one; a file that cannot be used is refused before anything starts.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta
from random import SystemRandom

import structlog

from services.push.certificates.feature import certificates_feature
from services.push.certificates.store import CertifiedSender
from services.push.certificates.tls import apns_tls, load_certificates
from services.push.intake import Intake
from services.push.routes import TAG, PushRoutes
from services.push.send.attempt import PushAttempts
from services.push.send.pusher import Pusher
from services.push.send.topics import Topics
from services.push.sweep import Sweep
from services.runtime.adapters import Adapters
from services.runtime.api_access import api_auth
from shared.concurrency.partitions import PartitionShare
from shared.concurrency.periodic import Loops, Pace
from shared.ports.clock import Clock
from shared.settings.classes import PushSettings
from shared.web.server.service import Feature, Service

log = structlog.get_logger()

ROLE = "push"
AGAIN = timedelta(seconds=2)
PACE = Pace(every=timedelta(), after_failure=AGAIN)


async def build(settings: PushSettings, adapters: Adapters) -> Service:
    """Raises Misconfigured for a certificate that cannot be used."""
    stores, loops = adapters.stores, adapters.loops
    auth = api_auth(settings, adapters)
    share = PartitionShare(stores.members, adapters.clock, ROLE, adapters.ids.new())
    sender, topics, rotation, certificates = certificates_feature(settings, adapters, auth, share)
    pusher, requests = _requests_feature(adapters, sender, topics)
    sweep, sweeping = _sweep_feature(adapters, pusher, topics, share)
    prepared = asyncio.Event()

    async def prepare() -> None:
        await stores.prepare("pushes")
        await sweep.remember_start()
        await rotation.look()
        prepared.set()

    async def ready() -> list[str]:
        # The broker may be away: API clients are served, and the sweep finds what was not requested.
        return [] if prepared.is_set() else ["waits for the store"]

    api = Feature((PushRoutes(stores.enrollments, pusher, auth).router,), openapi_tags=(TAG,))
    service = Service.of(ROLE, [api, certificates, sweeping, requests], loops, ready=ready)

    async def run() -> None:
        await loops.until_done(
            "push_start", prepare, PACE, waits="push_waits_for_the_store", may_wait=True
        )
        if not topics.certified:
            log.warning("push_disabled", reason="there is no push certificate: no device is pushed")
        await service.run()

    return replace(service, run=run)


def check(settings: PushSettings, clock: Clock) -> None:
    """Raises Misconfigured where `build` would, without any server: for --check-config."""
    apns_tls(settings.apns_ca)
    load_certificates(settings.push_pairs, clock.now())


def _requests_feature(
    adapters: Adapters, sender: CertifiedSender, topics: Topics
) -> tuple[Pusher, Feature]:
    stores, clock = adapters.stores, adapters.clock
    attempts = PushAttempts(
        sender,
        stores.enrollments,
        topics,
        clock,
        SystemRandom().random,
        adapters.wanted,
        adapters.ids,
    )
    pusher = Pusher(
        attempts, stores.enrollments, stores.queue, stores.pushes, clock, adapters.metrics
    )
    intake = Intake(adapters.push_request_consumer, pusher, clock, lambda: bool(topics.certified))

    async def drain() -> None:
        await intake.drain()
        await pusher.drain()

    return pusher, Feature(workers=(intake.run,), drain=drain)


def _sweep_feature(
    adapters: Adapters, pusher: Pusher, topics: Topics, share: PartitionShare
) -> tuple[Sweep, Feature]:
    stores, clock, metrics = adapters.stores, adapters.clock, adapters.metrics
    sweep = Sweep(stores.queue, stores.pushes, pusher, share, clock)
    metrics.watch(metrics.oldest_unpushed, lambda: sweep.oldest_unpushed)

    async def sweep_once_certified(loops: Loops) -> None:
        while not topics.certified:
            await clock.sleep(AGAIN)
        await sweep.run(loops)

    return sweep, Feature(workers=(sweep_once_certified,), drain=sweep.leave)
