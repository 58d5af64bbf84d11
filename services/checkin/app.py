"""The check-in service: its features, and what they share."""

from services.checkin.enrollment.assets import read_files
from services.checkin.enrollment.feature import enrollment_feature
from services.checkin.journal.feature import journal_feature
from services.checkin.pipeline.feature import pipeline_feature
from services.checkin.renewal.feature import renewal_feature
from services.checkin.review.feature import review_feature
from services.checkin.scep.feature import scep_feature
from services.runtime.adapters import Adapters
from shared.concurrency.heavy_work import HeavyWork
from shared.ports.clock import Clock
from shared.security.authority import open_authority
from shared.security.certificates.lenient import AnyCertificate
from shared.security.challenges import KEY_SIZE, PURPOSE, ChallengeTokens, ScepChallenges
from shared.security.identity import DeviceIdentities, WeakKeys, load_trust
from shared.settings import CheckinSettings
from shared.web.server.bodies import MOST_UNDER_WAY
from shared.web.server.service import Service


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
    authority = await open_authority(stores.authority, clock)
    files = read_files(settings)
    operators = _operators_trust(settings)
    weak = WeakKeys(operators, adapters.metrics)
    identities = DeviceIdentities([authority.certificate, *operators], clock, weak)
    work = HeavyWork("large or unknown messages", threads=1, most_waiting=MOST_UNDER_WAY)
    challenges = ScepChallenges(
        stores.challenges,
        clock,
        validity=settings.scep_challenge_validity,
        static=settings.scep_challenge,
        tokens=ChallengeTokens(authority.derived_key(PURPOSE, KEY_SIZE)),
    )
    writer, share, journal = await journal_feature(adapters)
    await adapters.wanted.refresh()
    note_refused, pipeline = pipeline_feature(settings, adapters, writer, identities, work)
    profiles, enrollment = enrollment_feature(
        settings, adapters, files, challenges, identities, work
    )
    scep = scep_feature(settings, adapters, authority, challenges)
    renewal = renewal_feature(settings, adapters, profiles, challenges, share)
    review = review_feature(settings, adapters, share)
    return Service.of(
        "checkin",
        [journal, pipeline, enrollment, scep, renewal, review],
        adapters.loops,
        note_refused=note_refused,
    )


def check(settings: CheckinSettings, clock: Clock) -> None:
    """Raises Misconfigured where `build` would, without any server: for --check-config."""
    _operators_trust(settings)
    read_files(settings)


def _operators_trust(settings: CheckinSettings) -> list[AnyCertificate]:
    return [] if settings.device_ca is None else load_trust(settings.device_ca.read_bytes())
