"""One command in one queue, as JSON: where it stands, when what happened, what the device said.

Promises: every name is always there, null where there is nothing to tell; times are RFC 3339 in UTC.
"""

import re
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from shared.apple.plist import read as plist
from shared.apple.plist.to_json import TooLargeToShow, as_json
from shared.apple.request.terms import CLIENTS_OWN
from shared.domain.command import LateAnswer, QueueEntry
from shared.domain.enrollment import Refusal
from shared.domain.errors import BadRequest
from shared.domain.event import Event
from shared.ports.pushes import PushRecord
from shared.times import rfc3339, rfc3339_or_null

Shown = dict[str, Any]

ANSWER_IS_SECRET = frozenset(
    {
        "ActivationLockBypassCode",  # the code, which frees the device from its owner's account
        "ManagedApplicationConfiguration",  # what apps were given: licences, keys of services
        "RequestUnlockToken",  # the token, which takes the passcode away
    }
)
"""Request types whose answers are for the scope `admin`. What RotateFileVaultKey and SecurityInfo tell of
recovery keys is encrypted for the operator's own certificate."""


_DATES = re.compile(rb"<date>(-?[0-9]{4,6}-[0-9TZ:-]{1,20})</date>")


def shown_entry(entry: QueueEntry) -> Shown:
    """What the queue knows of a command."""
    return {
        "udid": entry.enrollment,
        "command_uuid": entry.command_uuid,
        "request_type": entry.request_type,
        "state": entry.state.value,
        "priority": entry.priority,
        "collapse_key": _collapse_key(entry),
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


def shown_command(
    entry: QueueEntry,
    answer: Event | None = None,
    push: PushRecord | None = None,
    late: Event | None = None,
    refusal: Refusal | None = None,
) -> Shown:
    """A command with the last push of its enrollment and its device's last answer; `late` is the
    event of an answer that came after the end, `refusal` of a message while it was not answered."""
    return {
        **shown_entry(entry),
        "pushes": None if push is None else _push(push),
        "answer": None if answer is None else _answer(answer),
        "last_refusal": None if refusal is None else _refusal(refusal),
        "late_answer": None if entry.late_answer is None else _late(entry.late_answer, late),
    }


def without_secrets(shown: Shown) -> Shown:
    """A command as others than administrators see it: that its device answered, and with what status."""
    if shown["request_type"] not in ANSWER_IS_SECRET:
        return shown
    late = shown["late_answer"]
    return {
        **shown,
        "answer": _bare(shown["answer"]),
        "late_answer": None if late is None else {**late, "answer": _bare(late["answer"])},
    }


def _bare(answer: Shown | None) -> Shown | None:
    return (
        None
        if answer is None
        else {**answer, "response": None, "response_error": None, "raw": None}
    )


def _push(push: PushRecord) -> Shown:
    return {
        "attempts": push.attempts,
        "last_at": rfc3339_or_null(push.tried_at),
        "pushed_at": rfc3339_or_null(push.pushed_at),
        "error": push.error,
        "next_at": rfc3339_or_null(push.next_at),
    }


def _refusal(refusal: Refusal) -> Shown:
    return {
        "at": rfc3339(refusal.at),
        "reason": refusal.reason,
        "detail": refusal.detail,
        "path": refusal.path,
        "count": refusal.count,
    }


def _late(late: LateAnswer, event: Event | None) -> Shown:
    return {
        "state": late.state.value,
        "at": rfc3339_or_null(late.at),
        "event_id": late.event_id,
        "answer": None if event is None else _answer(event),
    }


def _answer(event: Event) -> Shown:
    response, error = _response(event.raw_payload)
    chain = response.get("ErrorChain") if isinstance(response, dict) else None
    return {
        "event_id": event.id,
        "received_at": rfc3339(datetime.fromtimestamp(event.created_at / 1e9, UTC)),
        "status": event.status,
        "error_chain": chain if isinstance(chain, list) else None,
        "response": response,
        "response_error": error,
        "raw": b64encode(event.raw_payload).decode("ascii"),
    }


def _response(raw: bytes) -> tuple[Any, str | None]:
    """The answer as JSON, or None and why not; `raw` has it all the same."""
    try:
        return as_json(_read(raw)), None
    except BadRequest as exc:
        return None, str(exc)
    except TooLargeToShow:
        return None, "plist: too large to show as JSON"


def _read(raw: bytes) -> Shown:
    """Dates that Python has not are read as text."""
    try:
        return plist.parse(raw)
    except BadRequest:
        if not _DATES.search(raw):
            raise
        return plist.parse(_DATES.sub(rb"<string>\1</string>", raw))


def _collapse_key(entry: QueueEntry) -> str | None:
    """As its client gave it."""
    return None if entry.collapse_key is None else entry.collapse_key.removeprefix(CLIENTS_OWN)
