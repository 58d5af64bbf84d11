"""POST /v1/commands without FastAPI: its answers, log, audit entries and counts are those by FastAPI."""

import asyncio
import base64
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from prometheus_client import generate_latest
from pydantic import SecretStr
from starlette.types import Message

from shared.concurrency.periodic import Loops
from shared.domain.access import PREFIX, Scope, Token, token_digest
from shared.domain.errors import (
    BadRequest,
    Blocked,
    Fault,
    MdmError,
    Misconfigured,
    Overtaken,
    StoreUnavailable,
    TooManyRequests,
    UpstreamFailed,
)
from shared.telemetry.metrics import Metrics
from shared.web.answers import JsonAnswer
from shared.web.api.audit import AuditTrail, describe
from shared.web.api.auth import ApiAuth
from shared.web.api.route import ApiRoute, DirectApiRoute
from shared.web.api.throttle import FailedAttempts
from shared.web.api.tokens import TokenCache
from shared.web.server.app import create_app
from shared.web.server.service import Feature, Service
from tests.support.commands_world import World
from tests.support.fakes.audit import FakeAuditLog
from tests.support.fakes.tokens import FakeTokens
from tests.support.posting_world import PostingWorld

NOW = datetime(2024, 1, 1, tzinfo=UTC)
KEY = "the-key"
LIMIT, LARGEST_PLIST = 4_000, 1_500
PATH = b"/v1/commands"


def basic(user: bytes, password: bytes) -> bytes:
    return b"Basic " + base64.b64encode(user + b":" + password)


GOOD = (b"authorization", basic(b"micromdm", KEY.encode()))


def command(**more: object) -> bytes:
    return json.dumps({"udid": "MAC", "request_type": "ProfileList", **more}).encode()


@dataclass(frozen=True)
class Sent:
    """One request; a None among the chunks of its body is a client that goes away."""

    chunks: tuple[bytes | None, ...] = (command(command_uuid="1"),)
    headers: tuple[tuple[bytes, bytes], ...] = (GOOD,)
    path: bytes = PATH
    method: str = "POST"
    query: bytes = b""
    client: tuple[str, int] | None = ("192.0.2.1", 5)
    declared: bytes | None = None
    """Content-Length; the body's own where it is None, chunked where it is empty."""

    def body(self, *chunks: bytes | None) -> "Sent":
        return replace(self, chunks=chunks)

    def header(self, name: bytes, *values: bytes) -> "Sent":
        return replace(self, headers=(*self.headers, *((name, value) for value in values)))


