"""The form of a request's body: single events and batches, the extra key, and what is redacted."""

import gc
import json
import plistlib
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from services.webhook.forms.form import MOST_PAYLOAD, is_heavy, most_of, most_of_size, shaped
from services.webhook.forms.redaction import known_keys
from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Event, Topic
from shared.domain.subscription import BodyForm
from shared.messaging.envelope import event_json

PLAIN = BodyForm()
WITH_PAYLOAD = BodyForm(extra_keys=frozenset({"payload"}))
REDACTED = BodyForm(is_redacted=True)
IDS = {"udid": "MAC", "status": "Acknowledged", "command_uuid": "c1"}


def connect(message: dict[str, Any] | bytes, **more: object) -> bytes:
    raw = message if isinstance(message, bytes) else plistlib.dumps(message)
    answer = {**IDS, "url_params": {"site": "1"}, "raw_payload": b64encode(raw).decode(), **more}
    event = {"topic": "mdm.Connect", "event_id": "e1", "created_at": "2026-01-02T03:04:05Z"}
    return json.dumps({**event, "acknowledge_event": answer}).encode()


def answer_of(body: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(body)["acknowledge_event"]
    return content


def redacted(message: dict[str, Any] | bytes) -> Any:
    return answer_of(shaped(REDACTED, [connect(message)]))["payload"]


def test_the_default_form_is_the_very_bytes() -> None:
    event = connect({"Status": "Idle"})

    assert shaped(PLAIN, [event]) is event
    assert shaped(BodyForm(extra_keys=frozenset({"unknown"})), [event]) is event


def test_a_batch_holds_the_bytes_of_each_event_in_order() -> None:
    assert shaped(BodyForm(batch=100), [b'{"n": 1}', b"{}"]) == b'{"events":[{"n": 1},{}]}'


def test_who_asks_for_batches_gets_each_event_in_one() -> None:
    assert shaped(BodyForm(batch=2), [b"{}"]) == b'{"events":[{}]}'


def test_in_a_batch_each_event_has_the_form() -> None:
    form = BodyForm(is_redacted=True, batch=2)
    events = json.loads(shaped(form, [connect({"Status": "Idle"})] * 2))["events"]

    assert [event["acknowledge_event"]["redacted"] for event in events] == [True, True]


def test_the_extra_key_is_the_property_list_as_json_and_all_else_is_as_it_was() -> None:
    event = connect({"Status": "Idle", "When": datetime(2026, 1, 2), "Data": b"ab", "N": 2**64 - 1})
    body = shaped(WITH_PAYLOAD, [event])

    expected = json.loads(event)
    expected["acknowledge_event"]["payload"] = {
        "Status": "Idle",
        "When": "2026-01-02T00:00:00Z",
        "Data": "YWI=",
        "N": 2**64 - 1,
    }
    assert json.loads(body) == expected
    assert list(json.loads(body)) == list(expected)


@pytest.mark.parametrize("form", [WITH_PAYLOAD, REDACTED])
def test_a_date_that_python_has_not_is_text(form: BodyForm) -> None:
    message = {"QueryResponses": {"LastCloudBackupDate": datetime(2026, 1, 2)}}
    raw = plistlib.dumps(message).replace(b"2026-", b"0000-")
    answer = answer_of(shaped(form, [connect(raw)]))

    assert answer["payload"] == {"QueryResponses": {"LastCloudBackupDate": "0000-01-02T00:00:00Z"}}


@pytest.mark.parametrize("form", [WITH_PAYLOAD, REDACTED])
def test_a_message_that_cannot_be_read_has_no_payload(form: BodyForm) -> None:
    assert answer_of(shaped(form, [connect(b"<plist><dict>")]))["payload"] is None


@pytest.mark.parametrize(
    ("size", "is_large"), [(MOST_PAYLOAD - 100, False), (MOST_PAYLOAD, True), (2**21, True)]
)
@pytest.mark.parametrize("form", [WITH_PAYLOAD, REDACTED])
def test_a_large_payload_is_left_out_and_said_to_be(
    form: BodyForm, size: int, is_large: bool
) -> None:
    answer = answer_of(shaped(form, [connect({"DeviceName": "x" * size})]))

    assert answer.get("payload_too_large", False) is is_large
    assert ("payload" in answer) is not is_large


def xml(text: bytes, encoding: str) -> bytes:
    head = f'<?xml version="1.0" encoding="{encoding}"?>'.encode()
    return head + b"<plist><dict><key>A</key><string>" + text + b"</string></dict></plist>"


@pytest.mark.parametrize(
    "form", [PLAIN, WITH_PAYLOAD, REDACTED], ids=["plain", "payload", "redacted"]
)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<plist>",
        plistlib.dumps({}),
        plistlib.dumps({"Status": "Idle", "N": 0, "T": True, "R": 1e22}),
        plistlib.dumps({"A": '"' * 9000, "B": b"x" * 9000, "C": [{}, [], False] * 90}),
        plistlib.dumps({"OSVersion": ["x" * 2000] * 100}, fmt=plistlib.FMT_BINARY),
        b" " + plistlib.dumps({"OSVersion": ["x" * 2000] * 100}, fmt=plistlib.FMT_BINARY),
        xml(b"\n" * 9000, "UTF-8"),
        xml(b"\xa1" * 9000, "iso-8859-11"),
        xml(b"x" * 600_000, "UTF-8"),
    ],
    ids=range(10),
)
def test_an_event_is_no_larger_than_it_was_measured(form: BodyForm, raw: bytes) -> None:
    key = EnrollmentKey("MAC", "MAC", udid="MAC")
    event = event_json(Event("e1", Topic.CONNECT, key, 1, raw, "w", 1, None, "Idle"))

    assert len(shaped(form, [event])) <= most_of(form, event)
    assert most_of(form, event) >= most_of_size(form, len(event))


