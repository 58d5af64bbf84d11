"""The indexes of all collections, for a store that is filled before any service has seen it.

Promise: no document leaves by them. How long documents are kept is a setting of the services, which change
these indexes when they start.
"""

from dataclasses import replace
from datetime import timedelta

from shared.storage import members
from shared.storage.access import audit, tokens
from shared.storage.certificates import challenges, issued
from shared.storage.enrollments import identities
from shared.storage.enrollments import store as enrollments
from shared.storage.events import deliveries, journal
from shared.storage.queue import documents as entry_documents
from shared.storage.queue import jobs, pushes

FOR_EVER = timedelta(seconds=2**31 - 1)
"""The longest that MongoDB takes: 68 years."""

ALL_INDEXES = tuple(
    replace(index, expire_after=None if index.expire_after is None else FOR_EVER)
    for index in (
        *audit.indexes(FOR_EVER),
        *challenges.INDEXES,
        *deliveries.INDEXES,
        *enrollments.INDEXES,
        *identities.INDEXES,
        *issued.INDEXES,
        *jobs.indexes(FOR_EVER),
        *journal.indexes(FOR_EVER),
        *members.INDEXES,
        *entry_documents.indexes(FOR_EVER),
        *pushes.INDEXES,
        *tokens.INDEXES,
    )
)
