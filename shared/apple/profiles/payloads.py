"""Configuration profiles that bring a device in: payloads, and the profiles made of them.

Promises: names and shapes are those that MicroMDM's devices and tools know; callers give every UUID, so
equal calls give equal profiles; a key without a value is left out, since devices take an empty one for a
value. Source: Apple, Device Management, Profile-Specific Payload Keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

Payload = dict[str, Any]

KEY_SIZE = 2048
KEY_USAGE = 5
"""Signing (1) and encryption (4), which SCEP needs both."""
CAPABILITIES = ("com.apple.mdm.per-user-connections", "com.apple.mdm.bootstraptoken")
ATTRIBUTES = ("UDID", "VERSION", "PRODUCT", "SERIAL", "MEID", "IMEI")
"""The attributes that a device is asked for in over-the-air enrollment."""

CONTENT_TYPE = "application/x-apple-aspen-config"


@dataclass(frozen=True, slots=True)
class Look:
    """The common parts of all payloads of an installation. `identifier` is what theirs begin with."""

    organization: str
    identifier: str


@dataclass(frozen=True, slots=True)
class Scep:
    """The SCEP payload of a device\'s identity (RFC 8894)."""

    url: str
    subject: Sequence[tuple[str, str]]
    challenge: str | None = field(default=None, repr=False)
    name: str = "Device Management Identity Certificate"


@dataclass(frozen=True, slots=True)
class Acme:
    """The ACME payload of a hardware-bound identity (RFC 8555, device-attest-01)."""

    directory_url: str
    subject: Sequence[tuple[str, str]]
    client_identifier: str


@dataclass(frozen=True, slots=True)
class Mdm:
    """The MDM payload, which binds a device to this server. `identity` is the PayloadUUID of its SCEP or
    ACME payload."""

    server_url: str
    check_in_url: str
    topic: str
    identity: str
    access_rights: int
    check_out_when_removed: bool


def scep_payload(look: Look, uuid: str, scep: Scep) -> Payload:
    """com.apple.security.scep."""
    content: Payload = {
        "URL": scep.url,
        "Name": scep.name,
        "Subject": _subject(scep.subject),
        "Key Type": "RSA",
        "Key Usage": KEY_USAGE,
        "Keysize": KEY_SIZE,
    }
    if scep.challenge:
        content["Challenge"] = scep.challenge
    described = _payload(
        look, uuid, "com.apple.security.scep", ".scep", _words("SCEP", "Configures SCEP")
    )
    return described | {"PayloadContent": content}


def acme_payload(look: Look, uuid: str, acme: Acme) -> Payload:
    """com.apple.security.acme: a key that never leaves the device, and its attestation."""
    words = _words("ACME", "Configures ACME")
    return _payload(look, uuid, "com.apple.security.acme", ".acme", words) | {
        "DirectoryURL": acme.directory_url,
        "ClientIdentifier": acme.client_identifier,
        "Subject": _subject(acme.subject),
        "KeyType": "ECSECPrimeRandom",
        "KeySize": 384,
        "HardwareBound": True,
        "Attest": True,
        "UsageFlags": 1,
        "ExtendedKeyUsage": ["1.3.6.1.5.5.7.3.2"],
    }


def mdm_payload(look: Look, uuid: str, mdm: Mdm) -> Payload:
    """com.apple.mdm."""
    words = _words("Device Management", "Enrolls with the MDM server")
    return _payload(look, uuid, "com.apple.mdm", ".mdm", words) | {
        "ServerURL": mdm.server_url,
        "CheckInURL": mdm.check_in_url,
        "CheckOutWhenRemoved": mdm.check_out_when_removed,
        "AccessRights": mdm.access_rights,
        "Topic": mdm.topic,
        "SignMessage": True,
        "IdentityCertificateUUID": mdm.identity,
        "ServerCapabilities": list(CAPABILITIES),
    }


def authority_payload(look: Look, uuid: str, der: bytes, number: int = 0) -> Payload:
    """com.apple.security.root: a CA certificate that the device is to trust."""
    suffix = ".cert.ca" if number == 0 else f".cert.ca.{number}"
    words = _words(
        f"Root certificate for {look.organization}",
        f"Installs the root CA certificate for {look.organization}",
    )
    described = _payload(look, uuid, "com.apple.security.root", suffix, words)
    return described | {"PayloadContent": der}


def configuration(look: Look, uuid: str, name: str, payloads: Sequence[Payload]) -> Payload:
    """The profile itself, for the system and not for one user. Its identifier is `look`'s."""
    words = {"PayloadScope": "System"} | _words(name, "The server may alter your settings")
    described = _payload(look, uuid, "Configuration", "", words)
    return described | {"PayloadContent": list(payloads)}


def profile_service(look: Look, uuid: str, url: str, challenge: str) -> Payload:
    """The first profile of over-the-air enrollment: asks the device to say, signed, what it is.

    A bare payload, and not a Configuration: so Apple has it.
    """
    words = _words(f"{look.organization} Profile Service", "Profile Service enrollment")
    content = {"URL": url, "DeviceAttributes": list(ATTRIBUTES), "Challenge": challenge}
    return _payload(look, uuid, "Profile Service", "", words) | {"PayloadContent": content}


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """The URL with these in its query string, percent-encoded (a space is %20, RFC 3986)."""
    if not parameters:
        return url
    pairs = (
        f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items()
    )
    return f"{url}{'&' if '?' in url else '?'}{'&'.join(pairs)}"


def _payload(look: Look, uuid: str, kind: str, suffix: str, words: Payload) -> Payload:
    return {
        "PayloadType": kind,
        "PayloadVersion": 1,
        "PayloadIdentifier": f"{look.identifier}{suffix}",
        "PayloadUUID": uuid,
        "PayloadOrganization": look.organization,
        **words,
    }


def _words(name: str, description: str) -> Payload:
    return {"PayloadDisplayName": name, "PayloadDescription": description}


def _subject(pairs: Sequence[tuple[str, str]]) -> list[list[list[str]]]:
    """A distinguished name as Apple writes it: a list of sets of pairs."""
    return [[[key, value]] for key, value in pairs]
