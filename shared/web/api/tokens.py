"""The tokens that this process knows, so that a request costs no question to the store.

Promises: a revoked token is refused within `FRESH` of its revocation, on every replica; a new one is
good at once, except in a process that read the tokens less than `AGAIN` ago; however many callers guess,
one process reads the tokens at most once in `AGAIN`; while the store is away no token is judged by
what is older than `FRESH` (StoreUnavailable).
"""

import asyncio
from datetime import timedelta

import structlog

from shared.domain.access import PREFIX, Caller, Token, token_digest
from shared.domain.errors import StoreUnavailable
from shared.ports.access import Tokens
from shared.ports.clock import Clock

log = structlog.get_logger()

FRESH = timedelta(seconds=5)
AGAIN = timedelta(seconds=1)
AWAY = "no token can be judged: the store does not answer"
"""For callers that are not known yet; the log says why."""
USED_EVERY = timedelta(hours=1)
"""Between two notes of the use of a token in the store."""


class TokenCache:
    """Looks tokens up in a copy of all of them, which are few."""

    def __init__(self, tokens: Tokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock
        self._known: dict[str, Token] = {}
        self._read_at = self._failed_at = float("-inf")
        self._failure: StoreUnavailable | None = None
        self._used: set[str] = set()
        self._reading = asyncio.Lock()

    async def caller(self, secret: bytes) -> Caller | None:
        """The token of this secret; None if there is none, or if it is not valid any more."""
        if not secret.startswith(PREFIX.encode()):
            return None
        digest = token_digest(secret)
        await self._be_newer_than(FRESH)
        token = self._known.get(digest)
        if token is None:
            await self._be_newer_than(AGAIN)
            token = self._known.get(digest)
        if token is None or not token.is_good(self._clock.now()):
            return None
        self._used.add(token.id)
        return token.caller

    async def _be_newer_than(self, age: timedelta) -> None:
        asked_at = self._clock.monotonic()
        if asked_at - self._read_at < age.total_seconds():
            return
        async with self._reading:
            # Those who waited here take what came of the try that they waited for.
            if asked_at - self._read_at < age.total_seconds():
                return
            if self._failure is not None and asked_at - self._failed_at < AGAIN.total_seconds():
                raise StoreUnavailable(AWAY) from self._failure
            await self._read()

    async def _read(self) -> None:
        began_at = self._clock.monotonic()
        try:
            tokens = await self._tokens.all()
        except StoreUnavailable as exc:
            self._failed_at, self._failure = self._clock.monotonic(), exc
            raise StoreUnavailable(AWAY) from exc
        self._failure = None
        self._known = {token.digest: token for token in tokens}
        self._read_at = began_at
        await self._note_use(tokens)

    async def _note_use(self, tokens: list[Token]) -> None:
        now, used, self._used = self._clock.now(), self._used, set()
        due = [
            token.id
            for token in tokens
            if token.id in used
            and (token.last_used_at is None or now - token.last_used_at >= USED_EVERY)
        ]
        if not due:
            return
        try:
            await self._tokens.mark_used(due, now)
        except StoreUnavailable as exc:
            log.info("token_use_not_noted", error=str(exc))
