"""Refused requests: a line of the log says who was refused, and a device's record keeps its last refusals.

Promises: a device is named only where its bound certificate is proven, by a signature over the exact body or
by a trusted proxy; all else that a line says of a sender is marked `claimed`. A sender has one line a minute,
with the number of its refusals since the one before; all together have ten lines a second, one of which
counts the refusals that got none (`refusals_not_logged`). Nothing is written or read within a request. Memory
is bounded, and a stranger, who has no certificate of a trusted CA, costs no read of the store. Texts are cut,
and their control characters escaped. A crash loses what is not written yet.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from services.checkin.journal.last_seen import LastSeen
from services.checkin.refusals.senders import Senders
from shared.concurrency.bounded_cache import BoundedCache
from shared.concurrency.periodic import Loops, Pace
from shared.domain.enrollment import Refusal, counted_refusals
from shared.domain.errors import Unavailable
from shared.domain.identity import DeviceCertificate
from shared.ports.clock import Clock
from shared.telemetry.metrics import Reason
from shared.web.client_address import source_of

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=1), after_failure=timedelta(seconds=1))
LINES = 9
"""Each second; the tenth gives the number of refusals without a line."""
AT_MOST_EVERY = timedelta(minutes=1)
"""Between two lines of one sender."""
REMEMBERED = 1024
"""Senders that had their line: LINES a second are fewer in AT_MOST_EVERY."""
MOST_CLAIMS = 10
"""Certificates each second that are read from the headers of refused requests."""
LONGEST_DETAIL = 300
LONGEST_SUBJECT = 200
MOST_HELD = 600
"""Senders that wait for their line; half of the places are for proven ones alone."""


@dataclass(frozen=True, slots=True)
class RefusedSender:
    """The sender of a request: its address, and the certificate (SHA-256 in hex) that it shows, or None."""

    address: str
    certificate: str | None = None
    subject: str = ""
    is_proven: bool = False

    @classmethod
    def of(
        cls, address: str, certificate: DeviceCertificate | None, *, is_proven: bool
    ) -> "RefusedSender":
        if certificate is None:
            return cls(address)
        subject = plain(certificate.subject, LONGEST_SUBJECT)
        return cls(address, certificate.fingerprint, subject, is_proven)

    @property
    def key(self) -> tuple[bool, str]:
        """A sender that claims a certificate has another key than the one that proves it."""
        return self.is_proven, self.certificate or source_of(self.address)

    @property
    def proven(self) -> str | None:
        return self.certificate if self.is_proven else None


@dataclass(slots=True)
class _Held:
    """The next log line of one sender."""

    sender: RefusedSender
    last: Refusal
    status: int
    count: int = 0
    of_record: tuple[Refusal, ...] = ()
    """For the record of its device, once it is known whose it is."""


class RefusalLog:
    def __init__(self, senders: Senders, seen: LastSeen, clock: Clock) -> None:
        self._senders = senders
        self._seen = seen
        self._clock = clock
        self._held: dict[tuple[bool, str], _Held] = {}
        self._rests: BoundedCache[tuple[bool, str], float] = BoundedCache(REMEMBERED)
        self._unlogged = 0
        self._unlogged_rests = 0.0
        self._claims = 0
        self._claims_since = 0.0

    def may_read_claim(self) -> bool:
        """True if the certificate that a refused request claims may be read: at most MOST_CLAIMS a second."""
        now = self._clock.monotonic()
        if now >= self._claims_since + 1:
            self._claims, self._claims_since = 0, now
        self._claims += 1
        return self._claims <= MOST_CLAIMS

    def note(
        self, sender: RefusedSender, status: int, reason: Reason, detail: str, path: str
    ) -> None:
        """A 503 is no fault of the device: it does not come into its record."""
        detail, path = plain(detail, LONGEST_DETAIL), plain(path, LONGEST_DETAIL)
        refusal = Refusal(self._clock.now(), reason.value, detail, path)
        held = self._held.get(sender.key)
        if held is None and len(self._held) < (MOST_HELD if sender.is_proven else MOST_HELD // 2):
            held = self._held[sender.key] = _Held(sender, refusal, status)
        if held is None:
            self._unlogged += 1
        else:
            held.sender, held.last, held.status = sender, refusal, status
            held.count += 1
        if status >= 500:
            return
        device = self._device_of(sender)
        if device is not None:
            self._seen.refused(device, refusal)
        elif held is not None and sender.is_proven:
            held.of_record = counted_refusals(held.of_record, [refusal])

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("refusals", self.flush, PACE, waits="refusals_wait")

    async def flush(self) -> None:
        """Log the senders whose minute is over, proven ones first."""
        now = self._clock.monotonic()
        due = [each for key, each in self._held.items() if now >= (self._rests.get(key) or 0.0)]
        due = sorted(due, key=lambda each: not each.sender.is_proven)[:LINES]
        with suppress(Unavailable):  # then the line says which certificate it was
            await self._senders.look_up([each.sender.proven for each in due if each.sender.proven])
        for each in due:
            self._log(each)
        if now >= self._unlogged_rests:
            self._log_number()

    def end(self) -> None:
        """Log all that is left, with what is known."""
        for each in list(self._held.values()):
            self._log(each)
        self._log_number()

    def _log(self, held: _Held) -> None:
        sender = held.sender
        if self._held.pop(sender.key, None) is None:  # the process ends, and has logged it
            return
        self._rests.put(sender.key, self._clock.monotonic() + AT_MOST_EVERY.total_seconds())
        device = self._device_of(sender)
        known: dict[str, object] = {"claimed": True}
        if device is not None:
            known = {"device": device}
            for each in held.of_record:
                self._seen.refused(device, each)
        elif sender.certificate is not None:
            known |= {"certificate_sha256": sender.certificate, "subject": sender.subject}
        log.info(
            "device_refused",
            path=held.last.path,
            status=held.status,
            reason=held.last.detail,
            kind=held.last.reason,
            count=held.count,
            address=sender.address,
            **known,
        )

    def _log_number(self) -> None:
        if self._unlogged:
            log.warning("refusals_not_logged", count=self._unlogged)
            self._unlogged = 0
            self._unlogged_rests = self._clock.monotonic() + AT_MOST_EVERY.total_seconds()

    def _device_of(self, sender: RefusedSender) -> str | None:
        return None if sender.proven is None else self._senders.device_of(sender.proven)


def plain(text: str, most: int) -> str:
    """The beginning of a text, on one line and without characters that no screen shows as they are."""
    text = text[:most]
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)[:most]
