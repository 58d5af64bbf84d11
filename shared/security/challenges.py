"""Challenges as the services use them: made for a profile or an API client, redeemed by SCEP.

Promises: a one-time challenge is good for one certificate, on whatever replica, and only until it
expires; its secret is kept nowhere. Where anybody may ask for one, with a profile, nothing is written before
it is used. A static challenge (MDM_SCEP_CHALLENGE) is good for everybody who knows it; where none is set,
nothing but a one-time challenge is accepted.
"""

import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta

from pydantic import SecretStr

from shared.ports.certificates import Challenge, Challenges
from shared.ports.clock import Clock
from shared.security.challenge_tokens import LONGEST, PREFIX, ChallengeTokens, digest_of

SECRET_BYTES = 16
OF_RENEWALS = "renew-"
"""Their secrets begin with it, so that others can be refused without a look into the store."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The grant of a challenge: a certificate for this device, or for any, that may follow the one which
    it `renews`. `digest` names a one-time challenge; None: it was the static one."""

    digest: str | None = None
    udid: str | None = None
    serial_number: str | None = None
    renews: str | None = None


class ChallengeBook:
    """Makes and redeems challenges. `renews_only`: it redeems none but those of renewals. Without `tokens`
    each that it makes is stored."""

    def __init__(
        self,
        challenges: Challenges,
        clock: Clock,
        *,
        validity: timedelta,
        static: SecretStr | None = None,
        renews_only: bool = False,
        tokens: ChallengeTokens | None = None,
    ) -> None:
        self._tokens = tokens
        self._renews_only = renews_only
        self._challenges = challenges
        self._clock = clock
        self._validity = validity
        self._static = None if static is None else digest_of(static.get_secret_value())
        self._static_secret = static

    async def issue(self, udid: str | None = None, serial_number: str | None = None) -> str:
        """The challenge for an enrollment profile: the static one where there is one and the profile is
        for no particular device, else a one-time challenge. Raises StoreUnavailable."""
        if self._static_secret is not None and udid is None and serial_number is None:
            return self._static_secret.get_secret_value()
        return await self.issue_once(udid, serial_number)

    async def issue_once(self, udid: str | None = None, serial_number: str | None = None) -> str:
        """A new one-time challenge; only this device gets its certificate if one is named."""
        expires_at = self._clock.now() + self._validity
        token = None if self._tokens is None else self._tokens.make(expires_at, udid, serial_number)
        if token is not None:
            return token
        secret = secrets.token_hex(SECRET_BYTES)
        await self._challenges.create(Challenge(digest_of(secret), expires_at, udid, serial_number))
        return secret

    async def issue_renewal(self, device: str, renews: str, validity: timedelta) -> str:
        """A new one-time challenge for the certificate that is to follow this device's present one."""
        secret = OF_RENEWALS + secrets.token_hex(SECRET_BYTES)
        expires_at = self._clock.now() + validity
        await self._challenges.create(
            Challenge(digest_of(secret), expires_at, device, renews=renews)
        )
        return secret

    def name_of(self, secret: str) -> str | None:
        """The key of a secret, good or not: its SHA-256; None for the static one."""
        digest = digest_of(secret)
        is_static = self._static is not None and hmac.compare_digest(digest, self._static)
        return None if is_static else digest

    async def redeem(self, secret: str, by: str) -> Grant | None:
        """The grant of this secret for the transaction `by`; None: nothing. The same transaction may
        redeem its challenge again, until it expires. Raises StoreUnavailable."""
        if not self._may_be_good(secret):
            return None
        digest = self.name_of(secret)
        if digest is None:
            return Grant()
        found = await self._used(secret, digest, by)
        if found is None:
            return None
        return Grant(digest, found.udid, found.serial_number, found.renews)

    async def _used(self, secret: str, digest: str, by: str) -> Challenge | None:
        now = self._clock.now()
        if self._tokens is None or not secret.startswith(PREFIX):
            return await self._challenges.use(digest, by, now)
        token = self._tokens.read(secret)
        if token is None or token.expires_at <= now:
            return None
        return token if await self._challenges.take(token, by) else None

    async def user_of(self, secret: str) -> str | None:
        """The transaction that used this one-time challenge; None: none did. Raises StoreUnavailable."""
        digest = self.name_of(secret) if self._may_be_good(secret) else None
        return None if digest is None else await self._challenges.user_of(digest)

    def _may_be_good(self, secret: str) -> bool:
        if not secret or len(secret) > LONGEST:
            return False
        return not self._renews_only or secret.startswith(OF_RENEWALS)
