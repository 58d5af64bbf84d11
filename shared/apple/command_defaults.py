"""The terms that commands have when the client asks for none (`shared.domain.terms`).

Promise: two commands get the same collapse key only if the newer one makes the older one pointless:
the same profile again, or the same question again. A raw command gets none: nobody has checked what is
in it, and its sender counts on each one being delivered.
"""

import hashlib
import json
from collections.abc import Mapping

from shared.apple.command_profile import payload_identifier
from shared.domain.command import NORMAL_PRIORITY
from shared.domain.terms import Terms

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


def with_defaults(terms: Terms, request_type: str, keys: Mapping[str, object]) -> Terms:
    """The terms, filled up for a command of these keys (Apple's names, types of a property list)."""
    terms = with_priority(terms, request_type)
    if terms.collapse_key is not None:
        return terms
    collapse_key = _collapse_key(request_type, keys)
    return Terms(terms.priority, terms.expires_at, terms.ttl, terms.not_before, collapse_key)


def with_priority(terms: Terms, request_type: str) -> Terms:
    """The terms of a raw command, filled up."""
    if terms.priority is not None:
        return terms
    priority = FIRST if request_type in URGENT else NORMAL_PRIORITY
    return Terms(priority, terms.expires_at, terms.ttl, terms.not_before, terms.collapse_key)


def _collapse_key(request_type: str, keys: Mapping[str, object]) -> str | None:
    if request_type == "InstallProfile":
        payload = keys.get("Payload")
        identifier = payload_identifier(payload) if isinstance(payload, bytes) else None
        return None if identifier is None else f"{request_type}:{identifier}"
    if request_type in QUERIES:
        return f"{request_type}:{_hash(keys)}"
    return None


def _hash(keys: Mapping[str, object]) -> str:
    """The same for the same questions, whatever the order in which they are asked."""
    if not keys:
        return "all"
    return hashlib.sha256(_as_text(_canonical(keys)).encode()).hexdigest()[:HASH_DIGITS]


def _canonical(value: object) -> object:
    match value:
        case dict():
            return {name: _canonical(inner) for name, inner in value.items()}
        case list() if all(isinstance(item, str) for item in value):
            return sorted(set(value))
        case list():
            return [_canonical(item) for item in value]
    return value