USUAL = Sent()
ANONYMOUS = replace(USUAL, headers=())
BY_WORDS: dict[str, list[Sent]] = {
    "usual": [USUAL],
    "safe retry": [USUAL, USUAL],
    "conflict": [
        USUAL,
        USUAL.body(command(command_uuid="1", udid="PAD", request_type="x")),
        USUAL.body(command(command_uuid="1", request_type="UserList")),
    ],
    "unknown device": [USUAL.body(command(udid="NOBODY"))],
    "warnings": [USUAL.body(command(request_type="EraseDevice", udid="MAC:anna"))],
    "apple's form": [
        USUAL.body(json.dumps({"udid": "MAC", "Command": {"RequestType": "ProfileList"}}).encode())
    ],
    "job": [USUAL.body(command(udid=None, udids=["MAC", "PAD", "NOBODY"], command_uuid="j"))],
    "no bytes": [USUAL.body(b"")],
    "no body": [replace(USUAL.body(b""), declared=b"0")],
    "no json": [USUAL.body(b"{"), USUAL.body(b"[]"), USUAL.body(b"null"), USUAL.body(b"\xff")],
    "doubled key": [USUAL.body(b'{"udid": "MAC", "udid": "MAC"}')],
    "number too large": [USUAL.body(command(priority=10**30)), USUAL.body(command(x=float("inf")))],
    "nested too deep": [USUAL.body(b'{"a":' * 700 + b"1" + b"}" * 700)],
    "surrogates": [USUAL.body(command(udid="\ud800")), USUAL.body(command(command_uuid="\ud800"))],
    "faults": [USUAL.body(command(request_type="ProfilList", priority=11, ttl=-1, udid=5))],
    "many faults": [USUAL.body(command(**{f"key{n}": n for n in range(60)}))],
    "over": [USUAL.body(command(x="x" * LIMIT))],
    "over, in chunks": [replace(USUAL.body(*[b" " * 900] * 5, command()), declared=b"")],
    "over, by its length": [replace(USUAL.body(), declared=b"5000")],
    "plist too large": [
        USUAL.body(
            command(
                request_type="Settings",
                settings=[{"item": "DeviceName", "device_name": "n" * 2000}],
            )
        )
    ],
    "chunks": [replace(USUAL.body(USUAL.chunks[0][:9], b"", USUAL.chunks[0][9:]), declared=b"")],  # type: ignore[index]
    "gone": [replace(USUAL.body(b'{"udid"', None), declared=b"90")],
    "gone at once": [replace(USUAL.body(None), declared=b"90")],
    "content types": [
        USUAL.header(b"content-type", each)
        for each in (b"text/plain", b"application/xml", b"multipart/form-data; boundary=x", b"\xff")
    ],
    "anonymous": [
        ANONYMOUS,
        ANONYMOUS.header(b"authorization", b"Basic !"),
        ANONYMOUS.header(b"authorization", basic(b"micromdm", b"guess")),
        ANONYMOUS.header(b"authorization", basic(b"", KEY.encode())),
        ANONYMOUS.header(b"authorization", b"Bearer mdm_guess"),
        ANONYMOUS.header(b"authorization", b"\xe9"),
        ANONYMOUS.header(b"authorization", b"Basic", GOOD[1]),
    ],
    "throttled": [ANONYMOUS.header(b"authorization", basic(b"micromdm", b"guess"))] * 12 + [USUAL],
    "no address": [replace(USUAL, client=None), replace(ANONYMOUS, client=None)],
    "anonymous with a body that is over": [replace(ANONYMOUS.body(), declared=b"5000")],
    "keys": [
        USUAL.body(command()).header(b"idempotency-key", b"k"),
        USUAL.body(command()).header(b"idempotency-key", b"k"),
        USUAL.body(command(request_type="UserList")).header(b"idempotency-key", b"k"),
        USUAL.header(b"idempotency-key", b"a", b"b"),
        USUAL.header(b"idempotency-key", b""),
        USUAL.header(b"idempotency-key", b"x" * 256),
        USUAL.header(b"idempotency-key", b"\xe9"),
    ],
    "request id": [USUAL.header(b"x-request-id", b"r" * 300), USUAL.header(b"x-request-id", b"")],
    "wait": [
        replace(USUAL, query=each)
        for each in (
            b"wait=x",
            b"wait=",
            b"wait=-1",
            b"wait=1e9",
            b"wait=0",
            b"wait",
            b"%77ait=x",
            b"other=1",
            b"priority=3&ttl=1",
            b"wait=1&ttl=1",
            b"=1&%ff",
        )
    ],
    "methods": [
        replace(USUAL, method=each)
        for each in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "post", "TRACE")
    ],
    "paths": [
        replace(USUAL, path=each)
        for each in (
            b"//v1///commands",
            b"/v1/comm%61nds",
            b"/v1/commands/",
            b"/v1/commands%2F",
            b"/v1%2fcommands",
            b"/V1/commands",
            b"/v1/commands//",
            b"/v1/commands%",
            b"/v1/commands;x",
            b"/v1/%63ommands",
        )
    ],
    "too large ttl": [
        USUAL.body(command(ttl=10**12)),
        USUAL.body(command(expires_at="2020-01-01T00:00:00Z")),
    ],
    "clear passcode": [
        USUAL.body(command(request_type="ClearPasscode")),
        USUAL.body(command(request_type="ClearPasscode", udid="NOBODY")),
        USUAL.body(command(request_type="ClearPasscode", unlock_token="dG9rZW4=")),
    ],
}


