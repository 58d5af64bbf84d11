"""Who may call the API: scopes, tokens, throttled failures and the audit log, over HTTP on fakes."""

import asyncio
import base64
import plistlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request
from pydantic import SecretStr

from services.commands.access.routes import audit_routes, token_routes
from services.commands.access.tokens import ApiTokens
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.domain.access import MOST_TARGETS, Scope
from shared.domain.errors import Conflict
from shared.web.api.audit import AuditTrail, describe
from shared.web.api.auth import ApiAuth
from shared.web.api.throttle import LIMIT, WINDOW, FailedAttempts
from shared.web.api.tokens import FRESH, TokenCache
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.commands_world import World
from tests.support.fakes.audit import FakeAuditLog
from tests.support.fakes.clock import settle
from tests.support.fakes.tokens import FakeTokens
from tests.support.posting_world import PostingWorld

KEY, NEXT_KEY = "the-key-of-today", "the-key-of-tomorrow"
CATALOGUE = CommandCatalogue.load()
BLOCK = ("POST", "/v1/devices/MAC/block")
QUEUE = {"udid": "MAC", "request_type": "ProfileList"}

ROUTES: list[tuple[str, str, Scope]] = [
    ("POST", "/v1/commands", Scope.COMMANDS),
    ("POST", "/v1/commands/MAC", Scope.COMMANDS),
    ("PUT", "/v1/commands/MAC", Scope.COMMANDS),
    ("GET", "/v1/commands/MAC", Scope.READ),
    ("DELETE", "/v1/commands/MAC", Scope.COMMANDS),
    ("GET", "/v1/commands/MAC/uuid", Scope.READ),
    ("DELETE", "/v1/commands/MAC/uuid", Scope.COMMANDS),
    ("POST", "/v1/devices", Scope.READ),
    ("DELETE", "/v1/devices", Scope.ADMIN),
    ("POST", "/v1/devices/MAC/block", Scope.ADMIN),
    ("POST", "/v1/devices/MAC/unblock", Scope.ADMIN),
    ("POST", "/v1/tokens", Scope.ADMIN),
    ("GET", "/v1/tokens", Scope.ADMIN),
    ("DELETE", "/v1/tokens/ci", Scope.ADMIN),
    ("GET", "/v1/audit", Scope.ADMIN),
    ("POST", "/v1/push", Scope.PUSH),
]


class Api:
    """The routes of the commands service, and some of the test's own, on fakes."""

    def __init__(self) -> None:
        self.world = World()
        self.clock = self.world.clock
        self.tokens, self.audit = FakeTokens(), FakeAuditLog()
        self.book = TokenCache(self.tokens, self.clock)
        auth = ApiAuth(
            [SecretStr(KEY), SecretStr(NEXT_KEY)],
            tokens=self.book,
            failures=FailedAttempts(self.clock),
            trail=AuditTrail(
                self.audit, self.clock, self.world.ids, self.world.priority.interactive
            ),
        )
        app = create_app([self._service(auth)], max_body=1_000_000, metrics=None)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://server")

    def _service(self, auth: ApiAuth) -> Service:
        world = self.world
        self.process = PostingWorld(world)
        tokens = ApiTokens(self.tokens, self.clock, world.ids)
        return self.process.service(
            auth,
            token_routes(tokens, auth),
            audit_routes(self.audit, self.clock, auth),
            own_routes(auth),
        )

    async def call(
        self, method: str, path: str, body: object = None, **options: Any
    ) -> httpx.Response:
        options.setdefault("auth", ("micromdm", KEY))
        return await self.http.request(method, path, json=body, **options)

    async def token(self, *scopes: str, name: str = "ci") -> str:
        answer = await self.call("POST", "/v1/tokens", {"name": name, "scopes": scopes})
        assert answer.status_code == 201
        self.clock.advance(timedelta(seconds=1))  # so that every process knows it
        return str(answer.json()["token"])


