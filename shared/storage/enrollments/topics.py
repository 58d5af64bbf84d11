"""How many devices are enrolled under which push topic; reads collection `enrollments`.

No index helps it, nor is one worth its price at every check-in: the store looks through all of
them, about 20 us for each.
"""

from shared.domain.enrollment import EnrollmentStatus
from shared.storage.database import Database
from shared.storage.enrollments.documents import NAME


class MongoEnrolledTopics:
    """Implements `shared.ports.certificates.EnrolledTopics`."""

    def __init__(self, database: Database) -> None:
        self._enrollments = database.collection(NAME)

    async def count(self) -> dict[str, int]:
        found = await self._enrollments.aggregate(
            [
                {"$match": {"status": EnrollmentStatus.ENROLLED.value, "user": None}},
                {"$group": {"_id": "$push.topic", "devices": {"$sum": 1}}},
            ]
        )
        return {each["_id"]: each["devices"] for each in found if each["_id"]}
