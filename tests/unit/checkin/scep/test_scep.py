"""Who gets a certificate by SCEP, and the answer to everybody else."""

import asyncio
import itertools
import string
import subprocess
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus
from shared.domain.errors import BadRequest, StoreUnavailable
from shared.security.authority import Authority
from shared.security.identity import DeviceIdentities, fingerprint_of
from tests.support.fakes.issued import FakeIssuedCertificates
from tests.support.harness.scep import (
    CERT_POLL,
    CIPHERS,
    GET_CERT,
    RENEWAL_REQ,
    Client,
    Reply,
    Shape,
    csr,
    envelope,
    in_pieces,
    key_number,
    odd_key,
    self_signed,
    subject_of,
)
from tests.support.scep_world import CHALLENGE_VALIDITY, STATIC, VALIDITY, ScepWorld

ATTRIBUTES_OUT_OF_ORDER = (
    "MIICuTCCAaECAQAwNzERMA8GA1UECgwITWFjcm9NRE0xIjAgBgNVBAMMGU1hY3JvTURNIElkZW50aXR5IChhIE1hYykw"
    "ggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCVPdDfX6w5bxxj8IIKlIhKYRaVj5GhTGvEdGN5R6elxA+fj5/h"
    "tMBM35gNidcxw//lrZk+o1cOCiSPmRqn9ClzC1sfgbI/f3SD5Hfro8COwsDRjitHflFMEEMICxNhE/FiHQPGLgu/8vR6"
    "Nw3OF1GHEWoC2huJhTmA6xajMOqHS9+6b5pM+uHmRk3UPhULge4ZsD6UUQ6aLOjasoIGdnRsofXdXQpKOqTnhLOKlL0t"
    "KqhSagT4fEQJFck3amXJvM3eku2FwwEc57y2v3FpBSokrasIkfycvwnu7FcYu5KTfv8Ylve+Yh8aHgAutyvtuS7izuBl"
    "hpfufMLnqLBX61QRAgMBAAGgPTAfBgkqhkiG9w0BCQ4xEjAQMA4GA1UdDwEB/wQEAwIFoDAaBgkqhkiG9w0BCQcxDRML"
    "b25lLWZvci1hbGwwDQYJKoZIhvcNAQELBQADggEBAEIsqZlp/xoR8Zz6LSmYjtZgK7DC9VhGSSsZyR3/35IXc3QnwgbY"
    "2rUZgt+/7Ev/H1B1q/92Hbxa+sHASBxK+LBIynY/nca0bBXDyh4tIQxnovN9N5cTV5qG2TxP2CQKcNm+uvD/YKhzy9IO"
    "oxlwR1SAjHLAnPg6f/LuA0QwEjWuEgEBoNQ8DiYfV+p3Vhy+fmRGIprlXaRyP9wU3BRA/NaYkqntzksXkVmjVVDDetvJ"
    "ajJl7oiryi4R/kaj+ZWo26KZ3Z91ZaBfU+bT3mPh4qSoLwMpmVWVL3TnKNDKdR5Zalj9rM0fdqu+Po5VlfFacZpKcqHG"
    "rNRgxPz0fbYBM9I="
)
"""A certificate request whose extensions come before its challenge, as clients in Go write it (DER)."""

PRINTABLE_STRING = frozenset(f"{string.ascii_letters}{string.digits} '()+,-./:=?")
"""What every encoder of a challengePassword can write (X.680, PrintableString)."""
BAD_ALG, BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_TIME, BAD_CERT_ID = "01234"


def der_of(reply: Reply) -> bytes:
    assert reply.certificate is not None
    return reply.certificate.public_bytes(Encoding.DER)


def refused(reply: Reply, fail_info: str) -> bool:
    return (reply.status, reply.fail_info, reply.certificate) == ("2", fail_info, None)


async def renewal(world: ScepWorld, old: Client, number: int = 9, transaction: str = "r") -> Reply:
    message = old.request(csr(key_number(number)), kind=RENEWAL_REQ, transaction=transaction)
    return old.read(await world.server.operate(message))


# What is issued


async def test_what_renews_is_given_out_where_another_server_gives_identities() -> None:
    world = ScepWorld(is_elsewhere=True)
    challenge = await world.book.issue_renewal("MAC", "ab" * 32, timedelta(days=8))

    reply = await world.ask(world.client(), challenge)

    assert reply.is_success
    [row] = world.issued.rows.values()
    assert (row.udid, row.renewed_from) == ("MAC", "ab" * 32)
    assert await world.enrollments.holders({row.fingerprint}) == {row.fingerprint: "MAC"}


