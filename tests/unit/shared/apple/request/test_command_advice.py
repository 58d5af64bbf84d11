"""A refusal for commands that can only fail; warnings from the facts of check-in."""

import plistlib
from typing import Any

import pytest

from shared.apple.request.advice import MAX_WARNINGS, Advice, Recipient, system_of
from shared.apple.request.plist import prepare_raw
from shared.apple.values.containers import Array
from shared.apple.values.scalars import Text
from shared.apple.values.systems import parse_version
from shared.domain.enrollment import EnrollmentKey, Inventory
from tests.support.command_requests import CATALOGUE, FORMS, prepare
from tests.support.command_strategies import UDID

PHONE = Recipient("iPhone14,2", "17.0", is_device_channel=True, is_user_enrollment=False)
MAC = Recipient("Mac14,2", "14.1", is_device_channel=True, is_user_enrollment=False)
MAC_USER = Recipient("Mac14,2", "14.1", is_device_channel=False, is_user_enrollment=False)
PAD_USER = Recipient("iPad8,1", "17.0", is_device_channel=False, is_user_enrollment=False)
UNKNOWN = Recipient(None, None, is_device_channel=True, is_user_enrollment=False)
UNKNOWN_USER = Recipient(None, None, is_device_channel=False, is_user_enrollment=False)
PRIVATE = Recipient("iPhone14,2", "17.0", is_device_channel=True, is_user_enrollment=True)


def phone(os_version: str | None) -> Recipient:
    return Recipient("iPhone14,2", os_version, is_device_channel=True, is_user_enrollment=False)


def advice(recipient: Recipient, request_type: str, **keys: Any) -> Advice:
    prepared = prepare({"udid": UDID, "request_type": request_type, **keys})
    return CATALOGUE.advise(prepared, recipient)


def raw_advice(recipient: Recipient, **command: object) -> Advice:
    plist = plistlib.dumps({"CommandUUID": "mine", "Command": command})
    return CATALOGUE.advise(prepare_raw(UDID, plist), recipient)


def setting(recipient: Recipient, **item: Any) -> tuple[str, ...]:
    return advice(recipient, "Settings", settings=[item]).warnings


# --- what a system has lost


@pytest.mark.parametrize("request_type", ["AvailableOSUpdates", "OSUpdateStatus"])
def test_a_command_that_the_devices_system_has_lost_is_queued_with_a_warning(
    request_type: str,
) -> None:
    lost = f"{request_type}: was removed in macOS 27.0"
    new = Recipient("Mac14,2", "27.0", is_device_channel=True, is_user_enrollment=False)

    assert lost in advice(new, request_type).warnings
    assert lost not in advice(MAC, request_type).warnings


# --- refusals


@pytest.mark.parametrize("recipient", [MAC_USER, PAD_USER, UNKNOWN_USER])
@pytest.mark.parametrize("request_type", ["DeviceLock", "EraseDevice", "RestartDevice"])
def test_a_command_for_devices_is_refused_on_a_user_channel(
    recipient: Recipient, request_type: str
) -> None:
    refusal = advice(recipient, request_type).refusal
    assert refusal is not None
    assert request_type in refusal


def test_a_command_that_no_shared_ipad_takes_is_refused_on_a_user_channel() -> None:
    keys = {"unlock_token": "eA=="}
    assert advice(PAD_USER, "ClearPasscode", **keys).refusal
    assert advice(UNKNOWN_USER, "ClearPasscode", **keys).refusal


@pytest.mark.parametrize("recipient", [MAC_USER, PAD_USER, UNKNOWN_USER])
@pytest.mark.parametrize("request_type", ["ProfileList", "DeviceInformation", "RemoveProfile"])
def test_a_command_for_users_too_is_not_refused(recipient: Recipient, request_type: str) -> None:
    keys = {
        "DeviceInformation": {"queries": ["OSVersion"]},
        "RemoveProfile": {"identifier": "a"},
    }.get(request_type, {})
    assert advice(recipient, request_type, **keys).refusal is None


