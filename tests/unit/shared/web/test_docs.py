"""/docs, the OpenAPI document in a browser."""

import re

import httpx
import pytest
from fastapi import APIRouter

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
