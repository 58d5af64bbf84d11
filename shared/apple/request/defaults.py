"""The terms of a command, filled up (`shared.domain.command`): its priority, and the collapse key of its type
where the client asks for that.

Promises: nothing is superseded unless its client asks for it, since MicroMDM's clients wait for the answer
to each command; two commands get the same key of a type only if the newer one makes the older one
pointless: the same profile again, or the same question again.
"""

import hashlib
import json
from collections.abc import Mapping

from shared.apple.profiles.read import payload_identifier
from shared.apple.request.terms import AskedTerms
from shared.apple.values.reading import Reading
from shared.domain.command import NORMAL_PRIORITY, Terms

FIRST = 0
URGENT = frozenset({"DeviceLock", "EraseDevice"})
"""Sent when a device is lost: they go before everything else."""

QUERIES = frozenset(
    {
        "ActiveNSExtensions",
        "AvailableOSUpdates",
        "CertificateList",
        "ContentCachingInformation",
        "DeviceInformation",
        "DeviceLocation",
        "InstalledApplicationList",
        "ManagedApplicationAttributes",
        "ManagedApplicationConfiguration",
        "ManagedApplicationList",
        "ManagedMediaList",
        "NSExtensionMappings",
        "OSUpdateStatus",
        "ProfileList",
        "ProvisioningProfileList",
        "Restrictions",
        "SecurityInfo",
        "UserList",
    }
)
"""Their answer is information, and the device is the same before and after: one newer answer is worth
more than two older ones. Not among them, although they answer with information:
ManagedApplicationFeedback (may delete what it reads), RequestUnlockToken and LOMSetupRequest (what
they give is made for the answer), ActivationLockBypassCode (may be read once only on a device),
VerifyFirmwarePassword and VerifyRecoveryLock (a hash of a password does not belong into a key)."""

HASH_DIGITS = 16

_as_text = json.JSONEncoder(sort_keys=True, default=repr).encode


def with_defaults(
    asked: AskedTerms, request_type: str, keys: Mapping[str, object], reading: Reading
) -> Terms:
    """The terms, filled up for a command of these keys (Apple's names, types of a property list)."""
    terms = dict(asked.stated)
    if terms.get("priority") is None:
        terms["priority"] = FIRST if request_type in URGENT else NORMAL_PRIORITY
    if asked.supersede:
        terms["collapse_key"] = _own_key(asked.supersede, request_type, keys, reading)
    return Terms(**terms)


def _own_key(
    path: str, request_type: str, keys: Mapping[str, object], reading: Reading
) -> str | None:
    """The key of this type; a fault at the path where it has none."""
    if request_type in QUERIES:
        if not keys:
            return f"{request_type}:all"
        digest = hashlib.sha256(_as_text(_canonical(keys)).encode()).hexdigest()
        return f"{request_type}:{digest[:HASH_DIGITS]}"
    if request_type != "InstallProfile":
        expected = f"no such term, {request_type} has no key of its own: collapse_key names one"
        reading.fault(path, expected)
        return None
    payload = keys.get("Payload")
    identifier = payload_identifier(payload) if isinstance(payload, bytes) else None
    if identifier is None:
        reading.fault(path, "a profile whose PayloadIdentifier can be read, or a collapse_key")
        return None
    return f"{request_type}:{identifier}"


def _canonical(value: object) -> object:
    """The same for the same questions, in any order."""
    match value:
        case dict():
            return {name: _canonical(inner) for name, inner in value.items()}
        case list() if all(isinstance(item, str) for item in value):
            return sorted(set(value))
        case list():
            return [_canonical(item) for item in value]
    return value
