"""Events: one for each journaled message of a device, and one for each fact of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

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

    @property
    def carries_secrets(self) -> bool:
        """The bodies of such events are encrypted at rest."""
        return self in (Topic.TOKEN_UPDATE, Topic.SET_BOOTSTRAP_TOKEN)


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
