"""The settings and files of enrollment, read and checked once at the start.

Promise: a file that cannot be used is refused here, with the setting that names it.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.checkin.enrollment.identity_payload import (
    IdentityPayloads,
    OtherAcme,
    OtherScep,
    OurScep,
)
from services.checkin.enrollment.profiles import EnrollmentRules
from shared.apple.profiles.payloads import Look
from shared.domain.errors import Misconfigured
from shared.ports.clock import Ids
from shared.security.apple_device import AppleDevices
from shared.security.certificates.lenient import UNREADABLE
from shared.security.challenges import ScepChallenges
from shared.security.push_certificate import topic_of_file
from shared.security.signature.profile_signing import ProfileSigner
from shared.settings import CheckinSettings
from shared.settings.values import read_file


@dataclass(frozen=True, slots=True)
class EnrollmentFiles:
    rules: EnrollmentRules
    topic: str | None
    apple: AppleDevices
    signer: ProfileSigner | None


def read_files(settings: CheckinSettings) -> EnrollmentFiles:
    """Raises Misconfigured."""
    apple = AppleDevices()
    if settings.ota_device_ca is not None:
        apple = AppleDevices.load(read_file("MDM_OTA_DEVICE_CA", settings.ota_device_ca))
    signer = None
    if settings.profile_cert is not None and settings.profile_key is not None:
        signer = ProfileSigner.load(settings.profile_cert, settings.profile_key)
    return EnrollmentFiles(
        rules=EnrollmentRules(
            server_url=settings.public_url,
            look=Look(settings.organization, settings.profile_identifier),
            name=settings.profile_name,
            access_rights=settings.access_rights,
            check_out_when_removed=settings.check_out_when_removed,
            trusted=_trusted(settings.profile_ca),
            subject=settings.subject,
        ),
        topic=topic_of_file(Path(settings.push_cert[0])) if settings.push_cert else None,
        apple=apple,
        signer=signer,
    )


def identity_payloads(
    settings: CheckinSettings, challenges: ScepChallenges, ids: Ids
) -> IdentityPayloads:
    """The source of device identities: our SCEP, unless the settings name another server."""
    subject = settings.subject
    if settings.acme_directory_url is not None:
        return OtherAcme(settings.acme_directory_url, subject, ids)
    if settings.scep_url is not None:
        secret = settings.scep_challenge
        return OtherScep(
            settings.scep_url, subject, None if secret is None else secret.get_secret_value()
        )
    return OurScep(challenges, f"{settings.public_url}/scep", subject)


def _trusted(file: Path | None) -> tuple[bytes, ...]:
    if file is None:
        return ()
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, *UNREADABLE):
        raise Misconfigured(f"MDM_PROFILE_CA: {file} holds no readable PEM certificates") from None
    return tuple(each.public_bytes(Encoding.DER) for each in certificates)
