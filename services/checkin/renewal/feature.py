"""Wires renewal."""

from services.checkin.enrollment.profiles import EnrollmentProfiles
from services.checkin.renewal.command import RenewalCommands
from services.checkin.renewal.policy import RenewalRules
from services.checkin.renewal.worker import Renewals
from services.runtime.adapters import Adapters
from shared.concurrency.partitions import Share
from shared.security.challenges import ScepChallenges
from shared.settings import CheckinSettings
from shared.web.server.service import Feature


def renewal_feature(
    settings: CheckinSettings,
    adapters: Adapters,
    profiles: EnrollmentProfiles,
    challenges: ScepChallenges,
    share: Share,
) -> Feature:
    stores, ids = adapters.stores, adapters.ids
    commands = RenewalCommands(
        stores.queue, stores.enrollments, adapters.push_requests, profiles, challenges, ids
    )
    rules = RenewalRules(settings.renew_before, takes_over=settings.gives_identities)
    clock, metrics = adapters.clock, adapters.metrics
    renewals = Renewals(stores.identities, share, commands, rules, clock, ids, metrics)
    return Feature(workers=(renewals.run,))
