"""Commands in the API as they are now, with the answers of their devices.

Promises: every name is always there, null where there is nothing to say; times are RFC 3339 in UTC.
"""

from base64 import b64encode
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired

from typing_extensions import TypedDict

from shared.apple.plist.to_json import message_as_json
from shared.apple.request.terms import CLIENTS_OWN
from shared.domain.access import Caller, Scope
from shared.domain.command import Command, EntryState, QueueEntry
from shared.domain.enrollment import Refusal
from shared.domain.event import Event
from shared.ports.pushes import PushRecord
from shared.times import rfc3339, rfc3339_or_null
from shared.web.api.openapi import UDID, UUID, Base64, NoText, NoTime, Time, about, like, one_of

ANSWER_IS_SECRET = frozenset(
    {
        "ActivationLockBypassCode",  # the code, which frees the device from its owner's account
        "ManagedApplicationConfiguration",  # what apps were given: licences, keys of services
        "RequestUnlockToken",  # the token, which takes the passcode away
    }
)
"""Request types whose answers are for the scope `admin`. The recovery keys in those to RotateFileVaultKey and
SecurityInfo are encrypted for the operator's own certificate."""

State = Annotated[str, one_of(EntryState)]


class EntryOut(TypedDict):
    udid: Annotated[str, about("Of the device, or `UDID:USER` of a user channel.", UDID)]
    command_uuid: Annotated[str, like(UUID)]
    request_type: Annotated[str, like("ProfileList")]
    state: Annotated[
        State,
        about("queued, sent and not_now are open: the device may still answer.", "acknowledged"),
    ]
    priority: Annotated[int, about("0 is handed out first, 9 last.", 5)]
    collapse_key: Annotated[
        NoText,
        about(
            "The newest command of a collapse key replaces older ones (`supersede`: of its type's)."
        ),
    ]
    superseded_by: Annotated[NoText, about("CommandUUID of the newer command that ended this one.")]
    handed_out: Annotated[bool, about("Whether the device has had it.", True)]
    attempts: Annotated[int, about("How often it was handed out.", 1)]
    unanswered_attempts: Annotated[
        int,
        about(
            "How often its device came back and had not answered it, since it was queued or put "
            "off. From the third on, and after 10 minutes, it goes behind all others.",
            0,
        ),
    ]
    accepted_at: Annotated[Time | None, like("2026-01-02T03:04:05.006Z")]
    not_before: NoTime
    expires_at: Annotated[Time | None, like("2026-01-09T03:04:05.006Z")]
    sent_at: Annotated[
        Time | None, about("When it was last handed out.", "2026-01-02T03:04:06.007Z")
    ]
    answered_at: Annotated[
        Time | None, about("When the device last reported on it.", "2026-01-02T03:04:07.008Z")
    ]
    finished_at: Annotated[Time | None, like("2026-01-02T03:04:07.008Z")]


class AnswerOut(TypedDict):
    event_id: Annotated[str, like("0198f1d2-8a10-7c55-8d01-6a3f20c1e7b2")]
    received_at: Annotated[Time | None, like("2026-01-02T03:04:07.007Z")]
    status: Annotated[str | None, like("Acknowledged")]
    error_chain: Annotated[list[dict[str, Any]] | None, like(None)]
    response: Annotated[
        dict[str, Any] | None,
        about(
            "The property list; data is base64, dates are RFC 3339 (text where a date is "
            "outside the years 1 to 9999). null when it cannot be shown, or for the scope `admin`.",
            {"CommandUUID": UUID, "ProfileList": [], "Status": "Acknowledged", "UDID": UDID},
        ),
    ]
    response_error: Annotated[
        NoText, about("Why `response` cannot be shown; `raw` has it all the same.")
    ]
    raw: Annotated[
        Base64 | None,
        about(
            "As the device sent it; null where it is for the scope `admin`.",
            "PD94bWwgdmVyc2lvbj0iMS4w",
        ),
    ]


class PushesOut(TypedDict):
    attempts: int
    last_at: Time | None
    pushed_at: Annotated[Time | None, about("When APNs last took one.")]
    error: NoText
    next_at: Time | None


class RefusalOut(TypedDict):
    at: Annotated[Time, about("Of the last one.")]
    reason: Annotated[
        str, about("The label of macromdm_requests_refused_total: `plist`, `binding`, ...", "plist")
    ]
    detail: Annotated[str, about("What was wrong, as the log says it.", "PushMagic: missing")]
    path: Annotated[str, like("/mdm/checkin")]
    count: Annotated[int, about("How many were refused alike.", 3)]


class LateAnswerOut(TypedDict):
    state: State
    at: Time | None
    event_id: str
    answer: AnswerOut | None