async def test_a_good_challenge_gives_a_device_identity() -> None:
    world = ScepWorld()
    client = world.client()

    reply = await world.ask(client, await world.book.issue_once())

    der = der_of(reply)
    assert DeviceIdentities([world.ca], world.clock).identify(der) == fingerprint_of(der)
    assert reply.certificate is not None
    assert reply.certificate.public_key() == client.key.public_key()


async def test_an_answer_repeats_the_transaction_and_the_nonce_and_has_its_own_nonce() -> None:
    world = ScepWorld()
    client = world.client()
    challenge = await world.book.issue_once()

    first = await world.ask(client, challenge, transaction="T/1")
    second = await world.ask(client, challenge, transaction="T/1")
    failed = await world.ask(client, "wrong", transaction="T/2")

    assert [each.transaction for each in (first, second, failed)] == ["T/1", "T/1", "T/2"]
    assert {each.recipient_nonce for each in (first, second, failed)} == {client.nonce}
    assert len({each.sender_nonce for each in (first, second, failed)}) == 3
    assert {len(each.sender_nonce) for each in (first, second, failed)} == {16}


async def test_a_certificate_is_for_clients_only_and_says_only_the_subject_that_was_asked() -> None:
    world = ScepWorld()
    client = world.client()
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject_of("Some device"))
        .add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, STATIC.encode())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mdm.example")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(client.key, hashes.SHA256())
    )
    world = ScepWorld(static=STATIC)

    reply = client.read(
        await world.server.operate(client.request(asked.public_bytes(Encoding.DER)))
    )

    certificate = reply.certificate
    assert certificate is not None
    assert certificate.subject == subject_of("Some device")
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert certificate.not_valid_after_utc == world.clock.now() + VALIDITY
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


async def test_serial_numbers_cannot_be_guessed() -> None:
    world = ScepWorld(static=STATIC)

    replies = [
        await world.ask(world.client(), STATIC, transaction=f"t{number}") for number in range(8)
    ]

    serials = [each.certificate.serial_number for each in replies if each.certificate]
    assert len(set(serials)) == 8
    assert min(serials).bit_length() > 100
    gaps = {abs(a - b).bit_length() for a, b in itertools.pairwise(serials)}
    assert min(gaps) > 64


async def test_what_was_issued_is_recorded_with_what_allowed_it() -> None:
    world = ScepWorld()
    challenge = await world.book.issue_once("UDID-1", "SERIAL-1")

    reply = await world.ask(world.client(), challenge)

    fingerprint = fingerprint_of(der_of(reply))
    recorded = (await world.issued.by_fingerprint([fingerprint]))[fingerprint]
    assert reply.certificate is not None
    assert (recorded.udid, recorded.serial_number) == ("UDID-1", "SERIAL-1")
    assert recorded.certificate == der_of(reply)
    assert recorded.serial == f"{reply.certificate.serial_number:x}"
    assert recorded.not_after == reply.certificate.not_valid_after_utc
    assert recorded.subject == "CN=device"
    assert recorded.renewed_from is None
    assert challenge not in repr(recorded)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("wrap", ["rsaes_pkcs1v15", "rsaes_oaep"])
@pytest.mark.parametrize("is_indefinite", [False, True], ids=["der", "ber"])
async def test_every_algorithm_of_the_field_is_taken(
    cipher: str, digest: str, wrap: str, is_indefinite: bool
) -> None:
    world = ScepWorld(static=STATIC)

    reply = await world.ask(
        world.client(), STATIC, shape=Shape(cipher, digest, wrap, is_indefinite)
    )

    assert reply.is_success


@pytest.mark.parametrize(
    "subject",
    [
        x509.Name([]),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ü" * 32)]),
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "O" * 64)] * 10),
    ],
    ids=["empty", "unicode", "long"],
)
async def test_unusual_subjects_are_carried_over(subject: x509.Name) -> None:
    world = ScepWorld(static=STATIC)
    client = world.client()

    message = client.request(csr(client.key, STATIC, subject=subject))
    reply = client.read(await world.server.operate(message))

    assert reply.certificate is not None
    assert reply.certificate.subject == subject


# Challenges


@pytest.mark.parametrize("challenge", [None, "", "wrong", STATIC, "x" * 300])
async def test_without_a_good_challenge_nobody_enrolls_and_nothing_is_left(
    challenge: str | None,
) -> None:
    world = ScepWorld()

    reply = await world.ask(world.client(), challenge)

    assert refused(reply, BAD_REQUEST)
    assert not world.issued.rows
    assert not world.challenges.used_by
    assert world.metric("scep_refused", reason="challenge") == 1


