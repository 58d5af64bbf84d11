"""GET /v1/devices and what is below it, PUT /migration: on fakes."""

import plistlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.commands.devices.routes import device_routes
from services.commands.devices.service import USERS_TOGETHER, DeviceInventory, DeviceRemoval
from services.commands.migration.routes import TAG, migration_routes
from services.commands.migration.service import Migrations
from services.commands.queue.targets import Targets
from services.runtime.wanted_topics import WantedTopics
from shared.domain.access import AuditEntry
from shared.domain.enrollment import (
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    Inventory,
    PushTarget,
)
from shared.domain.identity import (
    BoundBy,
    DeviceCertificate,
    Identity,
    Quarantine,
    QuarantineReason,
)
from shared.telemetry.metrics import Metrics
from shared.web.api.audit import AuditTrail
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.fakes.audit import FakeAuditLog
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.devices import FakeDevices, FakeMigration
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.queue import FakeCommandQueue
from tests.support.fakes.subscriptions import FakeSubscriptions

KEY = "secret"
WINDOW = timedelta(days=3)
MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
ANNA = EnrollmentKey("MAC:anna", device="MAC", udid="MAC", user="anna")
PRIVATE = EnrollmentKey("E-1", device="E-1", enrollment_id="E-1")
MDM_KEYS = ["serial_number", "udid", "enrollment_status", "last_seen", "dep_profile_status"]
LIMIT = 64 * 1024


class Client:
    """An API client of the routes."""

    def __init__(self) -> None:
        self.clock, self.audit = FakeClock(), FakeAuditLog()
        self.enrollments = FakeEnrollments()
        trail = AuditTrail(self.audit, self.clock, FakeIds())
        auth = ApiAuth([SecretStr(KEY)], trail=trail)
        wanted = WantedTopics(FakeSubscriptions())
        removal = DeviceRemoval(self.enrollments, FakeCommandQueue(), wanted, FakeIds(), self.clock)
        devices = FakeDevices(self.enrollments)
        inventory = DeviceInventory(self.enrollments, devices, Targets(self.enrollments), removal)
        routes = device_routes(inventory, auth)
        store = FakeMigration(self.enrollments)
        migrations = Migrations(store, self.clock, FakeIds(), WINDOW)
        routes.include_router(migration_routes(migrations, auth, LIMIT))

        async def run() -> None:
            """No work in the background."""

        service = Service("commands", routes, run, openapi_tags=[TAG])
        app = create_app([service], max_body=LIMIT, metrics=Metrics())
        transport = httpx.ASGITransport(app=app)
        self.http = httpx.AsyncClient(
            transport=transport, base_url="http://test", auth=("micromdm", KEY)
        )

    async def get(self, path: str = "", **params: str | int) -> tuple[int, Any]:
        answer = await self.http.get(f"/v1/devices{path}", params=params)
        return answer.status_code, answer.json()

    async def put(self, body: bytes) -> tuple[int, Any]:
        answer = await self.http.put("/migration", content=body)
        return answer.status_code, answer.json()

    def entries(self, action: str) -> list[AuditEntry]:
        return [entry for entry in self.audit.entries if entry.action == action]


@pytest.fixture
def client() -> Client:
    return Client()


def enrolled(key: EnrollmentKey, **more: Any) -> Enrollment:
    return replace(Enrollment(key, EnrollmentStatus.ENROLLED, "gen-1", f"cert-{key.id}"), **more)


def fleet(names: Iterable[str]) -> list[Enrollment]:
    return [enrolled(EnrollmentKey(name, name, udid=name)) for name in names]


def message(message_type: str, **keys: object) -> bytes:
    return plistlib.dumps({"MessageType": message_type, "UDID": "MAC", "Topic": "topic"} | keys)


AUTHENTICATE = message("Authenticate", SerialNumber="C02")
TOKEN_UPDATE = message("TokenUpdate", Token=b"token", PushMagic="magic", UnlockToken=b"unlock")


# --- the list


async def test_a_device_is_shown_with_micromdms_keys_first_and_all_that_is_known(
    client: Client,
) -> None:
    told = Inventory("C02", "Mac16,1", "MacBook Pro", "Mac16,1", "Anna's", "15.1", "24B83")
    push = PushTarget("topic", b"push-token", "push-magic")
    client.enrollments.add(
        enrolled(MAC, inventory=told, push=push, last_seen=client.clock.now(), blocked=True)
    )

    status, page = await client.get()

    assert status == 200 and page["next_cursor"] is None
    [shown] = page["devices"]
    assert list(shown)[:5] == MDM_KEYS
    assert shown == {
        "serial_number": "C02",
        "udid": "MAC",
        "enrollment_status": True,
        "last_seen": shown["last_seen"],
        "dep_profile_status": "",
        "status": "enrolled",
        "blocked": True,
        "model": "Mac16,1",
        "model_name": "MacBook Pro",
        "product_name": "Mac16,1",
        "device_name": "Anna's",
        "os_version": "15.1",
        "build_version": "24B83",
        "imei": None,
        "meid": None,
        "push": {"topic": "topic", "token_updated_at": None, "is_token_dead": False},
        "generation": "gen-1",
        "certificate_sha256": "cert-MAC",
        "identity": None,
        "quarantine": None,
        "migrating_until": None,
    }


