"""The terms of a command: read from either form and from a query string, and filled up."""

import plistlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.apple.command_json import MAX_TARGETS
from shared.apple.command_plist import PreparedCommand
from shared.domain.errors import BadRequest
from shared.domain.terms import Terms
from tests.unit.command_requests import CATALOGUE, lock, paths, prepare, refused
from tests.unit.command_strategies import UDID

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ALL = {
    "priority": 0,
    "ttl": 1.5,
    "not_before": "2026-01-02T13:00:00+01:00",
    "collapse_key": "mine",
}
ALL_READ = Terms(0, None, timedelta(seconds=1.5), NOON, "client:mine")


def asked(request_type: str, **keys: Any) -> Terms:
    return prepare({"udid": UDID, "request_type": request_type, **keys}).terms


def raw(query: dict[str, str], **command: object) -> PreparedCommand:
    plist = plistlib.dumps({"CommandUUID": "mine", "Command": command})
    return CATALOGUE.prepare_raw(UDID, plist, query)


# --- reading


def test_terms_are_read_beside_the_keys_and_never_sent() -> None:
    prepared = prepare(lock(pin="123456", **ALL))
    assert prepared.terms == ALL_READ
    assert b"priority" not in prepared.command.plist
    assert prepared.response["command"] == {"request_type": "DeviceLock", "pin": "123456"}


def test_terms_are_read_beside_apples_form_in_any_spelling() -> None:
    body = {"udid": UDID, "Command": {"RequestType": "DeviceLock"}}
    spelt = {"Priority": 0, "TTL": 1.5, "NotBefore": ALL["not_before"], "collapseKey": "mine"}
    assert prepare(body | spelt).terms == ALL_READ


def test_terms_of_a_raw_command_are_in_its_query() -> None:
    query = {name: str(value) for name, value in ALL.items()} | {"unknown": "passes"}
    assert raw(query, RequestType="DeviceLock").terms == ALL_READ


