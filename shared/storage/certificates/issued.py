"""Collection `issued`: one document per certificate that SCEP issued (owner: checkin).

Promise: of all certificates made for one transaction, one is recorded, by the unique `_id`. A record
leaves a year after its certificate expired.
"""

from collections.abc import Collection as Some
from datetime import timedelta

from shared.chunks import chunked
from shared.ports.certificates import IssuedCertificate
from shared.storage.database import Database
from shared.storage.indexes import Index
from shared.storage.records import fields_of, record

NAME = "issued"
KEPT_FOR = timedelta(days=365)
INDEXES = (
    Index(NAME, [("fingerprint", 1)], unique=True),
    Index(NAME, [("serial", 1)], unique=True),
    Index(NAME, [("not_after", 1)], expire_after=KEPT_FOR),
    Index(NAME, [("renewed_from", 1)], sparse=True),
)

LIST_LENGTH = 32
"""Fingerprints in one `$in`: the embedded store's cost per entry grows with long lists."""


class MongoIssuedCertificates:
    """Implements `shared.ports.certificates.IssuedCertificates`."""

    def __init__(self, database: Database) -> None:
        self._issued = database.collection(NAME)

    async def add(self, issued: IssuedCertificate) -> bool:
        document = fields_of(issued)
        if issued.renewed_from is None:  # the index has renewals only
            del document["renewed_from"]
        return await self._issued.insert_one(document)

    async def of_transaction(self, transaction: str) -> IssuedCertificate | None:
        found = await self._issued.find_one({"_id": transaction})
        return None if found is None else record(IssuedCertificate, found)

    async def by_fingerprint(self, fingerprints: Some[str]) -> dict[str, IssuedCertificate]:
        found: dict[str, IssuedCertificate] = {}
        for wanted in chunked(list(fingerprints), LIST_LENGTH):
            for document in await self._issued.find({"fingerprint": {"$in": wanted}}):
                found[document["fingerprint"]] = record(IssuedCertificate, document)
        return found

    async def renewals_of(self, fingerprint: str) -> list[IssuedCertificate]:
        found = await self._issued.find({"renewed_from": fingerprint})
        renewals = [record(IssuedCertificate, document) for document in found]
        return sorted(renewals, key=lambda issued: issued.issued_at)
