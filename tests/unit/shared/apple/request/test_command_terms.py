"""The terms of a command: read from either form and from a query string, and filled up."""

import plistlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.apple.catalogue.example import command_example
from shared.apple.request.defaults import QUERIES
from shared.apple.request.plist import PreparedCommand, prepare_raw
from shared.apple.request.read_json import MAX_TARGETS
from shared.domain.command import Terms
from shared.domain.errors import BadRequest
from tests.support.command_requests import CATALOGUE, lock, paths, prepare, refused
from tests.support.command_strategies import UDID

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
    return prepare_raw(UDID, plist, query)


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
        *(("supersede", value) for value in (1, 0, "true", [], "")),
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
        *(("supersede", text) for text in ("", "1", "True", "yes")),
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


# --- superseding


EVERY_TYPE = sorted(CATALOGUE.forms)


@pytest.mark.parametrize("request_type", EVERY_TYPE)
def test_nothing_supersedes_unless_its_client_asks_for_it(request_type: str) -> None:
    request = command_example(CATALOGUE.forms[request_type])
    assert prepare(request).terms.collapse_key is None
    assert prepare(request | {"supersede": False}).terms.collapse_key is None
    assert raw({}, RequestType=request_type).terms.collapse_key is None
    assert raw({"supersede": "false"}, RequestType=request_type).terms.collapse_key is None


@pytest.mark.parametrize("request_type", EVERY_TYPE)
def test_a_type_supersedes_by_its_own_key_or_is_refused(request_type: str) -> None:
    request = command_example(CATALOGUE.forms[request_type]) | {"supersede": True}
    if request_type in QUERIES:
        key = prepare(request).terms.collapse_key
        assert key is not None
        assert key.startswith(f"{request_type}:")
    else:
        refusal = refused(request)
        assert paths(refusal) == ["supersede"]
        assert "collapse_key" in str(refusal)


def test_a_type_that_nobody_knows_has_no_key_of_its_own() -> None:
    with pytest.raises(BadRequest) as caught:
        raw({"supersede": "true"}, RequestType="FromTheFuture")
    assert paths(caught.value) == ["supersede"]


def test_both_keys_at_once_are_refused() -> None:
    both = {"collapse_key": "mine", "Supersede": True}
    refusal = refused({"udid": UDID, "request_type": "ProfileList", **both})
    assert paths(refusal) == ["Supersede"]
    assert "collapse_key" in str(refusal)
    with pytest.raises(BadRequest) as caught:
        raw({"collapse_key": "mine", "supersede": "true"}, RequestType="ProfileList")
    assert paths(caught.value) == ["supersede"]
    off = {"collapse_key": "mine", "supersede": False}
    assert asked("ProfileList", **off).collapse_key == "client:mine"


def test_a_refused_superseding_hides_no_other_fault() -> None:
    refusal = refused(lock(pin=5, supersede=True, ttl=0))
    assert sorted(paths(refusal)) == ["pin", "supersede", "ttl"]


def own_key(request_type: str, **keys: Any) -> str | None:
    return asked(request_type, supersede=True, **keys).collapse_key


def test_the_same_question_has_the_same_key_however_it_is_asked() -> None:
    ours = own_key("DeviceInformation", queries=["OSVersion", "UDID"])
    body: dict[str, Any] = {"udid": "b", "supersede": True}
    body["Command"] = {"RequestType": "DeviceInformation", "Queries": ["UDID", "OSVersion"]}
    in_apples_form = prepare(body).terms.collapse_key
    as_property_list = raw({"supersede": "true"}, **body["Command"]).terms.collapse_key
    assert ours is not None
    assert ours.startswith("DeviceInformation:")
    assert in_apples_form == as_property_list == ours


def test_a_profile_in_a_property_list_supersedes_by_its_identifier() -> None:
    payload = plistlib.dumps({"PayloadIdentifier": "wifi"})
    query = {"supersede": "true"}
    found = raw(query, RequestType="InstallProfile", Payload=payload).terms.collapse_key
    assert found == "InstallProfile:wifi"
    for keys in ({}, {"Payload": "text"}, {"Payload": b"no profile"}):
        with pytest.raises(BadRequest) as caught:
            raw(query, RequestType="InstallProfile", **keys)
        assert paths(caught.value) == ["supersede"]


def test_another_question_has_another_key() -> None:
    keys = {
        own_key("DeviceInformation", queries=["OSVersion"]),
        own_key("DeviceInformation", queries=["OSVersion", "UDID"]),
        own_key("DeviceInformation", queries=[]),
        own_key("ProfileList"),
        own_key("ProfileList", managed_only=True),
        own_key("ProfileList", managed_only=False),
        own_key("SecurityInfo"),
    }
    assert None not in keys
    assert len(keys) == 7


def test_a_client_cannot_name_the_key_of_a_type() -> None:
    ours = own_key("ProfileList")
    assert asked("ProfileList", collapse_key=ours).collapse_key != ours
