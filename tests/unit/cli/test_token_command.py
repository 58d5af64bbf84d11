"""`python -m services token`."""

import io
from datetime import timedelta

import pytest

from services.cli.tokens import TokenCommand
from services.commands.access.tokens import ApiTokens
from shared.domain.access import token_digest
from shared.domain.errors import BadRequest, Conflict, Misconfigured, NotFound, StoreUnavailable
from tests.support.fakes.audit import FakeAuditLog
from tests.support.fakes.clock import START, FakeClock, FakeIds
from tests.support.fakes.tokens import FakeTokens


class Line:
    """A command line on fakes."""

    def __init__(self) -> None:
        self.clock, ids = FakeClock(), FakeIds()
        self.tokens, self.audit = FakeTokens(), FakeAuditLog()
        self.out = io.StringIO()
        made = ApiTokens(self.tokens, self.clock, ids)
        self.command = TokenCommand(made, self.audit, self.clock, ids, self.out)

    async def run(
        self, action: str, *names: str, scopes: tuple[str, ...] = ("read",), days: int | None = None
    ) -> str:
        """What it writes."""
        self.out.seek(0)
        self.out.truncate()
        await self.command.run(action, names, scopes, days)
        return self.out.getvalue()


@pytest.fixture
def line() -> Line:
    return Line()


async def test_a_new_token_is_all_that_is_written(line: Line) -> None:
    secret = (await line.run("create", "ci", scopes=("read", "push"), days=90)).removesuffix("\n")

    [token] = line.tokens.tokens.values()
    assert token.digest == token_digest(secret.encode())
    assert token.created_by == "command-line"
    assert token.expires_at == START + timedelta(days=90)


async def test_a_token_whose_name_looks_like_an_id_is_revoked_by_its_name(line: Line) -> None:
    name = "0123abcd-0123-0123-0123-0123456789ab"
    await line.run("create", name)

    assert await line.run("revoke", name) == f"revoked {name}\n"


async def test_the_list_shows_what_each_token_may_and_whether_it_is_good(line: Line) -> None:
    secrets = [
        await line.run("create", "ci", scopes=("read", "push")),
        await line.run("create", "night", days=1),
        await line.run("create", "old"),
    ]
    await line.run("revoke", "old")
    line.clock.advance(timedelta(days=1))

    lines = (await line.run("list")).splitlines()

    assert [each.split("  ")[1:] for each in lines] == [
        ["ci", "push,read", "good", "last used never"],
        ["night", "read", "expired", "last used never"],
        ["old", "read", "revoked", "last used never"],
    ]
    assert not any(secret.strip() in each for secret in secrets for each in lines)


async def test_changes_are_in_the_audit_log(line: Line) -> None:
    await line.run("create", "ci")
    await line.run("revoke", "ci")

    actions = [(entry.caller, entry.action, entry.targets) for entry in line.audit.entries]
    assert actions == [
        ("command-line", "token.create", ("ci",)),
        ("command-line", "token.revoke", ("ci",)),
    ]


async def test_a_token_that_cannot_be_recorded_is_not_shown(line: Line) -> None:
    line.audit.is_away = True

    with pytest.raises(StoreUnavailable):
        await line.run("create", "ci")

    assert not line.out.getvalue()


@pytest.mark.parametrize(
    ("action", "names", "days", "error"),
    [
        ("create", (), None, Misconfigured),
        ("create", ("a", "b"), None, Misconfigured),
        ("create", ("api-key",), None, BadRequest),
        ("create", ("ci",), 0, Misconfigured),
        ("create", ("taken",), None, Conflict),
        ("revoke", (), None, Misconfigured),
        ("revoke", ("nobody",), None, NotFound),
    ],
)
async def test_what_cannot_be_is_refused(
    line: Line, action: str, names: tuple[str, ...], days: int | None, error: type[Exception]
) -> None:
    await line.run("create", "taken")

    with pytest.raises(error):
        await line.run(action, *names, days=days)
