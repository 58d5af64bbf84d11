"""Public keys of strangers: which ones we compute with, and how a signature is checked with one.

Promise: no arithmetic with a key that no device and no CA has. OpenSSL takes RSA exponents as long as the
modulus, and one signature check then costs thirty times the ordinary one.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from shared.domain.errors import BadRequest

LARGEST_CERTIFICATE = 8 * 1024
"""Bytes of a certificate that is read; real ones have one to three thousand, and names or extensions can be
made such that reading them takes as long as twenty signature checks."""
IDENTITY_SIZES = range(1024, 8192 + 1)
"""Bits of a device's RSA key. Apple's SCEP payload asks for 1024 where a profile does not say."""
INTERMEDIATE_SIZES = range(2048, 4096 + 1)
"""Bits of an RSA key of a CA that a message brings with it."""
WEAK_BELOW = 2048
"""Bits below which only the operator's own CA may vouch for a device's RSA key."""
EXPONENTS_BELOW = 2**32

CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
SignatureCheck = Callable[[bytes, bytes], None]
"""Checks (signature, message) with one key and one scheme; raises InvalidSignature."""

HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - devices still sign with it, and it is the default of OAEP
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def objection(key: object, sizes: range = IDENTITY_SIZES) -> str | None:
    """The reason not to compute with this key, None where nothing is against it."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, CURVES):
            return None
        return f"a key on {key.curve.name}: expected P-256, P-384 or P-521"
    if not isinstance(key, rsa.RSAPublicKey):
        return "a key that is neither RSA nor EC"
    if key.key_size not in sizes:
        return f"an RSA key of {key.key_size} bits: expected {sizes[0]} to {sizes[-1]}"
    if key.public_numbers().e >= EXPONENTS_BELOW:
        return "an RSA key whose exponent is over 32 bits"
    return None


def weak_bits(key: object) -> int | None:
    """The size of an RSA key that only the operator's own CA may vouch for, None for any other key."""
    bits = key.key_size if isinstance(key, rsa.RSAPublicKey) else WEAK_BELOW
    return bits if bits < WEAK_BELOW else None


def signature_check(key: object, algorithm: Any, digest: str) -> SignatureCheck:
    """The check by an algorithm (of asn1crypto) that fits this kind of key and this digest; BadRequest for
    any other. Names of signature algorithms fix a digest, or leave it open."""
    name = algorithm["algorithm"].native
    if digest not in HASHES:
        raise BadRequest("Mdm-Signature: digest algorithm not allowed")
    prehashed = Prehashed(HASHES[digest])
    how: tuple[Any, ...]
    if isinstance(key, rsa.RSAPublicKey) and name == "rsassa_pss":
        how = _pss(algorithm["parameters"], digest), prehashed
    elif isinstance(key, rsa.RSAPublicKey) and name in ("rsassa_pkcs1v15", f"{digest}_rsa"):
        how = padding.PKCS1v15(), prehashed
    elif isinstance(key, ec.EllipticCurvePublicKey) and (
        name in ("ec_public_key", "1.2.840.10045.2.1", f"{digest}_ecdsa")
    ):
        how = (ec.ECDSA(prehashed),)
    else:
        raise BadRequest("Mdm-Signature: signature algorithm not allowed")

    def check(signature: bytes, message: bytes) -> None:
        # hashlib lets other threads work meanwhile; the library that verifies does not.
        key.verify(signature, hashlib.new(digest, message).digest(), *how)

    return check


def _pss(parameters: Any, digest: str) -> padding.PSS:
    mask = parameters["mask_gen_algorithm"]["parameters"]["algorithm"].native
    if parameters["hash_algorithm"]["algorithm"].native != digest or mask not in HASHES:
        raise BadRequest("Mdm-Signature: signature algorithm not allowed")
    return padding.PSS(padding.MGF1(HASHES[mask]), parameters["salt_length"].native)


def check_signed(
    signed: x509.Certificate | x509.CertificateSigningRequest, message: bytes, key: object
) -> None:
    """Raises InvalidSignature, or one of `lenient.UNREADABLE`. The library's own checks take no
    SHA-1, which Apple's CA for devices and SCEP clients sign with."""
    hash_, scheme = signed.signature_hash_algorithm, signed.signature_algorithm_parameters
    match key, scheme:
        case ec.EllipticCurvePublicKey() as of_curve, ec.ECDSA() as ecdsa:
            of_curve.verify(signed.signature, message, ecdsa)
        case rsa.RSAPublicKey() as of_rsa, (padding.PKCS1v15() | padding.PSS()) as padded if hash_:
            of_rsa.verify(signed.signature, message, padded, hash_)
        case _:
            raise ValueError("a key or an algorithm of an unknown kind")
