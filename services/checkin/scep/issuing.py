"""Issue certificates by SCEP: for a challenge, or for the key of the certificate that is renewed.

Promises: a transaction has one certificate, and so has a one-time challenge, however often and on any number
of replicas it is asked for. The order of writes (challenge, record, answer) is such
that the repetition of a request that died anywhere ends with its certificate.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import timedelta
from weakref import WeakValueDictionary

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.checkin.scep.certificate_status import CertificateStatus, CertificateStatuses
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.errors import BadRequest, Overtaken
from shared.ports.certificates import IssuedCertificate, IssuedCertificates
from shared.ports.clock import Clock
from shared.ports.identities import Identities
from shared.security.authority import Authority
from shared.security.challenges import Grant, ScepChallenges
from shared.security.identity import DeviceIdentities, fingerprint_of
from shared.security.scep.request import CertificateRequest
from shared.security.scep.words import MessageType, ScepRefused
from shared.telemetry.metrics import ScepIssue, ScepRefusal

MOST_OF_ONE_TRANSACTION = 16
"""Certificates for one key under one transaction id, each by a challenge of its own or after the one
before it expired. Clients that derive the id from their key come to more than one."""

A_DAY = timedelta(days=1)
MOST_RENEWALS_A_DAY = 5
"""Certificates that one certificate's key may get within a day; each replica that is asked at the same
moment may add one."""


@dataclass(frozen=True, slots=True)
class Asker:
    """The signer of a request."""

    certificate: x509.Certificate
    fingerprint: str
    key_hash: str


@dataclass(frozen=True, slots=True)
class Given:
    issued: IssuedCertificate
    how: ScepIssue


class Issuing:
    """Decides, and records what it gave out. All methods raise ScepRefused, or StoreUnavailable.

    Where another server gives devices their identities, `book` takes challenges of renewals only."""

    def __init__(
        self,
        authority: Authority,
        book: ScepChallenges,
        issued: IssuedCertificates,
        statuses: CertificateStatuses,
        identities: Identities,
        clock: Clock,
        validity: timedelta,
        work: HeavyWork,
    ) -> None:
        self._authority = authority
        self._book = book
        self._issued = issued
        self._statuses = statuses
        self._identities = identities
        self._clock = clock
        self._validity = validity
        self._work = work
        self._ours = DeviceIdentities([authority.certificate], clock)
        self._gates: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def enroll(self, transaction_id: str, request: CertificateRequest) -> Given:
        """A certificate for a new device, by its challenge. Where this key used the challenge in another
        transaction it gets what that one gave: its first answer was lost, or a captured request was signed
        again."""
        return await self._enroll(_name(MessageType.PKCS_REQ, transaction_id), request)

    async def _enroll(self, base: str, request: CertificateRequest) -> Given:
        challenge = self._book.name_of(request.challenge)
        for number in range(MOST_OF_ONE_TRANSACTION):
            transaction = f"{base}:{number}"
            found = await self._issued.of_transaction(transaction)
            if found is None:
                user = f"{base}/{request.key_hash}"
                grant = await self._book.redeem(request.challenge, by=user)
                if grant is None:
                    return await self._enroll(await self._used_in(request, base), request)
                made = await self._made(transaction, request, grant)
                if await self._issued.add(made):
                    if grant.renews is None:
                        return Given(made, ScepIssue.ENROLLMENT)
                    await self._reserve(made, grant.udid)
                    return Given(made, ScepIssue.RENEWAL)
                found = await self._others(transaction)
            _refuse_another_key(found, request.key_hash)
            if found.challenge == challenge and await self._is_good(found):
                return await self._repeated(found)
        raise ScepRefused(ScepRefusal.TRANSACTION, "too many certificates for this transaction id")

    async def _used_in(self, request: CertificateRequest, base: str) -> str:
        """The other transaction in which this key used its challenge."""
        user = await self._book.user_of(request.challenge)
        earlier, _, key_hash = (user or "").rpartition("/")
        if key_hash != request.key_hash or earlier == base:
            raise ScepRefused(ScepRefusal.CHALLENGE, "the challenge is unknown, used or expired")
        return earlier

    async def renew(self, transaction_id: str, request: CertificateRequest, asker: Asker) -> Given:
        """A certificate that follows one of ours, which must be valid and not replaced."""
        status = await self._status_of(asker)
        transaction = _name(MessageType.RENEWAL_REQ, asker.fingerprint, transaction_id)
        async with self._gates.setdefault(asker.fingerprint, asyncio.Lock()):
            found = await self._issued.of_transaction(transaction)
            if found is None:
                await self._refuse_hoarding(status)
                old = status.issued
                grant = Grant() if old is None else Grant(None, old.udid, old.serial_number)
                made = await self._made(transaction, request, grant, status.fingerprint)
                if await self._issued.add(made):
                    await self._reserve(made, status.device)
                    return Given(made, ScepIssue.RENEWAL)
                found = await self._others(transaction)
        _refuse_another_key(found, request.key_hash)
        if found.not_after <= self._clock.now():
            raise ScepRefused(ScepRefusal.TRANSACTION, "the transaction's certificate has expired")
        return await self._repeated(found, status.device)

    async def _refuse_hoarding(self, status: CertificateStatus) -> None:
        """One challenge is for one device: until a device is bound to its certificate, or where the challenge
        named none, a renewal could become the certificate of another."""
        if not status.is_for_one_device:
            raise ScepRefused(ScepRefusal.CERTIFICATE, "no device is bound to the certificate yet")
        renewals = await self._issued.renewals_of(status.fingerprint)
        since = self._clock.now() - A_DAY
        if sum(renewal.issued_at > since for renewal in renewals) >= MOST_RENEWALS_A_DAY:
            raise ScepRefused(ScepRefusal.LIMIT, "the certificate was renewed too often today")

    async def poll(self, transaction_id: str, asker: Asker) -> Given:
        """The certificate of a transaction that ended well, for the holder of its key."""
        base = _name(MessageType.PKCS_REQ, transaction_id)
        latest: IssuedCertificate | None = None
        for number in range(MOST_OF_ONE_TRANSACTION):
            found = await self._issued.of_transaction(f"{base}:{number}")
            if found is None:
                break
            latest = found
        if latest is None or latest.public_key != asker.key_hash:
            raise ScepRefused(ScepRefusal.CERTIFICATE, "no certificate of this transaction and key")
        return await self._repeated(latest)

    async def _made(
        self,
        transaction: str,
        request: CertificateRequest,
        grant: Grant,
        renewed_from: str | None = None,
    ) -> IssuedCertificate:
        certificate = await self._work.do(
            self._authority.certify,
            request.subject,
            request.public_key,
            self._clock,
            self._validity,
        )
        der = certificate.public_bytes(Encoding.DER)
        return IssuedCertificate(
            transaction=transaction,
            fingerprint=fingerprint_of(der),
            serial=f"{certificate.serial_number:x}",
            certificate=der,
            subject=certificate.subject.rfc4514_string(),
            public_key=request.key_hash,
            issued_at=self._clock.now(),
            not_after=certificate.not_valid_after_utc,
            challenge=grant.digest,
            udid=grant.udid,
            serial_number=grant.serial_number,
            renewed_from=renewed_from or grant.renews,
        )

    async def _repeated(self, found: IssuedCertificate, device: str | None = None) -> Given:
        """The certificate recorded before; that request may have died before the reservation."""
        if found.renewed_from is not None:
            await self._reserve(found, device or found.udid)
        return Given(found, ScepIssue.REPEATED)

    async def _reserve(self, made: IssuedCertificate, device: str | None) -> None:
        """Reserve the renewal of a device's certificate for that device, before it shows it."""
        if device is not None:
            await self._identities.reserve(made.fingerprint, device)

    async def _others(self, transaction: str) -> IssuedCertificate:
        """The certificate that another request of this transaction recorded first."""
        found = await self._issued.of_transaction(transaction)
        if found is None:
            raise Overtaken("the certificate could not be recorded")
        return found

    async def _is_good(self, found: IssuedCertificate) -> bool:
        """True if a repeated request gets this one. A one-time challenge has the certificate that it
        has; the static one gives a new one once the old one has expired or was replaced."""
        if found.challenge is not None:
            return True
        status = await self._statuses.of(found.fingerprint)
        return found.not_after > self._clock.now() and not status.is_replaced

    async def _status_of(self, asker: Asker) -> CertificateStatus:
        """Only a certificate of ours renews: valid now, for clients, and still its device's."""
        certificate = asker.certificate
        try:
            await self._work.do(self._ours.identify, certificate.public_bytes(Encoding.DER))
        except BadRequest as exc:
            now = self._clock.now()
            is_timely = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
            refusal = ScepRefusal.CERTIFICATE if is_timely else ScepRefusal.TIME
            raise ScepRefused(refusal, str(exc)) from exc
        status = await self._statuses.of(asker.fingerprint)
        if status.objection is not None:
            raise ScepRefused(ScepRefusal.CERTIFICATE, status.objection)
        return status


def _refuse_another_key(found: IssuedCertificate, key_hash: str) -> None:
    if found.public_key != key_hash:
        raise ScepRefused(ScepRefusal.TRANSACTION, "the transaction id is that of another key")


def _name(*parts: str) -> str:
    """A transaction as the store knows it: of a fixed length that no client chooses."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
