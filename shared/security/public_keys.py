"""Limits of strangers\' public keys and certificates, before any arithmetic.

Promise: nobody makes us compute with a key that no device and no CA has. OpenSSL takes RSA exponents as
long as the modulus, and one signature check then costs thirty times the ordinary one.
"""

from cryptography.hazmat.primitives.asymmetric import ec, rsa

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


def objection(key: object, sizes: range = IDENTITY_SIZES) -> str | None:
    """Why nobody should compute with this key, None where nothing is against it."""
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
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < WEAK_BELOW:
        return key.key_size
    return None
