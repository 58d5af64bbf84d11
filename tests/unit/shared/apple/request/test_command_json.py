"""The envelope of command requests, the names of keys in them, and the bounds of refusals."""

import plistlib
from typing import Any

import pytest

from shared.apple.values.reading import MAX_FAULTS
from tests.support.command_requests import command_of, lock, paths, prepare, refused
from tests.support.command_strategies import UDID

# --- names ----------------------------------------


def test_the_nearest_known_key_is_named() -> None:
    [fault] = refused(lock(phone_numbr="1")).faults
    assert fault.path == "phone_numbr"
    assert "phone_number" in fault.expected


def test_the_nearest_request_type_is_named() -> None:
    refusal = refused({"udid": UDID, "request_type": "DeviceInfomation"})
    [fault] = refusal.faults
    assert "can be sent as a property list" in str(refusal)
    assert "DeviceInformation" in fault.expected


@pytest.mark.parametrize("name", ["pin", "PIN", "pIn", "p_i_n"])
def test_letter_case_and_underscores_do_not_matter(name: str) -> None:
    assert command_of(prepare(lock(**{name: "1"})))["PIN"] == "1"


def test_one_key_in_two_spellings_is_refused() -> None:
    assert paths(refused(lock(pin="1", PIN="2"))) == ["PIN"]


def test_apples_form_knows_only_apples_spelling() -> None:
    body = {"udid": UDID, "Command": {"RequestType": "DeviceLock", "pin": "1"}}
    [fault] = refused(body).faults
    assert fault.path == "Command.pin"
    assert "PIN" in fault.expected


def test_faults_in_apples_form_are_named_in_apples_words() -> None:
    body = {
        "udid": UDID,
        "Command": {"RequestType": "Settings", "Settings": [{"Item": "HostName"}]},
    }
    assert paths(refused(body)) == ["Command.Settings[0].HostName"]


def test_a_misspelling_of_micromdm_is_understood_and_answered() -> None:
    body = {"udid": UDID, "request_type": "InstalledApplicationList", "ManagedAppsOnly": True}
    prepared = prepare(body)
    assert prepared.response["command"] == {
        "request_type": "InstalledApplicationList",
        "managed_appd_only": True,
    }


def test_the_envelope_repeated_in_a_nested_dictionary_is_ignored() -> None:
    inner = {"install_action": "Default", "udid": UDID, "request_type": "x", "command_uuid": "y"}
    body = {"udid": UDID, "request_type": "ScheduleOSUpdate", "updates": [inner]}
    assert command_of(prepare(body))["Updates"] == [{"InstallAction": "Default"}]


def test_keys_below_a_free_dictionary_are_never_renamed_nor_dropped() -> None:
    tree = {"udid": "a", "someKey": {"some_key": [1, 0.5, False, ""]}, "gone": None}
    body = {"udid": UDID, "request_type": "InstallApplication", "configuration": tree}
    expected = {"udid": "a", "someKey": {"some_key": [1, 0.5, False, ""]}}
    assert command_of(prepare(body))["Configuration"] == expected


# --- the envelope ----------------------------------------


def test_the_clients_own_command_uuid_is_kept_and_the_hash_names_the_bytes() -> None:
    prepared = prepare(lock(command_uuid="mine"))
    assert prepared.command.uuid == "mine"
    assert plistlib.loads(prepared.command.plist)["CommandUUID"] == "mine"
    assert prepared.response["command_uuid"] == "mine"


@pytest.mark.parametrize("uuid", [None, "", "  "])
def test_without_a_command_uuid_one_is_made(uuid: str | None) -> None:
    assert prepare(lock(command_uuid=uuid)).command.uuid == "MADE-BY-US"


@pytest.mark.parametrize("uuid", [7, ["a"], "a\nb", "\x00", "\ud800", "x" * 257])
def test_an_unusable_command_uuid_is_refused(uuid: object) -> None:
    assert paths(refused(lock(command_uuid=uuid))) == ["command_uuid"]


@pytest.mark.parametrize("udid", [None, "", " ", 7, {}, "a\nb", "x" * 257])
def test_an_unusable_udid_is_refused(udid: object) -> None:
    assert paths(refused(lock() | {"udid": udid})) == ["udid"]


def test_the_target_is_what_the_client_wrote() -> None:
    assert prepare(lock() | {"udid": "some-user"}).target == "some-user"


@pytest.mark.parametrize("command", [5, [], "x", {}, {"RequestType": 7}])
def test_an_unusable_command_of_apples_form_is_refused(command: object) -> None:
    refusal = refused({"udid": UDID, "Command": command})
    assert all(path.startswith("Command") for path in paths(refusal))


def test_a_request_type_beside_apples_form_is_refused() -> None:
    body = {"udid": UDID, "request_type": "DeviceLock", "Command": {"RequestType": "DeviceLock"}}
    assert paths(refused(body)) == ["request_type"]


# --- bounds ----------------------------------------


def test_a_thousand_faults_are_counted_and_fifty_are_told() -> None:
    refusal = refused({"udid": UDID, "request_type": "DeviceInformation", "queries": [0] * 1000})
    assert len(refusal.faults) == MAX_FAULTS
    assert "999 more" in str(refusal)


def test_a_refusal_stays_small_and_can_be_encoded_however_long_the_key() -> None:
    refusal = refused(lock(**{"\ud800" * 100_000: 1}))
    assert len(str(refusal).encode()) < 2_000
    assert len(refusal.faults[0].path.encode()) < 1_000


def test_a_refusal_never_shows_a_value() -> None:
    secret = "hunter2" * 3
    body = {
        "udid": UDID,
        "request_type": "RequestMirroring",
        "password": [secret],
        "scan_time": secret,
    }
    refusal = refused(body)
    assert secret not in str(refusal)
    assert all(secret not in fault.expected for fault in refusal.faults)


def test_a_tree_that_is_too_deep_or_too_large_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"a": deep}
    for tree in (deep, {"a": [0] * 300_000}):
        body = {"udid": UDID, "request_type": "InstallApplication", "configuration": tree}
        assert len(refused(body).faults) == 1
