"""Settings of enrollment: what the profiles say, where identities come from, who may ask for one."""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, model_validator

from shared.settings.values import File, HttpUrl, Names

ALL_RIGHTS = 8191
MOST_TEXT = 200
"""Characters of a name that a person reads on a device."""

_IMPLIED = {2: 1, 128: 64}
"""Rights that Apple takes only together with another one."""


def _access_rights(value: int) -> int:
    if not 1 <= value <= ALL_RIGHTS:
        raise ValueError(f"must be a sum of Apple's access rights, 1 to {ALL_RIGHTS}")
    for right, needed in _IMPLIED.items():
        if value & right and not value & needed:
            raise ValueError(f"the right {right} needs the right {needed} too")
    return value


def _printable(value: str) -> str:
    text = value.strip()
    if not text or len(text) > MOST_TEXT or not text.isprintable():
        raise ValueError(f"must be 1 to {MOST_TEXT} printable characters")
    return text


def _identifier(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9])?", value):
        raise ValueError("must be an identifier such as com.example.mdm")
    return value


Subject = tuple[tuple[str, str], ...]
"""Pairs of attribute and value."""


def _subject(value: Any) -> Subject:
    pairs = [part.partition("=") for part in str(value).split("/") if part]
    if not pairs or not all(key.strip() and value.strip() for key, _, value in pairs):
        raise ValueError("must be a subject such as /O=Example/CN=Device identity")
    return tuple((key.strip(), value.strip()) for key, _, value in pairs)


PushCertificateFiles = Annotated[
    Names,
    Field(
        description="PEM files of push certificates, separated by commas, one for each topic. "
        "Enrollment profiles name the topic of the first, until one is chosen by API.",
    ),
]


class EnrollmentSettings(BaseModel):
    organization: Annotated[str, AfterValidator(_printable)] = Field(
        "MacroMDM", description="Name of the organization in enrollment profiles."
    )
    profile_name: Annotated[str, AfterValidator(_printable)] = Field(
        "Enrollment Profile", description="Name of the enrollment profile, as the device shows it."
    )
    profile_identifier: Annotated[str, AfterValidator(_identifier)] = Field(
        "com.github.micromdm.micromdm",
        description="What the identifiers of our profiles begin with; the default is MicroMDM's, so "
        "that a device which enrolled there replaces its profile. Devices keep it: choose once.",
    )
    access_rights: Annotated[int, AfterValidator(_access_rights)] = Field(
        ALL_RIGHTS, description="Sum of the rights (Apple's AccessRights) that a device grants."
    )
    check_out_when_removed: bool = Field(
        True, description="`false`: devices do not say when their enrollment profile is removed."
    )
    profile_cert: File | None = Field(
        None,
        description="PEM file: certificate with which to sign profiles, followed by its chain.",
    )
    profile_key: File | None = Field(None, description="PEM file: key of MDM_PROFILE_CERT.")
    profile_ca: File | None = Field(
        None,
        description="PEM file: CAs that the enrollment profile makes a device trust, where the "
        "server's TLS certificate is of a private one.",
    )
    scep_url: HttpUrl | None = Field(
        None, description="URL of a SCEP server to use instead of ours; its CA: MDM_DEVICE_CA."
    )
    scep_subject: Annotated[Subject, BeforeValidator(_subject)] | None = Field(
        None,
        description="Subject that devices ask for; default "
        "`/O=ORGANIZATION/CN=ORGANIZATION Identity (%ComputerName%)`.",
    )
    acme_directory_url: HttpUrl | None = Field(
        None,
        description="Directory of an ACME server from which devices get a hardware-bound identity, "
        "instead of SCEP; its CA: MDM_DEVICE_CA.",
    )
    ota_device_ca: File | None = Field(
        None,
        description="PEM file: the CA that signs the certificates which Apple's devices are made "
        "with (Apple iPhone Device CA). With it, what a device says of its UDID and serial number "
        "while it enrolls counts if such a certificate signed it; without it, it never counts.",
    )
    enroll_token: SecretStr | None = Field(
        None,
        description="What the URL of enrollment must name as `?token=`; several separated by spaces "
        "are all good. Without it, every client that reaches the server may enroll a device.",
    )
    push_cert: PushCertificateFiles = ()

    @property
    def subject(self) -> Subject:
        """The subject that devices ask for."""
        name = self.organization
        return self.scep_subject or (("O", name), ("CN", f"{name} Identity (%ComputerName%)"))

    @property
    def gives_identities(self) -> bool:
        """True if devices get their identities from us, and from no other server."""
        return self.scep_url is None and self.acme_directory_url is None

    @property
    def enroll_tokens(self) -> tuple[str, ...]:
        """Every token that is good; none: the door is open."""
        given = self.enroll_token
        return () if given is None else tuple(given.get_secret_value().split())

    @model_validator(mode="after")
    def _enrollment_fits_together(self) -> Self:
        if self.scep_url and self.acme_directory_url:
            raise ValueError("MDM_ACME_DIRECTORY_URL: is set beside MDM_SCEP_URL; unset one")
        if (self.profile_cert is None) != (self.profile_key is None):
            missing = "MDM_PROFILE_KEY" if self.profile_key is None else "MDM_PROFILE_CERT"
            raise ValueError(f"{missing}: is not set; it goes with its counterpart")
        if self.enroll_token is not None and not self.enroll_tokens:
            raise ValueError("MDM_ENROLL_TOKEN: is empty; give a long random one, or unset it")
        return self