async def test_the_static_challenge_is_good_beside_one_time_challenges() -> None:
    world = ScepWorld(static=STATIC)

    by_static = await world.ask(world.client(), STATIC, transaction="a")
    by_one_time = await world.ask(world.client(), await world.book.issue_once(), transaction="b")
    by_nothing = await world.ask(world.client(), "", transaction="c")

    assert by_static.is_success
    assert by_one_time.is_success
    assert refused(by_nothing, BAD_REQUEST)


async def test_an_expired_challenge_is_refused() -> None:
    world = ScepWorld()
    challenge = await world.book.issue_once()
    world.clock.advance(CHALLENGE_VALIDITY)

    assert refused(await world.ask(world.client(), challenge), BAD_REQUEST)
    assert not world.issued.rows


async def test_a_used_challenge_is_good_for_nobody_else() -> None:
    world = ScepWorld()
    challenge = await world.book.issue_once()
    first = await world.ask(world.client(0), challenge, transaction="first")

    another_key = await world.ask(world.client(1), challenge, transaction="second")
    another_transaction = await world.ask(world.client(0), challenge, transaction="third")

    assert refused(another_key, BAD_REQUEST)
    assert der_of(another_transaction) == der_of(first)
    assert len(world.issued.rows) == 1


async def test_two_clients_at_once_with_one_challenge_get_one_certificate() -> None:
    world = ScepWorld()
    challenge = await world.book.issue_once()

    replies = await asyncio.gather(
        *(
            world.ask(
                world.client(number), challenge, transaction=f"t{number}", server=world.replica()
            )
            for number in range(4)
        )
    )

    assert sum(reply.is_success for reply in replies) == 1
    assert len(world.issued.rows) == 1


async def test_a_profile_for_nobody_in_particular_carries_the_static_challenge() -> None:
    world = ScepWorld(static=STATIC)

    assert await world.book.issue() == STATIC
    assert await world.book.issue(udid="UDID-1") != STATIC
    assert await world.book.issue_once() != STATIC
    assert await ScepWorld().book.issue() != STATIC


async def test_challenges_differ_and_their_secrets_are_not_stored() -> None:
    world = ScepWorld()

    secrets = {await world.book.issue() for _ in range(10)}

    assert len(secrets) == 10
    assert not secrets & set(world.challenges.rows)


@pytest.mark.parametrize("udid", [None, "UDID-1", "U" * 255])
async def test_challenges_suit_scep_clients(udid: str | None) -> None:
    world = ScepWorld()

    made = [
        await world.book.issue(udid, "SERIAL-1"),
        await world.commands_book.issue_once(udid),
        await world.book.issue_renewal("MAC", "ab" * 32, timedelta(days=8)),
    ]

    assert all(len(secret) <= 255 for secret in made)
    assert all(set(secret) <= PRINTABLE_STRING for secret in made)


async def test_a_flood_of_profiles_writes_nothing() -> None:
    world = ScepWorld()

    secrets = [await world.book.issue() for _ in range(100)]

    assert world.challenges.rows == {}
    assert (await world.ask(world.client(), secrets[50], server=world.replica())).is_success
    assert list(world.challenges.rows) == [world.book.name_of(secrets[50])]


async def test_a_challenge_made_for_an_api_client_is_good_once() -> None:
    world = ScepWorld()
    challenge = await world.commands_book.issue_once("UDID-1")
    assert len(world.challenges.rows) == 1

    replies = [
        await world.ask(world.client(number), challenge, transaction=f"t{number}")
        for number in range(2)
    ]

    assert [reply.is_success for reply in replies] == [True, False]
    [issued] = world.issued.rows.values()
    assert issued.udid == "UDID-1"


async def test_a_meddled_challenge_is_refused_and_nothing_is_written() -> None:
    world = ScepWorld()
    good = await world.book.issue(udid="UDID-1")
    replaced = good[:20] + ("0" if good[20] != "0" else "1") + good[21:]

    for secret in (replaced, good[:-2], good + "00", good.upper(), good[:6] + " " + good[6:]):
        assert refused(await world.ask(world.client(), secret), BAD_REQUEST), secret

    assert world.challenges.rows == {}
    assert (await world.ask(world.client(), good)).is_success


# Transactions


