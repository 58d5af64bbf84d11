"""/v1/config/certificate as MicroMDM's clients call it, the list, and removal."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import SecretStr

from services.push.certificates.routes import ALL, ONE, TAG, CertificateRoutes
from services.push.certificates.schemas import LIMIT
from shared.domain.access import AuditQuery
from shared.security.push_certificate import PushCertificate
from shared.web.api.audit import AuditTrail
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.fakes.audit import FakeAuditLog
from tests.support.fakes.clock import FakeIds
from tests.support.harness.push_certificates import TOPIC
from tests.support.push_certificate_world import DAY, OTHER, Replica, World

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def body_of(pair: PushCertificate) -> dict[str, Any]:
    return {"cert": base64_of(pair.certificate_pem), "key": base64_of(pair.key_pem)}


class Served:
    """The routes on fakes."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.replica = Replica(self.world)
        self.audit = FakeAuditLog()
        trail = AuditTrail(self.audit, self.world.clock, FakeIds())
        auth = ApiAuth([SecretStr("secret")], trail=trail)
        routes = CertificateRoutes(self.replica.installation, auth)

        async def run() -> None:
            return None

        service = Service("push", routes.router, run, openapi_tags=[TAG])
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app([service], max_body=10**6, metrics=None)),
            base_url="http://server",
            auth=("micromdm", "secret"),
        )

    async def put(self, pair: PushCertificate, query: str = "", **more: Any) -> httpx.Response:
        return await self.client.put(ONE + query, json=body_of(pair) | more, headers=FORM)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


async def test_what_was_put_is_what_get_answers_in_der(served: Served) -> None:
    pair = served.world.issue()

    put = await served.put(pair)
    got = await served.client.get(ONE)

    assert (put.status_code, put.json()) == (200, {})
    assert got.status_code == 200
    assert got.headers["content-type"] == "application/json; charset=utf-8"
    der = x509.load_pem_x509_certificate(pair.certificate_pem).public_bytes(Encoding.DER)
    assert got.json() == {"cert": base64_of(der)}


async def test_without_a_certificate_get_is_404(served: Served) -> None:
    for path in (ONE, f"{ONE}?topic={TOPIC}"):
        answer = await served.client.get(path)

        assert answer.status_code == 404
        assert "push certificate" in answer.json()["error"]


async def test_get_answers_the_current_topic_or_the_one_that_is_named(served: Served) -> None:
    first, second = served.world.issue(), served.world.issue(OTHER)
    for pair in (first, second):
        await served.put(pair)

    current = await served.client.get(ONE)
    named = await served.client.get(f"{ONE}?topic={TOPIC}")

    assert base64.b64decode(current.json()["cert"]) == second.der
    assert base64.b64decode(named.json()["cert"]) == first.der


async def test_who_asks_for_a_certificate_that_ends_soon_is_told(served: Served) -> None:
    await served.put(served.world.issue(ends=60))

    [warning] = (await served.client.get(ONE)).json()["warnings"]

    assert "60 days" in warning