@dataclass
class Seen:
    """What a request brought about, outside."""

    messages: list[Message] = field(default_factory=list)
    raised: str = ""
    logged: list[dict[str, Any]] = field(default_factory=list)


class Process:
    """A commands service on fakes, with or without direct routes."""

    def __init__(self, *, is_direct: bool) -> None:
        self.world = World()
        clock = self.world.clock
        self.audit, self.tokens = FakeAuditLog(), FakeTokens()
        self.auth = ApiAuth(
            [SecretStr(KEY)],
            tokens=TokenCache(self.tokens, clock),
            failures=FailedAttempts(clock),
            trail=AuditTrail(self.audit, clock, self.world.ids),
        )
        self.metrics = Metrics()
        service = PostingWorld(self.world, max_size=LARGEST_PLIST).service(self.auth)
        if not is_direct:
            service = replace(service, direct={})
        self.app = create_app([service], max_body=LIMIT, metrics=self.metrics)

    async def answer(self, sent: Sent) -> Seen:
        bodies = list(sent.chunks)
        whole = b"".join(each or b"" for each in bodies)
        declared = sent.declared if sent.declared is not None else str(len(whole)).encode()
        framing = (b"content-length", declared) if declared else (b"transfer-encoding", b"chunked")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": sent.method,
            "scheme": "http",
            "path": sent.path.decode("latin-1"),
            "raw_path": sent.path,
            "query_string": sent.query,
            "root_path": "",
            "headers": [*sent.headers, framing],
            "client": sent.client,
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        seen = Seen()

        async def receive() -> Message:
            if not bodies:
                await asyncio.sleep(0)
                return {"type": "http.disconnect"}
            chunk = bodies.pop(0)
            if chunk is None:
                bodies.clear()
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": chunk, "more_body": bool(bodies)}

        async def send(message: Message) -> None:
            seen.messages.append(dict(message))

        with structlog.testing.capture_logs() as logged:
            try:
                await self.app(scope, receive, send)
            except Exception as exc:  # noqa: BLE001 - what a server would log is compared
                seen.raised = repr(exc)
        seen.logged = [dict(each) for each in logged]
        return seen

    def outside(self) -> tuple[object, ...]:
        counted = generate_latest(self.metrics.registry).decode().splitlines()
        return (
            self.audit.entries,
            sorted(map(repr, self.world.queue.entries.values())),
            self.world.push_requests.requested,
            [line for line in counted if "_created" not in line],
        )


def both() -> tuple[Process, Process]:
    return Process(is_direct=True), Process(is_direct=False)


async def alike(direct: Process, by_fastapi: Process, *requests: Sent) -> list[int]:
    """Send both the same; the statuses of the answers."""
    statuses = []
    for sent in requests:
        seen = await direct.answer(sent)
        assert seen == await by_fastapi.answer(sent)
        statuses.append(seen.messages[0]["status"])
    assert direct.outside() == by_fastapi.outside()
    return statuses


@pytest.mark.parametrize("words", BY_WORDS)
async def test_a_direct_route_answers_as_by_fastapi(words: str) -> None:
    await alike(*both(), *BY_WORDS[words])


async def test_fastapi_is_not_asked_for_a_direct_route() -> None:
    process = Process(is_direct=True)

    async def refuse(scope: object, receive: object, send: object) -> None:
        raise AssertionError("asked")

    process.app._inner = refuse
    assert (await process.answer(USUAL)).messages[0]["status"] == 201
    assert (await process.answer(replace(USUAL, method="PUT"))).raised


@pytest.mark.parametrize("held", Scope)
async def test_scopes_of_tokens_count_as_by_fastapi(held: Scope) -> None:
    processes = both()
    secret = f"{PREFIX}secret-of-a-test"
    for process in processes:
        token = Token("id", "ci", token_digest(secret.encode()), frozenset({held}), NOW, "api-key")
        await process.tokens.add(token)
    sent = ANONYMOUS.header(b"authorization", b"bearer " + secret.encode())
    stored = sent.body(command(request_type="ClearPasscode"))
    [status, _] = await alike(*processes, sent, stored)
    assert status == (201 if held in {Scope.COMMANDS, Scope.ADMIN} else 403)


