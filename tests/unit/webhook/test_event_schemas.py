"""The schemas of what receivers get, in docs/openapi.json, against recorded events and those that we make."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.push.certificates.expiry import expiring, push_key
from services.webhook.endpoints.request import EventBody, EventRequest
from services.webhook.endpoints.signing import RequestSigner
from services.webhook.forms.form import shaped
from services.webhook.upkeep.disabled import disabled_event
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus
from shared.domain.event import TEST_TOPIC, Topic
from shared.domain.identity import BoundBy, DeviceCertificate, Identity
from shared.domain.outbox import identity_expiring, silent
from shared.domain.subscription import BodyForm, RequestSecrets, SigningSecret, Subscription
from shared.messaging.envelope import event_json
from shared.security.push_certificate import PushCertificate
from tests.support.fakes.clock import START

ROOT = Path(__file__).parents[3]
DOCUMENT = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
SCHEMAS = DOCUMENT["components"]["schemas"]
SNAPSHOT = ROOT / "tests" / "outside" / "snapshots" / "events.txt"
"""Events of a running server, one in a line; ids and times are replaced."""
RECORDED = {
    file.stem: file.read_bytes()
    for file in sorted((ROOT / "tests" / "contract" / "samples").glob("guide_*.json"))
} | {
    f"{number}: {json.loads(line)['topic']}": line.encode()
    for number, line in enumerate(SNAPSHOT.read_text(encoding="utf-8").splitlines())
    if line.startswith("{")
}
RECORDED["of no device"] = event_json(
    disabled_event(Subscription("1", "https://x.example/", state_reason="410", changed_at=START))
)
AT = 1_767_323_045 * 10**9
_CERTIFICATE = DeviceCertificate("ab", "CN=x", "1f", START, START)
_DEVICE = Enrollment(
    EnrollmentKey("MAC", device="MAC", udid="MAC"),
    EnrollmentStatus.ENROLLED,
    identity=Identity(_CERTIFICATE, START, BoundBy.AUTHENTICATE, True),
)
_PUSH = PushCertificate("com.apple.mgmt.External.x", "1F", START, START, "ab", b"", b"")
RECORDED |= {
    kept.topic.value: event_json(kept.event(_DEVICE.key, "writer"))
    for kept in (silent("1", AT, _DEVICE, 2), identity_expiring("2", AT, _DEVICE, 14))
} | {
    "of a push certificate": event_json(
        expiring("3", AT, _PUSH, 7).event(push_key(_PUSH.topic), "push")
    )
}
FORMS = {
    "MicroMDM's": BodyForm(),
    "with payload": BodyForm(frozenset({"payload"})),
    "redacted": BodyForm(is_redacted=True),
}


def faults(name: str, value: Any) -> list[str]:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return [fault.message for fault in Draft202012Validator(schema).iter_errors(value)]


def undocumented(event: dict[str, Any]) -> set[str]:
    """Keys that the schema does not name."""
    objects = {"WebhookEvent": event}
    for name, value in event.items():
        if isinstance(value, dict):
            reference = json.dumps(SCHEMAS["WebhookEvent"]["properties"][name])
            objects[reference.partition("schemas/")[2].partition('"')[0]] = value
    return {
        f"{schema}.{key}"
        for schema, value in objects.items()
        for key in value.keys() - SCHEMAS[schema]["properties"].keys()
    }


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("recorded", RECORDED.values(), ids=RECORDED)
def test_recorded_events_are_as_the_schema_says_in_each_form(
    recorded: bytes, form: BodyForm
) -> None:
    event = json.loads(shaped(form, [recorded]))
    batch = json.loads(shaped(replace(form, batch=9), [recorded] * 2))

    assert not faults("WebhookEvent", event)
    assert not undocumented(event)
    assert not faults("EventBatch", batch)


@pytest.mark.parametrize("name", ["topic", "event_id", "created_at"])
def test_the_schema_misses_what_every_event_has(name: str) -> None:
    event = json.loads(RECORDED["guide_connect"])
    del event[name]

    assert faults("WebhookEvent", event)


def test_the_schema_names_every_topic() -> None:
    ours, later = SCHEMAS["WebhookEvent"]["properties"]["topic"]["anyOf"]

    assert set(ours["enum"]) == {*Topic, TEST_TOPIC}
    assert later == {"minLength": 1}


def test_an_event_of_every_kind_was_recorded() -> None:
    kinds = {name for event in RECORDED.values() for name in json.loads(event)}

    assert {
        name for name in SCHEMAS["WebhookEvent"]["properties"] if name.endswith("_event")
    } <= kinds


@pytest.mark.parametrize("webhook", ["event", "events"])
def test_every_header_of_a_request_is_described(webhook: str) -> None:
    secrets = RequestSecrets(signing=(SigningSecret("whsec_c2VjcmV0"),), hmac_key="k")
    request = EventRequest((EventBody("e1", "mdm.Connect", b"{}"),), replay="r1")
    lines = RequestSigner(secrets).headers(request, b"{}", START).decode().splitlines()
    sent = {line.partition(":")[0].lower() for line in lines}
    described = DOCUMENT["webhooks"][webhook]["post"]["parameters"]

    assert {each["name"] for each in described if each["in"] == "header"} == sent