def own_routes(auth: ApiAuth) -> APIRouter:
    routes = auth.router()

    @routes.post("/v1/push", dependencies=[auth.needs(Scope.PUSH, audit="test.push")])
    async def push() -> dict[str, str]:
        return {}

    @routes.post("/v1/fails/{how}", dependencies=[auth.needs(Scope.ADMIN, audit="test.fail")])
    async def fails(request: Request, how: str, number: int = 1) -> None:
        describe(request, [f"D{number}" for number in range(number)], "x" * 1000)
        raise {"bug": ValueError("no"), "conflict": Conflict("no")}[how]

    @routes.get("/v1/secret/{udid}", dependencies=[auth.needs(Scope.ADMIN, audit="test.secret")])
    async def secret(udid: str) -> dict[str, str]:
        return {"secret": udid}

    return routes


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    yield made
    await made.http.aclose()


# --- the unlock token that a device entrusted to us

CLEARS = [
    {"udid": "MAC", "request_type": "ClearPasscode"},
    {"UDID": "MAC", "Command": {"RequestType": "ClearPasscode"}},
    {"udid": "MAC", "request_type": "ClearPasscode", "unlock_token": None},
]


@pytest.mark.parametrize("body", CLEARS)
async def test_an_administrator_clears_a_passcode_with_the_stored_token_which_nobody_is_shown(
    api: Api, body: dict[str, object]
) -> None:
    api.world.enrollments.unlock_tokens["MAC"] = b"the-token"

    answer = await api.call("POST", "/v1/commands", body)

    assert answer.status_code == 201
    assert answer.json()["payload"]["command"] == {"request_type": "ClearPasscode"}
    assert base64.b64encode(b"the-token").decode() not in answer.text
    [command] = (await api.call("GET", "/v1/commands/MAC")).json()["commands"]
    plist = plistlib.loads(base64.b64decode(command["payload"]))
    assert plist["Command"]["UnlockToken"] == b"the-token"
    assert api.audit.entries[-1].detail == "ClearPasscode with the stored unlock token"
    assert api.audit.entries[-1].targets == ("MAC",)


async def test_without_the_scope_or_a_stored_token_the_token_is_missing(api: Api) -> None:
    answer = await api.call("POST", "/v1/commands", CLEARS[0])
    assert (answer.status_code, answer.json()["faults"][0]["path"]) == (400, "unlock_token")

    api.world.enrollments.unlock_tokens["MAC"] = b"the-token"
    token = await api.token(Scope.COMMANDS)
    answer = await api.call("POST", "/v1/commands", CLEARS[0], auth=("anybody", token))
    assert (answer.status_code, answer.json()["faults"][0]["path"]) == (400, "unlock_token")
    assert not api.world.queue.entries


# --- scopes


@pytest.mark.parametrize("held", Scope)
async def test_what_a_queued_command_says_is_shown_to_administrators_only(
    api: Api, held: Scope
) -> None:
    command = {"udid": "MAC", "request_type": "ClearPasscode", "unlock_token": "dG9rZW4="}
    posted = await api.call("POST", "/v1/commands", command)
    assert posted.status_code == 201
    token = await api.token(Scope.READ, held)

    answer = await api.call("GET", "/v1/commands/MAC", auth=("anybody", token))

    [shown] = answer.json()["commands"]
    uuid = posted.json()["payload"]["command_uuid"]
    if held is Scope.ADMIN:
        assert shown["uuid"] == uuid
        assert b"dG9rZW4=" in base64.b64decode(shown["payload"])
    else:
        assert shown == {"uuid": uuid, "request_type": "ClearPasscode"}


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
@pytest.mark.parametrize("held", Scope)
async def test_each_route_lets_in_its_scope_and_admin_and_no_other(
    api: Api, held: Scope, method: str, path: str, scope: Scope
) -> None:
    token = await api.token(held)

    answer = await api.call(method, path, {}, auth=("anybody", token))

    if held in {scope, Scope.ADMIN}:
        assert answer.status_code not in {401, 403}
    else:
        assert answer.status_code == 403
        assert answer.json()["error"] == f"this needs the scope {scope}"
        assert "www-authenticate" not in answer.headers


