"""Makes, lists and revokes tokens of the API, for its routes and for the command line."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from shared.domain.access import PREFIX, Scope, Token, is_token_name, token_digest
from shared.domain.errors import BadRequest, Conflict, Fault, NotFound
from shared.ports.access import Tokens
from shared.ports.clock import Clock, Ids
from shared.times import to_milliseconds

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class ApiTokens:
    tokens: Tokens
    clock: Clock
    ids: Ids

    async def create(
        self,
        name: str,
        scopes: Collection[str],
        *,
        created_by: str,
        expires_at: datetime | None = None,
    ) -> tuple[Token, str]:
        """The token and its secret, which is kept nowhere.

        Raises BadRequest with every fault, Conflict for a name that is or was another token's."""
        expected = {
            "name": not is_token_name(name)
            and "1 to 64 letters, digits, dots, dashes and underscores; not api-key..., command-line, device",
            "scopes": not (scopes and set(scopes) <= {scope.value for scope in Scope})
            and f"one or more of {', '.join(Scope)}",
            "expires_at": expires_at is not None
            and expires_at <= self.clock.now()
            and "a time to come",
        }
        faults = [Fault(path, text) for path, text in expected.items() if text]
        if faults:
            raise BadRequest("; ".join(f"{f.path}: expected {f.expected}" for f in faults), faults)
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        token = Token(
            id=self.ids.new(),
            name=name,
            digest=token_digest(secret.encode()),
            scopes=frozenset(Scope(scope) for scope in scopes),
            created_at=to_milliseconds(self.clock.now()),
            created_by=created_by,
            expires_at=expires_at and to_milliseconds(expires_at),
        )
        if not await self.tokens.add(token):
            raise Conflict(f"name: {name} is or was the name of another token")
        return token, secret

    async def list(self) -> list[Token]:
        """Every token, expired and revoked ones too."""
        return await self.tokens.all()

    async def revoke(self, name: str) -> Token:
        """By its id or its name. Raises NotFound."""
        known = await self.tokens.all()
        meant = [t.id for t in known if t.id == name] or [t.id for t in known if t.name == name]
        at = to_milliseconds(self.clock.now())
        token = await self.tokens.revoke(meant[0], at) if meant else None
        if token is None:
            raise NotFound(f"there is no token {name[:100]}")
        return token