async def test_a_repeated_request_gets_the_same_certificate_from_any_replica() -> None:
    world = ScepWorld()
    client, challenge = world.client(), await world.book.issue_once()

    first = await world.ask(client, challenge)
    world.clock.advance(2 * CHALLENGE_VALIDITY)
    again = await world.ask(client, challenge, server=world.replica())

    assert der_of(again) == der_of(first)
    assert len(world.issued.rows) == 1
    assert world.metric("scep_issued", kind="repeated") == 1


async def test_a_request_that_is_sent_many_times_at_once_gets_one_certificate() -> None:
    world = ScepWorld()
    client, challenge = world.client(), await world.book.issue_once()

    replies = await asyncio.gather(
        *(world.ask(client, challenge, server=world.replica()) for _ in range(6))
    )

    assert len({der_of(reply) for reply in replies}) == 1
    assert len(world.issued.rows) == 1


@pytest.mark.parametrize("static", [None, STATIC])
async def test_the_transaction_id_of_another_key_is_refused(static: str | None) -> None:
    world = ScepWorld(static=static)
    first = static or await world.book.issue_once()
    await world.ask(world.client(0), first)
    second = static or await world.book.issue_once()

    reply = await world.ask(world.client(1), second)

    assert refused(reply, BAD_REQUEST)
    assert world.metric("scep_refused", reason="transaction") == 1
    assert len(world.issued.rows) == 1
    if static is None:  # the refused one keeps its challenge
        assert (await world.ask(world.client(1), second, transaction="own")).is_success


async def test_two_keys_at_once_under_one_transaction_id_get_one_certificate() -> None:
    world = ScepWorld(static=STATIC)

    replies = await asyncio.gather(
        *(world.ask(world.client(number), STATIC, server=world.replica()) for number in range(4))
    )

    assert sum(reply.is_success for reply in replies) == 1
    assert len(world.issued.rows) == 1


async def test_a_client_that_keeps_its_key_enrolls_anew_with_a_new_challenge() -> None:
    world = ScepWorld()
    client = world.client()
    first = await world.ask(client, await world.book.issue_once("UDID-1"))

    second = await world.ask(client, await world.book.issue_once("UDID-2"))

    assert der_of(second) != der_of(first)
    found = await world.issued.by_fingerprint([fingerprint_of(der_of(second))])
    assert [each.udid for each in found.values()] == ["UDID-2"]


async def test_the_static_challenge_gives_a_new_certificate_once_the_old_one_has_expired() -> None:
    world = ScepWorld(static=STATIC)
    client = world.client()
    first = await world.ask(client, STATIC)
    again = await world.ask(client, STATIC)
    world.clock.advance(VALIDITY + timedelta(seconds=1))

    later = await world.ask(client, STATIC)

    assert der_of(again) == der_of(first)
    assert later.is_success
    assert der_of(later) != der_of(first)


async def test_the_static_challenge_gives_a_new_certificate_for_one_that_was_replaced() -> None:
    world = ScepWorld(static=STATIC)
    client = world.client()
    first = await world.ask(client, STATIC)
    holder = Client(world.ca, client.key, first.certificate)
    world.enrollments.add(bound(holder))
    while_bound = await world.ask(client, STATIC)
    world.enrollments.add(bound(holder, is_retired=True))

    later = await world.ask(client, STATIC)

    assert der_of(while_bound) == der_of(first)
    assert der_of(later) != der_of(first)


class DyingStore(FakeIssuedCertificates):
    """Fails at its first write, before or after it took effect."""

    def __init__(self, *, takes_effect: bool) -> None:
        super().__init__()
        self._takes_effect = takes_effect
        self._has_failed = False

    async def add(self, issued: object) -> bool:
        if self._has_failed:
            return await super().add(issued)  # type: ignore[arg-type]  # what the port says
        self._has_failed = True
        if self._takes_effect:
            await super().add(issued)  # type: ignore[arg-type]  # what the port says
        raise StoreUnavailable("gone")


@pytest.mark.parametrize("takes_effect", [False, True])
async def test_a_request_that_died_between_its_writes_is_repaired_by_its_repetition(
    takes_effect: bool,
) -> None:
    world = ScepWorld(issued=DyingStore(takes_effect=takes_effect))
    client, challenge = world.client(), await world.book.issue_once()
    with pytest.raises(StoreUnavailable):
        await world.ask(client, challenge)

    reply = await world.ask(client, challenge, server=world.replica())

    assert reply.is_success
    assert [each.certificate for each in world.issued.rows.values()] == [der_of(reply)]


def without_first_reservation() -> ScepWorld:
    """A world whose store fails at its first reservation, before it took effect."""
    world, failures = ScepWorld(), iter([StoreUnavailable("gone")])

    async def before(_step: str) -> None:
        for failure in failures:
            raise failure

    world.identities.before = before
    return world


