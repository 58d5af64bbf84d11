"""POST /v1/challenge as API clients use it."""

import json
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.commands.access.routes import CHALLENGES_TAG, challenge_routes
from services.commands.access.schemas import ChallengeRequest
from shared.domain.errors import BadRequest
from shared.telemetry.metrics import Metrics
from shared.web.api.auth import ApiAuth
from shared.web.body import JSON_LIMIT
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.scep_world import STATIC, ScepWorld

KEY = "secret"


class Client:
    """An API client of the route, and the SCEP server that takes its challenges."""

    def __init__(self) -> None:
        self.world = ScepWorld(static=STATIC)
        routes = challenge_routes(self.world.commands_book, ApiAuth([SecretStr(KEY)]))

        async def run() -> None:
            """No work in the background."""

        service = Service("commands", routes, run, openapi_tags=[CHALLENGES_TAG])
        app = create_app([service], max_body=JSON_LIMIT, metrics=Metrics())
        transport = httpx.ASGITransport(app=app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def post(self, body: object = b"", key: str = KEY) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.http.post("/v1/challenge", content=content, auth=("micromdm", key))
        return answer.status_code, answer.json()


async def test_a_challenge_is_given_under_both_names_and_is_good_for_one_certificate() -> None:
    client = Client()

    status, given = await client.post()

    assert status == 200
    assert given["challenge"] == given["string"] != STATIC
    world = client.world
    first = await world.ask(world.client(0), given["challenge"], transaction="a")
    second = await world.ask(world.client(1), given["challenge"], transaction="b")
    assert (first.is_success, second.is_success) == (True, False)


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ({"udid": "UDID-1"}, ("UDID-1", None)),
        ({"serial_number": "SERIAL-1", "udid": None}, (None, "SERIAL-1")),
        ({"UDID": "UDID-1", "Serial_Number": "S", "other": 1}, ("UDID-1", "S")),
        ({}, (None, None)),
    ],
)
async def test_a_challenge_may_be_for_one_device(
    body: dict[str, object], bound: tuple[str | None, str | None]
) -> None:
    client = Client()

    status, _ = await client.post(body)

    assert status == 200
    [stored] = client.world.challenges.rows.values()
    assert (stored.udid, stored.serial_number) == bound


@pytest.mark.parametrize(
    "body", [b"x", b"[]", {"udid": ""}, {"udid": 1}, {"serial_number": "x" * 129}, {"udid": "\x00"}]
)
async def test_what_names_no_device_is_refused_and_makes_no_challenge(body: object) -> None:
    client = Client()

    status, answer = await client.post(body)

    assert (status, answer["status"]) == (400, 400)
    assert not client.world.challenges.rows


async def test_without_the_key_there_is_no_challenge() -> None:
    client = Client()

    status, _ = await client.post(key="wrong")

    assert status == 401
    assert not client.world.challenges.rows


def test_an_empty_body_is_for_any_device() -> None:
    assert ChallengeRequest.read(b" ") == ChallengeRequest()
    with pytest.raises(BadRequest):
        ChallengeRequest.read(b"null")
