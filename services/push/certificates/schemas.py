"""Push certificates in the API: the body that installs one, and what is shown of them.

Promises: MicroMDM's clients work unchanged; what cannot be used is named by its field; nothing of a private
key is shown.
"""

import base64
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, NotRequired

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from services.push.certificates.store import CertificateStore
from shared.security.push_certificate import PushCertificate, read_pair
from shared.web.api.openapi import Base64, about, like, one_of
from shared.web.api.requests import MicroMdmBody, unlike

LIMIT = 256 * 1024
"""Bytes; a certificate with its chain and key has about 20 KiB."""
TOPIC = "com.apple.mgmt.External.3a7c95f2-c214-4b53-a585-a553c2623e04"


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise unlike("a string")
    return given


def _decoded(given: object) -> bytes:
    text = "".join(_text(given).split())
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        found = b""
    if not found:
        raise unlike("base64 of a PEM file")
    return found


Pem = Annotated[
    bytes,
    BeforeValidator(_decoded),
    Field(repr=False, json_schema_extra={"format": "byte"}),
    like("LS0tLS1CRUdJTi..."),
]
Password = Annotated[str | None, BeforeValidator(_text), Field(repr=False)]


class InstallRequest(MicroMdmBody):
    cert: Annotated[Pem, about("Base64 of the PEM file that Apple's portal gave.")]
    key: Annotated[Pem, about("Base64 of its private key in PEM: PKCS#1 or PKCS#8.")]
    password: Annotated[
        Password, about("Of a key that is encrypted; `passphrase` is the same.")
    ] = None
    passphrase: Password = None

    @classmethod
    def read_pair(cls, raw: bytes) -> PushCertificate:
        """Raises BadRequest."""
        given = cls.read(raw)
        password = given.passphrase if given.password is None else given.password
        encoded = None if password is None else password.encode(errors="surrogatepass")
        return read_pair(given.cert, given.key, encoded)


class State(StrEnum):
    CURRENT = "current"
    WAITING = "waiting"
    """Until its first push that APNs takes; the previous one is kept."""
    EXPIRED = "expired"


class InstallOut(TypedDict):
    warnings: NotRequired[list[str]]


class PushCertificateOut(TypedDict):
    cert: Annotated[Base64, like("MIIFdjCCBF6gAwIBAgI...")]
    warnings: NotRequired[list[str]]


class PushCertificateFacts(TypedDict):
    topic: Annotated[str, like(TOPIC)]
    serial_number: Annotated[str, like("4C0A1B2C3D4E5F60")]
    not_before: Annotated[str, like("2026-01-02T03:04:05+00:00")]
    not_after: Annotated[str, like("2027-01-02T03:04:05+00:00")]


class PushCertificateEntry(PushCertificateFacts):
    days_left: Annotated[int, like(341)]
    state: Annotated[str, one_of(State), like("current")]
    source: Annotated[str, one_of(("api", "file")), like("api")]
    installed_at: Annotated[str | None, like("2026-01-02T03:10:00+00:00")]
    is_default: Annotated[bool, like(True)]
    enrollments: Annotated[int, like(512)]
    previous: Annotated[PushCertificateFacts | None, like(None)]


class TopicWithoutCertificate(TypedDict):
    topic: str
    enrollments: int


class PushCertificateList(TypedDict):
    certificates: list[PushCertificateEntry]
    without_certificate: Annotated[list[TopicWithoutCertificate], like([])]


def push_certificate_list(
    certificates: CertificateStore, enrolled: Mapping[str, int], now: datetime
) -> PushCertificateList:
    """`enrolled`: devices by topic."""
    return {
        "certificates": [
            _entry(certificates, topic, enrolled.get(topic, 0), now)
            for topic in sorted(certificates.topics)
        ],
        "without_certificate": [
            {"topic": topic, "enrollments": devices}
            for topic, devices in sorted(enrolled.items())
            if topic not in certificates.topics
        ],
    }


def _entry(
    certificates: CertificateStore, topic: str, enrollments: int, now: datetime
) -> PushCertificateEntry:
    [first, *others] = certificates.ranked(topic)
    installed = certificates.installed.get(topic)
    is_file = installed is None or installed.newest != first
    state = State.CURRENT
    if first.has_expired(now):
        state = State.EXPIRED
    elif installed and not is_file and installed.before is not None:
        state = State.WAITING
    return {
        **_certificate(first),
        "days_left": max(0, first.remaining(now).days),
        "state": state,
        "source": "file" if is_file else "api",
        "installed_at": None if is_file or not installed else installed.installed_at.isoformat(),
        "is_default": topic == certificates.default,
        "enrollments": enrollments,
        "previous": _certificate(others[0]) if others else None,
    }


def _certificate(certificate: PushCertificate) -> PushCertificateFacts:
    return {
        "topic": certificate.topic,
        "serial_number": certificate.serial_number,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
    }
