"""/docs, the OpenAPI document in a browser."""

import re
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Response
from pydantic_core import core_schema
from typing_extensions import TypedDict

from shared.web.api.openapi import ok
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.architecture.sources import ROOT


@pytest.fixture
def http() -> httpx.AsyncClient:
    async def run() -> None:
        return None

    app = create_app([Service("tiny", APIRouter(), run)], max_body=1, metrics=None)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server")


async def test_the_page_names_no_foreign_host(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text

    assert not re.findall(r"""["'(](?:https?:)?//[^"')]*""", page)
    assert '"validatorUrl": null' in page


async def test_all_that_the_page_loads_comes_from_this_server(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text
    loaded = re.findall(r"""(?:src|href)="([^"]+)""", page)

    answers = {path: await http.get(path) for path in loaded}

    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/docs/swagger-ui.css": 200,
        "/docs/favicon.svg": 200,
        "/docs/swagger-ui-bundle.js": 200,
    }


async def test_the_document_is_that_of_all_services(http: httpx.AsyncClient) -> None:
    answer = await http.get("/openapi.json")

    assert answer.headers["content-type"] == "application/json"
    assert answer.content == (ROOT / "docs" / "openapi.json").read_bytes()
    assert {"/v1/commands", "/push/{udid}", "/mdm/connect"} <= answer.json()["paths"].keys()


async def test_no_process_makes_the_schemas_of_answers_that_only_the_document_shows() -> None:
    made = []

    class Shown:
        @classmethod
        def __get_pydantic_core_schema__(cls, *_: Any) -> core_schema.CoreSchema:
            made.append(cls)
            return core_schema.str_schema()

    class Answer(TypedDict):
        shown: Shown

    async def run() -> None:
        return None

    router = APIRouter()
    router.get("/", responses=ok(Answer, "Shown."), response_class=Response)(run)

    app = create_app([Service("tiny", router, run)], max_body=1, metrics=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as http:
        await http.get("http://server/")

    assert made == []
