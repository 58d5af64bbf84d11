"""The headers that differ from one request to the next, and the signatures among them.

Promises: signatures are those of Standard Webhooks (`v1`: HMAC-SHA256 over id, time and the exact body), one
for each secret that is valid now; NanoMDM's is there beside them where a key asks for it; a repeated request
has the same `webhook-id`.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from services.webhook.endpoints.request import EventRequest
from shared.domain.subscription import RequestSecrets

SECRET_PREFIX = "whsec_"


class RequestSigner:
    """Raises ValueError for a secret that is no base64."""

    def __init__(self, secrets: RequestSecrets) -> None:
        self._keys = [
            (b64decode(secret.value.removeprefix(SECRET_PREFIX), validate=True), secret.expires_at)
            for secret in secrets.signing
        ]
        self._hmac_key = secrets.hmac_key.encode() if secrets.hmac_key else None

    def headers(self, request: EventRequest, body: bytes, now: datetime) -> bytes:
        """Lines of HTTP/1.1 for a request with exactly this body."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._pairs(request, body, now))
        return lines.encode("ascii")

    def _pairs(
        self, request: EventRequest, body: bytes, now: datetime
    ) -> Iterator[tuple[str, str]]:
        id, seconds = webhook_id(request), int(now.timestamp())
        yield "webhook-id", id
        yield "webhook-timestamp", str(seconds)
        keys = [key for key, expires_at in self._keys if expires_at is None or now < expires_at]
        if keys:
            content = b"%b.%d.%b" % (id.encode("ascii"), seconds, body)
            yield "webhook-signature", " ".join(f"v1,{_digest(key, content)}" for key in keys)
        if self._hmac_key:
            yield "X-Hmac-Signature", _digest(self._hmac_key, body)
        if len(request.events) == 1 and (topic := request.events[0].topic):
            yield "X-MacroMDM-Topic", topic
        yield "X-MacroMDM-Attempt", str(request.attempt)
        if request.replay:
            yield "X-MacroMDM-Replay", request.replay


def webhook_id(request: EventRequest) -> str:
    """The event's id; of a batch an id that follows from those of its events."""
    if len(request.events) == 1:
        return request.events[0].event_id
    return str(uuid5(NAMESPACE_URL, " ".join(event.event_id for event in request.events)))


def _digest(key: bytes, content: bytes) -> str:
    return b64encode(hmac.digest(key, content, "sha256")).decode("ascii")
