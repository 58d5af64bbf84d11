"""What one attempt posts to a subscriber: one event, or a batch of several."""

from dataclasses import dataclass, field
from typing import NamedTuple


class EventBody(NamedTuple):
    """An event in MicroMDM's form, before its subscription's form is made of it. `topic` is unknown (None)
    where a former version stored its delivery."""

    event_id: str
    topic: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class EventRequest:
    """`attempt`: 1 is the first one. `replay`: the id of the replay by which they come again."""

    events: tuple[EventBody, ...] = field(repr=False)
    attempt: int = 1
    replay: str | None = None


def single(event_id: str, topic: str | None, body: bytes, attempt: int = 1) -> EventRequest:
    return EventRequest((EventBody(event_id, topic, body),), attempt)