@pytest.mark.parametrize("what", ["tokens", "audit"])
async def test_outages_are_answered_as_by_fastapi(what: str) -> None:
    processes = both()
    for process in processes:
        getattr(process, what).is_away = True
    [status, *_] = await alike(
        *processes,
        USUAL if what != "tokens" else ANONYMOUS.header(b"authorization", b"bearer mdm_guess"),
        USUAL.body(b"{"),
    )
    assert status == 503


async def test_too_many_requests_are_refused_as_by_fastapi() -> None:
    processes = both()
    for process in processes:
        process.app.most_under_way = 0
        process.app.under_way.most = 0
    assert await alike(*processes, USUAL) == [503]


# --- any direct route


def failing(auth: ApiAuth, error: Exception | None, kind: type[ApiRoute]) -> APIRouter:
    routes = auth.router()

    async def fail(request: Request) -> JsonAnswer:
        describe(request, ["D"], "detail")
        if error is not None:
            raise error
        return JsonAnswer({"method": request.method}, 202, {"x-own": "1"})

    needs = auth.needs(Scope.ADMIN, audit="test.fail")
    routes.add_api_route(
        "/v1/fail", fail, methods=["POST", "PUT"], dependencies=[needs], route_class_override=kind
    )
    return routes


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("insides"),
        StoreUnavailable("away"),
        TooManyRequests("wait", timedelta(seconds=1.5)),
        Overtaken("x"),
        UpstreamFailed("x"),
        Misconfigured("x"),
        MdmError(""),
        Blocked("x"),
        BadRequest("x", [Fault("a", "b")]),
    ],
)
async def test_errors_of_an_endpoint_are_answered_as_by_fastapi(
    error: Exception | None, method: str
) -> None:
    processes = both()
    for process, kind in zip(processes, (DirectApiRoute, ApiRoute), strict=True):
        routes = failing(process.auth, error, kind)
        service = Service.of("test", [Feature(routers=(routes,))], Loops(process.world.clock))
        process.app = create_app([service], max_body=LIMIT, metrics=process.metrics)
    sent = replace(USUAL, path=b"/v1/fail", method=method)
    await alike(*processes, sent, sent)


@pytest.mark.parametrize("how", ["parameter", "query", "body", "dependency", "no request"])
def test_an_endpoint_that_takes_more_than_the_request_cannot_be_called_directly(how: str) -> None:
    auth = ApiAuth([SecretStr(KEY)])
    needs = auth.needs(Scope.READ)

    async def of_path(request: Request, name: str) -> JsonAnswer:
        return JsonAnswer({})

    async def of_body(request: Request, given: dict[str, str]) -> JsonAnswer:
        return JsonAnswer({})

    async def alone(request: Request) -> JsonAnswer:
        return JsonAnswer({})

    async def of_nothing() -> JsonAnswer:
        return JsonAnswer({})

    endpoint, path, more = {
        "parameter": (alone, "/{name}", []),
        "query": (of_path, "/x", []),
        "body": (of_body, "/x", []),
        "dependency": (alone, "/x", [Depends(of_nothing)]),
        "no request": (of_nothing, "/x", []),
    }[how]
    with pytest.raises(TypeError, match="request alone"):
        auth.router().add_api_route(
            path,
            endpoint,
            methods=["POST"],
            dependencies=[needs, *more],
            route_class_override=DirectApiRoute,
        )


def test_a_direct_route_is_described() -> None:
    service = PostingWorld(World()).service(ApiAuth([SecretStr(KEY)]))
    assert set(service.direct) == {("POST", "/v1/commands")}
    app = FastAPI()
    app.include_router(service.router)
    operation = app.openapi()["paths"]["/v1/commands"]["post"]
    assert operation["summary"] == "Queue a command"
    assert operation["security"] == [{"BasicAuth": []}]
