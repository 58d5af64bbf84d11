"""What happened: one event for each device message that was accepted into the journal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shared.domain.enrollment import EnrollmentKey


class Topic(StrEnum):
    """MicroMDM's webhook topics."""

    AUTHENTICATE = "mdm.Authenticate"
    TOKEN_UPDATE = "mdm.TokenUpdate"
    CHECK_OUT = "mdm.CheckOut"
    CONNECT = "mdm.Connect"
    GET_BOOTSTRAP_TOKEN = "mdm.GetBootstrapToken"
    SET_BOOTSTRAP_TOKEN = "mdm.SetBootstrapToken"


@dataclass(frozen=True, slots=True)
class Event:
    """One device message, as journaled.

    `created_at` is in nanoseconds since the epoch (UTC). `writer` and `number` say which process
    journaled it, as its how-manyth event (docs/rules.md, rule 6). `raw_payload` is the exact body.
    """

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
