"""Devices, their channels, and their records."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from shared.domain.identity import Identity, Quarantine, Renewal, ReportedExpiry

PARTITIONS = 32
"""Number of partitions of the event stream: part of the public contract, it never changes."""

SHARED_IPAD_USER = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"
"""The UserID that every user channel of a Shared iPad sends; the UserShortName distinguishes them."""

MOST_USER_CHANNELS = 1000
"""User channels of one device, ended ones included: a device makes up as many as it likes."""


def partition_of(device: str) -> int:
    """The partition of a device: CRC-32 of its id in UTF-8, modulo 32."""
    return zlib.crc32(device.encode()) % PARTITIONS


@dataclass(frozen=True, slots=True)
class EnrollmentKey:
    """A device channel, or a user channel of a device. `id` is unique: that of the device, or
    `DEVICE:USER`, where `user` is the part behind the colon. `device` is the UDID, or the EnrollmentID of a
    user enrollment."""

    id: str
    device: str
    udid: str | None = None
    enrollment_id: str | None = None
    user: str | None = None

    @property
    def is_device_channel(self) -> bool:
        return self.user is None

    @property
    def partition(self) -> int:
        return partition_of(self.device)


class EnrollmentStatus(StrEnum):
    """The progress of an enrollment. REMOVED is a stub: it keeps the certificate and `waiting`."""

    AUTHENTICATED = "authenticated"
    ENROLLED = "enrolled"
    CHECKED_OUT = "checked_out"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class PushTarget:
    """The address by which APNs wakes a device (Apple: TokenUpdate)."""

    topic: str
    token: bytes = field(repr=False)
    magic: str = field(repr=False)
    dead: bool = False
    """APNs said that this token is not in use any more."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Events of this device wait in the journal for the relay (docs/rules.md, rule 8), from `since` to
    `upto` (nanoseconds; None: none waits). `count` goes up with every mark and never down."""

    since: int | None = None
    upto: int | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class Inventory:
    """Facts that a device reports in Authenticate and TokenUpdate; None where it did not."""

    serial_number: str | None = None
    model: str | None = None
    model_name: str | None = None
    product_name: str | None = None
    device_name: str | None = None
    os_version: str | None = None
    build_version: str | None = None
    imei: str | None = None
    meid: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """`count` messages that were refused alike, the last one at `at`. `reason` is one word of a closed set
    (the label of macromdm_requests_refused_total), `detail` says more."""

    at: datetime
    reason: str
    detail: str
    path: str
    count: int = 1

    @property
    def kind(self) -> tuple[str, str, str]:
        """Equal for refusals that count as one."""
        return self.reason, self.detail, self.path


MOST_REFUSALS = 5


def latest_refusals(known: Iterable[Refusal], more: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """The MOST_REFUSALS latest kinds of both, newest first. A kind in `more` adds to the count of one in
    `known` that is older; so doing it again changes nothing."""
    kinds = {each.kind: each for each in known}
    for each in more:
        before = kinds.get(each.kind)
        if before is None:
            kinds[each.kind] = each
        elif before.at < each.at:
            kinds[each.kind] = replace(each, count=before.count + each.count)
    newest = sorted(kinds.values(), key=lambda each: each.at, reverse=True)
    return tuple(newest[:MOST_REFUSALS])


def counted_refusals(known: Iterable[Refusal], more: Iterable[Refusal]) -> tuple[Refusal, ...]:
    """The MOST_REFUSALS latest kinds, newest first. All in `more` count, each newer than those before it."""
    kinds = {each.kind: each for each in known}
    for each in more:
        before = kinds.pop(each.kind, None)
        count = each.count + (0 if before is None else before.count)
        kinds = {each.kind: replace(each, count=count)} | kinds
    return tuple(kinds.values())[:MOST_REFUSALS]


@dataclass(frozen=True, slots=True)
class EnrollmentSummary:
    """The fields of a record by which an enrollment is named, and by which commands are queued for it."""

    key: EnrollmentKey
    status: EnrollmentStatus
    generation: str | None = None
    inventory: Inventory = Inventory()
    names: tuple[str, ...] = ()
    """The keys of its index of names; those of a removed device hold its last serial number."""

    @property
    def serial_numbers(self) -> frozenset[str]:
        """Of a device: the present one; of one that was removed, the last one. Records of early versions hold
        earlier ones too."""
        if self.inventory.serial_number is not None:
            return frozenset({self.inventory.serial_number})
        return frozenset(self.names if self.key.user is None else ()) - {self.id}

    @property
    def id(self) -> str:
        return self.key.id

    @property
    def device(self) -> str:
        return self.key.device


@dataclass(frozen=True, slots=True)
class Enrollment:
    """The record of one enrollment.

    `generation` is the event_id of the Authenticate that began it, None before the first; a user channel
    has that of its device at its last message. `certificate` is the SHA-256 (hex) of the bound
    certificate's DER."""

    key: EnrollmentKey
    status: EnrollmentStatus
    generation: str | None = None
    certificate: str | None = None
    changed_by: str | None = None
    """The message that changed it last; None where an earlier version wrote it."""
    retired_certificates: tuple[str, ...] = ()
    """Certificates that were bound to it and replaced; they are refused."""
    push: PushTarget | None = None
    blocked: bool = False
    waiting: Waiting = Waiting()
    inventory: Inventory = Inventory()
    bootstrap_token: bytes | None = field(default=None, repr=False)
    last_seen: datetime | None = None
    token_updated_at: datetime | None = None
    signed_at: datetime | None = None
    """The signing time of the newest message that changed this record, by the device's clock, at most
    ours."""
    migrating_until: datetime | None = None
    """It came by migration and is bound to no certificate yet: until then the first one that it shows
    is bound to it."""
    unreadable: str | None = None
    """The reason why its secrets cannot be decrypted; `push` and `bootstrap_token` are None then."""
    identity: Identity | None = None
    """Facts of `certificate`; after a reset, of the one before it."""
    reset_from: str | None = None
    """An administrator took this certificate's binding away. It may come back until another is bound."""
    expired_until: datetime | None = None
    """Until then its certificate is good although its time is over: an administrator said so."""
    quarantine: Quarantine | None = None
    renewal: Renewal | None = None
    refusals: tuple[Refusal, ...] = ()
    """Refusals of its messages and those of its user channels, newest first; at most MOST_REFUSALS."""
    renewing: str | None = None
    """The certificate that came by renewal, and with which the device has authenticated since."""
    renewed: str | None = None
    """The certificate of which the renewal is over: an Authenticate with it begins a new enrollment."""
    was_enrolled: bool = False
    """It was enrolled before this generation."""
    silent_since: datetime | None = None
    """`last_seen` of the latest silence that an event reported."""
    reported_expiry: ReportedExpiry | None = None
    is_behind: bool = False
    """Its record keeps an event of the outbox that comes before its next beginning or end."""

    @property
    def id(self) -> str:
        return self.key.id

    @property
    def device(self) -> str:
        return self.key.device

    @property
    def has_enrolled(self) -> bool:
        """It has had a TokenUpdate in this generation, or came by migration with one."""
        return self.token_updated_at is not None or self.status is EnrollmentStatus.ENROLLED
