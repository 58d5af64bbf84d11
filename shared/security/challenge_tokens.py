"""One-time challenges that need no record until somebody uses them.

Promise: whoever holds the key, and nobody else, makes them and reads them; all that they say (for how long,
for which device) is signed. So a flood of requests for profiles writes nothing. That one is used once is the
store's business.

A token is `once1-` and, in hex: when it expires (5 bytes, seconds since 1970), 12 random bytes, UDID and
serial number (each a byte of length, 0 for none, and UTF-8), and 16 bytes of an HMAC-SHA256 over all of it.
Another form would have another number in front.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime

from shared.ports.certificates import Challenge

PREFIX = "once1-"
LONGEST = 255
"""Characters of a challenge: the bound of PKCS #9 for a challengePassword."""
KEY_SIZE = 32
PURPOSE = "MacroMDM SCEP challenges"
"""For which the key is derived from that of our CA."""

_TIME, _RANDOM, _MAC = 5, 12, 16


class ChallengeTokens:
    """Makes and reads them, with a key of `KEY_SIZE` bytes that all replicas have."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"expected a key of {KEY_SIZE} bytes")
        self._key = key

    def make(self, expires_at: datetime, udid: str | None, serial_number: str | None) -> str | None:
        """A new one; None where it would be too long for a SCEP client."""
        names = [(name or "").encode() for name in (udid, serial_number)]
        if sum(map(len, names)) > LONGEST:
            return None
        seconds = int(
            expires_at.replace(microsecond=0).timestamp()
        )  # the part of a second that is lost is not given away
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
        udid, rest = _name(said[_TIME + _RANDOM :])
        serial_number, _ = _name(rest)
        return Challenge(digest_of(secret), expires_at, udid, serial_number)

    def _mac(self, said: bytes) -> bytes:
        return hmac.digest(self._key, PREFIX.encode() + said, "sha256")[:_MAC]


def digest_of(secret: str) -> str:
    """The key of a challenge in the store, which keeps no challenge."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _name(encoded: bytes) -> tuple[str | None, bytes]:
    """A name, and what stands behind it."""
    end = 1 + encoded[0]
    return encoded[1:end].decode() or None, encoded[end:]