def test_quotes_count_in_the_size_of_a_payload() -> None:
    answer = answer_of(shaped(WITH_PAYLOAD, [connect({"A": '"' * (MOST_PAYLOAD - 100)})]))

    assert answer["payload_too_large"] is True


def test_a_redacted_event_has_its_ids_and_status_and_nothing_of_the_message_but_what_is_readable() -> (
    None
):
    message = {"Status": "Acknowledged", "QueryResponses": {"OSVersion": "26.1", "Odd": "?"}}
    body = json.loads(shaped(REDACTED, [connect(message, future="?")]))

    assert body == {
        "topic": "mdm.Connect",
        "event_id": "e1",
        "created_at": "2026-01-02T03:04:05Z",
        "acknowledge_event": {
            **IDS,
            "url_params": None,
            "raw_payload": None,
            "payload": {"Status": "Acknowledged", "QueryResponses": {"OSVersion": "26.1"}},
            "redacted": True,
        },
    }


def test_redaction_goes_before_the_extra_key() -> None:
    form = BodyForm(frozenset({"payload"}), is_redacted=True)
    event = connect({"PushMagic": "m", "Status": "Idle"})

    assert answer_of(shaped(form, [event]))["payload"] == {"Status": "Idle"}


SECRETS: dict[str, Any] = {
    "UnlockToken": b"s3cret",
    "BootstrapToken": b"s3cret",
    "Token": b"s3cret",
    "PushMagic": "s3cret",
    "PushToken": b"s3cret",
    "ActivationLockBypassCode": "s3cret",
    "EscrowKey": "s3cret",
    "FDE_PersonalRecoveryKeyCMS": b"s3cret",
    "FDE_PersonalRecoveryKeyDeviceKey": "s3cret",
    "EncryptedNewRecoveryKey": b"s3cret",
    "Password": "s3cret",
    "Passcode": "s3cret",
    "passwordHash": b"s3cret",
    "UnusedRedemptionCode": "s3cret",
    "OrganizationMagic": "s3cret",
    "DigestResponse": "s3cret",
    "Challenge": b"s3cret",
    "Latitude": 52.5219,
    "Longitude": 52.5219,
    "Altitude": 52.5219,
    "Timestamp": "s3cret",
    "Feedback": {"Name": "s3cret"},
    "Configuration": {"Identifier": "s3cret"},
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "around",
    [(), ("QueryResponses",), ("SecurityInfo",), ("ManagedApplicationList", "com.example.app")],
    ids=len,
)
def test_secrets_are_left_out_wherever_they_are(name: str, around: tuple[str, ...]) -> None:
    message: dict[str, Any] = {name: SECRETS[name], "Status": "Acknowledged"}
    for each in reversed(around):
        message = {each: message, "Status": "Acknowledged"}
    body = shaped(REDACTED, [connect(message)])

    for trace in (b"s3cret", b64encode(b"s3cret"), b"52.52", name.encode()):
        assert trace not in body


def test_a_known_key_with_a_value_of_another_type_is_left_out() -> None:
    message = {
        "SecurityInfo": {"PasscodePresent": "1234", "AutoLockTime": True, "FDE_Enabled": True},
        "DeviceName": {"OSVersion": "x"},
        "OSVersion": b"x",
        "ErrorChain": "x",
    }

    assert redacted(message) == {"SecurityInfo": {"FDE_Enabled": True}}


