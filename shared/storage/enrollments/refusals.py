"""Refusals in the records of their devices: writes collection `enrollments` (owner: checkin)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from shared.domain.enrollment import EnrollmentStatus, Refusal, latest_refusals
from shared.storage.database import Database, Document, UpdateOne
from shared.storage.enrollments.documents import NAME, refusals_of
from shared.times import to_milliseconds

TRIES = 5
"""Tries against other replicas that write into the same records."""
GONE = EnrollmentStatus.REMOVED.value


class MongoRefusals:
    """Implements `shared.ports.events.Refusals`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(NAME)

    async def add(self, refusals: Mapping[str, Sequence[Refusal]]) -> None:
        """Each record is changed on condition that its refusals are still those that were read."""
        for _ in range(TRIES):
            found = await self._documents.find(
                {"_id": {"$in": list(refusals)}, "status": {"$ne": GONE}}, {"refusals": 1}
            )
            updates = [each for d in found for each in _updates(d, refusals[d["_id"]])]
            if not updates:
                return
            matched, _ = await self._documents.bulk_write(updates)
            if matched == len(updates):
                return


def _updates(document: Document, more: Sequence[Refusal]) -> list[UpdateOne]:
    """One update, or none where the document has the refusals already."""
    known = refusals_of(document)
    latest = latest_refusals(known, map(_in_milliseconds, more))
    if latest == known:
        return []
    as_read = {"_id": document["_id"], "refusals": document.get("refusals")}
    update = {"$set": {"refusals": [asdict(each) for each in latest]}}
    return [UpdateOne({**as_read, "status": {"$ne": GONE}}, update)]


def _in_milliseconds(refusal: Refusal) -> Refusal:
    """The time as the store keeps it, so that a stored refusal compares equal."""
    return replace(refusal, at=to_milliseconds(refusal.at))
