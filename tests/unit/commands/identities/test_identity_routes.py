"""/v1/devices/{udid}/identity: what administrators see of a binding, and how they change it; on fakes."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.commands.identities.routes import identity_routes
from services.commands.identities.service import IdentityService
from services.commands.queue.targets import Targets
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, Inventory
from shared.domain.event import Topic
from shared.domain.identity import (
    BoundBy,
    DeviceCertificate,
    Identity,
    Quarantine,
    QuarantineReason,
    Renewal,
    RenewalFailure,
)
from shared.ports.certificates import IssuedCertificate
from shared.telemetry.metrics import Metrics
from shared.web.api.audit import AuditTrail
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.support.fakes.audit import FakeAuditLog
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.identities import FakeIdentities
from tests.support.fakes.issued import FakeIssuedCertificates

KEY = "secret"
MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
OLD, NEW, OTHER = "a" * 64, "b" * 64, "c" * 64
DAY = timedelta(days=1)


class Client:
    """An API client of the routes, and the store behind them."""

    def __init__(self) -> None:
        self.clock, self.audit, self.metrics = FakeClock(), FakeAuditLog(), Metrics()
        self.enrollments = FakeEnrollments()
        self.identities = FakeIdentities(self.enrollments)
        self.issued = FakeIssuedCertificates()
        now = self.clock.now()
        self.enrollments.add(
            Enrollment(
                MAC,
                EnrollmentStatus.ENROLLED,
                generation="g",
                certificate=OLD,
                inventory=Inventory(serial_number="C02"),
                identity=Identity(
                    self.certificate(OLD), now, BoundBy.AUTHENTICATE, True, {"a": "b"}
                ),
            )
        )
        trail = AuditTrail(self.audit, self.clock, FakeIds())
        auth = ApiAuth([SecretStr(KEY)], trail=trail)
        identities = IdentityService(
            self.enrollments,
            self.identities,
            self.issued,
            Targets(self.enrollments),
            self.clock,
            FakeIds(),
            self.metrics,
        )

        async def run() -> None:
            """No work in the background."""

        service = Service("commands", identity_routes(identities, auth), run)
        app = create_app([service], max_body=1024, metrics=self.metrics)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://test", auth=("micromdm", KEY)
        )

    def certificate(self, name: str, life: timedelta = 365 * DAY) -> DeviceCertificate:
        now = self.clock.now()
        return DeviceCertificate(name, "CN=device", "1f", now - DAY, now + life)

    @property
    def record(self) -> Enrollment:
        return self.enrollments.records["MAC"]

    def change(self, **changes: Any) -> None:
        self.enrollments.records["MAC"] = replace(self.record, **changes)

    def quarantine(
        self, name: str, reason: QuarantineReason = QuarantineReason.OTHER_CERTIFICATE
    ) -> None:
        now = self.clock.now()
        self.change(quarantine=Quarantine(now, now, reason, self.certificate(name)))

    def issue(self, name: str, **facts: Any) -> None:
        now = self.clock.now()
        made = IssuedCertificate(
            f"t-{name}", name, f"s-{name}", b"der", "CN=device", "key", now, now + DAY
        )
        self.issued.rows[made.transaction] = replace(made, **facts)

    async def call(self, method: str, name: str = "MAC", **options: Any) -> tuple[int, Any]:
        answer = await self.http.request(method, f"/v1/devices/{name}/identity", **options)
        return answer.status_code, answer.json()

    async def rebind(self, certificate: str, **more: object) -> tuple[int, Any]:
        return await self.call("POST", json={"certificate_sha256": certificate, **more})

    @property
    def topics(self) -> list[Topic]:
        return [n.topic for kept in self.enrollments.kept_outbox.values() for n in kept]


@pytest.fixture
def client() -> Client:
    return Client()


# --- seen


@pytest.mark.parametrize("name", ["MAC", "C02"])
async def test_a_binding_is_shown_with_all_that_is_known(client: Client, name: str) -> None:
    client.issue(NEW, renewed_from=OLD)
    client.quarantine(OTHER)
    now = client.clock.now()
    client.change(renewal=Renewal(2, "uuid", now, RenewalFailure.ATTEMPTS))

    status, shown = await client.call("GET", name)

    assert status == 200
    assert shown["certificate"]["sha256"] == OLD
    assert shown["certificate"]["issuer"] == "ours"
    assert shown["bound_by"] == "authenticate"
    assert [each["sha256"] for each in shown["next"]] == [NEW]
    assert shown["quarantine"]["reason"] == "other_certificate"
    assert shown["quarantine"]["certificate"]["sha256"] == OTHER
    assert (shown["renewal"]["attempts"], shown["renewal"]["failed"]) == (2, "attempts")


async def test_a_removed_device_is_shown_by_its_udid(client: Client) -> None:
    await client.enrollments.remove(["MAC"], "removal")

    status, shown = await client.call("GET")

    assert (status, shown["certificate"]["sha256"]) == (200, OLD)


async def test_nobody_is_404(client: Client) -> None:
    for method, body in (("GET", None), ("DELETE", None), ("POST", {"certificate_sha256": OLD})):
        status, _ = await client.call(method, "NOBODY", json=body)
        assert status == 404


async def test_every_attempt_is_in_the_audit_log(client: Client) -> None:
    await client.call("GET")
    await client.rebind(NEW)
    await client.call("DELETE")

    entries = [(e.action, e.status, e.targets) for e in client.audit.entries]
    assert entries == [
        ("identity.read", 200, ("MAC",)),
        ("identity.rebind", 409, ("MAC",)),
        ("identity.reset", 200, ("MAC",)),
    ]
    assert client.audit.entries[1].detail == f"certificate {NEW}"


# --- reset


async def test_a_reset_takes_the_binding_away_and_may_be_repeated(client: Client) -> None:
    assert await client.call("DELETE") == (200, {})
    assert await client.call("DELETE") == (200, {})

    _, shown = await client.call("GET")
    assert (shown["certificate"], shown["bound_at"], shown["bound_by"]) == (None, None, None)
    assert shown["reset_from_sha256"] == OLD
    assert await client.enrollments.holders({OLD}) == {OLD: "MAC"}


async def test_a_reset_beside_a_renewal_resets_what_was_read_or_nothing(client: Client) -> None:
    async def renew_first(operation: str) -> None:
        if operation == "reset":
            client.change(certificate=NEW)

    client.identities.before = renew_first

    status, _ = await client.call("DELETE")

    assert status == 503
    assert client.record.certificate == NEW


async def test_a_reset_by_mistake_is_undone_in_one_call(client: Client) -> None:
    await client.call("DELETE")

    status, shown = await client.rebind(OLD)

    assert (status, shown["certificate"]["sha256"]) == (200, OLD)
    assert shown["bound_by"] == "administrator"
    assert shown["certificate"]["subject"] == "CN=device"
    assert client.record.retired_certificates == ()
    assert client.topics == []


# --- out of quarantine


async def test_a_device_is_bound_to_the_certificate_that_it_shows(client: Client) -> None:
    client.quarantine(NEW)
    client.issue(NEW)

    status, shown = await client.rebind(NEW.upper())

    assert (status, shown["certificate"]["sha256"]) == (200, NEW)
    assert shown["certificate"]["issuer"] == "ours"
    assert shown["quarantine"] is None
    assert shown["retired_certificates_sha256"] == [OLD]
    record = client.record
    assert record.generation == "g"
    assert record.identity is not None and record.identity.parameters == {"a": "b"}
    assert client.topics == [Topic.CERTIFICATE_REBOUND]


async def test_no_other_certificate_can_be_bound(client: Client) -> None:
    client.quarantine(NEW)

    status, answer = await client.rebind(OTHER)

    assert status == 409
    assert "certificate_sha256" in answer["error"]
    assert client.record.certificate == OLD


async def test_another_devices_certificate_cannot_be_bound(client: Client) -> None:
    client.quarantine(NEW)
    await client.identities.reserve(NEW, "PAD")

    status, _ = await client.rebind(NEW)

    assert status == 409
    assert client.record.certificate == OLD


async def test_one_that_has_expired_since_cannot_be_bound(client: Client) -> None:
    client.quarantine(NEW)
    client.clock.advance(366 * DAY)

    status, _ = await client.rebind(NEW)

    assert status == 409


async def test_of_two_administrators_at_once_the_device_ends_with_one_binding(
    client: Client,
) -> None:
    client.quarantine(NEW)

    answers = await asyncio.gather(client.rebind(NEW), client.rebind(NEW))

    assert {status for status, _ in answers} <= {200, 503}
    assert client.record.certificate == NEW
    assert client.topics == [Topic.CERTIFICATE_REBOUND]


async def test_an_expired_certificate_is_good_for_some_days_more(client: Client) -> None:
    client.clock.advance(400 * DAY)
    client.quarantine(OLD, QuarantineReason.EXPIRED)

    status, shown = await client.rebind(OLD, accept_expired_days=2)

    assert (status, shown["quarantine"]) == (200, None)
    assert client.record.expired_until == client.clock.now() + 2 * DAY
    assert client.record.certificate == OLD


async def test_the_certificate_that_is_bound_and_good_ends_the_quarantine(client: Client) -> None:
    client.quarantine(NEW)

    status, shown = await client.rebind(OLD)

    assert (status, shown["quarantine"]) == (200, None)
    assert shown["expired_accepted_until"] is None
    assert client.topics == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"certificate_sha256": "abc"},
        {"certificate_sha256": 1},
        {"certificate_sha256": OLD, "accept_expired_days": 0},
        {"certificate_sha256": OLD, "accept_expired_days": 31},
        {"certificate_sha256": OLD, "accept_expired_days": "7"},
        {"certificate_sha256": OLD, "accept_expired_days": True},
    ],
)
async def test_an_unusable_body_is_refused(client: Client, body: dict[str, object]) -> None:
    status, _ = await client.call("POST", json=body)

    assert status == 400
