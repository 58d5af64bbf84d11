"""A SCEP client for tests: requests in every algorithm and encoding, and answers taken apart.

Promise: it shares no code with our server, and openssl verifies what it signs, so that a refusal in a
test is for the reason that the test names.
"""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from asn1crypto import algos, cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.x509.oid import AttributeOID, NameOID

from tests.support.harness.identities import EPOCH, FOR_EVER

SCEP = "2.16.840.1.113733.1.9."
TYPE, STATUS, FAIL, SENDER, RECIPIENT, TRANSACTION = (f"{SCEP}{number}" for number in range(2, 8))
PKCS_REQ, RENEWAL_REQ, CERT_POLL, GET_CERT = "19", "17", "20", "21"
CIPHERS = {
    "des": 8,
    "tripledes_3key": 24,
    "aes128_cbc": 16,
    "aes192_cbc": 24,
    "aes256_cbc": 32,
}
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "md5": hashes.MD5(),
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


@cache
def key_number(number: int, size: int = 2048) -> rsa.RSAPrivateKey:
    """A key that is the same for all tests of the process, as making one takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


@cache
def odd_key(size: int, exponent: int) -> rsa.RSAPrivateKey:
    """A key with an exponent that nobody uses; openssl makes it."""
    option = f"rsa_keygen_pubexp:{exponent}"
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{size}"]
    done = subprocess.run([*command, "-pkeyopt", option], capture_output=True, check=True)
    key = serialization.load_pem_private_key(done.stdout, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def subject_of(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def csr(
    key: Any,
    challenge: str | None = "",
    *,
    subject: x509.Name | None = None,
) -> bytes:
    """A certificate request in DER; `challenge` None: without the attribute."""
    name = subject_of("device") if subject is None else subject
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if challenge is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def self_signed(key: Any, subject: x509.Name | None = None) -> x509.Certificate:
    name = subject or subject_of("SCEP SIGNER")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(EPOCH)
        .not_valid_after(FOR_EVER)
        .sign(key, hashes.SHA256())
    )


@dataclass(frozen=True)
class Shape:
    """How a message is made, not what it says."""

    cipher: str = "aes128_cbc"
    digest: str = "sha256"
    wrap: str = "rsaes_pkcs1v15"
    is_indefinite: bool = False


@dataclass
class Client:
    """One key with its certificate, talking to one CA."""

    ca: x509.Certificate
    key: Any = field(repr=False, default_factory=lambda: key_number(0))
    certificate: x509.Certificate | None = None
    nonce: bytes = field(default_factory=lambda: os.urandom(16))

    def __post_init__(self) -> None:
        if self.certificate is None:
            self.certificate = self_signed(self.key)

    def request(
        self,
        content: bytes,
        *,
        kind: str = PKCS_REQ,
        transaction: str = "transaction",
        shape: Shape | None = None,
    ) -> bytes:
        """A whole message around a certificate request (or whatever else)."""
        shape = shape or Shape()
        enveloped = envelope(content, self.ca, shape)
        message = self.signed(enveloped, kind=kind, transaction=transaction, digest=shape.digest)
        return indefinite(message) if shape.is_indefinite else message

    def signed(
        self,
        enveloped: bytes,
        *,
        kind: str = PKCS_REQ,
        transaction: str = "transaction",
        digest: str = "sha256",
        without: str = "",
    ) -> bytes:
        """The signed outside around an envelope."""
        said: dict[str, Any] = {
            TYPE: core.PrintableString(kind),
            TRANSACTION: core.PrintableString(transaction),
            SENDER: core.OctetString(self.nonce),
        }
        said.pop(without, None)
        attributes = cms.CMSAttributes(
            [
                cms.CMSAttribute({"type": "content_type", "values": ["data"]}),
                cms.CMSAttribute(
                    {"type": "message_digest", "values": [hashlib.new(digest, enveloped).digest()]}
                ),
                *(cms.CMSAttribute({"type": k, "values": [v]}) for k, v in said.items()),
            ]
        )
        assert self.certificate is not None
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        is_rsa = isinstance(self.key, rsa.RSAPrivateKey)
        signer = cms.SignerInfo(
            {
                "version": "v1",
                "sid": _named(self.certificate),
                "digest_algorithm": {"algorithm": digest},
                "signed_attrs": attributes,
                "signature_algorithm": {
                    "algorithm": "rsassa_pkcs1v15" if is_rsa else f"{digest}_ecdsa"
                },
                "signature": _signature(self.key, attributes.dump(), _HASHES[digest]),
            }
        )
        signed = cms.SignedData(
            {
                "version": "v1",
                "digest_algorithms": [{"algorithm": digest}],
                "encap_content_info": {"content_type": "data", "content": enveloped},
                "certificates": [
                    cms.CertificateChoices(
                        name="certificate", value=asn1_x509.Certificate.load(der)
                    )
                ],
                "signer_infos": [signer],
            }
        )
        return bytes(cms.ContentInfo({"content_type": "signed_data", "content": signed}).dump())

    def read(self, answer: bytes) -> "Reply":
        """Check the answer's signature under the CA, and open it if it is a success."""
        return read_reply(answer, self)


