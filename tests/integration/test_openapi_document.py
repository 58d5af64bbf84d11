"""The OpenAPI document of the whole server: every route, with examples and with its errors."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.integration.whole import Whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

Document = dict[str, Any]

ERRORS: dict[tuple[str, str], set[str]] = {
    ("PUT", "/mdm/checkin"): {"400", "410", "413", "503"},
    ("PUT", "/mdm/connect"): {"400", "401", "413", "503"},
    ("PUT", "/mdm"): {"400", "401", "410", "413", "503"},
    ("PUT", "/checkin"): {"400", "401", "410", "413", "503"},
    ("GET", "/mdm/enroll"): {"400", "413", "503"},
    ("POST", "/mdm/enroll"): {"400", "413", "503"},
    ("GET", "/ota/enroll"): {"400", "413", "503"},
    ("POST", "/ota/phase23"): {"400", "413", "503"},
    ("GET", "/scep"): {"400", "413", "503"},
    ("POST", "/scep"): {"400", "413", "503"},
    ("POST", "/v1/challenge"): {"400", "401", "403", "413", "429", "503"},
    ("POST", "/v1/commands"): {"400", "401", "403", "404", "409", "413", "429", "503"},
    ("POST", "/v1/commands/{udid}"): {"400", "401", "403", "404", "409", "413", "429", "503"},
    ("PUT", "/v1/commands/{udid}"): {"400", "401", "403", "404", "409", "413", "429", "503"},
    ("GET", "/v1/commands"): {"400", "401", "403", "409", "429", "503"},
    ("GET", "/v1/commands/{udid}"): {"401", "403", "409", "429", "503"},
    ("GET", "/v1/commands/{udid}/{command_uuid}"): {
        "400",
        "401",
        "403",
        "404",
        "409",
        "429",
        "503",
    },
    ("GET", "/v1/jobs"): {"400", "401", "403", "429", "503"},
    ("GET", "/v1/jobs/{id}"): {"400", "401", "403", "404", "429", "503"},
    ("DELETE", "/v1/commands/{udid}/{command_uuid}"): {"401", "403", "404", "409", "429", "503"},
    ("DELETE", "/v1/commands/{udid}"): {"401", "403", "409", "429", "503"},
    ("GET", "/push/{udid}"): {"400", "401", "403", "404", "409", "429", "502", "503"},
    ("POST", "/v1/push/{udid}"): {"400", "401", "403", "404", "409", "429", "502", "503"},
    ("PUT", "/migration"): {"400", "401", "403", "404", "409", "413", "429", "503"},
    ("GET", "/v1/devices"): {"400", "401", "403", "429", "503"},
    ("GET", "/v1/devices/{udid}"): {"400", "401", "403", "404", "409", "429", "503"},
    ("GET", "/v1/devices/{udid}/unlock_token"): {"400", "401", "403", "404", "409", "429", "503"},
    ("GET", "/v1/devices/{udid}/bootstrap_token"): {
        "400",
        "401",
        "403",
        "404",
        "409",
        "429",
        "503",
    },
    ("GET", "/v1/devices/{udid}/identity"): {"400", "401", "403", "404", "409", "429", "503"},
    ("POST", "/v1/devices/{udid}/identity"): {
        *("400", "401", "403", "404", "409", "413", "429", "503")
    },
    ("DELETE", "/v1/devices/{udid}/identity"): {"401", "403", "404", "409", "429", "503"},
    ("POST", "/v1/devices"): {"400", "401", "403", "413", "429", "503"},
    ("DELETE", "/v1/devices"): {"400", "401", "403", "413", "429", "503"},
    ("POST", "/v1/devices/{udid}/block"): {"401", "403", "404", "409", "429", "503"},
    ("POST", "/v1/devices/{udid}/unblock"): {"401", "403", "404", "409", "429", "503"},
    ("PUT", "/v1/profiles"): {"400", "401", "403", "413", "429", "503"},
    ("POST", "/v1/profiles"): {"400", "401", "403", "404", "413", "429", "503"},
    ("DELETE", "/v1/profiles"): {"400", "401", "403", "413", "429", "503"},
    ("POST", "/v1/tokens"): {"400", "401", "403", "409", "413", "429", "503"},
    ("GET", "/v1/tokens"): {"400", "401", "403", "429", "503"},
    ("DELETE", "/v1/tokens/{id}"): {"401", "403", "404", "429", "503"},
    ("GET", "/v1/audit"): {"400", "401", "403", "429", "503"},
    ("GET", "/v1/request_types"): {"400", "401", "403", "429", "503"},
    ("GET", "/v1/request_types/{name}"): {"400", "401", "403", "404", "429", "503"},
    ("PUT", "/v1/config/certificate"): {"400", "401", "403", "409", "413", "429", "503"},
    ("GET", "/v1/config/certificate"): {"400", "401", "403", "404", "429", "503"},
    ("GET", "/v1/config/certificates"): {"400", "401", "403", "429", "503"},
    ("DELETE", "/v1/config/certificates/{topic}"): {"401", "403", "404", "409", "429", "503"},
    ("GET", "/v1/webhooks"): {"400", "401", "403", "429", "503"},
    ("POST", "/v1/webhooks"): {"400", "401", "403", "409", "413", "429", "503"},
    ("GET", "/v1/webhooks/{id}"): {"400", "401", "403", "404", "429", "503"},
    ("GET", "/v1/webhooks/{id}/deliveries"): {"400", "401", "403", "404", "429", "503"},
    ("POST", "/v1/webhooks/{id}/deliveries/retry"): {
        *("400", "401", "403", "404", "409", "413", "429", "503")
    },
    ("POST", "/v1/webhooks/{id}/deliveries/skip"): {
        *("400", "401", "403", "404", "413", "429", "503")
    },
    ("POST", "/v1/webhooks/{id}/test"): {"401", "403", "404", "409", "429", "503"},
    ("POST", "/v1/webhooks/{id}/replay"): {
        *("400", "401", "403", "404", "409", "413", "429", "503")
    },
    ("GET", "/v1/webhooks/{id}/replays"): {"400", "401", "403", "404", "429", "503"},
    ("GET", "/v1/webhooks/{id}/replays/{replay}"): {"400", "401", "403", "404", "429", "503"},
    ("PATCH", "/v1/webhooks/{id}"): {"400", "401", "403", "404", "409", "413", "429", "503"},
    ("DELETE", "/v1/webhooks/{id}"): {"401", "403", "404", "409", "429", "503"},
    ("POST", "/v1/webhooks/{id}/pause"): {"401", "403", "404", "409", "429", "503"},
    ("POST", "/v1/webhooks/{id}/resume"): {"401", "403", "404", "409", "429", "503"},
    ("POST", "/v1/webhooks/{id}/secret"): {
        *("400", "401", "403", "404", "409", "413", "429", "503")
    },
    ("GET", "/version"): set(),
}
"""Every route with the errors that it can answer."""
BODIES = {
    ("PUT", "/mdm/checkin"),
    ("PUT", "/mdm/connect"),
    ("PUT", "/mdm"),
    ("PUT", "/checkin"),
    ("POST", "/mdm/enroll"),
    ("POST", "/ota/phase23"),
    ("POST", "/scep"),
    ("POST", "/v1/challenge"),
    ("POST", "/v1/commands"),
    ("POST", "/v1/commands/{udid}"),
    ("PUT", "/v1/commands/{udid}"),
    ("PUT", "/migration"),
    ("POST", "/v1/devices"),
    ("POST", "/v1/devices/{udid}/identity"),
    ("DELETE", "/v1/devices"),
    ("PUT", "/v1/profiles"),
    ("POST", "/v1/profiles"),
    ("DELETE", "/v1/profiles"),
    ("POST", "/v1/tokens"),
    ("PUT", "/v1/config/certificate"),
    ("POST", "/v1/webhooks"),
    ("PATCH", "/v1/webhooks/{id}"),
    ("POST", "/v1/webhooks/{id}/secret"),
    ("POST", "/v1/webhooks/{id}/deliveries/retry"),
    ("POST", "/v1/webhooks/{id}/deliveries/skip"),
    ("POST", "/v1/webhooks/{id}/replay"),
}
OF_DEVICES = ("/mdm", "/checkin", "/ota/", "/scep")
"""Routes that devices call: no key, and answers that are not in JSON."""
PROBLEM = {"error", "type", "title", "status", "detail"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(whole: Whole) -> AsyncIterator[Document]:
    answer = await whole.http.get(whole.process.url + "/openapi.json")
    yield answer.json()


def operations(document: Document) -> Iterator[tuple[tuple[str, str], Document]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield (method.upper(), path), operation


def has_example(document: Document, content: Document) -> bool:
    """An example of the whole, or one for each of its properties."""
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if any("example" in each or "examples" in each for each in (content, schema)):
        return True
    properties = schema.get("properties", {}).values()
    return bool(properties) and all("examples" in each for each in properties)


def schemas_in(node: object) -> Iterator[Document]:
    if isinstance(node, dict):
        yield from [node] if "type" in node else []
        for each in node.values():
            yield from schemas_in(each)
    elif isinstance(node, list):
        for each in node:
            yield from schemas_in(each)


def types_of(schema: Document) -> list[str]:
    found = schema["type"]
    return found if isinstance(found, list) else [found]


async def test_every_route_is_described_and_no_other(document: Document) -> None:
    assert {route for route, _ in operations(document)} == set(ERRORS)


async def test_every_route_says_what_it_is_for_under_a_name_of_its_own(document: Document) -> None:
    described = [operation for _, operation in operations(document)]

    assert all(operation["summary"] and operation["tags"] for operation in described)
    names = [operation["operationId"] for operation in described]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name) for name in names)
    assert not [name for name in names if "_v1_" in name]


async def test_the_document_is_valid(document: Document) -> None:
    OpenAPIV31SpecValidator(document).validate()


async def test_every_array_says_what_it_holds(document: Document) -> None:
    arrays = [each for each in schemas_in(document) if "array" in types_of(each)]

    assert len(arrays) > 10
    assert all("items" in each for each in arrays)


@pytest.mark.parametrize("route", ERRORS, ids=" ".join)
async def test_every_error_of_a_route_is_described(
    document: Document, route: tuple[str, str]
) -> None:
    responses = dict(operations(document))[route]["responses"]

    assert {status for status in responses if not status.startswith("2")} == ERRORS[route]
    assert all(response["description"] for response in responses.values())


@pytest.mark.parametrize(
    "route", [r for r in ERRORS if not r[1].startswith(OF_DEVICES)], ids=" ".join
)
async def test_every_answer_of_the_api_has_an_example_in_json(
    document: Document, route: tuple[str, str]
) -> None:
    responses = dict(operations(document))[route]["responses"]

    for status, response in responses.items():
        [(content_type, content)] = response["content"].items()
        assert content_type == "application/json"
        assert has_example(document, content), status
        if not status.startswith("2"):
            example = content["example"]
            assert example.keys() >= PROBLEM, status
            assert str(example["status"]) == status


@pytest.mark.parametrize("route", sorted(BODIES), ids=" ".join)
async def test_every_body_has_an_example(document: Document, route: tuple[str, str]) -> None:
    contents = dict(operations(document))[route]["requestBody"]["content"].values()

    assert contents
    assert all(has_example(document, content) for content in contents)


async def test_the_routes_of_the_api_demand_the_key_and_no_others(document: Document) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {name: (s["type"], s["scheme"]) for name, s in schemes.items()} == {
        "BasicAuth": ("http", "basic"),
        "BearerAuth": ("http", "bearer"),
    }
    guarded = {
        route
        for route, operation in operations(document)
        if operation.get("security") == [{"BasicAuth": []}, {"BearerAuth": []}]
    }

    assert guarded == {r for r in ERRORS if not r[1].startswith(OF_DEVICES) and r[1] != "/version"}


async def test_a_query_parameter_that_a_route_of_ours_does_not_know_is_named(
    document: Document, whole: Whole
) -> None:
    asked = [path for (method, path), each in operations(document) if _reads(method, path, each)]

    for path in asked:
        answer = await whole.api("GET", f"{path}?per_pages=1&limit=2&per_pages=3")
        assert (answer.status_code, path) == (400, path)
        assert "per_pages" in {fault["path"] for fault in answer.json()["faults"]}

    assert len(asked) > 10
    for path in ("/v1/commands/MAC", "/push/MAC"):  # MicroMDM's, whose clients send what they like
        assert (await whole.api("GET", f"{path}?per_pages=1")).status_code != 400


def _reads(method: str, path: str, operation: Document) -> bool:
    is_micromdms = path in {"/v1/commands/{udid}", "/push/{udid}"}
    return method == "GET" and bool(operation.get("security")) and not is_micromdms


async def test_every_tag_is_explained(document: Document) -> None:
    sent = [item["post"] for item in document["webhooks"].values()]
    operating = [*(operation for _, operation in operations(document)), *sent]
    used = {tag for operation in operating for tag in operation["tags"]}
    tags = [tag["name"] for tag in document["tags"]]

    assert len(set(tags)) == len(tags)
    assert used == set(tags)
    assert all(tag["description"] for tag in document["tags"])


async def test_every_reference_leads_somewhere(document: Document) -> None:
    schemas = document["components"].get("schemas", {})

    def references(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for each in node.values():
                yield from references(each)
        elif isinstance(node, list):
            for each in node:
                yield from references(each)

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


async def test_the_document_can_be_read_in_a_browser(whole: Whole) -> None:
    answer = await whole.http.get(whole.process.url + "/docs")

    assert answer.status_code == 200
    assert "/openapi.json" in answer.text
