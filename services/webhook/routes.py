"""The request that receivers of events get, for the OpenAPI document. The service itself serves none; the
body is made by `event_json` of shared/messaging/envelope.py."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from fastapi import APIRouter
from typing_extensions import TypedDict

from shared.domain.command import EntryState
from shared.domain.event import Topic
from shared.web.api.openapi import UDID, UUID, Base64, NoText, NoTime, about, like, one_of

Udid = Annotated[str, like(UDID)]
EnrollmentId = Annotated[
    str, about("Instead of `udid`, where Apple hides it: of a user enrollment.")
]
UserId = Annotated[str, about("Of a user's channel.")]
UrlParams = Annotated[
    Mapping[str, str] | None, about("The query of the URL that the device called.", {"site": "1"})
]
Version = Annotated[int, about("Of the facts beside it; a later one only adds some.", 1)]
RawPayload = Annotated[Base64, about("The property list that the device sent.", "PHBsaXN0Lz4=")]


class CheckinEvent(TypedDict):
    """A check-in message, in MicroMDM's form."""

    udid: NotRequired[Udid]
    enrollment_id: NotRequired[EnrollmentId]
    url_params: UrlParams
    raw_payload: RawPayload


class AcknowledgeEvent(TypedDict):
    """A device's request for a command, or its answer to one, in MicroMDM's form."""

    udid: NotRequired[Udid]
    enrollment_id: NotRequired[EnrollmentId]
    status: Annotated[str, like("Acknowledged")]
    command_uuid: NotRequired[Annotated[str, about("Missing with the status `Idle`.", UUID)]]
    url_params: UrlParams
    raw_payload: RawPayload


class CommandEvent(TypedDict):
    """A step of a command, or its end."""

    udid: NotRequired[Udid]
    enrollment_id: NotRequired[EnrollmentId]
    user_id: NotRequired[UserId]
    command_uuid: Annotated[str, like(UUID)]
    request_type: Annotated[str, like("DeviceInformation")]
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
    version: NotRequired[Version]
    serial_number: NotRequired[Annotated[NoText, about("Of a device that enrolled.")]]
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


_ACKNOWLEDGE = {
    "udid": UDID,
    "status": "Acknowledged",
    "command_uuid": UUID,
    "url_params": {"site": "1"},
    "raw_payload": "PHBsaXN0Lz4=",
}


class WebhookEvent(TypedDict):
    """One event. Exactly one of the four objects is there; the topic says which."""

    topic: Annotated[str, one_of(topic.value for topic in Topic), like(Topic.CONNECT.value)]
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


webhooks = APIRouter()


@webhooks.post(
    "event",
    operation_id="receive_event",
    summary="An event, sent to MDM_WEBHOOK_URL",
    tags=["webhook"],
    responses={200: {"description": "Any 2xx takes the event; else it is sent again."}},
)
async def receive_event(event: WebhookEvent) -> Any:
    """MicroMDM's topics come to every receiver, `macromdm.` ones to those that ask for them."""