Fault = Callable[[World, PushCertificate], dict[str, Any]]
FAULTS: dict[str, tuple[str, Fault]] = {
    "no cert": ("cert", lambda _, pair: {"key": base64_of(pair.key_pem)}),
    "no key": ("key", lambda _, pair: {"cert": base64_of(pair.certificate_pem)}),
    "null": ("cert", lambda _, pair: body_of(pair) | {"cert": None}),
    "a number": ("key", lambda _, pair: body_of(pair) | {"key": 5}),
    "no base64": ("cert", lambda _, pair: body_of(pair) | {"cert": "-----BEGIN"}),
    "nothing": ("key", lambda _, pair: body_of(pair) | {"key": ""}),
    "no PEM": ("cert", lambda _, pair: body_of(pair) | {"cert": base64_of(b"x")}),
    "DER": ("cert", lambda _, pair: body_of(pair) | {"cert": base64_of(pair.der)}),
    "another's key": (
        "key",
        lambda world, pair: body_of(pair) | {"key": base64_of(world.issue().key_pem)},
    ),
    "expired": ("cert", lambda world, _: body_of(world.issue(begins=-2, ends=0))),
    "not valid yet": ("cert", lambda world, _: body_of(world.issue(begins=1))),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_cannot_be_used_is_refused_by_its_name_and_leaves_nothing(
    served: Served, fault: str
) -> None:
    field, make = FAULTS[fault]
    pair = served.world.issue()

    answer = await served.client.put(ONE, json=make(served.world, pair))

    assert answer.status_code == 400
    assert answer.json()["faults"][0]["path"] == field
    assert served.world.store.stored == {}
    assert pair.key_pem.decode() not in answer.text
    assert (await served.client.get(ALL)).json() == {"certificates": [], "without_certificate": []}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(served: Served, body: bytes) -> None:
    answer = await served.client.put(ONE, content=body)

    assert answer.status_code == 400


async def test_a_huge_body_is_refused(served: Served) -> None:
    answer = await served.client.put(ONE, content=b"{" + b" " * LIMIT)

    assert answer.status_code == 413


async def test_names_match_without_letter_case_and_unknown_ones_are_ignored(
    served: Served,
) -> None:
    pair = served.world.issue()
    body = {"Cert": base64_of(pair.certificate_pem), "KEY": base64_of(pair.key_pem), "x": 1}

    assert (await served.client.put(ONE, json=body)).status_code == 200


async def test_base64_in_lines_is_read(served: Served) -> None:
    pair = served.world.issue()
    body = {
        "cert": base64.encodebytes(pair.certificate_pem).decode(),
        "key": base64.encodebytes(pair.key_pem).decode(),
    }

    assert (await served.client.put(ONE, json=body)).status_code == 200


async def test_another_topic_is_refused_with_409_and_taken_by_its_name(served: Served) -> None:
    await served.put(served.world.issue())
    served.world.enroll("MAC")
    other = served.world.issue(OTHER)

    refused = await served.put(other)
    forced = await served.put(other, f"?force_topic={OTHER}")

    assert refused.status_code == 409
    assert "1 devices" in refused.json()["error"]
    assert forced.status_code == 200


async def test_the_list_shows_every_topic_with_its_devices_and_never_a_key(
    served: Served,
) -> None:
    old, new, other = served.world.issue(), served.world.issue(ends=30), served.world.issue(OTHER)
    for pair in (other, old, new):
        await served.put(pair)
    for device, topic in (("A", TOPIC), ("B", TOPIC), ("C", "com.apple.mgmt.gone")):
        served.world.enroll(device, topic)

    answer = await served.client.get(ALL)

    second, first = answer.json()["certificates"]
    assert (first["topic"], second["topic"]) == (TOPIC, OTHER)
    assert first == {
        "topic": TOPIC,
        "serial_number": new.serial_number,
        "not_before": new.not_before.isoformat(),
        "not_after": new.not_after.isoformat(),
        "days_left": 30,
        "state": "waiting",
        "source": "api",
        "installed_at": served.world.clock.now().isoformat(),
        "is_default": True,
        "enrollments": 2,
        "previous": {
            "topic": TOPIC,
            "serial_number": old.serial_number,
            "not_before": old.not_before.isoformat(),
            "not_after": old.not_after.isoformat(),
        },
    }
    assert (second["state"], second["is_default"], second["enrollments"]) == ("current", False, 0)
    assert answer.json()["without_certificate"] == [
        {"topic": "com.apple.mgmt.gone", "enrollments": 1}
    ]
    assert "PRIVATE KEY" not in answer.text


async def test_an_expired_certificate_shows_as_such(served: Served) -> None:
    await served.put(served.world.issue(ends=1))
    served.world.clock.advance(DAY)

    [entry] = (await served.client.get(ALL)).json()["certificates"]

    assert (entry["state"], entry["days_left"]) == ("expired", 0)


async def test_a_removed_topic_is_gone(served: Served) -> None:
    await served.put(served.world.issue())

    removed = await served.client.delete(f"{ALL}/{TOPIC}")
    again = await served.client.delete(f"{ALL}/{TOPIC}")

    assert (removed.status_code, removed.json()) == (200, {})
    assert again.status_code == 404
    assert served.world.store.stored == {}


async def test_a_topic_with_devices_is_removed_by_its_name_only(served: Served) -> None:
    await served.put(served.world.issue())
    served.world.enroll("MAC")

    refused = await served.client.delete(f"{ALL}/{TOPIC}")
    forced = await served.client.delete(f"{ALL}/{TOPIC}?force_topic={TOPIC}")

    assert (refused.status_code, forced.status_code) == (409, 200)


async def test_changes_are_audited_with_topic_and_serial_number_and_without_the_key(
    served: Served,
) -> None:
    pair = served.world.issue()
    await served.put(pair)
    await served.client.delete(f"{ALL}/{TOPIC}")

    now = served.world.clock.now()
    page = await served.audit.find(AuditQuery(since=now - DAY, until=now + DAY))

    removed, installed = page.entries
    assert (installed.action, installed.targets) == ("push_certificate.install", (TOPIC,))
    assert installed.detail == f"serial number {pair.serial_number}"
    assert (removed.action, removed.targets) == ("push_certificate.remove", (TOPIC,))


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", ONE), ("GET", ONE), ("GET", ALL), ("DELETE", f"{ALL}/x")]
)
async def test_every_route_needs_credentials(served: Served, method: str, path: str) -> None:
    answer = await served.client.request(method, path, auth=("micromdm", "wrong"))

    assert answer.status_code == 401
