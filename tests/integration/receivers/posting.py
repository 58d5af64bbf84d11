"""A post to a receiver, and what many tests expect of it."""

from services.webhook.endpoints.request import single
from services.webhook.endpoints.sender import AttemptOutcome, HttpSender
from shared.domain.subscription import Subscription

BODY = b'{"topic":"mdm.Connect","event_id":"e1"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_HTTP = "the answer is no HTTP, or breaks off"
CLOSED = "the connection was closed without an answer; if it speaks TLS, MDM_WEBHOOK_URL must say https://"


async def send(sender: HttpSender, url: str, body: bytes = BODY) -> AttemptOutcome:
    return await sender.send(Subscription("config", url), single("e1", "mdm.Connect", body))
