"""How a command's entry stands in its document, and the indexes of the queue.

Only add fields, ignore unknown ones.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from shared.domain.command import OPEN_STATES, EntryState, LateAnswer, QueueEntry
from shared.domain.versions import known
from shared.ports.queue import EntryWindow
from shared.storage.database import Document
from shared.storage.indexes import Index

NAME = "queue"
COMMANDS = "commands"
"""The stored commands, to which entries refer."""

OPEN = [state.value for state in OPEN_STATES]


QUEUE_ORDER = [("moved", 1), ("priority", 1), ("order", 1)]
"""The order in which entries are sent, as the store sorts."""


def indexes(retention: timedelta) -> tuple[Index, ...]:
    """`retention`: how long finished entries stay."""
    return (
        # A partial index is none for everybody (ADR 3), so what must not look at everything has this one.
        Index(NAME, [("open_device", 1)], sparse=True),
        # In the order of send, behind what tells apart that which cannot be sent now. Only a
        # entry that moved back has `moved`, so it stands behind all others of its queue.
        Index(
            NAME,
            [
                (name, 1)
                for name in ("open_device", "enrollment", "state", "not_before", "generation")
            ]
            + QUEUE_ORDER,
            partial=True,
        ),
        Index(NAME, [("command", 1)]),
        Index(NAME, [("accepted_at", 1), ("_id", 1)], replaces="accepted_at_1"),
        Index(NAME, [("enrollment", 1), ("accepted_at", 1)]),
        Index(NAME, [("timer", 1), ("_id", 1)], sparse=True, replaces="timer_1"),
        Index(NAME, [("finished_at", 1)], sparse=True, expire_after=retention),
    )


WHILE_OPEN = dict.fromkeys(("open_device", "collapse", "timer"), "")
"""Fields that an entry has only while it is open; `$unset` takes them away. `timer` is the first of
its times, `not_before` or `expires_at`, in one index for both, since each index costs every write; a
entry whose end must be published has one until its event is safe."""

UNTIL_ENDED = {name: "" for name in WHILE_OPEN if name != "timer"}
"""What the end takes away from an entry whose end must be published."""


def ending(state: EntryState) -> Document:
    """The update that ends an entry; the time of it is the store's own."""
    return {
        "$set": {"state": state.value},
        "$currentDate": {"finished_at": True},
        "$unset": WHILE_OPEN,
    }


def superseding(by: str) -> Document:
    """The update that ends an entry for a newer command; its timer begins with its end."""
    return {
        "$set": {"state": EntryState.SUPERSEDED.value, "superseded_by": by},
        "$currentDate": {"finished_at": True, "timer": True},
        "$unset": UNTIL_ENDED,
    }


FORGOTTEN = dict.fromkeys(("first_handed_at", "unanswered", "counted", "moved", "collapse"), "")
"""What `$unset` takes away from an entry when its device answers: the attempts that went unanswered, and that
it can be superseded since it moved back."""

OPTIONAL = (
    *WHILE_OPEN,
    *FORGOTTEN,
    *("not_before", "expires_at", "collapse_key"),
    *("handed_by", "handed_at", "offered_at", "answered_at", "finished_at", "late_answer"),
    "superseded_by",
)
"""Fields that an entry may lack; one that is queued anew keeps none of the time before."""


def collapse_name(entry: QueueEntry) -> str:
    """The same for entries of which the newest wins; of one enrollment only."""
    return f"{entry.enrollment}\0{entry.collapse_key}"


def to_document(entry: QueueEntry) -> Document:
    """The document of an entry that is queued now."""
    document = {
        "_id": entry.id,
        "enrollment": entry.enrollment,
        "device": entry.device,
        "open_device": entry.device,
        "command_uuid": entry.command_uuid,
        "command": entry.command_hash,
        "request_type": entry.request_type,
        "generation": entry.generation,
        "priority": entry.priority,
        "order": entry.order,
        "state": entry.state.value,
        "attempts": entry.attempts,
        "accepted_at": entry.accepted_at,
    }
    if entry.not_before is not None:
        document["not_before"] = entry.not_before
    if entry.expires_at is not None:
        document["expires_at"] = entry.expires_at
    if (timer := entry.not_before or entry.expires_at) is not None:
        document["timer"] = timer
    if entry.collapse_key is not None:
        document["collapse_key"] = entry.collapse_key
        document["collapse"] = collapse_name(entry)
    return document


def condition_of(window: EntryWindow) -> Document:
    """A closed range of `accepted_at`, of one enrollment where one is named: each has its index."""
    condition: Document = {"accepted_at": {"$gte": window.since, "$lte": window.until}}
    if window.enrollment is not None:
        condition["enrollment"] = window.enrollment
    if window.request_type is not None:
        condition["request_type"] = window.request_type
    if window.states is not None:
        condition["state"] = {"$in": sorted(state.value for state in window.states)}
    return condition


def newest_first(window: EntryWindow) -> list[tuple[str, int]]:
    """The order of the index that serves the window, backwards, so that nothing is sorted."""
    prefix = [] if window.enrollment is None else [("enrollment", -1)]
    return [*prefix, ("accepted_at", -1)]


def from_document(document: dict[str, Any]) -> QueueEntry:
    return QueueEntry(
        enrollment=document["enrollment"],
        device=document["device"],
        command_uuid=document["command_uuid"],
        command_hash=document["command"],
        request_type=document["request_type"],
        generation=document["generation"],
        order=document["order"],
        priority=document["priority"],
        state=known(EntryState, document["state"]),
        handed_by=document.get("handed_by"),
        attempts=document["attempts"],
        not_before=document.get("not_before"),
        expires_at=document.get("expires_at"),
        collapse_key=document.get("collapse_key"),
        accepted_at=document["accepted_at"],
        handed_at=document.get("handed_at"),
        answered_at=document.get("answered_at"),
        finished_at=document.get("finished_at"),
        late_answer=_late_answer(document.get("late_answer")),
        superseded_by=document.get("superseded_by"),
        first_handed_at=document.get("first_handed_at"),
        unanswered=document.get("unanswered", 0),
        is_counted=document.get("counted", False),
        moved=document.get("moved"),
    )


def only_open(documents: Iterable[dict[str, Any]]) -> list[QueueEntry]:
    """The entries in an open state; one in a state of a newer version is left to that version."""
    return [entry for entry in map(from_document, documents) if entry.state.is_open]


def in_queue_order(documents: Iterable[dict[str, Any]]) -> list[QueueEntry]:
    """Those in an open state, in the order in which they are sent."""
    return sorted(only_open(documents), key=lambda entry: entry.queue_order)


def _late_answer(document: dict[str, Any] | None) -> LateAnswer | None:
    if document is None:
        return None
    state = known(EntryState, document["state"])
    return LateAnswer(state, document["event_id"], document["at"])
