"""The tour of every route: what was answered, what subscribers got, and what the store holds."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from pymongo import MongoClient

from shared.domain.event import EXTRA_TOPICS, Topic
from tests.integration.whole import Whole, whole_server
from tests.outside.snapshots import as_json, assert_same, masked
from tests.outside.tour import KNOWN, Tour, tour
from tests.support.harness.servers import HasUrl

pytestmark = pytest.mark.asyncio(loop_scope="module")

Document = dict[str, Any]
UNSEEN_TOPICS = {
    Topic.RENEWAL_FAILED,
    Topic.DEVICE_REENROLLED,
    Topic.PUSH_TOKEN_INVALID,
    Topic.WEBHOOK_DISABLED,
    Topic.DEVICE_SILENT,
    Topic.IDENTITY_EXPIRING,
    Topic.PUSH_CERTIFICATE_EXPIRING,
}
"""A renewal is due after a day at the earliest."""


@dataclass
class Served:
    tour: Tour
    document: Document
    events: list[str]
    store: MongoClient[Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    store_server: HasUrl, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    url = urlunsplit(urlsplit(store_server.url)._replace(path="/outside"))
    settings = {
        "MDM_MONGODB_URL": url,
        "MDM_WEBHOOK_EXTRA_TOPICS": ",".join(sorted(EXTRA_TOPICS)),
    }
    async with whole_server(tmp_path_factory.mktemp("outside"), settings) as whole:
        made = await tour(whole)
        document = (await whole.http.get(whole.url_of("/openapi.json"))).json()
        events = await _events(whole)
        with MongoClient[Any](url) as client:
            await _outbox_empty(client)
            yield Served(made, document, events, client)
            client.drop_database("outside")


async def _events(whole: Whole) -> list[str]:
    wanted = set(Topic) - UNSEEN_TOPICS
    async with asyncio.timeout(60):
        while wanted - {arrival.event["topic"] for arrival in whole.sink.taken}:
            await asyncio.sleep(0.1)
    return [arrival.body.decode() for arrival in whole.sink.taken]


async def _outbox_empty(store: MongoClient[Any]) -> None:
    """The last event comes from the outbox, seconds after its change."""
    enrollments = store.get_default_database()["enrollments"]
    async with asyncio.timeout(60):
        while enrollments.find_one({"notices_in": {"$exists": True}}) is not None:
            await asyncio.sleep(0.1)


async def test_the_answer_of_each_route_is_frozen(served: Served) -> None:
    called = {name.partition(" -- ")[0] for name in served.tour.answers}
    described = {
        f"{m.upper()} {path}" for path, item in served.document["paths"].items() for m in item
    }
    assert described <= called

    text = "".join(f"=== {name}\n{answer}\n" for name, answer in served.tour.answers.items())
    assert_same("answers.txt", text)


async def test_events_of_each_topic_are_frozen(served: Served) -> None:
    """The first one of each."""
    first: dict[str, str] = {}
    for body in served.events:
        found = re.search(r'"topic":"([^"]+)"', body)
        assert found is not None
        first.setdefault(found[1], masked(body, KNOWN))

    assert set(first) == set(Topic) - UNSEEN_TOPICS
    assert_same("events.txt", "".join(f"=== {topic}\n{first[topic]}\n" for topic in sorted(first)))


def resolved(value: Any, document: Document) -> Any:
    """A schema with each `$ref` in place, and without the titles that a generator makes up."""
    if isinstance(value, list):
        return [resolved(each, document) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        target: Any = document
        for step in value["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        beside = {key: each for key, each in value.items() if key != "$ref"}
        return resolved({**target, **beside}, document)
    return {
        key: resolved(each, document)
        for key, each in value.items()
        if key != "title" or isinstance(each, dict)
    }


async def test_the_openapi_document_is_frozen(served: Served) -> None:
    plain = {
        key: resolved(each, served.document)
        for key, each in served.document.items()
        if key != "components"
    }
    plain["securitySchemes"] = served.document["components"]["securitySchemes"]

    assert_same("openapi.json", as_json(plain))


def faults(schema: Document, value: Any, document: Document) -> list[str]:
    """What a value has that its schema does not allow."""
    whole = {**schema, "components": document["components"]}
    return [error.message for error in Draft202012Validator(whole).iter_errors(value)]


async def test_each_answer_in_json_fits_its_schema(served: Served) -> None:
    checked = 0
    for route, status, value in served.tour.in_json:
        method, path = route.split(" ")
        item = served.document["paths"].get(path, {}).get(method.lower())
        if item is not None and str(status) in item["responses"]:
            content = item["responses"][str(status)]["content"]["application/json"]
            assert not faults(content["schema"], value, served.document), (route, status, value)
            checked += 1

    assert checked > 70


async def test_each_event_fits_its_schema(served: Served) -> None:
    content = served.document["webhooks"]["event"]["post"]["requestBody"]["content"]

    for body in served.events:
        assert not faults(content["application/json"]["schema"], json.loads(body), served.document)


def shape(value: Any, at: str, found: dict[str, set[str]]) -> None:
    """The type of each field, by its path; the keys of a dictionary whose keys are data are one."""
    found.setdefault(at, set()).add(type(value).__name__)
    if isinstance(value, dict):
        for key, each in value.items():
            shape(each, f"{at}.{key}" if at else key, found)
    elif isinstance(value, list):
        for each in value:
            shape(each, f"{at}[]", found)


async def test_the_documents_of_each_collection_are_frozen(served: Served) -> None:
    """Each field that a document of the collection has, and its types."""
    database = served.store.get_default_database()
    collections: dict[str, dict[str, list[str]]] = {}
    for name in sorted(database.list_collection_names()):
        found: dict[str, set[str]] = {}
        for document in database[name].find():
            shape(document, "", found)
        collections[name] = {path: sorted(types) for path, types in sorted(found.items()) if path}

    assert_same("documents.json", as_json(collections))