async def test_a_route_that_is_not_allowed_does_nothing(api: Api) -> None:
    token = await api.token("read", "commands", "push")

    await api.call(*BLOCK, auth=("ci", token))

    assert api.world.enrollments.records["MAC"].blocked is False


# --- credentials


@pytest.mark.parametrize("key", [KEY, NEXT_KEY])
async def test_both_keys_are_good_for_everything(api: Api, key: str) -> None:
    assert (await api.call(*BLOCK, auth=("micromdm", key))).status_code == 200


async def test_a_token_is_good_as_password_and_as_bearer(api: Api) -> None:
    token = await api.token("read")
    bearer = {"Authorization": f"bearer {token}"}

    assert (await api.call("POST", "/v1/devices", auth=("me", token))).status_code == 200
    answer = await api.http.post("/v1/devices", headers=bearer)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "authorization",
    ["Bearer", "Bearer ", f"Bearer {KEY}", "Bearer mdm_guess", "Bearer é", "Digest mdm_x"],
)
async def test_other_headers_are_refused(api: Api, authorization: str) -> None:
    header = [(b"authorization", authorization.encode("latin-1"))]

    answer = await api.http.post("/v1/devices", headers=header)

    assert answer.status_code == 401


async def test_a_key_is_good_while_the_store_is_away_and_a_token_is_not_judged(api: Api) -> None:
    token = await api.token("read")
    api.tokens.is_away = True
    api.clock.advance(FRESH)

    assert (await api.call("POST", "/v1/devices")).status_code == 200
    assert (await api.call("POST", "/v1/devices", auth=("ci", token))).status_code == 503


# --- tokens


async def test_the_secret_is_shown_once_and_kept_nowhere(api: Api) -> None:
    secret = await api.token("read", "push")

    listed = await api.call("GET", "/v1/tokens")

    [token] = listed.json()["tokens"]
    assert (token["name"], token["scopes"]) == ("ci", ["push", "read"])
    assert token["created_by"] == "api-key"
    assert secret not in listed.text
    assert secret not in repr(api.tokens.tokens)
    assert secret not in repr(api.audit.entries)
    assert len(secret) > 43


@pytest.mark.parametrize("by", ["id", "name"])
async def test_a_revoked_token_is_refused_after_seconds(api: Api, by: str) -> None:
    secret = await api.token("read")
    [token] = (await api.call("GET", "/v1/tokens")).json()["tokens"]

    answer = await api.call("DELETE", f"/v1/tokens/{token[by]}")
    api.clock.advance(FRESH)

    assert (answer.status_code, bool(answer.json()["revoked_at"])) == (200, True)
    assert (await api.call("POST", "/v1/devices", auth=("ci", secret))).status_code == 401


async def test_a_name_is_given_once(api: Api) -> None:
    await api.token("read")

    answer = await api.call("POST", "/v1/tokens", {"name": "ci", "scopes": ["read"]})

    assert answer.status_code == 409


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "API-key-2"}, "name"),
        ({"name": "command-line"}, "name"),
        ({"name": "Device"}, "name"),
        ({"scopes": None}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": [1]}, "scopes"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": 5}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ],
)
async def test_a_token_that_cannot_be_is_refused(
    api: Api, wrong: dict[str, object], path: str
) -> None:
    answer = await api.call("POST", "/v1/tokens", {"name": "ci", "scopes": ["read"], **wrong})

    assert answer.status_code == 400
    assert [fault["path"] for fault in answer.json()["faults"]] == [path]
    assert not api.tokens.tokens


async def test_a_token_that_nobody_made_is_not_found(api: Api) -> None:
    assert (await api.call("DELETE", "/v1/tokens/nobody")).status_code == 404


# --- throttled failures


