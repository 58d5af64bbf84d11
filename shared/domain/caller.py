"""Who calls the API, and what they may do there."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a caller may do. A scope includes no other one, except `ADMIN`, which includes all: a
    program that queues commands and looks at devices has `READ` and `COMMANDS`."""

    READ = "read"
    """See devices, queues and settings; never what unlocks a device."""
    COMMANDS = "commands"
    """Queue, cancel and clear commands."""
    PUSH = "push"
    """Wake devices."""
    ADMIN = "admin"
    """Everything: remove and block devices, tokens, settings, secrets, the audit log."""


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of the API that has shown who it is; `name` may be shown and logged."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the caller has this scope, or all."""
        return scope in self.scopes or Scope.ADMIN in self.scopes
