"""The guard of receivers' addresses, address by address."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.network.address_guard import METADATA, AddressGuard

GUARD = AddressGuard()
OPEN = AddressGuard(
    (ip_network("0.0.0.0/0"), ip_network("::/0")), is_loopback_allowed=True
)  # all that anyone can allow


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"]
)
def test_an_address_of_the_internet_is_taken(address: str) -> None:
    assert GUARD.refusal(address) is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "is a loopback address"),
        ("127.255.255.254", "is a loopback address"),
        ("::1", "is a loopback address"),
        ("0.0.0.0", "is an unspecified address"),
        ("0.1.2.3", "is an unspecified address"),
        ("::", "is an unspecified address"),
        ("169.254.1.1", "is a link-local address"),
        ("169.254.170.2", "is a link-local address"),
        ("fe80::1", "is a link-local address"),
        ("fe80::1%eth0", "is a link-local address"),
        ("febf::1", "is a link-local address"),
        ("224.0.0.1", "is a multicast address"),
        ("239.255.255.250", "is a multicast address"),
        ("ff02::1", "is a multicast address"),
        ("192.0.0.8", "is a reserved address"),
        ("192.0.2.1", "is a reserved address"),
        ("192.88.99.1", "is a reserved address"),
        ("198.18.0.1", "is a reserved address"),
        ("198.19.255.255", "is a reserved address"),
        ("198.51.100.1", "is a reserved address"),
        ("203.0.113.1", "is a reserved address"),
        ("240.0.0.1", "is a reserved address"),
        ("255.255.255.255", "is a reserved address"),
        ("::127.0.0.1", "is a reserved address"),
        ("::ffff:0:10.0.0.1", "is a reserved address"),
        ("64:ff9b:1::a00:1", "is a reserved address"),
        ("100::1", "is a reserved address"),
        ("2001:10::1", "is a reserved address"),
        ("2001:db8::1", "is a reserved address"),
        ("3fff::1", "is a reserved address"),
        ("5f00::1", "is a reserved address"),
        ("fec0::1", "is a reserved address"),
    ],
)
def test_an_address_that_is_nobody_elses_is_refused(address: str, reason: str) -> None:
    assert GUARD.refusal(address) == reason


@pytest.mark.parametrize(
    "address",
    ["169.254.1.1", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "192.0.2.1", "240.0.0.1"],
)
def test_no_setting_allows_what_is_refused_always(address: str) -> None:
    assert OPEN.refusal(address) is not None


@pytest.mark.parametrize("address", sorted(map(str, METADATA)))
def test_a_metadata_service_is_refused_always(address: str) -> None:
    assert OPEN.refusal(address) == "is an address of a cloud's metadata service"


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fc00::1", "fdff::1"],
)
def test_a_private_address_is_taken_where_its_network_is_listed(address: str) -> None:
    expected = "is in a private network that MDM_WEBHOOK_ALLOWED_NETWORKS does not list"

    assert GUARD.refusal(address) == expected
    assert AddressGuard((ip_network(address),)).refusal(address) is None
    assert AddressGuard((ip_network("10.9.0.0/16"),)).refusal(address) == expected


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_taken_where_it_is_allowed(address: str) -> None:
    assert AddressGuard(is_loopback_allowed=True).refusal(address) is None
    assert AddressGuard((ip_network("127.0.0.0/8"),)).refusal(address) == "is a loopback address"


def test_loopback_that_is_allowed_allows_nothing_else() -> None:
    guard = AddressGuard(is_loopback_allowed=True)

    assert guard.refusal("10.0.0.1")
    assert guard.refusal("0.0.0.0") == "is an unspecified address"
    assert guard.refusal("169.254.169.254")


def forms_of(inner: IPv4Address) -> list[str]:
    """IPv6 addresses that reach it."""
    number = int(inner)
    return [
        str(IPv6Address((0xFFFF << 32) | number)),
        str(IPv6Address((0x2002 << 112) | (number << 80) | 1)),
        str(IPv6Address(int(IPv6Address("64:ff9b::")) | number)),
    ]


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_counts_as_itself(inner: IPv4Address) -> None:
    for guard in (GUARD, OPEN):
        assert {guard.refusal(form) for form in forms_of(inner)} == {guard.refusal(str(inner))}


@pytest.mark.parametrize(
    ("server", "client"),
    [("127.0.0.1", "8.8.8.8"), ("8.8.8.8", "10.0.0.1"), ("8.8.8.8", "8.8.4.4")],
)
def test_a_teredo_address_counts_as_its_server_and_its_client(server: str, client: str) -> None:
    hidden = int(IPv4Address(client)) ^ (2**32 - 1)
    address = IPv6Address((0x20010000 << 96) | (int(IPv4Address(server)) << 64) | hidden)

    assert GUARD.refusal(str(address)) == (GUARD.refusal(server) or GUARD.refusal(client))


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0"])
def test_an_odd_form_of_a_host_is_refused_as_what_it_resolves_to(host: str) -> None:
    [address] = {info[4][0] for info in socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)}

    assert GUARD.refusal(str(address))


def test_what_is_no_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="localhost"):
        GUARD.refusal("localhost")


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_that_python_knows_to_be_special_is_taken(address: IPv4Address) -> None:
    if not address.is_global:
        assert GUARD.refusal(str(address))


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_that_python_knows_to_be_special_is_taken(address: IPv6Address) -> None:
    if not address.is_global and not (address.sixtofour or address.teredo):
        assert GUARD.refusal(str(address))
