"""Our own CA: one for all, readable again, and what it issues."""

import asyncio
import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.cli.identity import write_identity
from shared.domain.errors import BadRequest, Misconfigured
from shared.security.authority import IDENTITY_VALIDITY, Authority, open_authority
from shared.security.identity import DeviceIdentities, load_trust
from tests.support.fakes.authority import FakeAuthorityStore
from tests.support.fakes.clock import FakeClock
from tests.support.harness.identities import DeviceIdentity, ec_key, rsa_key
from tests.support.signatures import verify

CLOCK = FakeClock()
AUTHORITY = Authority.create(CLOCK)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])


async def test_all_who_open_it_at_once_get_the_same_authority() -> None:
    store = FakeAuthorityStore()

    opened = await asyncio.gather(*(open_authority(store, CLOCK) for _ in range(3)))

    assert len({authority.certificate_pem for authority in opened}) == 1


def test_a_stored_authority_is_the_same_again() -> None:
    again = Authority.restore(AUTHORITY.stored())
    issued = again.certify(NAME, rsa_key().public_key(), CLOCK, IDENTITY_VALIDITY)

    assert again.certificate == AUTHORITY.certificate
    issued.verify_directly_issued_by(AUTHORITY.certificate)


@pytest.mark.parametrize(
    "change",
    [
        {"key_pem": b""},
        {"key_pem": b"no PEM"},
        {"certificate_pem": b"no PEM"},
        {"key_pem": DeviceIdentity(AUTHORITY.certificate, ec_key()).key_pem},
        {"key_pem": DeviceIdentity(AUTHORITY.certificate, rsa_key()).key_pem},
    ],
)
def test_a_damaged_authority_is_misconfigured(change: dict[str, bytes]) -> None:
    with pytest.raises(Misconfigured, match="stored CA"):
        Authority.restore(dataclasses.replace(AUTHORITY.stored(), **change))


def test_an_authority_is_a_ca_for_ten_years() -> None:
    certificate = AUTHORITY.certificate
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert certificate.not_valid_after_utc - CLOCK.now() == timedelta(days=3650)
    assert certificate.serial_number.bit_length() > 64


def test_an_issued_certificate_is_a_clients_and_no_ca() -> None:
    key = ec_key().public_key()
    certificate = AUTHORITY.certify(NAME, key, CLOCK, IDENTITY_VALIDITY)
    extensions = certificate.extensions

    assert certificate.public_key() == key
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert certificate.not_valid_before_utc < CLOCK.now() < certificate.not_valid_after_utc


def test_a_certificate_never_outlives_the_authority() -> None:
    key = rsa_key().public_key()

    issued = AUTHORITY.certify(NAME, key, CLOCK, validity=timedelta(days=36500))

    assert issued.not_valid_after_utc == AUTHORITY.certificate.not_valid_after_utc


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_name_that_no_certificate_can_hold_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="name"):
        AUTHORITY.issue(name, CLOCK)


def test_keys_never_show() -> None:
    issued = AUTHORITY.issue("device", CLOCK)

    assert "PRIVATE" not in repr(issued) + repr(AUTHORITY.stored()) + repr(AUTHORITY)


async def test_the_files_of_an_identity_authenticate_a_device(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"

    key, certificate, ca = await write_identity("sim-1", out, FakeAuthorityStore(), CLOCK)

    assert [path.name for path in (key, certificate, ca)] == [
        "sim-1-key.pem",
        "sim-1-cert.pem",
        "ca.pem",
    ]
    device = DeviceIdentity.load(key, certificate)
    signer = verify(device.sign(b"body"), b"body")
    identities = DeviceIdentities(load_trust(ca.read_bytes()), CLOCK)
    assert identities.identify(signer) == device.fingerprint


async def test_a_key_file_is_its_owners_only(tmp_path: Path) -> None:
    old = tmp_path / "sim-key.pem"
    old.write_text("old")
    old.chmod(0o644)

    key, _, _ = await write_identity("sim", tmp_path, FakeAuthorityStore(), CLOCK)

    assert key == old
    assert key.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ca.pem",
        "sim-cert.pem",
        "sim-key.pem",
    ]


@pytest.mark.parametrize("name", ["", "../up", "a/b", "..", ".hidden", "a\0b", "a\\b"])
async def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misconfigured, match="name"):
        await write_identity(name, tmp_path, FakeAuthorityStore(), CLOCK)