@pytest.mark.parametrize("recipient", [PHONE, MAC, UNKNOWN, PRIVATE])
@pytest.mark.parametrize("form", FORMS, ids=tuple(CATALOGUE.forms))
def test_no_command_is_refused_on_a_device_channel(form: Any, recipient: Recipient) -> None:
    assert raw_advice(recipient, RequestType=form.name).refusal is None


@pytest.mark.parametrize("recipient", [MAC_USER, PAD_USER, UNKNOWN_USER])
def test_a_raw_command_is_warned_of_and_never_refused(recipient: Recipient) -> None:
    found = raw_advice(recipient, RequestType="DeviceLock")
    assert found.refusal is None
    assert "device channel only" in found.warnings[0]


# --- warnings


def test_a_system_older_than_the_command_is_named() -> None:
    [warning] = advice(phone("14.8.1"), "DeclarativeManagement").warnings
    assert warning.startswith("DeclarativeManagement: needs iOS 15.0")
    assert "14.8.1" in warning
    assert advice(phone("15.0"), "DeclarativeManagement").warnings == ()


def test_a_system_older_than_a_key_is_named_with_the_keys_path() -> None:
    keys = {"preserve_data_plan": True}
    [warning] = advice(phone("10.3"), "EraseDevice", **keys).warnings
    assert warning.startswith("preserve_data_plan: needs iOS 11.0")
    assert advice(phone("11"), "EraseDevice", **keys).warnings == ()
    assert advice(phone("10.3"), "EraseDevice").warnings == ()


def test_the_path_is_in_the_clients_spelling() -> None:
    body = {"udid": UDID, "Command": {"RequestType": "EraseDevice", "PreserveDataPlan": True}}
    [warning] = CATALOGUE.advise(prepare(body), phone("10.3")).warnings
    assert warning.startswith("Command.PreserveDataPlan: ")
    [raw_warning] = raw_advice(
        phone("10.3"), RequestType="EraseDevice", PreserveDataPlan=True
    ).warnings
    assert raw_warning == warning


def test_nested_keys_and_alternatives_are_looked_at() -> None:
    options = {"item": "MDMOptions", "mdm_options": {"bootstrap_token_allowed": True}}
    [warning] = setting(MAC, **options)
    assert warning.startswith("settings[0].mdm_options.bootstrap_token_allowed: is deprecated")
    [absent] = setting(PHONE, **options)
    assert absent.endswith("is not available on iOS")


def test_single_values_are_looked_at() -> None:
    queries = ["OSVersion", "IMEI"]
    [warning] = advice(MAC, "DeviceInformation", queries=queries).warnings
    assert warning == "queries[1] (IMEI): is not available on macOS"


def test_values_that_are_newer_than_the_catalogue_are_not_warned_of() -> None:
    assert advice(MAC, "DeviceInformation", queries=["FromTheFuture"]).warnings == ()


def test_a_command_that_a_system_does_not_have_says_only_that() -> None:
    found = advice(MAC, "EnableLostMode", message="a", footnote="b")
    assert found.warnings == ("EnableLostMode: is not available on macOS",)


def test_what_needs_supervision_says_so() -> None:
    assert "EnableLostMode: needs supervision on iOS" in (
        advice(PHONE, "EnableLostMode", message="a").warnings
    )
    assert any("needs supervision" in w for w in setting(PHONE, item="Bluetooth", enabled=True))
    assert advice(MAC, "DeviceLock").warnings == ()


@pytest.mark.parametrize(("os_version", "is_warned"), [("6.0", False), ("6.2", True), (None, True)])
def test_what_is_deprecated_says_so(os_version: str | None, is_warned: bool) -> None:
    warnings = advice(phone(os_version), "RequestUnlockToken").warnings
    assert ("RequestUnlockToken: is deprecated since iOS 6.1.6" in warnings) is is_warned


def test_what_a_user_enrollment_does_not_have_says_so() -> None:
    [warning] = [w for w in advice(PRIVATE, "EraseDevice").warnings if "enrollment" in w]
    assert warning.startswith("EraseDevice: ")
    assert not any("enrollment" in w for w in advice(PHONE, "EraseDevice").warnings)


