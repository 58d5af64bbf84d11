"""The request that receivers of events get, for the OpenAPI document. The service itself serves none; the
body is made by `event_json` of shared/messaging/envelope.py."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from fastapi import APIRouter, Header
from pydantic import BaseModel
from typing_extensions import TypedDict

from shared.domain.command import EntryState
from shared.domain.event import TEST_TOPIC, Topic
from shared.web.api.openapi import UDID, UUID, Base64, NoText, NoTime, about, like, one_of, open_set

Udid = Annotated[str, like(UDID)]
EnrollmentId = Annotated[
    str, about("Instead of `udid`, where Apple hides it: of a user enrollment.")
]
UserId = Annotated[str, about("Of a user's channel.")]
UrlParams = Annotated[
    Mapping[str, str] | None, about("The query of the URL that the device called.", {"site": "1"})
]
Version = Annotated[int, about("Of the facts beside it; a later one only adds some.", 1)]
RawPayload = Annotated[
    Base64 | None,
    about("The property list that the device sent; null where it is redacted.", "PHBsaXN0Lz4="),
]
Redacted = Annotated[bool, about("True where the subscription is redacted.", True)]


class ReceivedEvent(TypedDict):
    udid: NotRequired[Udid]
    enrollment_id: NotRequired[EnrollmentId]
    url_params: UrlParams
    raw_payload: RawPayload
    payload: NotRequired[
        Annotated[
            dict[str, Any] | None,
            about(
                "The property list as JSON, for subscriptions with the key `payload`; for redacted ones "
                "what may be read of it. null: it cannot be read.",
                {"Status": "Acknowledged"},
            ),
        ]
    ]
    payload_too_large: NotRequired[Annotated[bool, about("`payload` is above 256 KiB.", True)]]
    redacted: NotRequired[Redacted]


class CheckinEvent(ReceivedEvent):
    """A check-in message, in MicroMDM's form."""


class AcknowledgeEvent(ReceivedEvent):
    """A device's request for a command, or its answer to one, in MicroMDM's form."""

    status: Annotated[str, like("Acknowledged")]
    command_uuid: NotRequired[Annotated[str, about("Missing with the status `Idle`.", UUID)]]


class CommandEvent(TypedDict):
    """A step of a command, or its end."""

    udid: NotRequired[Udid]
    enrollment_id: NotRequired[EnrollmentId]
    user_id: NotRequired[UserId]
    command_uuid: Annotated[str, like(UUID)]
    request_type: Annotated[str, like("DeviceInformation")]
    redacted: NotRequired[Redacted]
    version: NotRequired[Version]
    state: NotRequired[
        Annotated[
            str,
            one_of(state.value for state in EntryState),
            about("What became of it; not of `macromdm.CommandSent`.", "expired"),
        ]
    ]
    attempt: NotRequired[
        Annotated[int, about("Of `macromdm.CommandSent`: how often it was sent.", 1)]
    ]
    handed_out: NotRequired[
        Annotated[bool, about("Of `macromdm.CommandCancelled`: whether the device has had it.")]
    ]
    status: NotRequired[Annotated[str, about("Of an answer, as the device gave it.", "Error")]]
    answer: NotRequired[
        Annotated[
            dict[str, Any] | None,
            about("Of an answer: its property list, up to 256 KiB. null: see `answer_url`.", {}),
        ]
    ]
    answer_url: NotRequired[
        Annotated[NoText, about("Of an answer that is larger, or cannot be read: where it is.")]
    ]
    expires_at: NotRequired[Annotated[NoTime, about("Of `macromdm.CommandExpired`.")]]
    superseded_by: NotRequired[Annotated[NoText, about("Of `macromdm.CommandSuperseded`.")]]


class DeviceEvent(TypedDict):
    """A fact about a device, or its certificate."""

    udid: NotRequired[Udid]
    enrollment_id: NotRequired[EnrollmentId]
    user_id: NotRequired[UserId]
    redacted: NotRequired[Redacted]
    version: NotRequired[Version]
    serial_number: NotRequired[Annotated[NoText, about("Of the device.")]]
    model: NotRequired[Annotated[NoText, about("Of a device that enrolled.")]]
    os_version: NotRequired[Annotated[NoText, about("Of a device that enrolled.")]]
    certificate: NotRequired[Annotated[str, about("SHA-256 of the certificate, in hex.")]]
    subject: NotRequired[str]
    serial: NotRequired[str]
    not_after: NotRequired[NoTime]
    replaced_certificate: NotRequired[Annotated[str, about("Of `macromdm.CertificateRebound`.")]]
    how: NotRequired[Annotated[str, about("Of `macromdm.CertificateRebound`.")]]
    bound_certificate: NotRequired[Annotated[NoText, about("Of `macromdm.DeviceQuarantined`.")]]
    reason: NotRequired[
        Annotated[str, about("Why it is not served, was not renewed, or is removed.")]
    ]
    attempts: NotRequired[Annotated[int, about("Of `macromdm.RenewalFailed`.")]]
    last_seen: NotRequired[Annotated[NoTime, about("Of `macromdm.DeviceSilent`.")]]
    waiting_commands: NotRequired[Annotated[int, about("Of `macromdm.DeviceSilent`.", 1)]]
    days: NotRequired[
        Annotated[int, about("Of `macromdm.IdentityExpiring`: it ends within so many days.", 14)]
    ]


