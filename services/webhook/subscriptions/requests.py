"""Bodies of requests that make and change subscriptions.

Promise: a change is a merge patch (RFC 7396): what it does not name stays, and null takes a value away, or
back to its default. A key that we do not know is refused: a limit with a typo would be none.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from services.webhook.subscriptions import fields
from shared.domain.errors import unfit
from shared.domain.subscription import (
    BodyForm,
    DeliveryLimits,
    EventFilters,
    RequestSecrets,
    SigningSecret,
    Subscription,
)
from shared.web.api.openapi import UDID, about, like
from shared.web.api.requests import Body, Expected, unlike

NOW = "now"
BASIC, BEARER = "basic", "bearer"
KEPT_FOR = timedelta(hours=24)
"""A former secret signs for so long beside a new one."""
_PLAIN = Subscription("", "")

Value = TypeVar("Value")


def _without_defaults(schema: dict[str, Any]) -> None:
    """A key that is absent is not the same as one that is null."""
    for each in schema.get("properties", {}).values():
        if each.get("default") in (None, ""):
            each.pop("default", None)


class Patch(Body):
    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", json_schema_extra=_without_defaults
    )

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        """In place of the one of Body, which drops it: here null takes a value away."""
        return given

    def __repr_args__(self) -> tuple[()]:
        """No repr shows a secret."""
        return ()


class FiltersPatch(Patch):
    enrollment_ids: Annotated[
        fields.Filtered | None, about("The id of a device has its users too.", [UDID])
    ] = None
    serial_numbers: fields.Filtered | None = None
    request_types: Annotated[
        fields.Filtered | None, about("Of the command that an event is about.")
    ] = None
    statuses: Annotated[
        fields.Statuses | None, about("Of a device's answer; check-ins have none.")
    ] = None


class IncludePatch(Patch):
    topics: fields.OwnTopicNames | None = None
    keys: fields.ExtraKeys | None = None


class AuthorizationGiven(Patch):
    type: Annotated[Literal["basic", "bearer"], Expected("basic or bearer"), like(BASIC)]
    user: Annotated[fields.Credential | None, about("With `basic`; no colon.", "macromdm")] = None
    password: Annotated[fields.Credential | None, about("With `basic`.", "secret")] = None
    token: Annotated[fields.Credential | None, about("With `bearer`.")] = None

    @model_validator(mode="after")
    def _is_whole(self) -> "AuthorizationGiven":
        wanted = {"user", "password"} if self.type == BASIC else {"token"}
        given = {name for name in ("user", "password", "token") if getattr(self, name) is not None}
        if given != wanted or ":" in (self.user or ""):
            raise unlike("user (without a colon) and password with `basic`, token with `bearer`")
        return self

    @property
    def header(self) -> str:
        if self.type == BEARER:
            return f"Bearer {self.token}"
        return f"Basic {b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


class SubscriptionPatch(Patch):
    """A change: what it does not name stays; null takes a value away, or back to its default."""

    name: fields.Name = ""
    url: fields.ReceiverUrl = ""
    topics: fields.TopicNames | None = None
    filters: FiltersPatch | None = None
    headers: fields.Headers | None = None
    authorization: AuthorizationGiven | None = None
    ca: Annotated[
        fields.Pem | None, about("PEM: the CAs to trust for it instead of the system's.")
    ] = None
    secret: Annotated[
        fields.Secret | None, about("Signs its requests. Null: they are not signed.")
    ] = None
    nanomdm_hmac_key: Annotated[
        fields.Credential | None, about("The key of NanoMDM's `X-Hmac-Signature`.")
    ] = None
    timeout: fields.Timeout | None = None
    concurrency: fields.Concurrency | None = None
    rate: fields.Rate | None = None
    retry_schedule: fields.RetrySchedule | None = None
    batch: fields.Batch | None = None
    redact: fields.Redact | None = None
    include: IncludePatch | None = None

    def applied(self, to: Subscription) -> Subscription:
        """A subscription with this change. Raises BadRequest where both together are too much."""
        filters = self._inner("filters", FiltersPatch)
        include = self._inner("include", IncludePatch)
        form = _merged(self, to.form, BodyForm(), _FORM)
        return replace(
            _merged(include, _merged(self, to, _PLAIN, _ITSELF), _PLAIN, _OWN_TOPICS),
            filters=_merged(filters, to.filters, EventFilters(), _FILTERS),
            form=_merged(include, form, BodyForm(), _KEYS),
            limits=_merged(self, to.limits, DeliveryLimits(), _LIMITS),
            secrets=self._secrets(to.secrets),
        )

    def _inner(self, name: str, kind: type[Patch]) -> Patch:
        """An object in the body. Null takes all of its values away."""
        inner: Patch | None = getattr(self, name)
        is_null = inner is None and name in self.model_fields_set
        return inner or kind(**dict.fromkeys(kind.model_fields if is_null else ()))

    def _secrets(self, to: RequestSecrets) -> RequestSecrets:
        made = _merged(self, to, RequestSecrets(), _HMAC_KEY)
        if "headers" in self.model_fields_set:
            made = replace(made, headers=self._headers(to.headers))
        if "authorization" in self.model_fields_set:
            header = self.authorization.header if self.authorization else None
            made = replace(made, authorization=header)
        if "secret" in self.model_fields_set:
            signing = (SigningSecret(self.secret),) if self.secret else ()
            made = replace(made, signing=signing)
        return made

    def _headers(self, to: Mapping[str, str]) -> dict[str, str]:
        if self.headers is None:
            return {}
        replaced = {name.lower() for name in self.headers}
        kept = {name: value for name, value in to.items() if name.lower() not in replaced}
        headers = kept | {name: value for name, value in self.headers.items() if value is not None}
        if len(headers) > fields.MOST_HEADERS:
            raise unfit("headers", f"up to {fields.MOST_HEADERS} headers together with the others")
        return headers


class NewSubscription(SubscriptionPatch):
    """All but `name` and `url` have a default."""

    name: fields.Name
    url: fields.ReceiverUrl
    secret: Annotated[
        fields.Secret | None,
        about("Signs its requests. Without it one is made, and shown this once; null: unsigned."),
    ] = None
    start: Annotated[
        fields.Text,
        Expected("now, an event id, or a time (RFC 3339)"),
        about("The first event that it gets: `now`, an event id, or a time.", NOW),
    ] = NOW


class SecretRotation(Patch):
    """A new secret; without `secret`, or where it is null, one that is made, and shown this once."""

    secret: fields.Secret | None = None
    keep_former_for: Annotated[
        fields.FormerSecretKept | None,
        about("The former one signs beside it for so long; 24 h without it.", "24 h"),
    ] = None

    @property
    def kept_for(self) -> timedelta:
        return KEPT_FOR if self.keep_former_for is None else self.keep_former_for


_ITSELF = {name: name for name in ("name", "url", "topics", "ca")}
_OWN_TOPICS = {"topics": "extra_topics"}
_FILTERS = {
    "enrollment_ids": "enrollments",
    "serial_numbers": "serial_numbers",
    "request_types": "request_types",
    "statuses": "statuses",
}
_FORM, _KEYS = {"batch": "batch", "redact": "is_redacted"}, {"keys": "extra_keys"}
_LIMITS = {name: name for name in ("timeout", "concurrency", "rate", "retry_schedule")}
_HMAC_KEY = {"nanomdm_hmac_key": "hmac_key"}


def _merged(patch: BaseModel, to: Value, default: Value, names: Mapping[str, str]) -> Value:
    """`to` with what the patch names: the attribute of each of its keys, null as in `default`."""
    wanted: dict[str, Any] = {}
    for key in patch.model_fields_set & names.keys():
        value = getattr(patch, key)
        given = getattr(default, names[key]) if value is None else value
        wanted[names[key]] = frozenset(given) if isinstance(given, list) else given
    return replace(to, **wanted)  # type: ignore[type-var]
