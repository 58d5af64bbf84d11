"""Authenticate devices: by the signature over the exact bytes, or by a trusted proxy's certificate header.

Promise: a request that may take more than five milliseconds to judge is judged in a thread. Small ones of
certificates that are known, or that came alone, are not, as nearly all are.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from services.checkin.answers import DeviceRefused
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.errors import BadRequest
from shared.domain.identity import DeviceCertificate
from shared.security.client_certificate import ClientCertificateHeader
from shared.security.identity import DeviceIdentities, described
from shared.security.signature.cms_forms import NotAtOnce
from shared.security.signature.signers import Signer, claimed_signer, signer_of
from shared.telemetry.metrics import Reason

SIGNATURE_HEADER = "mdm-signature"
SMALL_HEADER = 6 * 1024
"""Characters of a signature that is read at once; those of devices have 2,500 to 4,000."""
ORDINARY_CERTIFICATE = 4 * 1024
"""Bytes of a certificate that is examined at once where it came alone: then only the operator's own CAs are
tried, with their own keys. Those of devices have 1,000 to 2,000."""
SMALL_BODY = 64 * 1024
"""Bytes of a body that is hashed, and later read, at once."""

Headers = Mapping[str, Sequence[str]]
"""All values of each header, by its name in lower case."""
Proof = tuple[DeviceCertificate, datetime | None]
"""A certificate of a trusted CA, maybe one whose time is over, and the time of the signature, if known."""


class DeviceAuthentication:
    def __init__(
        self,
        identities: DeviceIdentities,
        work: HeavyWork,
        *,
        proxy_header: str | None = None,
        proxies: ClientCertificateHeader | None = None,
    ) -> None:
        self._identities = identities
        self._work = work
        self._proxy_header = proxy_header.lower() if proxy_header else None
        self._proxies = proxies

    async def prove(
        self, headers: Headers, peer: str | None, body: bytes, signer: Signer | None = None
    ) -> Proof:
        """`signer` is what `signer_at_once` found, so that no signature is verified twice. Raises
        DeviceRefused, Unavailable."""
        signer = signer or self.signer_at_once(headers, peer, body)
        if signer is None:
            with _refusing(Reason.SIGNATURE):
                signer = await self._work.do(signer_of, _signature(headers), body)
        proof = self.prove_at_once(signer)
        if proof is not None:
            return proof
        with _refusing(Reason.CERTIFICATE):
            examine = self._identities.examine
            certificate = await self._work.do(examine, signer.certificate, signer.others)
        return certificate, signer.signed_at

    def signer_at_once(self, headers: Headers, peer: str | None, body: bytes) -> Signer | None:
        """Who signed the request; None where a thread must verify it. Raises DeviceRefused."""
        with _refusing(Reason.SIGNATURE):
            found = self._from_proxy(headers, peer)
            if found:
                return Signer(found[0], found[1:])
            signature = _signature(headers)
            is_small = len(signature) <= SMALL_HEADER and len(body) <= SMALL_BODY
            with suppress(NotAtOnce):
                return signer_of(signature, body, at_once=True) if is_small else None
            return None

    def prove_at_once(self, signer: Signer) -> Proof | None:
        """None where a thread must examine the certificate. Raises DeviceRefused."""
        if not self._is_short(signer.certificate, signer.others):
            return None
        with _refusing(Reason.CERTIFICATE):
            certificate = self._identities.examine(signer.certificate, signer.others)
        return certificate, signer.signed_at

    def claimed(self, headers: Headers, peer: str | None) -> tuple[DeviceCertificate | None, bool]:
        """The certificate that the headers of a refused request show, and whether that is proven without its
        body: by a trusted proxy. Of any other nothing is judged, nor is it read where that may take long."""
        try:
            found = self._from_proxy(headers, peer)
            if found:
                with suppress(BadRequest):
                    if self._is_short(found[0], found[1:]):
                        return self._identities.examine(found[0], found[1:]), True
                return described(found[0]), False
            signatures = headers.get(SIGNATURE_HEADER, [])
            if len(signatures) == 1 and len(signatures[0]) <= SMALL_HEADER:
                return described(claimed_signer(signatures[0])), False
        except BadRequest:
            pass
        return None, False

    def _is_short(self, certificate: bytes, others: Sequence[bytes]) -> bool:
        is_ordinary = not others and len(certificate) <= ORDINARY_CERTIFICATE
        return is_ordinary or self._identities.knows(certificate)

    def _from_proxy(self, headers: Headers, peer: str | None) -> tuple[bytes, ...]:
        if self._proxies is None or self._proxy_header is None:
            return ()
        return self._proxies.read(headers.get(self._proxy_header, ()), peer)


def _signature(headers: Headers) -> str:
    signatures = headers.get(SIGNATURE_HEADER, ())
    if len(signatures) > 1:
        raise BadRequest("Mdm-Signature: there is more than one")
    return signatures[0] if signatures else ""


@contextmanager
def _refusing(reason: Reason) -> Iterator[None]:
    try:
        yield
    except BadRequest as exc:
        raise DeviceRefused(reason, str(exc)) from exc
