"""Challenges as the services use them: made for a profile or an API client, redeemed by SCEP.

Promises: a one-time challenge is good for one certificate, on any replica, and only until it expires; its
secret is kept nowhere. Strangers may ask for one with a profile, so it is a signed token, which nothing is
written for before its use. A static challenge (MDM_SCEP_CHALLENGE) is good for all who know it; where none is
set, only one-time challenges are accepted.

A token is `once1-` and, in hex: when it expires (5 bytes, seconds since 1970), 12 random bytes, UDID and
serial number (each a byte of length, 0 for none, and UTF-8), and 16 bytes of an HMAC-SHA256 over all of it.
Another form would have another number in front.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from shared.ports.certificates import Challenge, Challenges
from shared.ports.clock import Clock

SECRET_BYTES = 16
OF_RENEWALS = "renew-"
"""Begins the secrets of renewals, so that others can be refused without a look into the store."""
PREFIX = "once1-"
LONGEST = 255
"""Characters of a challenge: the bound of PKCS #9 for a challengePassword."""
KEY_SIZE = 32
PURPOSE = "MacroMDM SCEP challenges"
"""Of the key for tokens, which is derived from that of our CA."""

_TIME, _RANDOM, _MAC = 5, 12, 16


class ChallengeTokens:
    """Makes and reads tokens, with a key of `KEY_SIZE` bytes that all replicas have and nothing else has."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"expected a key of {KEY_SIZE} bytes")
        self._key = key

    def make(self, expires_at: datetime, udid: str | None, serial_number: str | None) -> str | None:
        """None where it would be too long for a SCEP client. Rounds the second down."""
        names = [(name or "").encode() for name in (udid, serial_number)]
        if sum(map(len, names)) > LONGEST:
            return None
        seconds = int(expires_at.replace(microsecond=0).timestamp())
        said = seconds.to_bytes(_TIME, "big") + secrets.token_bytes(_RANDOM)
        said += b"".join(bytes((len(name),)) + name for name in names)
        secret = PREFIX + (said + self._mac(said)).hex()
        return secret if len(secret) <= LONGEST else None

    def read(self, secret: str) -> Challenge | None:
        """The content of a token, expired or not. None: it is not one of ours."""
        try:
            token = bytes.fromhex(secret.removeprefix(PREFIX))
        except ValueError:
            return None
        said, mac = token[:-_MAC], token[-_MAC:]
        is_canonical = secret == PREFIX + token.hex()
        if not is_canonical or not hmac.compare_digest(mac, self._mac(said)):
            return None
        expires_at = datetime.fromtimestamp(int.from_bytes(said[:_TIME], "big"), UTC)
        names = said[_TIME + _RANDOM :]
        end = 1 + names[0]
        udid, serial_number = names[1:end].decode(), names[end + 1 :].decode()
        return Challenge(digest_of(secret), expires_at, udid or None, serial_number or None)

    def _mac(self, said: bytes) -> bytes:
        return hmac.digest(self._key, PREFIX.encode() + said, "sha256")[:_MAC]


def digest_of(secret: str) -> str:
    """The key of a challenge in the store, which keeps no challenge."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Grant:
    """The grant of a challenge: a certificate for this device, or for any, that may follow the one which
    it `renews`. `digest` names a one-time challenge; None: it was the static one."""

    digest: str | None = None
    udid: str | None = None
    serial_number: str | None = None
    renews: str | None = None


class ScepChallenges:
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
        self._static = static

    async def issue(self, udid: str | None = None, serial_number: str | None = None) -> str:
        """The challenge for an enrollment profile: the static one where there is one and the profile is
        for no particular device, else a one-time challenge. Raises StoreUnavailable."""
        if self._static is not None and udid is None and serial_number is None:
            return self._static.get_secret_value()
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
        static = None if self._static is None else digest_of(self._static.get_secret_value())
        return None if static is not None and hmac.compare_digest(digest, static) else digest

    async def redeem(self, secret: str, by: str) -> Grant | None:
        """The grant of this secret for the transaction `by`; None: nothing. The same transaction may
        redeem its challenge again, until it expires. Raises StoreUnavailable."""
        if not self._may_be_good(secret):
            return None
        digest = self.name_of(secret)
        if digest is None:
            return Grant()
        now = self._clock.now()
        if self._tokens is None or not secret.startswith(PREFIX):
            found = await self._challenges.use(digest, by, now)
        else:
            found = self._tokens.read(secret)
            if found and (found.expires_at <= now or not await self._challenges.take(found, by)):
                found = None
        if found is None:
            return None
        return Grant(digest, found.udid, found.serial_number, found.renews)

    async def user_of(self, secret: str) -> str | None:
        """The transaction that used this one-time challenge; None: none did. Raises StoreUnavailable."""
        digest = self.name_of(secret) if self._may_be_good(secret) else None
        return None if digest is None else await self._challenges.user_of(digest)

    def _may_be_good(self, secret: str) -> bool:
        if not 0 < len(secret) <= LONGEST:
            return False
        return not self._renews_only or secret.startswith(OF_RENEWALS)
