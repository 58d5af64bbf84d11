"""The envelope of SCEP: a CMS EnvelopedData for one RSA key (RFC 5652, section 6).

Promise: an envelope is opened or refused, and every refusal of one in a known algorithm is the same
one. RSA PKCS #1 v1.5 gives no sign of its own either: whatever is wrong with a wrapped key, content is
decrypted with some key (OpenSSL's implicit rejection, and a random key where the length is wrong).

Opened are AES-CBC and, for the SCEP clients of this world, 3DES and single DES; encrypted is AES-128.
"""

import secrets
from typing import Any, ClassVar, Protocol

from asn1crypto import cms, core, parser
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from shared.security.scep.der import elements
from shared.security.scep.words import ScepRefused
from shared.security.signature.lean_cms import is_bulky_envelope
from shared.telemetry.metrics import ScepRefusal

_AES = {"aes128_cbc": 16, "aes192_cbc": 24, "aes256_cbc": 32}
_LEGACY = {"des": 8, "tripledes_3key": 24}
_OAEP_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - OAEP's default, and sound in this place
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_CONTENT, _OCTET_STRING = (2, 0), (0, 4)
_PRIMITIVE = 0


class _EnvelopedData(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    """As asn1crypto's, with the encrypted content left unread: asn1crypto does not know it in pieces
    under a definite length, which is how SCEP clients in Go send it."""

    _fields: ClassVar = [
        ("version", cms.CMSVersion),
        ("originator_info", cms.OriginatorInfo, {"implicit": 0, "optional": True}),
        ("recipient_infos", cms.RecipientInfos),
        ("encrypted_content_info", core.Any),
        ("unprotected_attrs", cms.CMSAttributes, {"implicit": 1, "optional": True}),
    ]


class _Envelope(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    _fields: ClassVar = [
        ("content_type", cms.ContentType),
        ("content", _EnvelopedData, {"explicit": 0}),
    ]


class Recipient(Protocol):
    """The recipient of envelopes: our CA."""

    @property
    def certificate(self) -> x509.Certificate: ...

    def decrypt(self, wrapped: bytes, scheme: padding.AsymmetricPadding) -> bytes:
        """Raises ValueError where it was not encrypted for this key."""


def open_envelope(encoded: bytes, recipient: Recipient, *, allow_legacy: bool) -> bytes:
    """Decrypt the content for the recipient; raises ScepRefused, for all that is wrong inside alike."""
    try:
        return _open(encoded, recipient, allow_legacy=allow_legacy)
    except ScepRefused:
        raise
    except Exception:  # noqa: BLE001 - bytes from outside; what was wrong is nobody's business
        raise unopened() from None


def unopened() -> ScepRefused:
    """The one refusal of everything that is wrong from the wrapped key to the request inside."""
    return ScepRefused(ScepRefusal.MESSAGE, "the envelope holds no request signed by its sender")


def _open(encoded: bytes, recipient: Recipient, *, allow_legacy: bool) -> bytes:
    if is_bulky_envelope(encoded):
        raise unopened()
    info = _Envelope.load(encoded)
    if info["content_type"].native != "enveloped_data":
        raise unopened()
    enveloped = info["content"]
    _, algorithm_der, content = elements(
        parser.parse(enveloped["encrypted_content_info"].dump())[4]
    )
    algorithm = cms.EncryptionAlgorithm.load(algorithm_der)
    name = algorithm["algorithm"].native
    size = (_AES | _LEGACY if allow_legacy else _AES).get(name)
    if size is None:
        raise ScepRefused(ScepRefusal.ALGORITHM, "the encryption algorithm is not allowed")
    wrapped = _recipient_info(enveloped["recipient_infos"], recipient.certificate)
    scheme = _scheme(wrapped["key_encryption_algorithm"])
    key = _unwrap(recipient, wrapped["encrypted_key"].native, scheme, size)
    return _decrypt(name, key, algorithm.encryption_iv, _octets(content, _CONTENT))


def _octets(encoded: bytes, kind: tuple[int, int]) -> bytes:
    """An octet string (class and tag in `kind`), in one piece or in several; raises ValueError."""
    found_class, method, found_tag, _, content, _ = parser.parse(encoded, strict=True)
    if (found_class, found_tag) != kind:
        raise ValueError("not an octet string")
    if method == _PRIMITIVE:
        return bytes(content)
    return b"".join(_octets(piece, _OCTET_STRING) for piece in elements(content))


def _recipient_info(infos: Any, certificate: x509.Certificate) -> Any:
    """The wrapped key that is for us. The serial number is enough: encodings of a name differ."""
    key_identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    for info in infos:
        if info.name != "ktri":
            continue
        rid = info.chosen["rid"]
        if rid.name == "issuer_and_serial_number":
            if rid.chosen["serial_number"].native == certificate.serial_number:
                return info.chosen
        elif rid.chosen.native == key_identifier.value.digest:
            return info.chosen
    raise unopened()


def _scheme(algorithm: Any) -> padding.AsymmetricPadding:
    name = algorithm["algorithm"].native
    if name == "rsaes_pkcs1v15":
        return padding.PKCS1v15()
    if name != "rsaes_oaep":
        raise ScepRefused(ScepRefusal.ALGORITHM, "the key is wrapped in an unknown way")
    parameters = algorithm["parameters"]
    digest = parameters["hash_algorithm"]["algorithm"].native
    mask = parameters["mask_gen_algorithm"]["parameters"]["algorithm"].native
    if digest not in _OAEP_HASHES or mask not in _OAEP_HASHES:
        raise ScepRefused(ScepRefusal.ALGORITHM, "the key is wrapped in an unknown way")
    return padding.OAEP(padding.MGF1(_OAEP_HASHES[mask]), _OAEP_HASHES[digest], None)


def _unwrap(
    recipient: Recipient, wrapped: bytes, scheme: padding.AsymmetricPadding, size: int
) -> bytes:
    other = secrets.token_bytes(size)
    try:
        key = recipient.decrypt(wrapped, scheme)
    except ValueError:
        return other
    return key if len(key) == size else other


def _decrypt(name: str, key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    if name in _AES:
        algorithm: Any = algorithms.AES(key)
    else:
        # Single DES is 3DES with one key three times.
        algorithm = TripleDES(key * 3 if name == "des" else key)
    decryptor = Cipher(algorithm, modes.CBC(iv)).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    unpadder = PKCS7(algorithm.block_size).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


def encrypt_for(content: bytes, certificate: x509.Certificate) -> bytes:
    """An envelope in AES-128 (DER) that only the holder of this certificate's RSA key can open."""
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(content).add_recipient(certificate)
    builder = builder.set_content_encryption_algorithm(algorithms.AES128)
    return builder.encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])