def test_what_is_for_users_only_says_so_on_a_device_channel() -> None:
    assert advice(MAC, "NSExtensionMappings").warnings == (
        "NSExtensionMappings: is for the user channel only",
    )
    assert advice(MAC_USER, "NSExtensionMappings").warnings == ()


@pytest.mark.parametrize("product", [None, "", "Toaster1,1"])
def test_nothing_is_said_of_an_unknown_system(product: str | None) -> None:
    unknown = Recipient(product, "1.0", is_device_channel=True, is_user_enrollment=True)
    assert advice(unknown, "EnableLostMode", message="a") == Advice()


def test_a_raw_command_that_nobody_knows_has_no_advice() -> None:
    assert raw_advice(MAC_USER, RequestType="FromTheFuture", Queries=[1]) == Advice()


@pytest.mark.parametrize("odd", [5, "x", [], {}, [5], [{"Item": 5}], {"a": 1}, [[]], True])
def test_a_raw_command_with_odd_values_has_advice_too(odd: object) -> None:
    for name, key in (("Settings", "Settings"), ("DeviceInformation", "Queries")):
        assert raw_advice(MAC, RequestType=name, **{key: odd}).refusal is None


def test_warnings_are_bounded() -> None:
    watch = Recipient("Watch6,2", "1.0", is_device_channel=True, is_user_enrollment=False)
    queries = CATALOGUE.forms["DeviceInformation"].find("Queries")
    assert queries is not None
    assert isinstance(queries.value, Array)
    assert isinstance(queries.value.item, Text)
    warnings = advice(watch, "DeviceInformation", queries=list(queries.value.item.known)).warnings
    assert len(warnings) == MAX_WARNINGS + 1
    assert warnings[-1].endswith("more warnings")


def test_advice_for_recipients_that_are_alike_is_found_out_once() -> None:
    prepared = prepare({"udid": UDID, "request_type": "ProfileList"})
    first = CATALOGUE.advise(prepared, phone("16.1"))
    assert CATALOGUE.advise(prepared, phone("16.1")) is first
    assert len(prepared.advice) == 1


# --- facts of check-in


@pytest.mark.parametrize(
    ("product", "system"),
    [
        ("iPhone14,2", "iOS"),
        ("iPad8,1", "iOS"),
        ("iPod9,1", "iOS"),
        ("MacBookPro17,1", "macOS"),
        ("Macmini9,1", "macOS"),
        ("Mac14,2", "macOS"),
        ("iMac21,1", "macOS"),
        ("VirtualMac2,1", "macOS"),
        ("AppleTV14,1", "tvOS"),
        ("Watch6,2", "watchOS"),
        ("RealityDevice14,1", "visionOS"),
        ("MHFA3LL/A", None),
        (None, None),
    ],
)
def test_the_model_tells_the_system(product: str | None, system: str | None) -> None:
    assert system_of(product) == system


def test_a_recipient_is_made_of_what_is_stored() -> None:
    inventory = Inventory(product_name=None, model="iPad8,1", os_version="17.1")
    user = EnrollmentKey("D:U", "D", udid="D", user="U")
    assert Recipient.of(user, inventory) == Recipient("iPad8,1", "17.1", False, False)
    private = EnrollmentKey("E", "E", enrollment_id="E")
    assert Recipient.of(private, Inventory()) == Recipient(None, None, True, True)


@pytest.mark.parametrize(
    ("older", "newer"),
    [("9.3", "10.0"), ("10.15.7", "11"), ("16.4", "16.4.1 (a)"), ("13", "13.1"), ("2.9", "2.10")],
)
def test_versions_compare_by_numbers(older: str, newer: str) -> None:
    first, second = parse_version(older), parse_version(newer)
    assert first is not None
    assert second is not None
    assert first < second


def test_a_version_with_zeros_behind_is_the_same() -> None:
    assert parse_version("13") == parse_version("13.0") == parse_version("13.0.0 beta")


@pytest.mark.parametrize("text", [None, "", "n/a", "beta", "9" * 5000 + "x"])
def test_what_is_no_version_is_none_or_bounded(text: str | None) -> None:
    found = parse_version(text)
    assert found is None or len(found) == 1
