"""While the store is away every route says so: 503, when to come again, and JSON for API clients."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.runtime.adapters import PartsOfProcess
from services.runtime.key_files import keyring_of
from services.runtime.program import ALL_SERVICES
from services.runtime.stores import Stores
from shared.domain.errors import StoreUnavailable
from shared.settings import AllSettings, load
from shared.storage.database import Database
from shared.telemetry.metrics import Metrics
from shared.web.server.app import create_app

KEY = "k" * 32
BRACES = str.maketrans("", "", "{}")
FOR_DEVICES = ("/mdm/", "/ota/", "/scep")
"""Their answers have no body."""
NEED_NO_STORE = {
    "GET /version": 200,
    "GET /scep": 200,
    "GET /v1/request_types": 200,
    "GET /v1/request_types/{name}": 404,
}
REFUSED_BEFORE = {
    "PUT /mdm/checkin": 400,
    "PUT /mdm/connect": 400,
    "PUT /mdm": 400,
    "PUT /checkin": 400,
    "POST /ota/phase23": 400,
    "POST /scep": 400,
    "PUT /v1/config/certificate": 400,
    "PATCH /v1/webhooks/{id}": 400,
}
"""What the test sends lacks a signature or a certificate, or has an unknown key; test_start_order.py sends a
device's message."""


class Switch:
    """Takes the store away."""

    is_on = False


class Away:
    """A database, or a collection of it, all of whose operations fail while the switch is on."""

    def __init__(self, real: Any, switch: Switch) -> None:
        self._real = real
        self._switch = switch

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name == "collection":
            return lambda *arguments: Away(found(*arguments), self._switch)
        if self._switch.is_on and callable(found):

            async def refuse(*_: object, **__: object) -> None:
                raise StoreUnavailable("the store: away")

            return refuse
        return found


@dataclass
class Whole:
    """The four services on one store."""

    app: FastAPI
    http: httpx.AsyncClient
    away: Switch


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    settings = load(AllSettings, {"MDM_DATA_DIR": str(tmp_path), "MDM_API_KEY": KEY})
    switch = Switch()
    parts = PartsOfProcess(settings, Metrics())
    adapters = await parts.open()
    away: Database = Away(adapters.stores._database, switch)  # type: ignore[assignment]
    adapters = replace(adapters, stores=Stores(away, keyring_of(settings)))
    services = [
        await import_module(f"services.{name}.app").build(settings, adapters)
        for name in ALL_SERVICES
    ]
    app = create_app(services, max_body=2**20, metrics=adapters.metrics)
    http = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://server", auth=("micromdm", KEY)
    )
    yield Whole(app, http, switch)
    switch.is_on = False
    await http.aclose()
    await parts.close()


def requests(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each operation that the API describes, with the body of its example."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            sent: dict[str, Any] = {}
            for kind, media in list(content.items())[:1]:
                examples = [each.get("value") for each in media.get("examples", {}).values()]
                example = media.get("example", next(iter(examples), None))
                if isinstance(example, str):
                    sent = {"content": example, "headers": {"Content-Type": kind}}
                elif example is not None:
                    sent = {"json": example}
            wanted = [each for each in operation.get("parameters", []) if each["in"] == "query"]
            sent["params"] = {e["name"]: e.get("example", "x") for e in wanted if e.get("required")}
            yield method.upper(), path, sent


async def test_no_route_answers_otherwise_than_to_come_again(whole: Whole) -> None:
    document = (await whole.http.get("/openapi.json")).json()
    whole.away.is_on = True
    others: dict[str, int] = {}
    for method, path, sent in requests(document):
        answer = await whole.http.request(method, path.translate(BRACES), **sent)
        if answer.status_code != 503:
            others[f"{method} {path}"] = answer.status_code
            continue
        assert int(answer.headers["retry-after"]) > 0, path
        if path.startswith(FOR_DEVICES):
            assert not answer.content, path
        else:
            assert answer.json()["error"], path

    assert others == NEED_NO_STORE | REFUSED_BEFORE
