"""IssuedCertificates in memory, times kept to the millisecond as a real store does."""

import asyncio
from collections.abc import Collection
from dataclasses import replace

from shared.ports.certificates import IssuedCertificate
from tests.support.fakes.pushes import to_millisecond


class FakeIssuedCertificates:
    def __init__(self) -> None:
        self.rows: dict[str, IssuedCertificate] = {}

    async def add(self, issued: IssuedCertificate) -> bool:
        await asyncio.sleep(0)  # let others come between, as the network does
        taken = {each.serial for each in self.rows.values()}
        if issued.transaction in self.rows or issued.serial in taken:
            return False
        self.rows[issued.transaction] = replace(
            issued,
            issued_at=to_millisecond(issued.issued_at),
            not_after=to_millisecond(issued.not_after),
        )
        return True

    async def of_transaction(self, transaction: str) -> IssuedCertificate | None:
        await asyncio.sleep(0)
        return self.rows.get(transaction)

    async def by_fingerprint(self, fingerprints: Collection[str]) -> dict[str, IssuedCertificate]:
        await asyncio.sleep(0)
        return {
            row.fingerprint: row for row in self.rows.values() if row.fingerprint in fingerprints
        }

    async def renewals_of(self, fingerprint: str) -> list[IssuedCertificate]:
        await asyncio.sleep(0)
        found = [row for row in self.rows.values() if row.renewed_from == fingerprint]
        return sorted(found, key=lambda row: row.issued_at)
