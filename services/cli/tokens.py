"""`python -m services token`: make, list and revoke tokens of the API without the API.

Promise: a change is in the audit log, as of `command-line`, before it is said to be done.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TextIO

from services.cli.opening import command_settings, opened_database
from services.commands.access.tokens import ApiTokens
from shared.concurrency.clock import SystemClock, SystemIds
from shared.domain.access import AuditEntry, Token
from shared.domain.errors import Misconfigured
from shared.ports.access import AuditLog
from shared.ports.clock import Clock, Ids
from shared.storage.access.audit import MongoAuditLog
from shared.storage.access.tokens import INDEXES, MongoTokens
from shared.times import rfc3339_or_null, to_milliseconds

CALLER = "command-line"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["create", "list", "revoke"])
    parser.add_argument("names", nargs="*", metavar="token", help="name; to revoke also the id")
    parser.add_argument(
        "--scope", action="append", default=[], help="read, commands, push, admin; may be repeated"
    )
    parser.add_argument("--days", type=int, help="until the new token expires; default: never")


async def run(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    clock, ids = SystemClock(), SystemIds()
    async with opened_database(command_settings(environ)) as database:
        # No server may have run here yet, and names must be unique. The index of the audit log is left to
        # a server: it has a retention, and our settings may differ from the server's.
        await database.ensure(INDEXES)
        tokens = ApiTokens(MongoTokens(database), clock, ids)
        command = TokenCommand(tokens, MongoAuditLog(database), clock, ids, sys.stdout)
        await command.run(given.action, given.names, given.scope, given.days)


@dataclass(frozen=True, slots=True)
class TokenCommand:
    tokens: ApiTokens
    audit_log: AuditLog
    clock: Clock
    ids: Ids
    out: TextIO

    async def run(
        self, action: str, names: Sequence[str], scopes: Sequence[str] = (), days: int | None = None
    ) -> None:
        """Raises Misconfigured, BadRequest, Conflict or NotFound with words for a person."""
        if action == "list":
            await self._list()
        elif not names:
            raise Misconfigured(f"token {action}: expected a name")
        elif action == "create":
            await self._create(names, scopes, days)
        else:
            for name in names:
                token = await self.tokens.revoke(name)
                await self._record("token.revoke", token)
                self.out.write(f"revoked {token.name}\n")

    async def _create(self, names: Sequence[str], scopes: Sequence[str], days: int | None) -> None:
        if len(names) > 1:
            raise Misconfigured("token create: expected one name")
        if days is not None and not 0 < days < 36_500:
            raise Misconfigured("--days: expected a number from 1 on")
        expires_at = None if days is None else self.clock.now() + timedelta(days=days)
        token, secret = await self.tokens.create(
            names[0], scopes, created_by=CALLER, expires_at=expires_at
        )
        await self._record("token.create", token)
        self.out.write(f"{secret}\n")

    async def _list(self) -> None:
        for token in await self.tokens.list():
            state = "revoked" if token.revoked_at else "expired"
            if token.is_good(self.clock.now()):
                state = f"until {rfc3339_or_null(token.expires_at)}" if token.expires_at else "good"
            used = rfc3339_or_null(token.last_used_at) or "never"
            scopes = ",".join(sorted(token.scopes))
            self.out.write(f"{token.id}  {token.name}  {scopes}  {state}  last used {used}\n")

    async def _record(self, action: str, token: Token) -> None:
        entry = AuditEntry(
            id=self.ids.new(),
            at=to_milliseconds(self.clock.now()),
            caller=CALLER,
            address="local",
            route="services token",
            action=action,
            status=200,
            targets=(token.name,),
            detail=f"scopes {' '.join(sorted(token.scopes))}",
        )
        await self.audit_log.record([entry])
