"""The envelope of SCEP: a CMS EnvelopedData for one RSA key (RFC 5652, section 6).

Promise: an envelope is opened or refused, and every refusal of one in a known algorithm is the same
one. RSA PKCS #1 v1.5 gives no sign of its own either: where a wrapped key is wrong in any way, content is
decrypted with some key (OpenSSL's implicit rejection, and a random key where the length is wrong).
Opened are AES-CBC and, for legacy clients, 3DES and single DES; encrypted is AES-128.
"""

import secrets
from contextlib import suppress
from typing import Any, ClassVar

from asn1crypto import cms, core
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from shared.security.asn1.ber import OCTET_STRING, Element, Kind, split
from shared.security.authority import Authority
from shared.security.certificates.public_keys import HASHES
from shared.security.scep.words import ScepRefused
from shared.security.signature.cms import is_bulky_envelope
from shared.telemetry.metrics import ScepRefusal

_AES = {"aes128_cbc": 16, "aes192_cbc": 24, "aes256_cbc": 32}
_LEGACY = {"des": 8, "tripledes_3key": 24}
_CONTENT = (2, 0)
_MOST_PIECES = 256
"""More than a client sends in a message of 32 KiB."""


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


def open_envelope(encoded: bytes, authority: Authority, *, allow_legacy: bool) -> bytes:
    """Decrypt content for our CA; raises ScepRefused, the same for all that is wrong inside."""
    try:
        return _open(encoded, authority, allow_legacy=allow_legacy)
    except ScepRefused:
        raise
    except Exception:  # noqa: BLE001 - bytes from outside; the cause stays secret
        raise unopened() from None


def unopened() -> ScepRefused:
    """The one refusal of everything that is wrong from the wrapped key to the request inside."""
    return ScepRefused(ScepRefusal.MESSAGE, "the envelope holds no request signed by its sender")


def _open(encoded: bytes, authority: Authority, *, allow_legacy: bool) -> bytes:
    if is_bulky_envelope(encoded):
        raise unopened()
    info = _Envelope.load(encoded)
    if info["content_type"].native != "enveloped_data":
        raise unopened()
    enveloped = info["content"]
    [content_info] = split(enveloped["encrypted_content_info"].dump(), 1)
    _, algorithm_der, content = split(content_info.content, 3)
    algorithm = cms.EncryptionAlgorithm.load(algorithm_der.raw)
    name = algorithm["algorithm"].native
    size = (_AES | _LEGACY if allow_legacy else _AES).get(name)
    if size is None:
        raise ScepRefused(ScepRefusal.ALGORITHM, "the encryption algorithm is not allowed")
    wrapped = _recipient_info(enveloped["recipient_infos"], authority.certificate)
    scheme = _scheme(wrapped["key_encryption_algorithm"])
    key = other = secrets.token_bytes(size)
    with suppress(ValueError):
        key = authority.decrypt(wrapped["encrypted_key"].native, scheme)
    key = key if len(key) == size else other
    return _decrypt(name, key, algorithm.encryption_iv, _octets(content, _CONTENT))


def _octets(element: Element, kind: Kind) -> bytes:
    """An octet string, in one piece or in several; raises ValueError."""
    if element.kind != kind:
        raise ValueError("not an octet string")
    if not element.is_constructed:
        return element.content
    pieces = split(element.content, _MOST_PIECES)
    return b"".join(_octets(piece, OCTET_STRING) for piece in pieces)


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
    if digest not in HASHES or mask not in HASHES:
        raise ScepRefused(ScepRefusal.ALGORITHM, "the key is wrapped in an unknown way")
    return padding.OAEP(padding.MGF1(HASHES[mask]), HASHES[digest], None)


def _decrypt(name: str, key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    # Single DES is 3DES with one key three times.
    legacy_key = key * 3 if name == "des" else key
    algorithm: Any = algorithms.AES(key) if name in _AES else TripleDES(legacy_key)
    decryptor = Cipher(algorithm, modes.CBC(iv)).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    unpadder = PKCS7(algorithm.block_size).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


def encrypt_for(content: bytes, certificate: x509.Certificate) -> bytes:
    """An envelope in AES-128 (DER) that only the holder of this certificate's RSA key can open."""
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(content).add_recipient(certificate)
    builder = builder.set_content_encryption_algorithm(algorithms.AES128)
    return builder.encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])