def _signature(key: Any, message: bytes, hash_: hashes.HashAlgorithm) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(hash_))
    return bytes(key.sign(message, padding.PKCS1v15(), hash_))


def _named(certificate: x509.Certificate) -> Any:
    der = certificate.public_bytes(serialization.Encoding.DER)
    found = asn1_x509.Certificate.load(der)
    name = {"issuer": found.issuer, "serial_number": found.serial_number}
    return cms.SignerIdentifier(
        name="issuer_and_serial_number", value=cms.IssuerAndSerialNumber(name)
    )


def encrypted(content: bytes, cipher: str, key: bytes, iv: bytes) -> bytes:
    """CBC with PKCS #7 padding; single DES is 3DES with one key three times."""
    if cipher.startswith("aes"):
        algorithm: Any = algorithms.AES(key)
    else:
        algorithm = TripleDES(key * 3 if cipher == "des" else key)
    padder = PKCS7(algorithm.block_size).padder()
    encryptor = Cipher(algorithm, modes.CBC(iv)).encryptor()
    padded = padder.update(content) + padder.finalize()
    return encryptor.update(padded) + encryptor.finalize()


def envelope(content: bytes, to: x509.Certificate, shape: Shape | None = None) -> bytes:
    """An EnvelopedData in DER."""
    shape = shape or Shape()
    key = os.urandom(CIPHERS[shape.cipher])
    iv = os.urandom(16 if shape.cipher.startswith("aes") else 8)
    public_key = to.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    wrap: dict[str, Any] = {"algorithm": "rsaes_pkcs1v15"}
    if shape.wrap == "rsaes_oaep":
        scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        wrap = {"algorithm": "rsaes_oaep", "parameters": algos.RSAESOAEPParams.load(b"\x30\x00")}
    return encrypted_with(
        encrypted(content, shape.cipher, key, iv),
        public_key.encrypt(key, scheme),
        to,
        cipher=shape.cipher,
        iv=iv,
        wrap=wrap,
    )


def encrypted_with(
    ciphertext: bytes,
    wrapped: bytes,
    to: x509.Certificate,
    *,
    cipher: str = "aes128_cbc",
    iv: bytes = bytes(16),
    wrap: Mapping[str, Any] | None = None,
) -> bytes:
    """An EnvelopedData with any bytes as ciphertext and as wrapped key."""
    sid = _named(to)
    info = cms.KeyTransRecipientInfo(
        {
            "version": "v0",
            "rid": cms.RecipientIdentifier(name=sid.name, value=sid.chosen.copy()),
            "key_encryption_algorithm": dict(wrap or {"algorithm": "rsaes_pkcs1v15"}),
            "encrypted_key": wrapped,
        }
    )
    enveloped = cms.EnvelopedData(
        {
            "version": "v0",
            "recipient_infos": [cms.RecipientInfo(name="ktri", value=info)],
            "encrypted_content_info": {
                "content_type": "data",
                "content_encryption_algorithm": algos.EncryptionAlgorithm(
                    {"algorithm": cipher, "parameters": core.OctetString(iv)}
                ),
                "encrypted_content": ciphertext,
            },
        }
    )
    return bytes(cms.ContentInfo({"content_type": "enveloped_data", "content": enveloped}).dump())


