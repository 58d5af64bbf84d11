"""The JSON of events: the guide's samples, and the rules that hold for every event."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Event, Topic
from shared.messaging.envelope import event_json, time_in
from shared.settings.limits import LARGEST_BODY

SAMPLES = Path(__file__).parents[3] / "contract" / "samples"
UDID = "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD"


def event(**changes: Any) -> Event:
    plain = Event(
        id="3444be1d-bbf0-45dc-9da3-f707beeecf1b",
        topic=Topic.CONNECT,
        key=EnrollmentKey(UDID, UDID, udid=UDID),
        created_at=1_534_170_616_789_541_405,
        raw_payload=b"<plist/>",
        writer="w",
        number=1,
        status="Idle",
    )
    return replace(plain, **changes)


def test_an_event_of_the_largest_message_fits_into_a_message_of_rabbitmq_and_a_document() -> None:
    """Each has 16 MiB at most."""
    longest = event(
        raw_payload=bytes(LARGEST_BODY),
        url_params={f"{number:0100}": "x" * 500 for number in range(100)},
        key=EnrollmentKey("U" * 513, "U" * 256, udid="U" * 256, user="U" * 256),
        command_uuid="c" * 256,
    )

    assert len(event_json(longest)) < 15 * 1024**2


@pytest.mark.parametrize(
    ("name", "topic", "created_at", "command"),
    [
        ("authenticate", Topic.AUTHENTICATE, None, (None, None)),
        ("token_update", Topic.TOKEN_UPDATE, None, (None, None)),
        ("check_out", Topic.CHECK_OUT, None, (None, None)),
        (
            "connect",
            Topic.CONNECT,
            1_534_170_616_789_541_405,
            ("Acknowledged", "41d35de3-a343-4146-ba4b-0069bae2a54f"),
        ),
    ],
)
def test_the_events_of_the_guide_come_out_as_the_guide_shows_them(
    name: str, topic: Topic, created_at: int | None, command: tuple[str | None, str | None]
) -> None:
    sample = json.loads((SAMPLES / f"guide_{name}.json").read_text())
    whole, fraction = sample["created_at"].removesuffix("Z").split(".")
    sample["created_at"] = f"{whole}.{fraction:0<9}Z"  # the guide leaves closing zeros out
    inner = sample.get("acknowledge_event") or sample["checkin_event"]
    made = event(
        id=sample["event_id"],
        topic=topic,
        created_at=created_at or nanoseconds(sample["created_at"]),
        raw_payload=base64.b64decode(inner["raw_payload"]),
        status=command[0],
        command_uuid=command[1],
    )

    written = event_json(made)

    assert list(json.loads(written).items()) == list(sample.items())
    assert written == json.dumps(sample, separators=(",", ":")).encode()


def nanoseconds(rfc3339: str) -> int:
    from datetime import datetime

    whole, fraction = rfc3339.removesuffix("Z").split(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))


def inner_of(made: Event) -> dict[str, Any]:
    document = json.loads(event_json(made))
    inner: dict[str, Any] = document.get("acknowledge_event") or document["checkin_event"]
    return inner


def test_an_idle_has_no_command_uuid() -> None:
    assert list(inner_of(event())) == ["udid", "status", "url_params", "raw_payload"]


def test_a_user_enrollment_has_its_id_in_the_entry_of_the_udid() -> None:
    key = EnrollmentKey("E1", "E1", enrollment_id="E1")

    assert list(inner_of(event(key=key, topic=Topic.TOKEN_UPDATE))) == [
        "enrollment_id",
        "url_params",
        "raw_payload",
    ]


def test_a_user_channel_is_known_by_its_device() -> None:
    key = EnrollmentKey(f"{UDID}:U1", UDID, udid=UDID, user="U1")

    assert inner_of(event(key=key))["udid"] == UDID


@pytest.mark.parametrize("none", [None, {}])
def test_no_url_params_are_null(none: dict[str, str] | None) -> None:
    assert inner_of(event(url_params=none))["url_params"] is None


def test_the_order_in_which_url_params_are_stored_makes_no_difference() -> None:
    one = event(url_params={"b": "2", "a": "1"})
    other = event(url_params={"a": "1", "b": "2"})

    assert event_json(one) == event_json(other)
    assert inner_of(one)["url_params"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("created_at", "shown"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_534_170_616_000_000_001, "2018-08-13T14:30:16.000000001Z"),
        (1_534_170_616_999_999_999, "2018-08-13T14:30:16.999999999Z"),
    ],
)
def test_the_time_always_has_nine_digits(created_at: int, shown: str) -> None:
    assert json.loads(event_json(event(created_at=created_at)))["created_at"] == shown


def test_a_lone_surrogate_in_a_parameter_is_replaced_and_stops_nothing() -> None:
    assert inner_of(event(url_params={"a\udc80": "\ud800x"}))["url_params"] == {"a?": "?x"}


@given(
    raw=st.binary(max_size=200),
    params=st.none() | st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=4),
    created_at=st.integers(min_value=0, max_value=4_000_000_000 * 10**9),
    uuid=st.none() | st.text(max_size=40),
)
def test_every_event_is_the_same_valid_json_each_time(
    raw: bytes, params: dict[str, str] | None, created_at: int, uuid: str | None
) -> None:
    made = event(raw_payload=raw, url_params=params, created_at=created_at, command_uuid=uuid)

    inner = inner_of(made)

    assert event_json(made) == event_json(replace(made, number=9, writer="another"))
    assert base64.b64decode(inner["raw_payload"]) == raw
    assert inner["url_params"] == (params or None)


def test_what_we_did_ourselves_is_shown_with_its_facts_and_without_a_payload() -> None:
    made = event(
        topic=Topic.COMMAND_EXPIRED,
        key=EnrollmentKey(f"{UDID}:anna", UDID, udid=UDID, user="anna"),
        raw_payload=b'{"request_type":"ProfileList","state":"expired","expires_at":null}',
        command_uuid="c",
        status=None,
    )

    assert event_json(made) == (
        b'{"topic":"macromdm.CommandExpired","event_id":"3444be1d-bbf0-45dc-9da3-f707beeecf1b",'
        b'"created_at":"2018-08-13T14:30:16.789541405Z","command_event":{"udid":"'
        + UDID.encode()
        + b'","user_id":"anna","command_uuid":"c","request_type":"ProfileList","state":"expired",'
        b'"expires_at":null}}'
    )


def test_an_event_about_a_device_has_the_facts_of_its_outbox_event_and_no_command() -> None:
    made = event(
        topic=Topic.CERTIFICATE_REBOUND,
        raw_payload=b'{"certificate":"ab","how":"renewal"}',
        status=None,
    )

    document = json.loads(event_json(made))

    assert list(document) == ["topic", "event_id", "created_at", "device_event"]
    assert document["topic"] == "macromdm.CertificateRebound"
    assert document["device_event"] == {"udid": UDID, "certificate": "ab", "how": "renewal"}


@given(created_at=st.integers(0, 3 * 10**18), topic=st.sampled_from(Topic))
def test_the_time_of_an_event_is_read_from_its_json(created_at: int, topic: Topic) -> None:
    made = event(created_at=created_at, topic=topic, raw_payload=b"{}")

    assert time_in(event_json(made)) == created_at


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"created_at":"2026-01-02T03:04:05Z"}',
        b'{"created_at":"2026-99-02T03:04:05.000000000Z"}',
        b'{"other":"' + b"x" * 600 + b'","created_at":"2026-01-02T03:04:05.000000000Z"}',
    ],
)
def test_another_body_tells_no_time(body: bytes) -> None:
    assert time_in(body) is None
