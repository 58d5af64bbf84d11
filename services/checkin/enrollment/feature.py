"""Wires enrollment: profiles, and their way over the air."""

from services.checkin.enrollment import routes
from services.checkin.enrollment.assets import EnrollmentFiles, identity_payloads
from services.checkin.enrollment.ota import OverTheAir
from services.checkin.enrollment.profiles import EnrollmentProfiles
from services.checkin.scep.certificate_status import CertificateStatuses
from services.runtime.adapters import Adapters
from shared.concurrency.heavy_work import HeavyWork
from shared.security.challenges import ScepChallenges
from shared.security.identity import DeviceIdentities
from shared.security.push_certificate import CurrentTopic
from shared.settings import CheckinSettings
from shared.web.server.service import Feature


def enrollment_feature(
    settings: CheckinSettings,
    adapters: Adapters,
    files: EnrollmentFiles,
    challenges: ScepChallenges,
    identities: DeviceIdentities,
    work: HeavyWork,
) -> tuple[EnrollmentProfiles, Feature]:
    """The profiles, for renewals too."""
    stores = adapters.stores
    if files.signer is not None:
        files.signer.warn_of_expiry(adapters.clock.now())
    profiles = EnrollmentProfiles(
        files.rules,
        identities=identity_payloads(settings, challenges, adapters.ids),
        challenges=challenges,
        stored=stores.profiles,
        topics=CurrentTopic(stores.push_certificates, files.topic, adapters.clock),
        ids=adapters.ids,
        signer=files.signer,
    )
    statuses = CertificateStatuses(stores.enrollments, stores.issued)
    ota = OverTheAir(profiles, challenges, statuses, files.apple, identities, work)
    tokens = routes.EnrollTokens(settings.enroll_tokens)
    router = routes.router(profiles, ota, tokens, settings.max_body)
    return profiles, Feature(routers=(router,), openapi_tags=(routes.TAG,))
