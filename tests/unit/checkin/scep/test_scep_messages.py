"""SCEP messages as bytes. openssl is the oracle: we take what it encrypts, it takes what we sign."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto import cms, core
from asn1crypto import csr as pkcs10
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import BadRequest
from shared.security.asn1 import ber, der
from shared.security.scep.envelope import encrypt_for, open_envelope, unopened
from shared.security.scep.message import read_pki_message, signer_certificate
from shared.security.scep.request import read_certificate_request
from shared.security.scep.words import FailInfo, ScepRefused
from tests.support.harness.scep import (
    CIPHERS,
    SENDER,
    TRANSACTION,
    TYPE,
    Client,
    Shape,
    csr,
    encrypted_with,
    envelope,
    in_pieces,
    indefinite,
    key_number,
)
from tests.support.scep_world import ScepWorld

DATA, ENVELOPED = "1.2.840.113549.1.7.1", der.oid("1.2.840.113549.1.7.3")
OPENSSL_CIPHERS = {
    "des": "-des",
    "tripledes_3key": "-des3",
    "aes128_cbc": "-aes128",
    "aes192_cbc": "-aes192",
    "aes256_cbc": "-aes256",
}
# Single DES is in openssl's legacy provider.
PROVIDERS = ("-provider", "legacy", "-provider", "default")


def openssl(folder: Path, *arguments: str) -> bytes:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def world(tmp_path: Path) -> ScepWorld:
    world = ScepWorld()
    (tmp_path / "ca.pem").write_bytes(world.authority.certificate_pem)
    return world


def key_pem(client: Client) -> bytes:
    return bytes(
        client.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


@pytest.mark.parametrize("form", [(), ("-stream", "-indef")], ids=["der", "indefinite"])
@pytest.mark.parametrize("wrap", [(), ("-keyopt", "rsa_padding_mode:oaep")], ids=["v15", "oaep"])
@pytest.mark.parametrize("name", [(), ("-keyid",)], ids=["serial", "keyid"])
@pytest.mark.parametrize("cipher", OPENSSL_CIPHERS)
def test_what_openssl_encrypts_is_opened(
    tmp_path: Path,
    world: ScepWorld,
    cipher: str,
    name: tuple[str, ...],
    wrap: tuple[str, ...],
    form: tuple[str, ...],
) -> None:
    content = bytes(range(256)) * 9
    (tmp_path / "content").write_bytes(content)
    arguments = ("-in", "content", "-outform", "DER", *form, "-recip", "ca.pem", *wrap)
    encrypted = openssl(
        tmp_path,
        *("cms", "-encrypt", "-binary", *PROVIDERS, OPENSSL_CIPHERS[cipher], *name, *arguments),
    )

    assert open_envelope(encrypted, world.authority, allow_legacy=True) == content


@pytest.mark.parametrize("cipher", CIPHERS)
def test_content_in_pieces_under_a_definite_length_is_opened(
    tmp_path: Path, world: ScepWorld, cipher: str
) -> None:
    content = bytes(range(200))
    encrypted = in_pieces(envelope(content, world.ca, Shape(cipher=cipher)))
    (tmp_path / "encrypted").write_bytes(encrypted)

    assert open_envelope(encrypted, world.authority, allow_legacy=True) == content
    printed = openssl(tmp_path, "cms", "-cmsout", "-print", "-inform", "DER", "-in", "encrypted")
    assert b"encryptedContent" in printed  # openssl can read it too


def test_openssl_opens_what_we_keyring(tmp_path: Path, world: ScepWorld) -> None:
    client = world.client()
    assert client.certificate is not None
    (tmp_path / "key.pem").write_bytes(key_pem(client))
    (tmp_path / "client.pem").write_bytes(client.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "encrypted").write_bytes(encrypt_for(b"a certificate", client.certificate))

    opened = openssl(
        tmp_path,
        *("cms", "-decrypt", "-inform", "DER", "-in", "encrypted"),
        *("-inkey", "key.pem", "-recip", "client.pem"),
    )

    assert opened == b"a certificate"
    structure = openssl(
        tmp_path, "cms", "-cmsout", "-print", "-inform", "DER", "-in", "encrypted"
    ).decode()
    assert "aes-128-cbc" in structure


async def test_openssl_verifies_our_answers_and_finds_the_certificate(
    tmp_path: Path, world: ScepWorld
) -> None:
    client = world.client()
    assert client.certificate is not None
    challenge = await world.book.issue_once()
    answer = await world.server.operate(client.request(csr(client.key, challenge)))
    (tmp_path / "answer").write_bytes(answer)
    (tmp_path / "key.pem").write_bytes(key_pem(client))
    (tmp_path / "client.pem").write_bytes(client.certificate.public_bytes(Encoding.PEM))

    openssl(
        tmp_path,
        *("cms", "-verify", "-binary", "-inform", "DER", "-in", "answer", "-out", "encrypted"),
        *("-CAfile", "ca.pem", "-purpose", "any"),
    )
    openssl(
        tmp_path,
        *("cms", "-decrypt", "-inform", "DER", "-in", "encrypted", "-out", "degenerate"),
        *("-inkey", "key.pem", "-recip", "client.pem", "-binary"),
    )
    pem = openssl(
        tmp_path, "pkcs7", "-inform", "DER", "-in", "degenerate", "-print_certs", "-out", "got.pem"
    )
    openssl(tmp_path, "verify", "-CAfile", "ca.pem", "-purpose", "sslclient", "got.pem")
    text = openssl(tmp_path, "x509", "-in", "got.pem", "-noout", "-text").decode()

    assert pem == b""
    assert "TLS Web Client Authentication" in text
    assert "CA:FALSE" in text
    assert "sha256WithRSAEncryption" in text


async def test_openssl_verifies_our_refusals(tmp_path: Path, world: ScepWorld) -> None:
    client = world.client()
    answer = await world.server.operate(client.request(csr(client.key, "wrong")))
    (tmp_path / "answer").write_bytes(answer)
    (tmp_path / "nothing").write_bytes(b"")

    openssl(
        tmp_path,
        *("cms", "-verify", "-binary", "-inform", "DER", "-in", "answer", "-content", "nothing"),
        *("-CAfile", "ca.pem", "-purpose", "any"),
    )


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("is_indefinite", [False, True])
def test_openssl_verifies_what_the_test_client_signs(
    tmp_path: Path, world: ScepWorld, digest: str, is_indefinite: bool
) -> None:
    client = world.client()
    shape = Shape(digest=digest, is_indefinite=is_indefinite)
    (tmp_path / "message").write_bytes(client.request(csr(client.key, "x"), shape=shape))

    openssl(
        tmp_path,
        *("cms", "-verify", "-noverify", "-binary", "-inform", "DER", "-in", "message"),
        *("-out", "content"),
    )

    assert (
        read_pki_message((tmp_path / "message").read_bytes()).content
        == (tmp_path / "content").read_bytes()
    )


def test_a_message_is_read_with_all_that_its_answer_repeats(world: ScepWorld) -> None:
    client = world.client()

    message = read_pki_message(client.request(b"anything", kind="17", transaction="T-1+/="))

    assert (message.kind, message.transaction_id) == ("17", "T-1+/=")
    assert message.sender_nonce == client.nonce
    assert client.certificate is not None
    signer = client.certificate.public_bytes(Encoding.DER)
    assert signer_certificate(message, allow_legacy=True) == signer


@pytest.mark.parametrize("missing", [TYPE, TRANSACTION, SENDER])
def test_a_message_without_what_an_answer_repeats_is_none(world: ScepWorld, missing: str) -> None:
    message = world.client().signed(b"content", without=missing)

    with pytest.raises(BadRequest):
        read_pki_message(message)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x30\x00",
        b"x" * 100,
        b"\x30" * 5000,
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x82" + bytes(40_000),
    ],
    ids=lambda each: each[:6].hex(),
)
def test_what_is_no_message_is_refused(encoded: bytes) -> None:
    with pytest.raises(BadRequest):
        read_pki_message(encoded)


@pytest.mark.parametrize("length", [0, 256])
def test_a_transaction_id_has_a_bounded_length(world: ScepWorld, length: int) -> None:
    with pytest.raises(BadRequest):
        read_pki_message(world.client().request(b"anything", transaction="t" * length))


def test_a_message_signed_by_another_key_is_refused(world: ScepWorld) -> None:
    stranger = Client(world.ca, key_number(1), world.client().certificate)
    message = read_pki_message(stranger.request(b"anything"))

    with pytest.raises(ScepRefused) as refused:
        signer_certificate(message, allow_legacy=True)

    assert refused.value.fail_info is FailInfo.BAD_MESSAGE_CHECK


def test_content_changed_after_signing_is_refused(world: ScepWorld) -> None:
    encoded = world.client().request(csr(key_number(0), "x"))
    content = read_pki_message(encoded).content
    at = encoded.index(content) + len(content) - 1
    changed = encoded[:at] + bytes([encoded[at] ^ 1]) + encoded[at + 1 :]

    with pytest.raises(ScepRefused) as refused:
        signer_certificate(read_pki_message(changed), allow_legacy=True)

    assert refused.value.fail_info is FailInfo.BAD_MESSAGE_CHECK


@pytest.mark.parametrize(("digest", "allow_legacy"), [("md5", True), ("sha1", False)])
def test_a_digest_that_is_not_allowed_is_a_bad_algorithm(
    world: ScepWorld, digest: str, allow_legacy: bool
) -> None:
    message = read_pki_message(world.client().request(b"anything", shape=Shape(digest=digest)))

    with pytest.raises(ScepRefused) as refused:
        signer_certificate(message, allow_legacy=allow_legacy)

    assert refused.value.fail_info is FailInfo.BAD_ALG


@pytest.mark.parametrize("cipher", ["des", "tripledes_3key"])
def test_without_legacy_des_is_a_bad_algorithm(world: ScepWorld, cipher: str) -> None:
    encrypted = envelope(b"content", world.ca, Shape(cipher=cipher))

    with pytest.raises(ScepRefused) as refused:
        open_envelope(encrypted, world.authority, allow_legacy=False)

    assert refused.value.fail_info is FailInfo.BAD_ALG


@pytest.mark.parametrize("cipher", [name for name in CIPHERS if name.startswith("aes")])
def test_without_legacy_aes_is_opened(world: ScepWorld, cipher: str) -> None:
    encrypted = envelope(b"content", world.ca, Shape(cipher=cipher))

    assert open_envelope(encrypted, world.authority, allow_legacy=False) == b"content"


def meddled_envelopes(world: ScepWorld) -> dict[str, bytes]:
    """Messages of a client who hopes to learn from our refusals."""
    public_key = key_number(0).public_key()
    ours = world.ca.public_key()
    assert isinstance(ours, rsa.RSAPublicKey)
    good_key = ours.encrypt(bytes(16), padding.PKCS1v15())
    short_key = ours.encrypt(bytes(5), padding.PKCS1v15())
    another = public_key.encrypt(bytes(16), padding.PKCS1v15())
    return {
        "padding of the content": encrypted_with(bytes(32), good_key, world.ca),
        "a block that is not whole": encrypted_with(bytes(31), good_key, world.ca),
        "no content": encrypted_with(b"", good_key, world.ca),
        "padding of the key": encrypted_with(bytes(32), bytes(255) + b"\x02", world.ca),
        "a key out of range": encrypted_with(bytes(32), b"\xff" * 256, world.ca),
        "a key of another length": encrypted_with(bytes(32), short_key, world.ca),
        "a key for another client": encrypted_with(bytes(32), another, world.ca),
        "a short wrapped key": encrypted_with(bytes(32), b"\x01" * 12, world.ca),
        "an odd vector": encrypted_with(bytes(32), good_key, world.ca, iv=bytes(7)),
        "for another CA": envelope(b"content", world.client().certificate or world.ca),
        "no envelope": b"\x30\x03\x02\x01\x01",
        "nothing": b"",
        "no request inside": envelope(b"not a certificate request", world.ca),
    }


async def test_all_that_is_wrong_inside_is_one_and_the_same_answer(world: ScepWorld) -> None:
    client = world.client()
    answers = {}
    for name, encrypted in meddled_envelopes(world).items():
        reply = client.read(await world.server.operate(client.signed(encrypted)))
        answers[name] = (reply.status, reply.fail_info, reply.certificate)

    assert set(answers.values()) == {("2", "1", None)}, answers


def bulky_envelopes(world: ScepWorld) -> dict[str, bytes]:
    """Envelopes with as much in them as a message may have, beside what is encrypted."""
    good = cms.ContentInfo.load(envelope(b"content", world.ca))["content"]
    version, infos = good["version"].dump(), good["recipient_infos"].dump()
    content = good["encrypted_content_info"]
    algorithm = content["content_encryption_algorithm"].dump()
    endless, data = der.element(der.OBJECT, b"\xff" * 28_000 + b"\x01"), der.oid(DATA)
    recipient = der.sequence(
        der.integer(0), der.element(0x80), der.sequence(), der.octet_string(b"")
    )

    def enveloped(*parts: bytes, name: bytes = ENVELOPED) -> bytes:
        return der.sequence(name, der.element(der.CONTEXT_0, der.sequence(*parts)))

    def with_content(*parts: bytes) -> bytes:
        return enveloped(version, infos, der.sequence(data, *parts))

    return {
        "its type": enveloped(version, infos, content.dump(), name=endless),
        "an algorithm": with_content(der.sequence(endless), der.element(0x80, bytes(16))),
        "recipients": enveloped(version, der.element(der.SET, recipient * 2_000), content.dump()),
        "pieces": with_content(
            algorithm, der.element(der.CONTEXT_0, der.octet_string(b"") * 13_000)
        ),
        "parts": with_content(algorithm, der.NULL * 13_000),
    }


async def test_an_envelope_that_says_too_much_is_refused_at_once(world: ScepWorld) -> None:
    for name, encoded in bulky_envelopes(world).items():
        began = time.process_time()
        with pytest.raises(ScepRefused) as refused:
            open_envelope(encoded, world.authority, allow_legacy=True)

        assert time.process_time() - began < 0.02, name  # up to 0.15 s, when it is read
        assert str(refused.value) == str(unopened())


async def test_a_request_that_says_too_much_is_refused_at_once(world: ScepWorld) -> None:
    attribute = der.sequence(der.element(der.OBJECT, b"\xff" * 28_000 + b"\x01"), der.set_of())
    encoded = with_attributes(key_number(0), attribute)
    began = time.process_time()
    with pytest.raises(ScepRefused) as refused:
        read_certificate_request(encoded, signed_by=None, allow_legacy=True)

    assert time.process_time() - began < 0.02
    assert str(refused.value) == str(unopened())


def pieced_and_endless(encrypted: bytes) -> bytes:
    """As openssl streams it: each container of the content has an indefinite length."""
    enveloped = cms.ContentInfo.load(encrypted)["content"]
    content = enveloped["encrypted_content_info"]
    octets = content["encrypted_content"].native
    pieces = [der.octet_string(octets[at : at + 1000]) for at in range(0, len(octets), 1000)]
    names = content["content_type"].dump(), content["content_encryption_algorithm"].dump()
    parts = enveloped["version"].dump(), enveloped["recipient_infos"].dump()
    inner = endless(0x30, *names, endless(der.CONTEXT_0, *pieces))
    return endless(0x30, ENVELOPED, endless(der.CONTEXT_0, endless(0x30, *parts, inner)))


def endless(tag: int, *contents: bytes) -> bytes:
    return bytes((tag, 0x80)) + b"".join(contents) + bytes(2)


@pytest.mark.parametrize("form", [lambda encrypted: encrypted, in_pieces, pieced_and_endless])
async def test_a_request_as_large_as_that_for_the_largest_key_is_read(
    world: ScepWorld, form: Callable[[bytes], bytes]
) -> None:
    attribute = der.sequence(der.oid("1.2.3.4"), der.set_of(der.octet_string(bytes(6_000))))
    encoded = with_attributes(key_number(0), attribute)
    encrypted = envelope(encoded, world.ca)

    opened = open_envelope(form(encrypted), world.authority, allow_legacy=True)

    assert opened == encoded
    assert read_certificate_request(opened, signed_by=None, allow_legacy=True).challenge == ""


def with_attributes(key: rsa.RSAPrivateKey, *attributes: bytes) -> bytes:
    """A certificate request with anything for attributes."""
    bare = pkcs10.CertificationRequest.load(csr(key, None))["certification_request_info"]
    parts = [bare[name].dump() for name in ("version", "subject", "subject_pk_info")]
    info = der.sequence(*parts, der.element(der.CONTEXT_0, *attributes))
    signature = key.sign(info, padding.PKCS1v15(), hashes.SHA256())
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
    return der.sequence(info, algorithm, der.element(0x03, bytes(1), signature))


def test_the_indefinite_form_is_indefinite(world: ScepWorld) -> None:
    encoded = indefinite(world.client().request(csr(key_number(0), "x")))

    assert encoded[:2] == b"\x30\x80"
    assert b"\x24\x80\x04" in encoded


@given(number=st.integers(0, 2**200))
def test_integers_are_written_as_asn1crypto_writes_them(number: int) -> None:
    assert der.integer(number) == core.Integer(number).dump()


@given(content=st.binary(max_size=300), repeated=st.integers(0, 300))
def test_octet_strings_of_any_length_are_written_as_asn1crypto_writes_them(
    content: bytes, repeated: int
) -> None:
    whole = content * repeated

    assert der.octet_string(whole) == core.OctetString(whole).dump()


@given(
    first=st.integers(0, 2),
    second=st.integers(0, 39),
    others=st.lists(st.integers(0, 2**40), min_size=1, max_size=8),
)
def test_object_identifiers_are_written_as_asn1crypto_writes_them_and_read_back(
    first: int, second: int, others: list[int]
) -> None:
    dotted = ".".join(map(str, (first, second, *others)))

    oid = der.oid(dotted)

    assert oid == core.ObjectIdentifier(dotted).dump()
    assert ber.dotted(ber.oid_of(ber.only(oid, ber.OBJECT))) == dotted


@given(values=st.lists(st.binary(max_size=20), max_size=6))
def test_sets_are_in_the_order_of_der(values: list[bytes]) -> None:
    written = der.set_of(*(der.octet_string(value) for value in values))

    octet_set = core.SetOf([core.OctetString(v) for v in values], spec=core.OctetString)
    assert written == octet_set.dump()
