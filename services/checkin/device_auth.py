"""Who sends this request: the signature over its exact bytes, or a proxy's word for its certificate."""

from services.checkin.turns import DeviceRefused
from shared.domain.errors import BadRequest
from shared.domain.identity import DeviceCertificate
from shared.security.client_certificate import ClientCertificateHeader
from shared.security.identity import DeviceIdentities
from shared.security.signature import Signer, signer_of
from shared.telemetry.metrics import Reason

SIGNATURE_HEADER = "mdm-signature"


class DeviceAuthentication:
    """Gives the certificate that a request proves, or refuses the request."""

    def __init__(
        self,
        identities: DeviceIdentities,
        *,
        proxy_header: str | None = None,
        proxies: ClientCertificateHeader | None = None,
    ) -> None:
        self._identities = identities
        self._proxy_header = proxy_header.lower() if proxy_header else None
        self._proxies = proxies

    def certificate(
        self, headers: dict[str, list[str]], peer: str | None, body: bytes
    ) -> DeviceCertificate:
        """A certificate of a trusted CA, maybe one whose time is over; raises DeviceRefused.

        `headers` are by lower-case name, all values of each.
        """
        signer = self._signer(headers, peer, body)
        try:
            return self._identities.examine(signer.certificate, signer.others)
        except BadRequest as exc:
            raise DeviceRefused(Reason.CERTIFICATE, str(exc)) from exc

    def _signer(self, headers: dict[str, list[str]], peer: str | None, body: bytes) -> Signer:
        try:
            if self._proxies is not None and self._proxy_header is not None:
                certificate = self._proxies.read(headers.get(self._proxy_header, ()), peer)
                if certificate is not None:
                    return Signer(certificate)
            signatures = headers.get(SIGNATURE_HEADER, [])
            if len(signatures) > 1:
                raise BadRequest("Mdm-Signature: there is more than one")
            return signer_of(signatures[0] if signatures else None, body)
        except BadRequest as exc:
            raise DeviceRefused(Reason.SIGNATURE, str(exc)) from exc
