"""Device identities for simulators and tests: a CA of their own, and the signatures that devices send.

Promise: quick enough for fleets of thousands. RSA keys come from a small pool (certificates differ,
keys repeat), the CA signs with ECDSA, and a signature costs little more than its RSA operation.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Literal

from asn1crypto import algos, cms
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
Digest = Literal["sha1", "sha224", "sha256", "sha384", "sha512"]

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
FOR_EVER = datetime(2049, 1, 1, tzinfo=UTC)
POOL = 4
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_serials = count(1000)


@lru_cache(maxsize=POOL)
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    """One of a few RSA-2048 keys of this process; making one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class DeviceIdentity:
    """A certificate with its key; signs as a device does."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    _envelopes: dict[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, key_file: Path, certificate_file: Path) -> "DeviceIdentity":
        """From the files that `python -m services identity` writes."""
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        return cls(x509.load_pem_x509_certificate(certificate_file.read_bytes()), key)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER, or of the signed part where the CA's key is ECDSA (ANSI X9.62)."""
        is_ecdsa = self.certificate.signature_algorithm_oid.dotted_string.startswith(
            "1.2.840.10045"
        )
        signed = self.certificate.tbs_certificate_bytes
        return hashlib.sha256(signed if is_ecdsa else self.der).hexdigest()

    def sign(self, body: bytes, *, digest: Digest = "sha256", attributes: bool = False) -> str:
        """The value of Mdm-Signature for `body`."""
        return base64.b64encode(self.cms(body, digest=digest, attributes=attributes)).decode()

    def cms(self, body: bytes, *, digest: Digest = "sha256", attributes: bool = False) -> bytes:
        """The detached CMS (DER)."""
        if attributes or isinstance(self.key, ec.EllipticCurvePrivateKey):
            return envelope([signer_info(self, body, digest, attributes=attributes)], [self])
        # An RSA signature without attributes is all that differs between two messages, at the end.
        signature = raw_signature(self.key, body, digest)
        if digest not in self._envelopes:
            whole = envelope([signer_info(self, body, digest)], [self])
            assert whole.endswith(signature)
            self._envelopes[digest] = whole[: -len(signature)]
        return self._envelopes[digest] + signature


def raw_signature(key: PrivateKey, message: bytes, digest: str) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), _HASHES[digest])
    return key.sign(message, ec.ECDSA(_HASHES[digest]))


def signer_info(
    identity: DeviceIdentity, body: bytes, digest: str, *, attributes: bool = False
) -> cms.SignerInfo:
    """One signer of a CMS."""
    certificate = asn1_x509.Certificate.load(identity.der)
    name = "rsassa_pkcs1v15" if isinstance(identity.key, rsa.RSAPrivateKey) else f"{digest}_ecdsa"
    fields = {
        "version": "v1",
        "sid": cms.SignerIdentifier(
            {
                "issuer_and_serial_number": cms.IssuerAndSerialNumber(
                    {"issuer": certificate.issuer, "serial_number": certificate.serial_number}
                )
            }
        ),
        "digest_algorithm": algos.DigestAlgorithm({"algorithm": digest}),
        "signature_algorithm": algos.SignedDigestAlgorithm({"algorithm": name}),
    }
    signed = body
    if attributes:
        fields["signed_attrs"] = signed_attributes(hashlib.new(digest, body).digest())
        signed = fields["signed_attrs"].dump()
    fields["signature"] = raw_signature(identity.key, signed, digest)
    return cms.SignerInfo(fields)


def signed_attributes(
    digest: bytes, content_type: str = "data", *times: datetime
) -> cms.CMSAttributes:
    """What is signed of a message, each of `times` as a signingTime of its own."""
    moments = [cms.Time(name="utc_time", value=time) for time in times]
    return cms.CMSAttributes(
        [
            cms.CMSAttribute({"type": "content_type", "values": [content_type]}),
            cms.CMSAttribute({"type": "message_digest", "values": [digest]}),
            *(cms.CMSAttribute({"type": "signing_time", "values": [each]}) for each in moments),
        ]
    )


