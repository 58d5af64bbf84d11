"""The body of a request: its events in the form that their subscription asks for.

Promises: the default form is MicroMDM's bytes, untouched; one event and one form give the same bytes at all
times; what a device sent is never written as a property list again; the work is bounded for any message.
"""

from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from services.webhook.forms.redaction import ids_and_status, known_keys, own_facts, readable
from shared.apple.plist.read import SMALL
from shared.apple.plist.to_json import TooLargeToShow, as_json, parse_message
from shared.domain.errors import BadRequest
from shared.domain.event import OWN_PREFIX
from shared.domain.subscription import BodyForm

PAYLOAD = "payload"
"""The extra key that holds a device's property list as JSON."""
MOST_PAYLOAD = 256 * 1024
"""Bytes of JSON."""
_MOST_RAW = 4 * MOST_PAYLOAD
"""Bytes of a property list; a larger one would take too long to read, and is hardly ever small as JSON."""
_GROWS = 3
"""A byte of XML is so many of JSON at most: one of another encoding, all others are two."""
_RAW, _XML = b'"raw_payload":', b'"raw_payload":"P'
"""XML begins with `<`. A binary property list may name a long text a thousand times."""
_AROUND = 128
"""Bytes of the keys and marks that a form adds."""
_ABOUT_IT = ("topic", "event_id", "created_at")
_RECEIVED = ("checkin_event", "acknowledge_event")

Document = dict[str, Any]


def shaped(form: BodyForm, events: Sequence[bytes]) -> bytes:
    """`events`: in MicroMDM's form. A subscription that asks for batches gets each event in one."""
    change = _change(form)
    bodies = events if change is None else [change(event) for event in events]
    if form.batch == 1 and len(bodies) == 1:
        return bodies[0]
    return b'{"events":[%b]}' % b",".join(bodies)


def most_of(form: BodyForm, event: bytes) -> int:
    """Bytes that it has in this form at most, without the work of making it."""
    if _change(form) is not None and _RAW in event and _XML not in event:
        return len(event) + _AROUND + MOST_PAYLOAD
    return most_of_size(form, len(event))


def most_of_size(form: BodyForm, size: int) -> int:
    """The same of an event of this size, unless its property list is binary."""
    if _change(form) is None:
        return size
    return size + _AROUND + min(_GROWS * size * 3 // 4, MOST_PAYLOAD)


def is_heavy(form: BodyForm, events: Sequence[bytes]) -> bool:
    """True if `shaped` may take more than a few milliseconds: for a thread."""
    return _change(form) is not None and sum(map(len, events)) > SMALL


def _change(form: BodyForm) -> Callable[[bytes], bytes] | None:
    if form.is_redacted:
        return _redacted
    return _with_payload if PAYLOAD in form.extra_keys else None


def _with_payload(event: bytes) -> bytes:
    document: Document = orjson.loads(event)
    for name in _RECEIVED:
        if name in document:
            document[name] |= _payload(document[name], lambda message: message)
    return orjson.dumps(document)


def _redacted(event: bytes) -> bytes:
    document: Document = orjson.loads(event)
    is_own = str(document.get("topic")).startswith(OWN_PREFIX)
    left: Document = {name: document[name] for name in _ABOUT_IT if name in document}
    for name, content in document.items():
        if isinstance(content, dict):
            left[name] = _redacted_content(name, content, is_own) | {"redacted": True}
    return orjson.dumps(left)


def _redacted_content(name: str, content: Document, is_own: bool) -> Document:
    if name in _RECEIVED:
        gone = {"url_params": None, "raw_payload": None}
        return ids_and_status(content) | gone | _payload(content, _readable)
    return own_facts(content) if is_own else ids_and_status(content)


def _readable(message: Document) -> Any:
    return readable(message, known_keys())


def _payload(content: Document, rest: Callable[[Document], Any]) -> Document:
    """The extra key; its value is None where the device's message cannot be read."""
    raw = content.get("raw_payload") or ""
    if len(raw) > _MOST_RAW * 4 // 3:
        return {"payload_too_large": True}
    try:
        payload = as_json(rest(parse_message(b64decode(raw))), MOST_PAYLOAD)
        if len(orjson.dumps(payload)) <= MOST_PAYLOAD:
            return {PAYLOAD: payload}
    except TooLargeToShow:
        pass
    except (BadRequest, ValueError):
        return {PAYLOAD: None}
    return {"payload_too_large": True}