async def test_after_too_many_failures_an_address_is_told_to_wait(api: Api) -> None:
    failures = [await api.call("POST", "/v1/devices", auth=("a", "b")) for _ in range(LIMIT + 1)]

    assert [answer.status_code for answer in failures] == [401] * LIMIT + [429]
    assert failures[-1].headers["retry-after"] == str(int(WINDOW.total_seconds()))
    assert failures[-1].json()["type"] == "urn:macromdm:problem:too-many-requests"


async def test_right_credentials_let_in_however_many_failures_came_before(api: Api) -> None:
    token = await api.token("read")
    for _ in range(LIMIT + 1):
        await api.call("POST", "/v1/devices", auth=("a", "b"))

    assert (await api.call("POST", "/v1/devices")).status_code == 200
    assert (await api.call("POST", "/v1/devices", auth=("ci", token))).status_code == 200


async def test_a_request_without_credentials_is_no_failure(api: Api) -> None:
    answers = [await api.http.post("/v1/devices") for _ in range(LIMIT + 1)]

    assert {answer.status_code for answer in answers} == {401}


# --- the audit log


@pytest.mark.parametrize(
    ("method", "path", "body", "action", "targets", "detail"),
    [
        ("POST", "/v1/commands", QUEUE, "command.queue", ("MAC",), "ProfileList"),
        ("DELETE", "/v1/commands/MAC", None, "command.clear", ("MAC",), None),
        ("DELETE", "/v1/devices", {"udids": ["MAC"]}, "device.remove", ("MAC",), None),
        ("POST", "/v1/devices/MAC/block", None, "device.block", ("MAC",), None),
        ("POST", "/v1/devices/MAC/unblock", None, "device.unblock", ("MAC",), None),
        (
            "POST",
            "/v1/tokens",
            {"name": "ci", "scopes": ["read"]},
            "token.create",
            ("ci",),
            "scopes read",
        ),
        ("GET", "/v1/secret/MAC", None, "test.secret", ("MAC",), None),
    ],
)
async def test_every_change_is_in_the_log_before_its_answer(
    api: Api,
    method: str,
    path: str,
    body: object,
    action: str,
    targets: tuple[str, ...],
    detail: str | None,
) -> None:
    answer = await api.call(
        method, path, body, auth=("micromdm", NEXT_KEY), headers={"X-Request-Id": "r-1"}
    )

    [entry] = api.audit.entries
    assert (entry.caller, entry.address, entry.request_id) == ("api-key-2", "127.0.0.1", "r-1")
    assert (entry.action, entry.targets, entry.detail) == (action, targets, detail)
    assert entry.status == answer.status_code
    assert entry.route.split()[0] == method
    assert entry.at == api.clock.now()


async def test_a_piece_of_a_job_waits_until_a_command_beside_it_is_in_the_log(api: Api) -> None:
    stored = api.world.at_store.stop("insert")
    posting = asyncio.create_task(api.call("POST", "/v1/commands", QUEUE))
    await api.world.at_store.reached("insert")
    in_log: list[int] = []

    async def piece() -> None:
        await api.world.priority.yield_to_interactive()
        in_log.append(len(api.audit.entries))

    waiting = asyncio.create_task(piece())
    await settle()
    stored.set()
    await asyncio.gather(posting, waiting)

    assert in_log == [1]


async def test_reading_leaves_no_trace(api: Api) -> None:
    for path in ("/v1/tokens", "/v1/audit", "/v1/commands/MAC"):
        assert (await api.call("GET", path)).status_code == 200
    assert (await api.call("POST", "/v1/devices")).status_code == 200

    assert not api.audit.entries


async def test_a_change_that_cannot_be_recorded_is_answered_503(api: Api) -> None:
    api.audit.is_away = True

    answer = await api.call(*BLOCK)

    assert answer.status_code == 503
    assert "retry-after" in answer.headers


async def test_a_refusal_is_answered_though_it_cannot_be_recorded(api: Api) -> None:
    api.audit.is_away = True

    assert (await api.call("POST", "/v1/devices/NOBODY/block")).status_code == 404