def test_lists_dates_and_free_names_that_apple_documents_are_kept() -> None:
    message = {
        "ErrorChain": [{"ErrorCode": 1, "ErrorDomain": "D", "Odd": "x"}, "odd"],
        "ProvisioningProfileList": [{"Name": "P", "ExpiryDate": datetime(2026, 1, 2)}],
        "ManagedApplicationList": {"com.example.app": {"Status": "Managed", "Odd": 1}},
    }

    assert redacted(message) == {
        "ErrorChain": [{"ErrorCode": 1, "ErrorDomain": "D"}],
        "ProvisioningProfileList": [{"Name": "P", "ExpiryDate": "2026-01-02T00:00:00Z"}],
        "ManagedApplicationList": {"com.example.app": {"Status": "Managed"}},
    }


def test_an_event_of_ours_keeps_its_facts_and_loses_what_a_device_said_in_secret() -> None:
    facts = {
        "udid": "MAC",
        "version": 1,
        "state": "acknowledged",
        "expires_at": None,
        "push_token": "s3cret",
        "answer": {"SecurityInfo": {"FDE_Enabled": True, "PasscodePresent": "s3cret"}},
        "odd": ["s3cret"],
    }
    event = {"topic": "macromdm.CommandAcknowledged", "event_id": "e1", "command_event": facts}
    left = json.loads(shaped(REDACTED, [json.dumps(event).encode()]))["command_event"]

    assert left == {
        "udid": "MAC",
        "version": 1,
        "state": "acknowledged",
        "expires_at": None,
        "answer": {"SecurityInfo": {"FDE_Enabled": True}},
        "odd": [],
        "redacted": True,
    }


def test_of_an_object_that_a_newer_version_made_only_ids_and_status_are_left() -> None:
    event = {"topic": "mdm.Future", "event_id": "e1", "future_event": {**IDS, "x": 1}, "y": "z"}
    left = json.loads(shaped(REDACTED, [json.dumps(event).encode()]))

    assert left == {
        "topic": "mdm.Future",
        "event_id": "e1",
        "future_event": {**IDS, "redacted": True},
    }


def names(known: Any) -> Iterator[tuple[str, str]]:
    if isinstance(known, dict):
        for name, below in known.items():
            if isinstance(below, str):
                yield name, below
            yield from names(below)


def test_no_key_that_may_be_read_names_a_secret() -> None:
    words = ("token", "passw", "passcode", "secret", "magic", "recovery", "escrow", "itude", "pin")
    suspicious = {
        name
        for name, type in names(known_keys())
        if type != "boolean" and any(word in name.lower() for word in words)
    }

    assert suspicious == {  # a setting and two durations
        "BootstrapTokenAllowedForAuthentication",
        "PasscodeLockGracePeriod",
        "PasscodeLockGracePeriodEnforced",
    }


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("form", [PLAIN, BodyForm(batch=9), WITH_PAYLOAD, REDACTED])
def test_only_large_messages_that_are_read_are_heavy(form: BodyForm, size: int) -> None:
    is_read = form in (WITH_PAYLOAD, REDACTED)

    assert is_heavy(form, [b"x" * size]) is (is_read and size > 1000)


HOSTILE = {
    "many values": plistlib.dumps({"A": [{} for _ in range(90_000)]}),
    "a long text": plistlib.dumps({"DeviceName": "&" * 200_000}),
    "nested": b"<plist>" + b"<dict><key>A</key>" * 5000 + b"</dict>" * 5000 + b"</plist>",
    "cyclic": b"bplist00\xd1\x01\x00Q1\x08\x0b" + bytes(6) + b"\x01\x01" + b"\0" * 7 + b"\x02"
    b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0d",
    "shared a million times": plistlib.dumps(
        {"A": [shared := ["x" * 1000], *[shared] * 30_000]}, fmt=plistlib.FMT_BINARY
    ),
    "huge": plistlib.dumps({"A": b"x" * 8 * 1024**2}),
}


@pytest.mark.parametrize("form", [WITH_PAYLOAD, REDACTED], ids=["payload", "redacted"])
@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_device_sent_the_work_is_bounded(form: BodyForm, message: bytes) -> None:
    event = connect(message)
    gc.freeze()  # what other tests left is not its work
    try:
        began = time.process_time()
        body = shaped(form, [event])
        took = time.process_time() - began
    finally:
        gc.unfreeze()

    assert took < 1
    assert len(body) < len(event) + 2 * MOST_PAYLOAD
