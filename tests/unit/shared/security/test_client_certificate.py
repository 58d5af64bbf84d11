"""The client certificate in a header: only from listed proxies, and only one."""

import base64
from collections.abc import Callable
from ipaddress import ip_network
from urllib.parse import quote, quote_plus

import pytest

from shared.domain.errors import BadRequest
from shared.security.client_certificate import ClientCertificateHeader
from tests.support.harness.identities import FleetAuthority

PROXY = "10.1.2.3"
ROOT = FleetAuthority("Root")
ISSUER = FleetAuthority("Issuer", parent=ROOT)
DEVICE = ISSUER.issue("device", kind="ec")
OTHER = ISSUER.issue("other", kind="ec")
CHAIN = DEVICE.pem + ISSUER.pem + ROOT.pem
RFC9440 = ":" + base64.b64encode(DEVICE.der).decode() + ":"
ODD_VERSION = (
    ":"
    + base64.b64encode(
        DEVICE.der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020105"), 1)
    ).decode()
    + ":"
)
ESCAPED = quote(DEVICE.pem.decode())
READER = ClientCertificateHeader(
    [ip_network("10.1.0.0/16"), ip_network("2001:db8::1"), ip_network("192.0.2.7")]
)


@pytest.mark.parametrize("value", [RFC9440, ESCAPED, quote(DEVICE.pem.decode(), safe="")])
@pytest.mark.parametrize("peer", [PROXY, "::ffff:10.1.2.3", "2001:db8::1", "192.0.2.7"])
def test_a_listed_proxy_names_the_device(value: str, peer: str) -> None:
    assert READER.read([value], peer) == (DEVICE.der,)


@pytest.mark.parametrize(
    "form",
    [
        quote,
        lambda pem: quote(pem, safe=""),
        lambda pem: quote(pem, safe="+=/"),
        lambda pem: quote_plus(pem.decode()),
    ],
    ids=["nginx", "all escaped", "AWS ALB", "Go's QueryEscape"],
)
@pytest.mark.parametrize("pem", [DEVICE.pem, DEVICE.pem + ISSUER.pem, CHAIN])
def test_the_issuers_of_a_certificate_may_follow_it(
    form: Callable[[bytes], str], pem: bytes
) -> None:
    found = READER.read([form(pem)], PROXY)

    assert found == (DEVICE.der, ISSUER.identity.der, ROOT.identity.der)[: len(found)]
    assert len(found) == pem.count(b"BEGIN")


@pytest.mark.parametrize("peer", ["10.2.0.1", "127.0.0.1", "2001:db8::2", "", "testclient", None])
@pytest.mark.parametrize("values", [[RFC9440], [RFC9440, RFC9440], ["garbage\r\n x"]])
def test_anybody_else_is_not_listened_to(peer: str | None, values: list[str]) -> None:
    assert READER.read(values, peer) == ()


def test_no_proxy_is_trusted_by_default() -> None:
    assert ClientCertificateHeader([]).read([RFC9440], "127.0.0.1") == ()


@pytest.mark.parametrize("values", [[], [""], [" "]])
def test_a_connection_without_a_certificate_names_nobody(values: list[str]) -> None:
    assert READER.read(values, PROXY) == ()


@pytest.mark.parametrize(
    "values",
    [
        [RFC9440, RFC9440],
        [RFC9440, ""],
        [f"{RFC9440}, {RFC9440}"],
        [f"{RFC9440},{RFC9440}"],
        [RFC9440[:40] + "\r\n " + RFC9440[40:]],
        [RFC9440[:40] + "\t" + RFC9440[40:]],
        [RFC9440[:40] + " " + RFC9440[40:]],
        [RFC9440[:-1]],
        [RFC9440 + ";a=1"],
        ["::"],
        [":AAAA:"],
        [":AAA:"],
        [ESCAPED + ESCAPED],
        [quote(DEVICE.pem + OTHER.pem)],
        [quote(DEVICE.pem + ROOT.pem)],
        [quote(ISSUER.pem + DEVICE.pem)],
        [quote(CHAIN + ROOT.pem * 4)],
        [quote(CHAIN + b"more")],
        [ESCAPED + "," + ESCAPED],
        [ESCAPED[:-40]],
        ["%ff" + ESCAPED],
        [quote(DEVICE.key_pem.decode())],
        [ODD_VERSION],
        ["garbage"],
        ["é" + ESCAPED],
        [":" + "A" * 100_000 + ":"],
    ],
)
def test_a_header_that_leaves_a_doubt_is_refused(values: list[str]) -> None:
    with pytest.raises(BadRequest, match="client certificate header"):
        READER.read(values, PROXY)
