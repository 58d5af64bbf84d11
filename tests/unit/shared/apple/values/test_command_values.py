"""Values of command requests: what is taken, what is sent for it, what is refused."""

import base64
import datetime
import plistlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from shared.apple.plist.read import MAX_NODES, MOST_PIECES, parse
from shared.apple.values.reading import MAX_VALUES
from shared.apple.values.scalars import Boolean
from tests.support.command_requests import (
    CATALOGUE,
    command_of,
    lock,
    paths,
    prepare,
    refused,
    settings,
    with_types,
)
from tests.support.command_strategies import UDID, free_trees, request_of


@pytest.mark.parametrize("item", ["DataRoaming", "VoiceRoaming", "PersonalHotspot", "Bluetooth"])
def test_settings_can_be_switched_off(item: str) -> None:
    prepared = prepare(settings({"item": item, "enabled": False}))
    assert command_of(prepared)["Settings"] == [{"Item": item, "Enabled": False}]


@pytest.mark.parametrize("item", [None, "NoSuchItem", 7, "bluetooth", []])
def test_an_unknown_settings_item_is_refused(item: object) -> None:
    assert paths(refused(settings({"item": item, "enabled": True}))) == ["settings[0].item"]


def test_a_key_of_another_settings_item_is_refused() -> None:
    refusal = refused(settings({"item": "HostName", "hostname": "a", "enabled": True}))
    assert paths(refusal) == ["settings[0].enabled"]


@bounds(deadline=None)
@given(tree=free_trees)
def test_an_application_configuration_in_base64_becomes_a_dictionary(tree: Any) -> None:
    inner = {"date": datetime.datetime(2024, 1, 2, 3, 4, 5), "data": b"\x00", "tree": tree}
    for fmt in plistlib.PlistFormat:
        configuration = base64.b64encode(plistlib.dumps(inner, fmt=fmt)).decode()
        item = {
            "item": "ApplicationConfiguration",
            "identifier": "a",
            "configuration": configuration,
        }
        [sent] = command_of(prepare(settings(item)))["Settings"]
        assert with_types(sent["Configuration"]) == with_types(
            plistlib.loads(plistlib.dumps(inner, fmt=fmt))
        )


@pytest.mark.parametrize(
    "configuration",
    ["%%%", "eA==", base64.b64encode(plistlib.dumps([1])).decode(), 5, [], True],
    ids=["no base64", "no plist", "a list", "a number", "a JSON list", "true"],
)
def test_a_bad_application_configuration_is_refused(configuration: object) -> None:
    item = {"item": "ApplicationConfiguration", "identifier": "a", "configuration": configuration}
    assert paths(refused(settings(item))) == ["settings[0].configuration"]


def test_a_control_character_in_an_embedded_binary_plist_is_refused() -> None:
    raw = plistlib.dumps({"a": ["b\x01"]}, fmt=plistlib.FMT_BINARY)
    item = {
        "item": "ApplicationConfiguration",
        "identifier": "a",
        "configuration": base64.b64encode(raw).decode(),
    }
    assert paths(refused(settings(item))) == ["settings[0].configuration.a[0]"]


@pytest.mark.parametrize(
    "payload",
    [
        "%%%",
        "eA",
        "eA=",
        "eA== ",
        "e A==",
        "-_-_",
        "eA==eA==",
        "eA===",
        "é",
        "\ud800",
        7,
        [120],
        {},
    ],
)
def test_only_padded_standard_base64_is_data(payload: object) -> None:
    body = {"udid": UDID, "request_type": "InstallProfile", "payload": payload}
    assert paths(refused(body)) == ["payload"]


@bounds(deadline=None)
@given(raw=st.binary(max_size=200), width=st.integers(1, 76))
def test_line_ends_in_base64_do_not_matter(raw: bytes, width: int) -> None:
    text = base64.b64encode(raw).decode()
    broken = "\r\n".join(text[i : i + width] for i in range(0, len(text), width))
    prepared = prepare({"udid": UDID, "request_type": "InstallProfile", "payload": broken})
    assert command_of(prepared)["Payload"] == raw
    assert prepared.response["command"] == {"request_type": "InstallProfile", "payload": text}