async def test_pages_lead_on_to_the_end(client: Client) -> None:
    names = [f"D{number}" for number in range(5)]
    client.enrollments.add(*fleet(names))

    found, cursor = [], ""
    for _ in range(3):
        _, page = await client.get(limit=2, cursor=cursor)
        found += [device["udid"] for device in page["devices"]]
        cursor = page["next_cursor"]

    assert found == names
    assert cursor is None


async def test_a_list_that_ends_with_a_page_has_no_further_one(client: Client) -> None:
    client.enrollments.add(*fleet(["A", "B"]))

    assert (await client.get(limit=2))[1]["next_cursor"] is None


async def test_filters_are_taken_from_the_query(client: Client) -> None:
    now = client.clock.now()
    client.enrollments.add(
        enrolled(MAC, last_seen=now, inventory=Inventory(serial_number="C02")),
        enrolled(PRIVATE, blocked=True, migrating_until=now, certificate=None),
    )

    async def found(**query: str) -> list[str]:
        _, page = await client.get(**query)
        return [device["udid"] or device["enrollment_id"] for device in page["devices"]]

    assert await found(udid="E-1") == ["E-1"]
    assert await found(serial_number="C02") == ["MAC"]
    assert await found(blocked="true") == ["E-1"]
    assert await found(migrating="true") == ["E-1"]
    assert await found(status="checked_out") == []
    assert await found(last_seen_after=now.isoformat()) == ["MAC"]
    assert await found(last_seen_before=now.isoformat()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cursor", "not a cursor"),
        ("cursor", "TUFD="),
        ("cursor", "_w"),
        ("limit", "0"),
        ("limit", "1001"),
        ("status", "removed"),
        ("blocked", "perhaps"),
        ("last_seen_after", "yesterday"),
        ("udid", "a\u0000b"),
        ("serial", "C02"),
        ("serial_number", "x" * 257),
    ],
)
async def test_what_cannot_be_a_filter_is_named(client: Client, name: str, value: str) -> None:
    status, problem = await client.get(**{name: value})

    assert status == 400
    assert name in problem["error"]
    assert problem["error"].startswith(f"{name}: expected ")
    assert [fault["path"] for fault in problem["faults"]] == [name]
    assert "nput should" not in str(problem)


async def test_the_certificate_and_the_quarantine_of_a_device_are_shown(client: Client) -> None:
    now = client.clock.now()
    bound = DeviceCertificate("cert-MAC", "CN=Mac", "4f", now, now + WINDOW)
    other = DeviceCertificate("other")
    client.enrollments.add(
        enrolled(
            MAC,
            identity=Identity(bound, now, BoundBy.MIGRATION, is_ours=False),
            quarantine=Quarantine(now, now, QuarantineReason.OTHER_CERTIFICATE, other),
        ),
        enrolled(PRIVATE),
    )

    _, page = await client.get(quarantined="true")

    [shown] = page["devices"]
    assert shown["identity"]["bound_by"] == "migration"
    assert shown["identity"]["subject"] == "CN=Mac"
    assert shown["identity"]["not_after"][:16] == (now + WINDOW).isoformat()[:16]
    assert shown["quarantine"]["reason"] == "other_certificate"
    assert shown["quarantine"]["certificate_sha256"] == "other"
    _, others = await client.get(quarantined="false")
    assert [each["enrollment_id"] for each in others["devices"]] == ["E-1"]


# --- one device


@pytest.mark.parametrize("name", ["MAC", "C02", "MAC:anna", "anna"])
async def test_a_device_is_found_by_any_of_its_names_and_shows_its_users(
    client: Client, name: str
) -> None:
    client.enrollments.add(
        enrolled(MAC, inventory=Inventory(serial_number="C02")), enrolled(ANNA, certificate=None)
    )

    status, shown = await client.get(f"/{name}")

    assert status == 200
    assert shown["udid"] == "MAC"
    [user] = shown["users"]
    assert (user["id"], user["user"], user["status"]) == ("MAC:anna", "anna", "enrolled")


async def test_user_channels_are_shown_in_pages(client: Client) -> None:
    users = [EnrollmentKey(f"MAC:u{n:03}", "MAC", udid="MAC", user=f"u{n:03}") for n in range(150)]
    client.enrollments.add(enrolled(MAC), *(enrolled(user, certificate=None) for user in users))

    _, first = await client.get("/MAC")
    _, second = await client.get("/MAC", cursor=first["next_cursor"])

    assert (len(first["users"]), len(second["users"])) == (USERS_TOGETHER, 150 - USERS_TOGETHER)
    shown = [user["id"] for user in (*first["users"], *second["users"])]
    assert shown == [user.id for user in users]
    assert second["next_cursor"] is None
    assert (await client.get("/MAC", cursor="?"))[0] == 400