@pytest.mark.parametrize(("how", "status"), [("bug", 500), ("conflict", 409)])
async def test_what_failed_is_in_the_log_with_its_status(api: Api, how: str, status: int) -> None:
    answer = await api.call("POST", f"/v1/fails/{how}")

    assert answer.status_code == status
    assert [entry.status for entry in api.audit.entries] == [status]


async def test_an_attempt_without_the_scope_is_in_the_log(api: Api) -> None:
    token = await api.token("read")

    await api.call(*BLOCK, auth=("ci", token))

    entry = api.audit.entries[-1]
    assert (entry.caller, entry.action, entry.status) == ("ci", "device.block", 403)


async def test_nobody_fills_the_log_without_credentials(api: Api) -> None:
    await api.call(*BLOCK, auth=("micromdm", "wrong"))
    await api.http.request(*BLOCK)

    assert not api.audit.entries


async def test_an_entry_is_of_bounded_size(api: Api) -> None:
    await api.call("POST", f"/v1/fails/conflict?number={MOST_TARGETS + 5}")

    [entry] = api.audit.entries
    assert (len(entry.targets), entry.targets_left_out) == (MOST_TARGETS, 5)
    assert entry.detail is not None
    assert len(entry.detail) == 200


async def test_what_happens_at_once_is_recorded_together(api: Api) -> None:
    await asyncio.gather(*(api.call(*BLOCK) for _ in range(40)))

    assert sum(api.audit.batches) == 40
    assert len(api.audit.batches) < 10


async def test_large_entries_that_come_at_once_are_recorded_apart(api: Api) -> None:
    path = f"/v1/fails/conflict?number={MOST_TARGETS}"

    await asyncio.gather(*(api.call("POST", path) for _ in range(12)))

    assert sum(api.audit.batches) == 12
    assert max(api.audit.batches) <= 4


async def test_the_log_is_read_with_filters_page_by_page(api: Api) -> None:
    for udid in ("MAC", "PAD", "MAC"):
        await api.call("POST", f"/v1/devices/{udid}/block")
        await api.call("DELETE", f"/v1/commands/{udid}")
    query = {"target": "MAC", "action": "device.block", "caller": "api-key", "limit": 1}

    first = (await api.call("GET", "/v1/audit", params=query)).json()
    second = (await api.call("GET", "/v1/audit", params={**query, "cursor": first["next"]})).json()

    [newest], [oldest] = first["entries"], second["entries"]
    assert newest["id"] > oldest["id"]
    assert second["next"] is None
    assert newest | {"id": "", "at": ""} == {
        "id": "",
        "at": "",
        "caller": "api-key",
        "address": "127.0.0.1",
        "route": "POST /v1/devices/{udid}/block",
        "action": "device.block",
        "targets": ["MAC"],
        "targets_left_out": 0,
        "detail": None,
        "status": 200,
        "request_id": None,
    }


@pytest.mark.parametrize(
    "query",
    [
        {"since": "yesterday"},
        {"until": "2026-01-01"},
        {"limit": 0},
        {"limit": 1001},
        {"limit": "x"},
    ],
)
async def test_a_question_that_cannot_be_is_refused(api: Api, query: dict[str, str]) -> None:
    answer = await api.call("GET", "/v1/audit", params=query)

    assert answer.status_code == 400


# --- what cannot be forgotten


def test_a_route_without_a_scope_cannot_be_made() -> None:
    routes = ApiAuth([]).router()

    with pytest.raises(TypeError, match="GET /v1/x"):
        routes.get("/v1/x")(lambda: None)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_route_that_changes_something_without_an_action_cannot_be_made(method: str) -> None:
    auth = ApiAuth([])
    routes = auth.router()

    with pytest.raises(TypeError, match="audit"):
        routes.api_route("/v1/x", methods=[method], dependencies=[auth.needs(Scope.ADMIN)])(
            lambda: None
        )
