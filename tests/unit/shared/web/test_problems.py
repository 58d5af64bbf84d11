"""Errors and what clients and devices see of them."""

import httpx
import orjson
import pytest
from fastapi import APIRouter, Request, Response
from httpx import ASGITransport

from shared.domain.errors import (
    BadRequest,
    Blocked,
    BrokerUnavailable,
    Conflict,
    Fault,
    MdmError,
    NotFound,
    Overtaken,
    StoreUnavailable,
    TooLarge,
    Unauthenticated,
    UpstreamFailed,
)
from shared.telemetry.metrics import Metrics, Reason
from shared.web.body import read_body
from shared.web.client_address import ClientAddresses
from shared.web.device_route import DeviceRoute
from shared.web.server.app import Edge, create_app
from shared.web.server.bodies import BodyBudget
from shared.web.server.service import Service

ERRORS: dict[str, MdmError] = {
    "bad": BadRequest("udid: expected a string", [Fault("udid", "a string")]),
    "auth": Unauthenticated("the key is wrong"),
    "missing": NotFound("no such device"),
    "conflict": Conflict("another command has this uuid"),
    "large": TooLarge("the body is over 4 bytes"),
    "blocked": Blocked("blocked"),
    "store": StoreUnavailable("MongoDB: away"),
    "broker": BrokerUnavailable("RabbitMQ: away"),
    "overtaken": Overtaken("overtaken"),
    "upstream": UpstreamFailed("APNs: 400 BadTopic"),
}
LIMIT = 8


def app_under_test(metrics: Metrics | None = None) -> Edge:
    clients, devices = APIRouter(), APIRouter(route_class=DeviceRoute)

    @clients.get("/api/{which}")
    async def fail(which: str) -> Response:
        raise ERRORS[which]

    @clients.get("/bug")
    async def bug() -> Response:
        raise RuntimeError("secret insides")

    @clients.get("/numbers")
    async def numbers(count: int) -> dict[str, int]:
        return {"count": count}

    @clients.post("/body")
    async def body(request: Request) -> Response:
        return Response(await read_body(request, LIMIT))

    @devices.put("/mdm/{which}")
    async def refuse(which: str) -> Response:
        raise ERRORS[which]

    @devices.put("/device-body")
    async def device_body(request: Request) -> Response:
        return Response(await read_body(request, LIMIT))

    router = APIRouter()
    router.include_router(clients)
    router.include_router(devices)

    async def nothing() -> None:
        return None

    return create_app([Service("test", router, nothing)], max_body=LIMIT, metrics=metrics)


def client(app: Edge | None = None) -> httpx.AsyncClient:
    transport = ASGITransport(app or app_under_test(), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://mdm.test")


@pytest.mark.parametrize(
    ("which", "status"),
    [
        ("bad", 400),
        ("auth", 401),
        ("missing", 404),
        ("conflict", 409),
        ("large", 413),
        ("store", 503),
        ("broker", 503),
        ("overtaken", 503),
        ("upstream", 502),
    ],
)
async def test_every_error_of_the_api_is_json_with_error_and_the_members_of_rfc_9457(which, status):
    async with client() as http:
        answer = await http.get(f"/api/{which}")

    content = answer.json()
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert content["status"] == status
    assert content["error"] == ("Unauthorized" if status == 401 else content["detail"])
    assert content["type"].startswith("urn:macromdm:problem:")


async def test_a_bad_request_lists_its_faults():
    async with client() as http:
        answer = await http.get("/api/bad")

    assert answer.json()["error"] == "udid: expected a string"
    assert answer.json()["faults"] == [{"path": "udid", "expected": "a string"}]


async def test_missing_credentials_are_answered_as_micromdm_does():
    async with client() as http:
        answer = await http.get("/api/auth")

    assert answer.json()["error"] == "Unauthorized"
    assert answer.headers["www-authenticate"] == 'Basic realm="micromdm"'


async def test_what_cannot_be_done_now_says_when_to_come_again():
    async with client() as http:
        answer = await http.get("/api/store")

    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing/here", 404), ("DELETE", "/version", 405), ("GET", "/numbers?count=x", 400)],
)
async def test_the_frameworks_own_errors_look_like_ours(method, path, status):
    async with client() as http:
        answer = await http.request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json()["error"]


async def test_a_bug_shows_nothing_of_our_insides():
    async with client() as http:
        answer = await http.get("/bug")

    assert answer.status_code == 500
    assert answer.json()["error"] == "internal error"
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("which", "status"),
    [
        ("bad", 400),
        ("auth", 400),
        ("missing", 400),
        ("conflict", 400),
        ("large", 413),
        ("blocked", 401),
        ("store", 503),
        ("overtaken", 503),
        ("upstream", 503),
    ],
)
async def test_a_device_gets_a_status_and_no_body(which, status):
    async with client() as http:
        answer = await http.put(f"/mdm/{which}")

    assert (answer.status_code, answer.content) == (status, b"")
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize("path", ["/body", "/device-body"])
async def test_a_body_over_the_limit_is_refused_by_its_length(path):
    async with client() as http:
        answer = await http.request("PUT" if "device" in path else "POST", path, content=b"x" * 9)

    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/body", "/device-body"])
async def test_a_body_over_the_limit_is_refused_by_its_chunks(path):
    async def chunks():
        for _ in range(9):
            yield b"x"

    async with client() as http:
        answer = await http.request("PUT" if "device" in path else "POST", path, content=chunks())

    assert answer.status_code == 413


@pytest.mark.parametrize("body", [b"", b"x", b"x" * LIMIT])
async def test_a_body_within_the_limit_is_read_whole(body):
    async with client() as http:
        answer = await http.post("/body", content=body)

    assert answer.content == body


async def test_doubled_slashes_in_a_path_count_as_one():
    async with client() as http:
        answer = await http.get("http://mdm.test//version")

    assert answer.status_code == 200
    assert list(answer.json()) == [
        "version",
        "branch",
        "revision",
        "go_version",
        "build_date",
        "build_user",
    ]


async def test_requests_over_the_most_under_way_hear_503():
    class NothingAtOnce(Edge):
        most_under_way = 0

    app = NothingAtOnce(
        app_under_test().app, max_body=LIMIT, budget=BodyBudget(), addresses=ClientAddresses()
    )

    async with client(app) as http:
        answer = await http.get("/version")

    assert answer.status_code == 503
    assert answer.headers["retry-after"]


async def test_refused_requests_are_counted_by_a_closed_set_of_reasons():
    metrics = Metrics()

    async with client(app_under_test(metrics)) as http:
        await http.get("/api/missing")
        await http.put("/mdm/large")

    def counted(reason: Reason) -> float | None:
        return metrics.registry.get_sample_value(
            "macromdm_requests_refused_total", {"reason": reason}
        )

    assert (counted(Reason.NOT_FOUND), counted(Reason.TOO_LARGE)) == (1, 1)


async def test_everything_is_described_at_docs():
    async with client() as http:
        described = orjson.loads((await http.get("/openapi.json")).content)
        page = await http.get("/docs")

    assert "/version" in described["paths"]
    assert page.status_code == 200
