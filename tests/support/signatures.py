"""Mdm-Signature as tests check it."""

from shared.security.signature.signers import signer_of


def verify(header: str | bytes | None, body: bytes) -> bytes:
    """The certificate (DER) that signed `body`; raises BadRequest."""
    return signer_of(header, body).certificate
