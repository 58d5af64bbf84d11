"""Wires the SCEP server."""

from services.checkin.scep import routes
from services.checkin.scep.certificate_status import CertificateStatuses
from services.checkin.scep.issuing import Issuing
from services.checkin.scep.server import ScepServer
from services.runtime.adapters import Adapters
from shared.concurrency.heavy_work import HeavyWork
from shared.security.authority import Authority
from shared.security.challenges import ScepChallenges
from shared.settings import CheckinSettings
from shared.web.server.service import Feature


def scep_feature(
    settings: CheckinSettings, adapters: Adapters, authority: Authority, challenges: ScepChallenges
) -> Feature:
    stores, clock = adapters.stores, adapters.clock
    work = HeavyWork("SCEP requests")
    if not settings.gives_identities:
        validity = settings.scep_challenge_validity
        challenges = ScepChallenges(stores.challenges, clock, validity=validity, renews_only=True)
    issuing = Issuing(
        authority,
        challenges,
        stores.issued,
        CertificateStatuses(stores.enrollments, stores.issued),
        stores.identities,
        clock,
        settings.scep_validity,
        work,
    )
    legacy = settings.scep_legacy
    server = ScepServer(authority, issuing, work, adapters.metrics, allow_legacy=legacy)
    return Feature(routers=(routes.router(server),), openapi_tags=(routes.TAG,))