class SubscriptionEvent(TypedDict):
    """A fact about a subscription."""

    version: Version
    webhook: Annotated[str, about("The id of the subscription.", UUID)]
    name: Annotated[str, like("inventory")]
    reason: NotRequired[
        Annotated[NoText, about("Of `macromdm.WebhookDisabled`: why the server disabled it.")]
    ]
    redacted: NotRequired[Redacted]


class PushCertificateEvent(TypedDict):
    """A push certificate is near its end."""

    version: Version
    topic: Annotated[str, like("com.apple.mgmt.External.0a1b2c3d")]
    days: Annotated[int, about("It ends within so many days.", 14)]
    certificate: Annotated[str, about("SHA-256 of the certificate, in hex.")]
    serial: str
    not_after: Annotated[str, like("2026-11-30T08:00:00Z")]
    redacted: NotRequired[Redacted]


_ACKNOWLEDGE = {
    "udid": UDID,
    "status": "Acknowledged",
    "command_uuid": UUID,
    "url_params": {"site": "1"},
    "raw_payload": "PHBsaXN0Lz4=",
}


class WebhookEvent(TypedDict):
    """One event. Exactly one of the objects is there; the topic says which."""

    topic: Annotated[str, open_set([*Topic, TEST_TOPIC]), like(Topic.CONNECT.value)]
    event_id: Annotated[str, about("The same when an event is sent again.", UUID)]
    created_at: Annotated[str, like("2026-01-02T03:04:05.123456789Z")]
    checkin_event: NotRequired[CheckinEvent]
    acknowledge_event: NotRequired[
        Annotated[
            AcknowledgeEvent, about("Of `mdm.Connect`; MicroMDM's name for it.", _ACKNOWLEDGE)
        ]
    ]
    command_event: NotRequired[CommandEvent]
    device_event: NotRequired[DeviceEvent]
    webhook_event: NotRequired[SubscriptionEvent]
    push_certificate_event: NotRequired[PushCertificateEvent]


class EventBatch(TypedDict):
    """The body for a subscription with `batch` above 1, even for one event."""

    events: Annotated[list[WebhookEvent], about("1 to `batch` events, in order for each device.")]


class RequestHeaders(BaseModel):
    """Those of requests to subscriptions made by API; MDM_WEBHOOK_URL gets none of them."""

    webhook_id: Annotated[
        str, about("The event's id; of a batch an id that follows from its events.", UUID)
    ]
    webhook_timestamp: Annotated[int, about("Seconds since 1970, of this attempt.", 1767323045)]
    webhook_signature: Annotated[
        str | None,
        about(
            "Of a subscription with a secret: `v1,` and the HMAC-SHA256 of id, time and body in base64, "
            "one for each valid secret, with spaces between (Standard Webhooks).",
            "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
        ),
    ] = None
    x_hmac_signature: Annotated[
        str | None, about("Of one with a `nanomdm_hmac_key`: the HMAC-SHA256 of the body, base64.")
    ] = None
    x_macromdm_topic: Annotated[str | None, about("Of a single event.", Topic.CONNECT.value)] = None
    x_macromdm_attempt: Annotated[int, about("1: the first one.", 1)]
    x_macromdm_replay: Annotated[str | None, about("Only on a replay: its id.")] = None


webhooks = APIRouter()
_TAKEN: dict[int | str, Any] = {200: {"description": "Any 2xx takes it; else it is sent again."}}


@webhooks.post(
    "event",
    operation_id="receive_event",
    summary="An event, sent to MDM_WEBHOOK_URL and to subscriptions",
    tags=["webhook"],
    responses=_TAKEN,
)
async def receive_event(
    event: WebhookEvent, headers: Annotated[RequestHeaders | None, Header()] = None
) -> Any:
    """MicroMDM's topics come to every receiver, `macromdm.` ones to those that ask for them."""


@webhooks.post(
    "events",
    operation_id="receive_events",
    summary="Several events, sent to a subscription that asks for batches",
    tags=["webhook"],
    responses=_TAKEN,
)
async def receive_events(batch: EventBatch, headers: Annotated[RequestHeaders, Header()]) -> Any:
    """One answer is for all of them."""
