"""Events: one for each journaled message of a device, and one for each fact of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from uuid import UUID

from shared.domain.enrollment import EnrollmentKey

OWN_PREFIX = "macromdm."
"""The prefix of topics that MicroMDM does not have. It differs from MicroMDM's, so that a queue bound to
`mdm.#` gets what MicroMDM would have sent."""


class Topic(StrEnum):
    """MicroMDM's webhook topics, and after them our own."""

    AUTHENTICATE = "mdm.Authenticate"
    TOKEN_UPDATE = "mdm.TokenUpdate"
    CHECK_OUT = "mdm.CheckOut"
    CONNECT = "mdm.Connect"
    GET_BOOTSTRAP_TOKEN = "mdm.GetBootstrapToken"
    SET_BOOTSTRAP_TOKEN = "mdm.SetBootstrapToken"
    COMMAND_EXPIRED = "macromdm.CommandExpired"
    COMMAND_SUPERSEDED = "macromdm.CommandSuperseded"
    CERTIFICATE_REBOUND = "macromdm.CertificateRebound"
    DEVICE_QUARANTINED = "macromdm.DeviceQuarantined"
    RENEWAL_FAILED = "macromdm.RenewalFailed"
    COMMAND_SENT = "macromdm.CommandSent"
    COMMAND_ACKNOWLEDGED = "macromdm.CommandAcknowledged"
    COMMAND_FAILED = "macromdm.CommandFailed"
    COMMAND_NOT_NOW = "macromdm.CommandNotNow"
    COMMAND_CANCELLED = "macromdm.CommandCancelled"
    DEVICE_ENROLLED = "macromdm.DeviceEnrolled"
    DEVICE_REENROLLED = "macromdm.DeviceReenrolled"
    DEVICE_REMOVED = "macromdm.DeviceRemoved"
    PUSH_TOKEN_INVALID = "macromdm.PushTokenInvalid"
    WEBHOOK_DISABLED = "macromdm.WebhookDisabled"
    DEVICE_SILENT = "macromdm.DeviceSilent"
    IDENTITY_EXPIRING = "macromdm.IdentityExpiring"
    PUSH_CERTIFICATE_EXPIRING = "macromdm.PushCertificateExpiring"

    @property
    def carries_secrets(self) -> bool:
        """The bodies of such events are encrypted at rest. Answers to commands may hold anything."""
        return self in _SECRET


_SECRET = frozenset(
    {
        Topic.TOKEN_UPDATE,
        Topic.SET_BOOTSTRAP_TOKEN,
        Topic.COMMAND_ACKNOWLEDGED,
        Topic.COMMAND_FAILED,
    }
)

TEST_TOPIC = f"{OWN_PREFIX}Test"
"""Of events that an API client sends to one subscription. None is asked for, journaled or published, so it is
no `Topic`."""

FACTS_VERSION = 1
"""The `version` in the facts of events that follow from others."""
EXTRA_TOPICS = frozenset(topic for topic in Topic if topic.startswith(OWN_PREFIX))
"""Only for subscribers that ask for them."""


@dataclass(frozen=True, slots=True)
class Event:
    """One device message, as journaled; or one action of ours (`EXTRA_TOPICS`).

    `created_at` is in nanoseconds since the epoch. `number` is its number among the events that the process
    `writer` journaled (docs/rules.md, rule 6). `raw_payload` is the exact body, or the facts of ours as a
    JSON object."""

    id: str
    topic: Topic
    key: EnrollmentKey
    created_at: int
    raw_payload: bytes = field(repr=False)
    writer: str
    number: int
    url_params: Mapping[str, str] | None = None
    status: str | None = None
    command_uuid: str | None = None


def derived_id(cause: str, milliseconds: int) -> str:
    """The id of an event that follows from `cause`, the same in every process: the shape of a UUIDv7 of this
    time (since the epoch), with bits of a hash in place of random ones."""
    number = milliseconds << 80 | int.from_bytes(sha256(cause.encode()).digest()[:10], "big")
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=number))


def milliseconds_of(id_: str) -> int:
    """The time in a UUIDv7, since the epoch."""
    return UUID(id_).int >> 80
