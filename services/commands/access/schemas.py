"""Tokens, challenges and the audit log in the API."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from typing_extensions import TypedDict

from shared.domain.access import AuditEntry, AuditQuery, Scope, Token
from shared.times import rfc3339, rfc3339_or_null
from shared.web.api.openapi import UDID, UUID, NoText, NoTime, Time, about, like, one_of
from shared.web.api.requests import MOST_OF_PAGE, Body, Expected, MicroMdmBody, printable, unlike

EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
LONGEST_NAME = 128


def _moment(given: object) -> datetime | None:
    if given is None:
        return None
    try:
        time = datetime.fromisoformat(given) if isinstance(given, str) else None
        if time is not None and time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise unlike("a time such as 2026-01-02T03:04:05Z")


AnyMoment = Annotated[datetime | None, BeforeValidator(_moment)]
ScopeNames = Annotated[
    list[Annotated[str, one_of(Scope)]], Field(json_schema_extra={"minItems": 1})
]


class TokenRequest(Body):
    name: Annotated[str, Expected("a string"), like("ci")]
    scopes: Annotated[
        ScopeNames,
        Expected(f"a list of {', '.join(Scope)}", whole=True),
        like(["read", "commands"]),
    ]
    expires_at: Annotated[AnyMoment, like("2027-01-02T03:04:05Z")] = None


class TokenOut(TypedDict):
    id: Annotated[str, like(UUID)]
    name: Annotated[str, like("ci")]
    scopes: Annotated[ScopeNames, like(["commands", "read"])]
    created_at: Time | None
    created_by: Annotated[str, like("api-key")]
    expires_at: Annotated[Time | None, like("2027-01-02T03:04:05Z")]
    revoked_at: NoTime
    last_used_at: Annotated[NoTime, about("Up to an hour behind.")]


class NewToken(TokenOut):
    token: Annotated[str, like("mdm_kJ2x0Q0m3cWc1b7t0b1lq1X0y2mHq0Z8mO2sXy4J3pE")]


class TokenList(TypedDict):
    tokens: list[TokenOut]


def token_out(token: Token) -> TokenOut:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": sorted(token.scopes),
        "created_at": rfc3339_or_null(token.created_at),
        "created_by": token.created_by,
        "expires_at": rfc3339_or_null(token.expires_at),
        "revoked_at": rfc3339_or_null(token.revoked_at),
        "last_used_at": rfc3339_or_null(token.last_used_at),
    }


class AuditFilters(BaseModel):
    """Entries of the audit log; without any filter, the latest."""

    caller: str | None = Field(None, description="Name of a token, or `api-key`.")
    action: str | None = Field(None, description="Such as `device.block`.")
    target: str | None = Field(None, description="As the request named it, such as a UDID.")
    since: AnyMoment = Field(None, description="The earliest time, RFC 3339.")
    until: AnyMoment = Field(None, description="The time before which they are, RFC 3339.")
    limit: int = Field(100, ge=1, le=MOST_OF_PAGE)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")

    def query(self, now: datetime) -> AuditQuery:
        return AuditQuery(
            since=self.since or EARLIEST,
            until=self.until or now + timedelta(minutes=1),
            caller=self.caller,
            action=self.action,
            target=self.target,
            limit=self.limit,
            cursor=self.cursor,
        )


class AuditEntryOut(TypedDict):
    id: Annotated[str, like(UUID)]
    at: Annotated[Time, like("2026-01-02T03:04:05.678Z")]
    caller: Annotated[str, like("ci")]
    address: Annotated[str, like("192.0.2.7")]
    route: Annotated[str, like("POST /v1/commands")]
    action: Annotated[str, like("command.queue")]
    targets: Annotated[list[str], like([UDID])]
    targets_left_out: Annotated[int, like(0)]
    detail: Annotated[str | None, like("DeviceLock")]
    status: Annotated[int, like(201)]
    request_id: NoText


class AuditLogPage(TypedDict):
    entries: list[AuditEntryOut]
    next_cursor: NoText
    next: Annotated[str | None, about("The older name of `next_cursor`.", None)]


def audit_entry_out(entry: AuditEntry) -> AuditEntryOut:
    return {
        "id": entry.id,
        "at": rfc3339(entry.at),
        "caller": entry.caller,
        "address": entry.address,
        "route": entry.route,
        "action": entry.action,
        "targets": list(entry.targets),
        "targets_left_out": entry.targets_left_out,
        "detail": entry.detail,
        "status": entry.status,
        "request_id": entry.request_id,
    }


Name = Annotated[
    str,
    Field(min_length=1, max_length=LONGEST_NAME),
    AfterValidator(printable),
    Expected(f"a string of 1 to {LONGEST_NAME} characters"),
]


class ChallengeRequest(MicroMdmBody):
    udid: Annotated[Name | None, like(UDID)] = None
    serial_number: Name | None = None


class ChallengeOut(TypedDict):
    challenge: Annotated[str, like("0123456789abcdef0123456789abcdef")]
    string: Annotated[str, like("0123456789abcdef0123456789abcdef")]
