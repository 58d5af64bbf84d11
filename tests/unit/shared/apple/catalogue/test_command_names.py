"""One rule for names in both directions; MicroMDM's own names come out of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.apple.catalogue.compiling import json_name, json_name_in
from shared.nearest import folded
from tests.support.command_requests import CATALOGUE, FORMS


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("iTunesStoreID", "itunes_store_id"),
        ("eSIMServerURL", "esim_server_url"),
        ("FileVaultUnlock", "filevault_unlock"),
        ("PrimaryIPv6AddressList", "primary_ip_v6_address_list"),
        ("LOMProtocolVersion", "lom_protocol_version"),
        ("DeviceDNSName", "device_dns_name"),
        ("UserName", "username"),
        ("HostName", "hostname"),
        ("PrimaryAccountUserName", "primary_account_user_name"),
        ("ManifestURLPinningCerts", "manifest_url_pinning_certs"),
        ("MDMOptions", "mdm_options"),
        ("WiFiProfileData", "wifi_profile_data"),
        ("iOSApp", "ios_app"),
        ("VPNUUID", "vpn_uuid"),
        ("shortName", "short_name"),
        ("PIN", "pin"),
        ("GUID", "guid"),
    ],
)
def test_keys_have_the_names_that_micromdm_gives_them(key: str, name: str) -> None:
    assert json_name(key) == name


def test_the_two_misspellings_of_micromdm_stay() -> None:
    extensions = json_name_in("ActiveNSExtensions", "FilterExtensionPoints")
    applications = json_name_in("InstalledApplicationList", "ManagedAppsOnly")
    assert (extensions, applications) == ("filter_extensions_points", "managed_appd_only")


@given(st.from_regex(r"[A-Za-z]{1,20}", fullmatch=True))
def test_a_key_and_its_name_are_the_same_to_us(key: str) -> None:
    if key not in ("HostName", "UserName"):
        assert folded(json_name(key)) == folded(key)


def test_no_key_of_a_command_is_mistaken_for_the_envelope() -> None:
    for form in FORMS:
        for name in ("udid", "request_type", "command_uuid", "Command"):
            assert form.find(name) is None


def test_all_68_commands_are_known() -> None:
    assert len(tuple(CATALOGUE.forms)) == 68
    assert "DeclarativeManagement" in tuple(CATALOGUE.forms)