async def test_who_is_unknown_is_404_and_an_ambiguous_name_409(client: Client) -> None:
    twin = enrolled(PRIVATE, inventory=Inventory(serial_number="C02"))
    client.enrollments.add(enrolled(MAC, inventory=Inventory(serial_number="C02")), twin)

    assert (await client.get("/nobody"))[0] == 404
    assert (await client.get("/C02"))[0] == 409


# --- secrets


async def test_tokens_are_shown_in_base64_and_the_reading_is_audited(client: Client) -> None:
    client.enrollments.add(enrolled(MAC, bootstrap_token=b"boot"))
    client.enrollments.unlock_tokens["MAC"] = b"unlock"

    assert await client.get("/MAC/unlock_token") == (
        200,
        {"udid": "MAC", "unlock_token": "dW5sb2Nr"},
    )
    assert await client.get("/MAC/bootstrap_token") == (
        200,
        {"udid": "MAC", "bootstrap_token": "Ym9vdA=="},
    )

    for action in ("device.read_unlock_token", "device.read_bootstrap_token"):
        [entry] = client.entries(action)
        assert (entry.targets, entry.status, entry.detail) == (("MAC",), 200, None)


async def test_a_token_that_is_not_there_is_404_and_audited_too(client: Client) -> None:
    client.enrollments.add(enrolled(MAC))

    assert (await client.get("/MAC/unlock_token"))[0] == 404
    assert (await client.get("/nobody/bootstrap_token"))[0] == 404

    [absent] = client.entries("device.read_unlock_token")
    [unknown] = client.entries("device.read_bootstrap_token")
    assert (absent.status, unknown.status) == (404, 404)
    assert unknown.targets == ("nobody",)


async def test_what_cannot_be_audited_is_not_shown(client: Client) -> None:
    client.enrollments.add(enrolled(MAC, bootstrap_token=b"boot"))
    client.audit.is_away = True

    status, problem = await client.get("/MAC/bootstrap_token")

    assert status == 503
    assert "bootstrap_token" not in problem


# --- migration


async def test_an_imported_device_is_listed_as_migrating(client: Client) -> None:
    until = client.clock.now() + WINDOW

    for body in (AUTHENTICATE, TOKEN_UPDATE):
        status, answer = await client.put(body)
        assert status == 200
        assert answer["outcome"] == "imported"

    _, shown = await client.get("/C02")
    assert shown["enrollment_status"] is True
    assert shown["migrating_until"] == answer["migrating_until"]
    assert shown["migrating_until"][:16] == until.isoformat()[:16]
    assert shown["last_seen"] == "0001-01-01T00:00:00Z"


async def test_the_import_is_audited_without_what_is_in_it(client: Client) -> None:
    await client.put(AUTHENTICATE)
    await client.put(TOKEN_UPDATE)

    details = [(e.targets, e.detail, e.status) for e in client.entries("migration.import")]
    assert details == [(("MAC",), "Authenticate", 200), (("MAC",), "TokenUpdate", 200)]


async def test_the_same_message_again_says_that_nothing_changed(client: Client) -> None:
    await client.put(AUTHENTICATE)
    before = dict(client.enrollments.records)

    status, answer = await client.put(AUTHENTICATE)

    assert (status, answer["outcome"], answer["migrating_until"]) == (200, "unchanged", None)
    assert client.enrollments.records == before


async def test_a_token_update_before_its_authenticate_is_404(client: Client) -> None:
    status, problem = await client.put(TOKEN_UPDATE)

    assert status == 404
    assert "Authenticate" in problem["error"]
    assert client.enrollments.records == {}


async def test_a_device_that_enrolled_here_is_409_and_stays_as_it_is(client: Client) -> None:
    client.enrollments.add(enrolled(MAC))
    before = dict(client.enrollments.records)

    assert [(await client.put(body))[0] for body in (AUTHENTICATE, TOKEN_UPDATE)] == [409, 409]

    assert client.enrollments.records == before


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "plist"),
        (b"not a plist", "plist"),
        (message("CheckOut"), "MessageType"),
        (message("GetBootstrapToken"), "MessageType"),
        (message("Unheard"), "MessageType"),
        (message("Authenticate", UDID=""), "UDID"),
        (message("TokenUpdate", PushMagic="magic"), "Token"),
        (message("TokenUpdate", Token=b"token"), "PushMagic"),
        (message("Authenticate", UserID="anna"), "UserID"),
    ],
)
async def test_what_is_no_message_of_an_enrollment_is_400(
    client: Client, body: bytes, word: str
) -> None:
    status, problem = await client.put(body)

    assert status == 400
    assert word in problem["error"]
    assert client.enrollments.records == {}


async def test_a_message_over_the_limit_is_413(client: Client) -> None:
    assert (await client.put(b" " * (LIMIT + 1)))[0] == 413