def test_a_plus_sign_that_was_not_escaped_in_a_query_is_understood() -> None:
    query = {"expires_at": "2026-01-02T13:00:00 01:00"}
    assert raw(query, RequestType="DeviceLock").terms.expires_at == NOON


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("priority", value) for value in (-1, 10, 5.0, "5", True, [], {})),
        *(("ttl", value) for value in (0, -1, 365 * 86400 + 1, "60", True, [], 10**30)),
        *(("expires_at", v) for v in ("2026-01-02T12:00:00", "tomorrow", 5, True, "2026-01-02")),
        *(("not_before", v) for v in ("2026-13-02T12:00:00Z", "", 5, "0001-01-01T00:00:00+10:00")),
        *(("collapse_key", value) for value in ("", " ", 5, "a\nb", "\ud800", "x" * 257)),
    ],
)
def test_a_term_that_cannot_be_used_is_named(name: str, value: object) -> None:
    assert paths(refused(lock(**{name: value}))) == [name]
    apple = {"udid": UDID, "Command": {"RequestType": "DeviceLock"}, name: value}
    assert paths(refused(apple)) == [name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("priority", text) for text in ("", "10", "-1", "5.0", "five", "\u0665", "9" * 5000)),
        *(("ttl", text) for text in ("", "0", "nan", "inf", "1e3", "9" * 12)),
        ("expires_at", "2026-01-02"),
        ("not_before", ""),
        ("collapse_key", ""),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(name: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        raw({name: text}, RequestType="DeviceLock")
    assert paths(caught.value) == [name]


def test_null_is_no_term() -> None:
    assert asked("Settings", settings=[], ttl=None, udids=None) == Terms(priority=5)


def test_two_ends_are_refused() -> None:
    refusal = refused(lock(expires_at="2026-01-02T12:00:00Z", ttl=60))
    assert paths(refusal) == ["ttl"]
    assert "expires_at" in str(refusal)


@pytest.mark.parametrize("hour", ["12", "13"])
def test_a_command_that_would_expire_before_its_time_is_refused(hour: str) -> None:
    terms = {"expires_at": "2026-01-02T12:00:00Z", "not_before": f"2026-01-02T{hour}:00:00Z"}
    assert paths(refused(lock(**terms))) == ["not_before"]


def test_one_term_in_two_spellings_is_refused() -> None:
    assert paths(refused(lock(ttl=1, TTL=2))) == ["TTL"]


def test_an_end_is_a_moment_or_counts_from_acceptance() -> None:
    assert Terms().expiry(NOON) is None
    assert Terms(expires_at=NOON).expiry(NOON - timedelta(days=1)) == NOON
    assert Terms(ttl=timedelta(hours=1)).expiry(NOON) == NOON + timedelta(hours=1)


# --- targets


def test_many_targets_are_kept_in_order_and_once() -> None:
    body = {"udids": ["b", "a", "b"], "request_type": "ProfileList"}
    prepared = prepare(body)
    assert prepared.targets == ("b", "a")
    assert prepared.is_bulk


def test_one_target_in_a_list_is_many_targets_too() -> None:
    prepared = prepare({"UDIDs": ["b"], "Command": {"RequestType": "ProfileList"}})
    assert (prepared.target, prepared.is_bulk) == ("b", True)
    assert prepare(lock()).is_bulk is False


@pytest.mark.parametrize(
    ("udids", "named"),
    [
        ([], "udids"),
        ("a", "udids"),
        (["x"] * (MAX_TARGETS + 1), "udids"),
        (["a", 7], "udids[1]"),
        (["a", "", None], "udids[1]"),
    ],
    ids=["none", "text", "too many", "a number", "empty"],
)
def test_a_list_of_targets_that_cannot_be_used_is_refused(udids: object, named: str) -> None:
    assert named in paths(refused({"udids": udids, "request_type": "ProfileList"}))


def test_a_hundred_thousand_targets_are_taken() -> None:
    body = {"udids": [f"D-{n}" for n in range(MAX_TARGETS)], "request_type": "ProfileList"}
    assert len(prepare(body).targets) == MAX_TARGETS


def test_both_kinds_of_targets_and_none_are_refused() -> None:
    assert paths(refused(lock(udids=["a"]))) == ["udids"]
    assert paths(refused({"request_type": "ProfileList"})) == ["udid"]


# --- defaults


@pytest.mark.parametrize("request_type", ["DeviceLock", "EraseDevice"])
def test_lost_devices_go_first(request_type: str) -> None:
    assert asked(request_type).priority == 0
    assert asked(request_type, priority=7).priority == 7
    assert raw({}, RequestType=request_type).terms.priority == 0


def test_whatever_is_no_profile_and_no_question_is_never_collapsed() -> None:
    assert asked("RestartDevice") == Terms(priority=5)
    assert raw({}, RequestType="FromTheFuture").terms == Terms(priority=5)


def test_the_same_question_has_the_same_key_however_it_is_asked() -> None:
    ours = asked("DeviceInformation", queries=["OSVersion", "UDID"]).collapse_key
    body = {"udid": "b", "Command": {"RequestType": "DeviceInformation"}}
    body["Command"] |= {"Queries": ["UDID", "OSVersion"]}  # type: ignore[operator]  # a dict
    assert ours is not None
    assert ours.startswith("DeviceInformation:")
    assert prepare(body).terms.collapse_key == ours


def test_a_raw_command_has_no_key_but_the_one_that_is_asked_for() -> None:
    assert raw({}, RequestType="ProfileList").terms.collapse_key is None
    asked_for = raw({"collapse_key": "mine"}, RequestType="ProfileList")
    assert asked_for.terms.collapse_key == asked("ProfileList", collapse_key="mine").collapse_key


def test_another_question_has_another_key() -> None:
    keys = {
        asked("DeviceInformation", queries=["OSVersion"]).collapse_key,
        asked("DeviceInformation", queries=["OSVersion", "UDID"]).collapse_key,
        asked("DeviceInformation", queries=[]).collapse_key,
        asked("ProfileList").collapse_key,
        asked("ProfileList", managed_only=True).collapse_key,
        asked("ProfileList", managed_only=False).collapse_key,
        asked("SecurityInfo").collapse_key,
    }
    assert None not in keys
    assert len(keys) == 7


def test_a_client_cannot_name_the_servers_own_key() -> None:
    ours = asked("ProfileList").collapse_key
    assert asked("ProfileList", collapse_key=ours).collapse_key != ours
