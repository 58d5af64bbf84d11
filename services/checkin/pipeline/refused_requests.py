"""The sender of a request that was refused: proven before, or as its headers claim.

Promises: a claim is read from headers alone, and at most ten times a second; texts are cut, and their control
characters escaped.
"""

from fastapi import Request

from services.checkin.pipeline.device_auth import DeviceAuthentication, headers_of
from services.checkin.refusals.record import RefusalLog, Sender
from shared.domain.enrollment import Refusal
from shared.domain.identity import DeviceCertificate
from shared.ports.clock import Clock
from shared.telemetry.metrics import Reason
from shared.web.client_address import ClientAddresses

MOST_CLAIMS = 10
"""Claims that are read each second."""
LONGEST_DETAIL = 300
LONGEST_SUBJECT = 200


class RefusedRequests:
    """Notes who was refused; what `shared.web.device_route` calls."""

    def __init__(
        self,
        refusals: RefusalLog,
        devices: DeviceAuthentication,
        addresses: ClientAddresses,
        clock: Clock,
    ) -> None:
        self._refusals = refusals
        self._devices = devices
        self._addresses = addresses
        self._clock = clock
        self._claims = 0
        self._claims_since = 0.0

    def note(self, request: Request, status: int, reason: Reason, detail: str) -> None:
        """This request is answered with this status."""
        path = plain(request.scope["path"], LONGEST_DETAIL)
        text = plain(detail, LONGEST_DETAIL)
        refusal = Refusal(self._clock.now(), reason.value, text, path)
        self._refusals.note(self._sender(request), refusal, status)

    def _sender(self, request: Request) -> Sender:
        address = self._addresses.address(request)
        proven: DeviceCertificate | None = getattr(request.state, "proven", None)
        shown, is_proven = proven, True
        if proven is None and self._may_read_claim():
            peer = request.client.host if request.client else None
            shown, is_proven = self._devices.shown(headers_of(request), peer)
        if shown is None:
            return Sender(address)
        return Sender(address, shown.fingerprint, plain(shown.subject, LONGEST_SUBJECT), is_proven)

    def _may_read_claim(self) -> bool:
        now = self._clock.monotonic()
        if now >= self._claims_since + 1:
            self._claims, self._claims_since = 0, now
        self._claims += 1
        return self._claims <= MOST_CLAIMS


def plain(text: str, most: int) -> str:
    """The beginning of a text, on one line and without characters that no screen shows as they are."""
    text = text[:most]
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)[:most]