@pytest.mark.parametrize("text", ["\x00", "a\x1b", "\ud800", "\udfff", "\ufffe", "\uffff"])
def test_text_that_no_property_list_can_hold_is_refused(text: str) -> None:
    assert paths(refused(lock(message=text))) == ["message"]


@pytest.mark.parametrize(
    "text", ["a\rb", "a\r\nb", "\n", "\t x ", "]]>", "é\U0001f600", "\x7f\x85"]
)
def test_text_arrives_as_it_was_written(text: str) -> None:
    assert command_of(prepare(lock(message=text)))["Message"] == text


@pytest.mark.parametrize("number", [1.0, True, "1", 2**63, -(2**63) - 1, [1], {}, ""])
def test_only_whole_numbers_of_64_bits_are_integers(number: object) -> None:
    body = {"udid": UDID, "request_type": "InstallApplication", "itunes_store_id": number}
    assert paths(refused(body)) == ["itunes_store_id"]


def test_micromdms_own_types_are_taken_and_sent_as_apples() -> None:
    mirror = {"udid": UDID, "request_type": "RequestMirroring", "scan_time": "30"}
    media = {
        "udid": UDID,
        "request_type": "RemoveMedia",
        "media_type": "Book",
        "itunes_store_id": 7,
    }
    assert command_of(prepare(mirror))["ScanTime"] == 30
    assert command_of(prepare(media))["iTunesStoreID"] == "7"


@pytest.mark.parametrize("request_type", ["SetFirmwarePassword", "SetRecoveryLock"])
def test_booleans_as_text_are_taken_where_micromdms_scripts_send_them(request_type: str) -> None:
    booleans = {"allow_oroms": "true", "request_requires_network_tether": "false"}
    body = {"udid": UDID, "request_type": request_type, "new_password": "", **booleans}
    command = command_of(prepare(body))
    assert command["AllowOroms"] is True
    assert command["RequestRequiresNetworkTether"] is False


def test_a_boolean_as_text_is_refused_elsewhere() -> None:
    form = CATALOGUE.forms["EraseDevice"]
    for key in form.keys:
        if isinstance(key.value, Boolean):
            assert paths(refused(request_of(form, {key.json: "true"}))) == [key.json]


def test_a_query_that_is_not_known_yet_passes() -> None:
    body = {"udid": UDID, "request_type": "DeviceInformation", "queries": ["FromTheFuture"]}
    assert command_of(prepare(body))["Queries"] == ["FromTheFuture"]


def configured(items: object) -> dict[str, Any]:
    """A command with values that no schema bounds."""
    return {
        "udids": ["A", "B"],
        "request_type": "InstallApplication",
        "itunes_store_id": 1,
        "configuration": {"items": items},
    }


def test_what_is_taken_as_json_can_be_read_as_a_property_list_up_to_the_last_value() -> None:
    most = MAX_VALUES - len(["itunes_store_id", "configuration", "items"])

    taken = parse(prepare(configured(list(range(most)))).command.plist)
    refusal = refused(configured(list(range(most + 1))))

    assert taken["Command"]["Configuration"]["items"] == list(range(most))
    assert most + 6 == MAX_NODES
    assert paths(refusal) == ["configuration.items"]


@pytest.mark.parametrize("text", ["\n", "&", "<", "\r"])
def test_text_that_no_property_list_could_bring_back_is_refused_with_its_key(text: str) -> None:
    taken = prepare(configured("x" + text * (MOST_PIECES - 10)))

    assert parse(taken.command.plist)["Command"]["Configuration"]["items"].count(text) > 0
    refusal = refused(configured("x" + text * (MOST_PIECES + 1)))
    assert paths(refusal) == ["configuration"]
