"""How a command's place stands in its document, and the indexes of the queue.

Only add fields, ignore unknown ones.
"""

from datetime import timedelta
from typing import Any

from shared.domain.command import Place, PlaceState
from shared.storage.indexes import Index
from shared.storage.mongo import Document


def indexes(retention: timedelta) -> tuple[Index, ...]:
    """`retention`: how long finished places stay."""
    return (
        Index("queue", [("open_device", 1)], sparse=True),
        Index("queue", [("command", 1)]),
        Index("queue", [("accepted_at", 1)]),
        Index("queue", [("finished_at", 1)], sparse=True, expire_after=retention),
    )


def queue_order(place: Place) -> tuple[int, str]:
    """The order in which places are handed out."""
    return place.priority, place.order


def to_document(place: Place) -> Document:
    """The document of a place that is queued now."""
    return {
        "_id": place.id,
        "enrollment": place.enrollment,
        "device": place.device,
        "open_device": place.device,
        "command_uuid": place.command_uuid,
        "command": place.command_hash,
        "request_type": place.request_type,
        "generation": place.generation,
        "priority": place.priority,
        "order": place.order,
        "state": place.state.value,
        "attempts": place.attempts,
        "accepted_at": place.accepted_at,
    }


def from_document(document: dict[str, Any]) -> Place:
    return Place(
        enrollment=document["enrollment"],
        device=document["device"],
        command_uuid=document["command_uuid"],
        command_hash=document["command"],
        request_type=document["request_type"],
        generation=document["generation"],
        order=document["order"],
        priority=document["priority"],
        state=PlaceState(document["state"]),
        handed_by=document.get("handed_by"),
        attempts=document["attempts"],
        accepted_at=document["accepted_at"],
        finished_at=document.get("finished_at"),
    )