@pytest.mark.parametrize("repeats", ["itself", "polls"])
async def test_a_renewal_by_challenge_that_died_before_its_reservation_is_repaired(
    repeats: str,
) -> None:
    world = without_first_reservation()
    client = world.client()
    challenge = await world.book.issue_renewal("MAC", "ab" * 32, timedelta(days=8))
    with pytest.raises(StoreUnavailable):
        await world.ask(client, challenge)

    if repeats == "itself":
        reply = await world.ask(client, challenge, server=world.replica())
    else:
        message = client.request(b"", kind=CERT_POLL)
        reply = client.read(await world.server.operate(message))

    made = fingerprint_of(der_of(reply))
    assert await world.enrollments.holders({made}) == {made: "MAC"}


async def test_a_renewal_that_died_before_its_reservation_is_repaired_by_its_repetition() -> None:
    world = without_first_reservation()
    old = await world.enrolled()
    world.enrollments.add(bound(old))
    with pytest.raises(StoreUnavailable):
        await renewal(world, old)

    reply = await renewal(world, old)

    made = fingerprint_of(der_of(reply))
    assert await world.enrollments.holders({made}) == {made: bound(old).id}


async def test_a_poll_gives_the_certificate_to_its_key_only() -> None:
    world = ScepWorld(static=STATIC)
    client, other = world.client(0), world.client(1)
    issued = await world.ask(client, STATIC)

    polls = [
        each.read(await world.server.operate(each.request(b"", kind=CERT_POLL, transaction=name)))
        for each, name in ((client, "transaction"), (other, "transaction"), (client, "unknown"))
    ]

    assert der_of(polls[0]) == der_of(issued)
    assert refused(polls[1], BAD_CERT_ID)
    assert refused(polls[2], BAD_CERT_ID)


# Renewal


async def test_a_certificate_of_ours_renews_itself_and_hands_on_its_device() -> None:
    world = ScepWorld()
    old = await world.enrolled(udid="UDID-1", serial_number="SERIAL-1")
    assert old.certificate is not None

    reply = await renewal(world, old)

    assert reply.certificate is not None
    assert reply.certificate.public_key() == key_number(9).public_key()
    found = await world.issued.by_fingerprint([fingerprint_of(der_of(reply))])
    [recorded] = found.values()
    old_fingerprint = fingerprint_of(old.certificate.public_bytes(Encoding.DER))
    assert recorded.renewed_from == old_fingerprint
    assert (recorded.udid, recorded.serial_number) == ("UDID-1", "SERIAL-1")
    assert world.metric("scep_issued", kind="renewal") == 1


async def test_a_repeated_renewal_gets_the_same_certificate_and_another_key_none() -> None:
    world = ScepWorld()
    old = await world.enrolled(udid="MAC")

    first, again = await renewal(world, old), await renewal(world, old)
    other = await renewal(world, old, number=8)

    assert der_of(first) == der_of(again)
    assert refused(other, BAD_REQUEST)
    assert len(world.issued.rows) == 2


async def test_a_renewal_may_keep_the_key_and_the_transaction_id_of_the_enrollment() -> None:
    world = ScepWorld()
    old = await world.enrolled(udid="MAC")

    reply = await renewal(world, old, number=0, transaction="enrolls-0")

    assert old.certificate is not None
    assert der_of(reply) != old.certificate.public_bytes(Encoding.DER)


async def test_a_renewal_by_a_self_signed_certificate_is_refused() -> None:
    world = ScepWorld(static=STATIC)

    reply = await renewal(world, world.client())

    assert refused(reply, BAD_CERT_ID)
    assert not world.issued.rows


async def test_a_renewal_by_another_ca_or_by_our_ca_itself_is_refused() -> None:
    world = ScepWorld()
    key = key_number(0)
    stranger = Authority.create(world.clock).certify(
        subject_of("x"), key.public_key(), world.clock, VALIDITY
    )
    false_friend = self_signed(key, world.ca.subject)

    for certificate in (stranger, false_friend):
        assert refused(await renewal(world, Client(world.ca, key, certificate)), BAD_CERT_ID)
    assert not world.issued.rows


@pytest.mark.parametrize("passed", [VALIDITY + timedelta(days=1), -timedelta(days=1)])
async def test_a_renewal_by_a_certificate_that_is_not_valid_now_is_bad_time(
    passed: timedelta,
) -> None:
    world = ScepWorld()
    old = await world.enrolled()
    world.clock.advance(passed) if passed > timedelta() else world.clock.set_back(-passed)

    assert refused(await renewal(world, old), BAD_TIME)
    assert len(world.issued.rows) == 1


