"""The contract of `IssuedCertificates`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.ports.certificates import IssuedCertificate, IssuedCertificates
from tests.contract.stores import STORES, open_store
from tests.support.fakes.clock import START
from tests.support.fakes.issued import FakeIssuedCertificates

DAY = timedelta(days=1)


def issued(number: int, **changes: object) -> IssuedCertificate:
    made = IssuedCertificate(
        transaction=f"t{number}",
        fingerprint=f"f{number}",
        serial=f"s{number}",
        certificate=b"der %d" % number,
        subject="CN=device",
        public_key=f"k{number}",
        issued_at=START,
        not_after=START + number * DAY,
        challenge=f"c{number}",
        udid=f"UDID-{number}",
        serial_number=f"SERIAL-{number}",
        renewed_from=f"f{number - 1}",
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the fields that a test names


@pytest.fixture(params=STORES)
async def certificates(request: pytest.FixtureRequest) -> AsyncIterator[IssuedCertificates]:
    if request.param == "fake":
        yield FakeIssuedCertificates()
        return
    from shared.storage.certificates import issued as adapter

    async with open_store(request) as mongo:
        await mongo.ensure(adapter.INDEXES)
        yield adapter.MongoIssuedCertificates(mongo)


async def test_what_was_recorded_is_found_by_its_transaction(
    certificates: IssuedCertificates,
) -> None:
    bare = issued(2, challenge=None, udid=None, serial_number=None, renewed_from=None)

    assert await certificates.add(issued(1))
    assert await certificates.add(bare)

    assert await certificates.of_transaction("t1") == issued(1)
    assert await certificates.of_transaction("t2") == bare
    assert await certificates.of_transaction("t3") is None


async def test_a_transaction_has_one_certificate(certificates: IssuedCertificates) -> None:
    await certificates.add(issued(1))

    assert not await certificates.add(issued(2, transaction="t1"))
    assert await certificates.of_transaction("t1") == issued(1)


async def test_of_many_for_a_transaction_at_once_one_is_recorded(
    certificates: IssuedCertificates,
) -> None:
    candidates = [issued(number, transaction="t") for number in range(8)]

    added = await asyncio.gather(*(certificates.add(each) for each in candidates))

    assert sum(added) == 1
    assert await certificates.of_transaction("t") == candidates[added.index(True)]


async def test_a_serial_number_is_given_once(certificates: IssuedCertificates) -> None:
    await certificates.add(issued(1))

    assert not await certificates.add(issued(2, serial="s1"))
    assert await certificates.of_transaction("t2") is None


async def test_certificates_are_found_by_their_fingerprints(
    certificates: IssuedCertificates,
) -> None:
    for number in range(1, 41):
        await certificates.add(issued(number))
    wanted = [f"f{number}" for number in range(1, 40)]

    found = await certificates.by_fingerprint([*wanted, "unknown"])

    assert found == {f"f{number}": issued(number) for number in range(1, 40)}
    assert await certificates.by_fingerprint([]) == {}


async def test_what_followed_a_certificate_is_found_by_it_first_issued_first(
    certificates: IssuedCertificates,
) -> None:
    second = issued(2, renewed_from="old", issued_at=START + DAY)
    first = issued(1, renewed_from="old")
    for each in (second, first, issued(3, renewed_from="another"), issued(4, renewed_from=None)):
        assert await certificates.add(each)

    assert await certificates.renewals_of("old") == [first, second]
    assert await certificates.renewals_of("f1") == []
