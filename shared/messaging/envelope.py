"""The JSON of an event: what subscribers get by webhook, and the body of the broker's message.

Promises: MicroMDM's keys in MicroMDM's order, and one event gives the same bytes at all times. So nothing
here may depend on anything but the event; a new key must come from it too, and only where a subscriber asked.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import EXTRA_TOPICS, Event, Topic
from shared.times import nanoseconds, parse_rfc3339

_NANOSECONDS = 1_000_000_000
_OF_NO_DEVICE = {
    Topic.WEBHOOK_DISABLED: "webhook_event",
    Topic.PUSH_CERTIFICATE_EXPIRING: "push_certificate_event",
}
_CREATED_AT = re.compile(rb'"created_at":"([0-9-]{10}T[0-9:]{8})\.([0-9]{9})Z"')
_HEAD = 512
"""Topic, id and time are within so many bytes."""
_BODY, _IN_JOURNAL, _SIZE = "body", "journal", "size"


def headers_without_body(size: int) -> dict[str, str]:
    """The headers of an empty message, whose event's JSON of so many bytes comes from the journal. A version
    that does not know them dead-letters such a message, since its body is no object."""
    return {_BODY: _IN_JOURNAL, _SIZE: str(size)}


def size_in_journal(headers: Mapping[str, str]) -> int | None:
    """The size in `headers_without_body`, None for a message with a body. ValueError: no size."""
    return int(headers.get(_SIZE, "")) if headers.get(_BODY) == _IN_JOURNAL else None


def event_json(event: Event) -> bytes:
    """The event as JSON in UTF-8, without white space."""
    document: dict[str, Any] = {
        "topic": event.topic.value,
        "event_id": event.id,
        "created_at": _rfc3339(event.created_at),
    }
    if event.topic in EXTRA_TOPICS:
        document.update(_own(event))
    elif event.topic is Topic.CONNECT:
        answer = {**_sender(event.key), "status": event.status}
        if event.command_uuid is not None:
            answer["command_uuid"] = event.command_uuid
        document["acknowledge_event"] = {**answer, **_received(event)}
    else:
        document["checkin_event"] = {**_sender(event.key), **_received(event)}
    try:
        return orjson.dumps(document)
    except TypeError:  # a lone surrogate, which UTF-8 cannot carry
        return orjson.dumps(_printable(document))


def time_in(body: bytes) -> int | None:
    """The time (nanoseconds) in the JSON of an event as `event_json` writes it; None in any other."""
    found = _CREATED_AT.search(body, 0, _HEAD)
    moment = parse_rfc3339(found[1].decode() + "Z") if found else None
    return nanoseconds(moment) + int(found[2]) if found and moment else None


def _own(event: Event) -> dict[str, Any]:
    """An event of ours, about a command or a device: its facts are in the payload, as JSON."""
    facts = orjson.loads(event.raw_payload)
    if event.topic in _OF_NO_DEVICE:
        return {_OF_NO_DEVICE[event.topic]: facts}
    document = _sender(event.key)
    if event.key.user is not None:
        document["user_id"] = event.key.user
    if event.command_uuid is None:
        return {"device_event": {**document, **facts}}
    return {"command_event": {**document, "command_uuid": event.command_uuid, **facts}}


def _sender(key: EnrollmentKey) -> dict[str, Any]:
    return {"enrollment_id": key.enrollment_id} if key.udid is None else {"udid": key.udid}


def _received(event: Event) -> dict[str, Any]:
    # Sorted, because a store need not keep the order in which the names came.
    params = dict(sorted(event.url_params.items())) if event.url_params else None
    return {"url_params": params, "raw_payload": b64encode(event.raw_payload).decode("ascii")}


def _rfc3339(created_at: int) -> str:
    seconds, nanoseconds = divmod(created_at, _NANOSECONDS)
    whole = datetime.fromtimestamp(seconds, UTC).isoformat()  # a tenth of strftime's cost
    return f"{whole[:19]}.{nanoseconds:09d}Z"


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_printable(name): _printable(each) for name, each in value.items()}
    return value