def in_pieces(envelope: bytes) -> bytes:
    """The same envelope with its content in two pieces under a definite length, as Go's clients send
    it."""
    enveloped = cms.ContentInfo.load(envelope)["content"]
    inner = enveloped["encrypted_content_info"]
    ciphertext = inner["encrypted_content"].native
    pieces = _octets(ciphertext[:8]) + _octets(ciphertext[8:])
    content = inner["content_type"].dump() + inner["content_encryption_algorithm"].dump()
    parts = (
        enveloped["version"].dump()
        + enveloped["recipient_infos"].dump()
        + _element(0x30, content + _element(0xA0, pieces))
    )
    named = cms.ContentType("enveloped_data").dump()
    return _element(0x30, named + _element(0xA0, _element(0x30, parts)))


@dataclass(frozen=True)
class Reply:
    """A CertRep."""

    status: str
    transaction: str
    sender_nonce: bytes
    recipient_nonce: bytes
    fail_info: str | None = None
    certificate: x509.Certificate | None = None

    @property
    def is_success(self) -> bool:
        return self.status == "0"


def read_reply(answer: bytes, client: Client) -> Reply:
    signed = cms.ContentInfo.load(answer, strict=True)["content"]
    [signer] = signed["signer_infos"]
    assert signer["digest_algorithm"]["algorithm"].native == "sha256"
    attributes = signer["signed_attrs"]
    public_key = client.ca.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    public_key.verify(
        signer["signature"].native,
        attributes.untag().dump(force=True),
        padding.PKCS1v15(),
        hashes.SHA256(),
    )
    values = {each["type"].dotted: each["values"][0] for each in attributes}
    content = signed["encap_content_info"]["content"].native or b""
    assert values["1.2.840.113549.1.9.4"].native == hashlib.sha256(content).digest()
    assert values[TYPE].native == "3"
    return Reply(
        status=values[STATUS].native,
        transaction=values[TRANSACTION].native,
        sender_nonce=values[SENDER].native,
        recipient_nonce=values[RECIPIENT].native,
        fail_info=values[FAIL].native if FAIL in values else None,
        certificate=_opened(content, client) if content else None,
    )


def _opened(content: bytes, client: Client) -> x509.Certificate:
    enveloped = cms.ContentInfo.load(content, strict=True)["content"]
    inner = enveloped["encrypted_content_info"]
    [info] = enveloped["recipient_infos"]
    key = client.key.decrypt(info.chosen["encrypted_key"].native, padding.PKCS1v15())
    algorithm = inner["content_encryption_algorithm"]
    assert algorithm["algorithm"].native == "aes128_cbc"
    decryptor = Cipher(algorithms.AES(key), modes.CBC(algorithm.encryption_iv)).decryptor()
    padded = decryptor.update(inner["encrypted_content"].native) + decryptor.finalize()
    unpadder = PKCS7(128).unpadder()
    signed = cms.ContentInfo.load(unpadder.update(padded) + unpadder.finalize())["content"]
    [certificate] = signed["certificates"]
    return x509.load_der_x509_certificate(certificate.chosen.dump())


def indefinite(der: bytes) -> bytes:
    """The same value in BER: every constructed length indefinite, octet strings in two pieces, but for
    certificates and signed attributes, which nobody re-encodes."""
    encoded, _ = _indefinite(der, 0, depth=0)
    return encoded


def _indefinite(der: bytes, start: int, depth: int) -> tuple[bytes, int]:
    head, length = _head(der, start)
    body, end = der[head : head + length], head + length
    tag = der[start]
    if tag == 0x04 and depth < 6 and length > 1000:  # the encapsulated content
        pieces = _octets(body[:500]) + _octets(body[500:])
        return b"\x24\x80" + pieces + b"\x00\x00", end
    if not tag & 0x20 or depth > 4 or (tag, depth) == (0xA0, 3):  # 0xA0: the certificates
        return der[start:end], end
    parts, at = b"", 0
    while at < len(body):
        part, at = _indefinite(body, at, depth + 1)
        parts += part
    return bytes([tag]) + b"\x80" + parts + b"\x00\x00", end


def _octets(content: bytes) -> bytes:
    return _element(0x04, content)


def _element(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content


def _head(der: bytes, start: int) -> tuple[int, int]:
    """Where the content of the element begins, and its length."""
    first = der[start + 1]
    if first < 0x80:
        return start + 2, first
    size = first & 0x7F
    return start + 2 + size, int.from_bytes(der[start + 2 : start + 2 + size], "big")
