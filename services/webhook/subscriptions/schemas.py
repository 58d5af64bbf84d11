"""Subscriptions in the answers of the API. Promise: no answer shows a secret, but for one that it made."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from shared.domain.subscription import Subscription, SubscriptionState
from shared.settings.values import format_duration, without_credentials
from shared.times import from_nanoseconds, rfc3339_or_null
from shared.web.api.openapi import UUID, NoText, NoTime, Time, about, like, one_of

API, CONFIGURATION = "api", "configuration"

Texts = Annotated[list[str], like([])]


class FiltersOut(TypedDict):
    enrollment_ids: Texts
    serial_numbers: Texts
    request_types: Texts
    statuses: Annotated[list[str], like(["Acknowledged", "Error"])]


class IncludeOut(TypedDict):
    topics: Annotated[list[str], like(["macromdm.CommandExpired"])]
    keys: Texts


class SecretOut(TypedDict):
    expires_at: Annotated[NoTime, about("Until then it signs; null: until it is replaced.")]


class SubscriptionOut(TypedDict):
    id: Annotated[str, about("`config`: the one of MDM_WEBHOOK_URL.", UUID)]
    origin: Annotated[
        str, one_of((API, CONFIGURATION)), about("`configuration`: it cannot be changed here.", API)
    ]
    name: Annotated[str, like("inventory")]
    url: Annotated[
        str, about("A query is shown as `?...`.", "https://inventory.example.org/mdm?...")
    ]
    state: Annotated[
        str,
        one_of(state for state in SubscriptionState if state is not SubscriptionState.DELETED),
        about("In all but `active` its events wait.", "active"),
    ]
    state_reason: Annotated[NoText, about("Why the server disabled or holds it.")]
    topics: Annotated[list[str], like(["mdm.*"])]
    filters: FiltersOut
    headers: Annotated[list[str], about("The names of its headers.", ["X-Tenant"])]
    authorization: Annotated[
        Annotated[str, one_of(("basic", "bearer"))] | None, about("Its kind.", "bearer")
    ]
    secrets: Annotated[list[SecretOut], about("Those that sign its requests, the latest first.")]
    nanomdm_hmac: Annotated[bool, about("It has a key for `X-Hmac-Signature`.", False)]
    ca: Annotated[NoText, about("PEM.")]
    timeout: Annotated[str, like("30 s")]
    concurrency: Annotated[int, like(64)]
    rate: Annotated[float | None, like(None)]
    retry_schedule: Annotated[
        list[str] | None, about("Null: that of MDM_WEBHOOK_RETRY_SCHEDULE.", None)
    ]
    batch: Annotated[int, like(1)]
    redact: Annotated[bool, like(False)]
    include: IncludeOut
    starts_at: Annotated[NoTime, about("It began with the events since then.")]
    created_at: Time | None
    changed_at: Time | None


class SubscriptionWithSecret(SubscriptionOut):
    secret: Annotated[
        str | None,
        Field(description="The secret that was made; null where none was. It is not shown again."),
        like("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ]


class SubscriptionList(TypedDict):
    webhooks: list[SubscriptionOut]


def subscription_out(subscription: Subscription) -> SubscriptionOut:
    state, reason = subscription.state, subscription.state_reason
    if subscription.unreadable is not None:
        state = SubscriptionState.PAUSED if state is SubscriptionState.ACTIVE else state
        reason = subscription.unreadable
    limits, form, filters = subscription.limits, subscription.form, subscription.filters
    secrets, schedule = subscription.secrets, limits.retry_schedule
    starts_at = subscription.starts_at
    return {
        "id": subscription.id,
        "origin": CONFIGURATION if subscription.is_configured else API,
        "name": subscription.name,
        "url": without_credentials(subscription.url),
        "state": state.value,
        "state_reason": reason,
        "topics": sorted(subscription.topics),
        "filters": {
            "enrollment_ids": sorted(filters.enrollments),
            "serial_numbers": sorted(filters.serial_numbers),
            "request_types": sorted(filters.request_types),
            "statuses": sorted(filters.statuses),
        },
        "headers": sorted(secrets.headers),
        "authorization": (secrets.authorization or "").partition(" ")[0].lower() or None,
        "secrets": [{"expires_at": rfc3339_or_null(each.expires_at)} for each in secrets.signing],
        "nanomdm_hmac": secrets.hmac_key is not None,
        "ca": subscription.ca,
        "timeout": format_duration(limits.timeout),
        "concurrency": limits.concurrency,
        "rate": limits.rate,
        "retry_schedule": None if schedule is None else list(map(format_duration, schedule)),
        "batch": form.batch,
        "redact": form.is_redacted,
        "include": {
            "topics": sorted(subscription.extra_topics),
            "keys": sorted(form.extra_keys),
        },
        "starts_at": rfc3339_or_null(None if starts_at is None else from_nanoseconds(starts_at)),
        "created_at": rfc3339_or_null(subscription.created_at),
        "changed_at": rfc3339_or_null(subscription.changed_at),
    }
