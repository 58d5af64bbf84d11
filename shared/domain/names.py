"""Names by which API clients call enrollments: ids, UserIDs and serial numbers. Pure; one rule for all.

Promises: an id in the form of a UDID means that enrollment and no other, even if other devices claim it. A
removed enrollment is not found, nor another one in its place. Any other name that fits several enrollments
names all of them. A serial number counts as it is now: earlier ones name nothing.
"""

import re
from collections.abc import Sequence

from shared.domain.enrollment import Enrollment, EnrollmentStatus, EnrollmentSummary

MOST_TOLD = 10
"""Enrollments that a refusal lists."""

Record = Enrollment | EnrollmentSummary

_UDID = re.compile(
    r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}|[0-9A-Fa-f]{8}-[0-9A-Fa-f]{16}|[0-9A-Fa-f]{40}"
)


def is_like_id(name: str) -> bool:
    """True for a name in the form of a UDID, or of a user channel (`UDID:USER`)."""
    return _UDID.fullmatch(name.partition(":")[0]) is not None


def is_settled(name: str, exact: Record | None) -> bool:
    """True where the enrollment with exactly this id, if any, decides what the name means."""
    return exact is not None and (not is_there(exact) or is_like_id(name))


def is_there(enrollment: Record | None) -> bool:
    """True for an enrollment that is known and was not removed."""
    return enrollment is not None and enrollment.status is not EnrollmentStatus.REMOVED


def fitting_names(enrollment: Record) -> set[str]:
    """Names that fit an enrollment. A device chooses its serial number freely: it is no name where it has
    the form of an id."""
    if enrollment.key.user is not None:
        return {enrollment.id, enrollment.key.user}
    serial_number = enrollment.inventory.serial_number
    if not serial_number or is_like_id(serial_number):
        return {enrollment.id}
    return {enrollment.id, serial_number}


def ambiguity(name: str, found: Sequence[Record]) -> str:
    """Say which enrollments a name fits."""
    ids = sorted(enrollment.id for enrollment in found)
    more = f" and {len(ids) - MOST_TOLD} more" if len(ids) > MOST_TOLD else ""
    return f"udid: {name[:100]} names several enrollments: {', '.join(ids[:MOST_TOLD])}{more}"