class CommandOut(EntryOut):
    pushes: Annotated[
        PushesOut | None,
        about(
            "The pushes for its device while one may be needed; null once it has connected.", None
        ),
    ]
    answer: AnswerOut | None
    last_refusal: Annotated[
        RefusalOut | None,
        about(
            "The last message of its device that was refused since the command was handed out and "
            "not answered: perhaps its answer.",
            None,
        ),
    ]
    late_answer: Annotated[
        LateAnswerOut | None,
        about("What the device reported after the command had ended otherwise.", None),
    ]


class CommandPage(TypedDict):
    commands: list[EntryOut]
    next_cursor: Annotated[
        str | None, about("null at the end of the list.", "MTc2NzMyMzA0NTAwNjAwMC4wMTk4")
    ]


class OpenCommand(TypedDict):
    uuid: Annotated[str, like(UUID)]
    payload: NotRequired[Base64]
    request_type: NotRequired[str]


class QueueOut(TypedDict):
    commands: NotRequired[
        Annotated[list[OpenCommand], like([{"uuid": UUID, "payload": "PD94bWwgdmVyc2lvbj0iMS4w"}])]
    ]


def open_command_out(command: Command, is_whole: bool) -> OpenCommand:
    if is_whole:
        return {"uuid": command.uuid, "payload": b64encode(command.plist).decode()}
    return {"uuid": command.uuid, "request_type": command.request_type}


def entry_out(entry: QueueEntry) -> EntryOut:
    """A command as the queue knows it."""
    return {
        "udid": entry.enrollment,
        "command_uuid": entry.command_uuid,
        "request_type": entry.request_type,
        "state": entry.state.value,
        "priority": entry.priority,
        "collapse_key": entry.collapse_key and entry.collapse_key.removeprefix(CLIENTS_OWN),
        "superseded_by": entry.superseded_by,
        "handed_out": entry.handed_by is not None,
        "attempts": entry.attempts,
        "unanswered_attempts": entry.unanswered,
        "accepted_at": rfc3339_or_null(entry.accepted_at),
        "not_before": rfc3339_or_null(entry.not_before),
        "expires_at": rfc3339_or_null(entry.expires_at),
        "sent_at": rfc3339_or_null(entry.handed_at),
        "answered_at": rfc3339_or_null(entry.answered_at),
        "finished_at": rfc3339_or_null(entry.finished_at),
    }


def command_out(
    entry: QueueEntry,
    answer: Event | None = None,
    push: PushRecord | None = None,
    late: Event | None = None,
    refusal: Refusal | None = None,
) -> CommandOut:
    """A command with the last push of its enrollment and its device's last answer; `late` is the
    event of an answer that came after the end, `refusal` of a message while it was not answered."""
    late_answer = entry.late_answer
    return {
        **entry_out(entry),
        "pushes": None
        if push is None
        else {
            "attempts": push.attempts,
            "last_at": rfc3339_or_null(push.tried_at),
            "pushed_at": rfc3339_or_null(push.pushed_at),
            "error": push.error,
            "next_at": rfc3339_or_null(push.next_at),
        },
        "answer": None if answer is None else _answer(answer),
        "last_refusal": None if refusal is None else refusal_out(refusal),
        "late_answer": None
        if late_answer is None
        else {
            "state": late_answer.state.value,
            "at": rfc3339_or_null(late_answer.at),
            "event_id": late_answer.event_id,
            "answer": None if late is None else _answer(late),
        },
    }


def shown_to(caller: Caller, shown: CommandOut) -> CommandOut:
    """A command as this caller may see it: who is no administrator learns of a secret answer only that
    there was one, and its status."""
    if caller.may(Scope.ADMIN) or shown["request_type"] not in ANSWER_IS_SECRET:
        return shown
    late = shown["late_answer"]
    return {
        **shown,
        "answer": _bare(shown["answer"]),
        "late_answer": None if late is None else {**late, "answer": _bare(late["answer"])},
    }


def _bare(answer: AnswerOut | None) -> AnswerOut | None:
    if answer is None:
        return None
    return {**answer, "response": None, "response_error": None, "raw": None}


def refusal_out(refusal: Refusal) -> RefusalOut:
    return {
        "at": rfc3339(refusal.at),
        "reason": refusal.reason,
        "detail": refusal.detail,
        "path": refusal.path,
        "count": refusal.count,
    }


def _answer(event: Event) -> AnswerOut:
    response, error = message_as_json(event.raw_payload)
    chain = response.get("ErrorChain") if response else None
    return {
        "event_id": event.id,
        "received_at": rfc3339(datetime.fromtimestamp(event.created_at / 1e9, UTC)),
        "status": event.status,
        "error_chain": chain if isinstance(chain, list) else None,
        "response": response,
        "response_error": error,
        "raw": b64encode(event.raw_payload).decode("ascii"),
    }