def bound(old: Client, *, is_retired: bool = False, blocked: bool = False) -> Enrollment:
    assert old.certificate is not None
    fingerprint = fingerprint_of(old.certificate.public_bytes(Encoding.DER))
    record = Enrollment(
        EnrollmentKey("UDID-1", "UDID-1"),
        EnrollmentStatus.ENROLLED,
        certificate=fingerprint,
        blocked=blocked,
    )
    if is_retired:
        return replace(record, certificate="newer", retired_certificates=(fingerprint,))
    return record


@pytest.mark.parametrize("is_retired", [True, False])
@pytest.mark.parametrize("blocked", [True, False])
async def test_a_renewal_by_a_replaced_certificate_or_of_a_blocked_device_is_refused(
    is_retired: bool, blocked: bool
) -> None:
    world = ScepWorld()
    old = await world.enrolled()
    world.enrollments.add(bound(old))
    world.enrollments.add(bound(old, is_retired=is_retired, blocked=blocked))

    reply = await renewal(world, old)

    if is_retired or blocked:
        assert refused(reply, BAD_CERT_ID)
    else:
        assert reply.is_success


@pytest.mark.parametrize("challenge", [STATIC, None], ids=["static", "one-time"])
async def test_where_another_server_gives_identities_ours_only_renews(
    challenge: str | None,
) -> None:
    world = ScepWorld(static=STATIC)
    old = await world.enrolled(udid="MAC")
    world.is_elsewhere = True
    world.server = world.replica()

    new = await world.ask(
        world.client(5), challenge or await world.book.issue_once(), transaction="new"
    )

    assert refused(new, BAD_REQUEST)
    assert len(world.challenges.used_by) == 1  # of the old certificate
    assert (await renewal(world, old)).is_success


async def test_of_two_renewals_of_one_certificate_the_one_that_was_not_taken_up_renews_nothing() -> (
    None
):
    world = ScepWorld()
    old = await world.enrolled()
    world.enrollments.add(bound(old))
    taken, other = await renewal(world, old, 1, "a"), await renewal(world, old, 2, "b")
    assert taken.certificate is not None and other.certificate is not None
    world.enrollments.add(
        replace(
            bound(Client(world.ca, key_number(1), taken.certificate)),
            retired_certificates=(bound(old).certificate or "",),
        )
    )

    left = await renewal(world, Client(world.ca, key_number(2), other.certificate), 3)
    next_one = await renewal(world, Client(world.ca, key_number(1), taken.certificate), 4)

    assert refused(left, BAD_CERT_ID)
    assert next_one.is_success


# Refusals


@pytest.mark.parametrize(
    ("key", "fail_info"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=1024), BAD_REQUEST),
        (ec.generate_private_key(ec.SECP256R1()), BAD_ALG),
        (ec.generate_private_key(ec.SECP192R1()), BAD_ALG),
    ],
    ids=["rsa-1024", "p-256 cannot be encrypted to", "p-192"],
)
async def test_a_key_that_will_not_do_is_refused(key: object, fail_info: str) -> None:
    world = ScepWorld(static=STATIC)

    reply = await world.ask(Client(world.ca, key), STATIC)

    assert refused(reply, fail_info)
    assert not world.issued.rows


@pytest.mark.parametrize(
    ("curve", "is_taken"), [(ec.SECP256R1(), True), (ec.SECP384R1(), True), (ec.SECP192R1(), False)]
)
async def test_a_renewal_may_change_to_a_strong_elliptic_key(
    curve: ec.EllipticCurve, is_taken: bool
) -> None:
    world = ScepWorld()
    old = await world.enrolled(udid="MAC")

    message = old.request(csr(ec.generate_private_key(curve)), kind=RENEWAL_REQ)
    reply = old.read(await world.server.operate(message))

    assert reply.is_success if is_taken else refused(reply, BAD_ALG)


async def test_the_name_of_the_ca_is_not_given_to_a_device() -> None:
    world = ScepWorld(static=STATIC)
    client = world.client()

    message = client.request(csr(client.key, STATIC, subject=world.ca.subject))

    assert refused(client.read(await world.server.operate(message)), BAD_REQUEST)


async def test_a_request_whose_signature_is_another_keys_is_refused() -> None:
    world = ScepWorld(static=STATIC)
    client = world.client()
    good = csr(client.key, STATIC)
    forged = good[:-1] + bytes([good[-1] ^ 1])

    reply = client.read(await world.server.operate(client.request(forged)))

    assert refused(reply, BAD_MESSAGE_CHECK)


