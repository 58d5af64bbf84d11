"""Documents and indexes of collection `queue`: only add fields, ignore unknown ones."""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta

from shared.domain.command import (
    NEVER_MOVED,
    NORMAL_PRIORITY,
    OPEN_STATES,
    EntryState,
    QueueEntry,
)
from shared.ports.queue import EntryWindow, Rival
from shared.storage.database import Document
from shared.storage.indexes import Index
from shared.storage.records import given, record

NAME = "queue"
COMMANDS = "commands"
"""The stored commands, to which entries refer."""

OPEN = [state.value for state in OPEN_STATES]

QUEUE_ORDER = [("moved", 1), ("priority", 1), ("order", 1)]
"""The order in which entries are sent, as the store sorts."""


def indexes(retention: timedelta) -> tuple[Index, ...]:
    """`retention`: how long finished entries stay."""
    return (
        # A partial index does not serve every query (ADR 3); a query that must not read all uses this one.
        Index(NAME, [("open_device", 1)], sparse=True),
        # Entries of one collapse key are found without the other open ones of their devices (ADR 22).
        Index(NAME, [("open_device", 1), ("collapse_key", 1)], partial=True),
        # In queue order, behind the fields that exclude what cannot be sent now. Only an entry that moved
        # back has `moved`, so it comes behind all others of its queue.
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
"""Fields that an entry has only while it is open. `timer` is the earlier of `not_before` and `expires_at`,
in one index for both, since each index costs every write; an entry whose end must be published keeps it
until its event is safe."""

UNTIL_ENDED = {name: "" for name in WHILE_OPEN if name != "timer"}
"""Fields that leave an entry whose end must be published."""


def ending(state: EntryState, *, with_event: bool = False) -> Document:
    """The update that ends an entry, at a time of the store's own clock. `with_event`: that must be
    published, so its timer begins with its end."""
    return {
        "$set": {"state": state.value},
        "$currentDate": {"finished_at": True} | ({"timer": True} if with_event else {}),
        "$unset": UNTIL_ENDED if with_event else WHILE_OPEN,
    }


def superseding(by: str) -> Document:
    """The update that ends an entry for a newer command."""
    update = ending(EntryState.SUPERSEDED, with_event=True)
    update["$set"]["superseded_by"] = by
    return update


FORGOTTEN = dict.fromkeys(("first_handed_at", "unanswered", "counted", "moved", "collapse"), "")
"""Fields that leave an entry when its device answers: the unanswered attempts, and `collapse`, by which it
can be superseded since it moved back."""

OPTIONAL = (
    *WHILE_OPEN,
    *FORGOTTEN,
    *("not_before", "expires_at", "collapse_key"),
    *("handed_by", "handed_at", "offered_at", "answered_at", "finished_at", "late_answer"),
    "superseded_by",
)
"""Fields that an entry may lack; an entry that is queued again keeps none of them."""


def collapse_name(entry: QueueEntry | Rival) -> str:
    """The name that rivals share: entries of one enrollment and collapse key, of which the newest wins."""
    return f"{entry.enrollment}\0{entry.collapse_key}"


_PLAIN = (
    *("enrollment", "device", "command_uuid", "request_type", "priority", "order", "attempts"),
    *("not_before", "expires_at", "collapse_key"),
)
"""Fields that a new entry has as they are, under their own names."""


def encode_entry(entry: QueueEntry) -> Document:
    """The document of an entry that is queued now."""
    return given(
        {
            "_id": entry.id,
            "open_device": entry.device,
            "command": entry.command_hash,
            "state": entry.state.value,
            "timer": entry.not_before or entry.expires_at,
            "collapse": None if entry.collapse_key is None else collapse_name(entry),
            **{name: getattr(entry, name) for name in _PLAIN},
        }
    ) | {"generation": entry.generation, "accepted_at": entry.accepted_at}


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
    """The order of the index that serves the window, backwards, so that the store sorts nothing."""
    prefix = [] if window.enrollment is None else [("enrollment", -1)]
    return [*prefix, ("accepted_at", -1)]


class EntriesOnDemand(Collection[QueueEntry]):
    """The entries in an open state, in the order in which they are sent. Each becomes a record when it is
    its turn: whoever looks for the first that fits makes one or two of many."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = sorted(
            (document for document in documents if document["state"] in OPEN), key=_queue_order
        )

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[QueueEntry]:
        return (record(QueueEntry, document) for document in self._documents)

    def __contains__(self, entry: object) -> bool:
        return any(entry == each for each in self)


def _queue_order(document: Document) -> tuple[datetime, int, str]:
    """`QueueEntry.queue_order` of a document."""
    priority = document.get("priority", NORMAL_PRIORITY)
    return document.get("moved") or NEVER_MOVED, priority, document["order"]


def entries_of(documents: Iterable[Document]) -> list[QueueEntry]:
    return [record(QueueEntry, document) for document in documents]


def only_open(documents: Iterable[Document]) -> list[QueueEntry]:
    """The entries in an open state; an entry in a state of a newer version is left to that version."""
    return entries_of(document for document in documents if document["state"] in OPEN)