def envelope(
    signers: Sequence[cms.SignerInfo],
    certificates: Sequence[DeviceIdentity],
    *,
    content: bytes | None = None,
) -> bytes:
    """A CMS of these signers and certificates (DER); detached, unless there is content."""
    encapsulated: dict[str, str | bytes] = {"content_type": "data"}
    if content is not None:
        encapsulated["content"] = content
    signed_data = cms.SignedData(
        {
            "version": "v1",
            "digest_algorithms": [s["digest_algorithm"] for s in signers],
            "encap_content_info": encapsulated,
            "certificates": [asn1_x509.Certificate.load(c.der) for c in certificates],
            "signer_infos": list(signers),
        }
    )
    whole = cms.ContentInfo({"content_type": "signed_data", "content": signed_data})
    return bytes(whole.dump())


def indefinite(der: bytes) -> bytes:
    """A CMS with indefinite lengths in its outer three levels, as devices send it."""
    signed_data = cms.ContentInfo.load(der)["content"]
    inner = signed_data.untag().contents
    content_type = cms.ContentType("signed_data").dump()
    levels = b"\x30\x80" + content_type + b"\xa0\x80" + b"\x30\x80"
    return bytes(levels + inner + b"\x00\x00" * 3)


@dataclass(frozen=True)
class Profile:
    """What a certificate is to say; the defaults make an ordinary device's."""

    not_before: datetime = EPOCH
    not_after: datetime = FOR_EVER
    usage: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    is_authority: bool = False


DEVICE = Profile()
AUTHORITY = Profile(usage=None, is_authority=True)


class FleetAuthority:
    """A CA for tests; `pem` goes into MDM_DEVICE_CA."""

    def __init__(
        self,
        name: str = "Fleet CA",
        *,
        parent: "FleetAuthority | None" = None,
        profile: Profile = AUTHORITY,
    ) -> None:
        key = ec_key()
        signer = (key, _name(name)) if parent is None else (parent.identity.key, parent.subject)
        self.identity: DeviceIdentity = _issue(_name(name), key, signer, profile)

    @property
    def certificate(self) -> x509.Certificate:
        return self.identity.certificate

    @property
    def subject(self) -> x509.Name:
        return self.certificate.subject

    @property
    def pem(self) -> bytes:
        return self.identity.pem

    def issue(
        self, name: str = "", *, kind: Literal["rsa", "ec"] = "rsa", profile: Profile = DEVICE
    ) -> DeviceIdentity:
        """A device's identity; without a name its subject is empty, as that of many devices."""
        key = rsa_key(next(_serials) % POOL) if kind == "rsa" else ec_key()
        return self.certify(key, name, profile=profile)

    def certify(
        self, key: PrivateKey, name: str = "", *, profile: Profile = DEVICE
    ) -> DeviceIdentity:
        """An identity for a given key."""
        return _issue(_name(name), key, (self.identity.key, self.subject), profile)


def _name(common_name: str) -> x509.Name:
    if not common_name:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _issue(
    subject: x509.Name, key: PrivateKey, signer: tuple[PrivateKey, x509.Name], profile: Profile
) -> DeviceIdentity:
    signing_key, issuer = signer
    is_authority = profile.is_authority
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(profile.not_before)
        .not_valid_after(profile.not_after)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(
                True,
                False,
                not is_authority,
                False,
                False,
                is_authority,
                is_authority,
                False,
                False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), False
        )
    )
    if profile.usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(profile.usage), critical=False)
    return DeviceIdentity(builder.sign(signing_key, hashes.SHA256()), key)


def valid_for(duration: timedelta, *, start: datetime) -> Profile:
    """An ordinary device's certificate with a short life."""
    return Profile(not_before=start, not_after=start + duration)