@pytest.mark.parametrize("cipher", ["des", "aes128_cbc"])
async def test_who_enrolls_may_sign_with_a_key_made_for_the_moment(cipher: str) -> None:
    world = ScepWorld()
    challenge = await world.book.issue_once()
    signer, asked = world.client(0), key_number(1)

    message = signer.request(csr(asked, challenge), shape=Shape(cipher=cipher))
    reply = signer.read(await world.server.operate(message))

    assert reply.certificate is not None
    assert reply.certificate.public_key() == asked.public_key()


@pytest.mark.parametrize(("size", "exponent"), [(1024, 65537), (2048, 2**32 + 1)], ids=str)
async def test_a_signer_whose_answer_would_be_badly_encrypted_leaves_the_challenge_unused(
    size: int, exponent: int
) -> None:
    world = ScepWorld()
    challenge = await world.book.issue_once()
    asked = world.client()
    signer = Client(world.ca, odd_key(size, exponent))

    reply = signer.read(await world.server.operate(signer.request(csr(asked.key, challenge))))

    assert refused(reply, BAD_REQUEST)
    assert not world.challenges.used_by
    assert (await world.ask(asked, challenge)).is_success


async def test_a_key_with_an_odd_exponent_is_refused() -> None:
    world = ScepWorld(static=STATIC)

    message = world.client().request(csr(odd_key(2048, 2**32 + 1), STATIC))

    assert refused(world.client().read(await world.server.operate(message)), BAD_REQUEST)


async def test_a_captured_request_signed_anew_does_not_cost_its_sender_the_challenge() -> None:
    world = ScepWorld()
    client, thief = world.client(0), world.client(1)
    request = csr(client.key, await world.book.issue_once("UDID-1"))
    encrypted = envelope(request, world.ca)

    stolen = thief.read(await world.server.operate(thief.signed(encrypted, transaction="thief's")))
    reply = client.read(await world.server.operate(client.request(request, transaction="own")))
    world.clock.advance(2 * CHALLENGE_VALIDITY)
    again = client.read(await world.server.operate(client.request(request, transaction="own")))

    assert der_of(stolen) == der_of(reply) == der_of(again)
    assert reply.certificate is not None
    assert reply.certificate.public_key() == client.key.public_key()
    assert len(world.issued.rows) == 1


@pytest.mark.parametrize("takes_effect", [False, True])
async def test_a_captured_request_that_died_on_its_way_costs_its_sender_nothing(
    takes_effect: bool,
) -> None:
    world = ScepWorld(issued=DyingStore(takes_effect=takes_effect))
    client, thief = world.client(0), world.client(1)
    request = csr(client.key, await world.book.issue_once())
    with pytest.raises(StoreUnavailable):
        await world.server.operate(thief.request(request, transaction="thief's"))

    reply = client.read(await world.server.operate(client.request(request, transaction="own")))

    assert reply.is_success
    assert len(world.issued.rows) == 1


async def test_who_signed_for_the_moment_may_repeat_with_another_key_but_not_poll() -> None:
    world = ScepWorld()
    request = csr(key_number(2), await world.book.issue_once())
    signers = [world.client(0), world.client(1)]

    replies = [each.read(await world.server.operate(each.request(request))) for each in signers]
    polls = [
        each.read(await world.server.operate(each.request(b"", kind=CERT_POLL)))
        for each in (signers[0], world.client(2))
    ]

    assert len({der_of(reply) for reply in (*replies, polls[1])}) == 1
    assert refused(polls[0], BAD_CERT_ID)


async def test_attributes_in_another_order_than_der_demands_are_read() -> None:
    world = ScepWorld(static="one-for-all")
    client = world.client()

    message = client.request(b64decode(ATTRIBUTES_OUT_OF_ORDER))
    reply = client.read(await world.server.operate(message))

    assert reply.certificate is not None
    assert [a.value for a in reply.certificate.subject] == ["MacroMDM", "MacroMDM Identity (a Mac)"]


async def test_a_request_as_simulators_in_go_make_it_gets_a_certificate() -> None:
    world = ScepWorld(static="one-for-all")
    signer = world.client()
    encrypted = in_pieces(
        envelope(b64decode(ATTRIBUTES_OUT_OF_ORDER), world.ca, Shape(cipher="des"))
    )

    reply = signer.read(await world.server.operate(signer.signed(encrypted, digest="sha1")))

    assert reply.is_success


async def test_a_signature_counts_for_the_attributes_too() -> None:
    world = ScepWorld(static="one-for-ALL")
    client = world.client()
    forged = b64decode(ATTRIBUTES_OUT_OF_ORDER).replace(b"one-for-all", b"one-for-ALL")

    reply = client.read(await world.server.operate(client.request(forged)))

    assert refused(reply, BAD_MESSAGE_CHECK)


@pytest.mark.parametrize("mended", [lambda der: der + b"\x05\x00", lambda der: b"\x31" + der[1:]])
async def test_what_is_not_exactly_a_certificate_request_is_refused(
    mended: Callable[[bytes], bytes],
) -> None:
    world = ScepWorld(static=STATIC)
    client = world.client()

    message = client.request(mended(csr(client.key, STATIC)))
    reply = client.read(await world.server.operate(message))

    assert refused(reply, BAD_MESSAGE_CHECK)


async def test_another_signer_gets_no_certificate_without_the_challenge() -> None:
    world = ScepWorld(static=STATIC)

    message = world.client(0).request(csr(key_number(1), "a guess"))
    reply = world.client(0).read(await world.server.operate(message))

    assert refused(reply, BAD_REQUEST)
    assert not world.issued.rows


async def test_without_legacy_who_enrolls_signs_with_the_key_that_is_asked_for() -> None:
    world = ScepWorld(static=STATIC, allow_legacy=False)

    message = world.client(0).request(csr(key_number(1), STATIC))
    reply = world.client(0).read(await world.server.operate(message))

    assert refused(reply, BAD_MESSAGE_CHECK)
    assert not world.issued.rows


@pytest.mark.parametrize("kind", [GET_CERT, "22", "3", "0", "99", "xx"])
async def test_message_types_that_we_do_not_serve_are_bad_requests(kind: str) -> None:
    world = ScepWorld(static=STATIC)

    assert refused(await world.ask(world.client(), STATIC, kind=kind), BAD_REQUEST)


async def test_a_message_signed_by_another_key_is_a_bad_message_check() -> None:
    world = ScepWorld(static=STATIC)
    forger = Client(world.ca, key_number(1), world.client(0).certificate)

    assert refused(await world.ask(forger, STATIC), BAD_MESSAGE_CHECK)
    assert not world.issued.rows


@pytest.mark.parametrize(
    "shape",
    [Shape(cipher="des"), Shape(cipher="tripledes_3key"), Shape(digest="sha1")],
    ids=["des", "3des", "sha1"],
)
async def test_without_legacy_old_algorithms_are_bad_algorithms(shape: Shape) -> None:
    world = ScepWorld(static=STATIC, allow_legacy=False)

    assert refused(await world.ask(world.client(), STATIC, shape=shape), BAD_ALG)
    assert (await world.ask(world.client(), STATIC)).is_success


@pytest.mark.parametrize("allow_legacy", [True, False])
async def test_a_request_signed_with_sha1_by_openssl_is_taken_only_with_legacy(
    tmp_path: Path, allow_legacy: bool
) -> None:
    world = ScepWorld(static=STATIC, allow_legacy=allow_legacy)
    client = world.client()
    pem = client.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "csr.conf").write_text(
        "[req]\nprompt=no\ndistinguished_name=dn\nattributes=at\n[dn]\nCN=old\n"
        f"[at]\nchallengePassword={STATIC}\n"
    )
    command = "openssl req -new -sha1 -key key.pem -config csr.conf -outform DER"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=True)

    reply = client.read(await world.server.operate(client.request(done.stdout)))

    assert reply.is_success if allow_legacy else refused(reply, BAD_ALG)


async def test_what_is_no_message_is_no_answer() -> None:
    world = ScepWorld()

    with pytest.raises(BadRequest):
        await world.server.operate(b"\x30\x03\x02\x01\x01")


@pytest.mark.parametrize(
    ("allow_legacy", "words"),
    [
        (True, "Renewal SHA-1 SHA-256 AES DES3 SCEPStandard POSTPKIOperation"),
        (False, "Renewal SHA-256 AES SCEPStandard POSTPKIOperation"),
    ],
)
def test_capabilities_say_what_is_taken(allow_legacy: bool, words: str) -> None:
    world = ScepWorld(allow_legacy=allow_legacy)

    assert world.server.capabilities().split("\n") == [*words.split(), ""]


def test_the_ca_certificate_is_given_in_der() -> None:
    world = ScepWorld()

    assert x509.load_der_x509_certificate(world.server.ca_certificate()) == world.ca
