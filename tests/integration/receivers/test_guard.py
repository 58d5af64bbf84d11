"""B11: which addresses a subscription of the API is posted to, whatever its name means from one moment to the
next."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from services.webhook.endpoints.sender import HttpSender
from shared.concurrency.clock import SystemClock
from shared.domain.subscription import Subscription
from shared.network.address_guard import AddressGuard
from tests.integration.receivers.conftest import TIMEOUT
from tests.integration.receivers.names import Names
from tests.integration.receivers.posting import OK
from tests.integration.receivers.test_addresses import needs_ipv6
from tests.integration.receivers.test_requests import REQUEST, made
from tests.support.harness.bad_servers import Kind, Trust
from tests.support.harness.raw_receiver import RawReceiver, saying

CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class OneAllowed(AddressGuard):
    """Refuses all but one loopback address: the tests have no others."""

    def refusal(self, address: str) -> str | None:
        return None if address == "127.0.0.1" else super().refusal(address)


@pytest.fixture
async def guarded() -> AsyncIterator[HttpSender]:
    async with HttpSender(SystemClock(), None, TIMEOUT, AddressGuard()) as sender:
        yield sender


@pytest.fixture
async def half_guarded() -> AsyncIterator[HttpSender]:
    async with HttpSender(SystemClock(), None, TIMEOUT, OneAllowed()) as sender:
        yield sender


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost"],
)
async def test_no_form_of_a_refused_address_is_connected_to(guarded: HttpSender, host: str) -> None:
    async with RawReceiver(saying(OK)) as receiver:
        outcome = await guarded.send(made(f"http://{host}:{receiver.port}/"), REQUEST)

        assert (outcome.reason or "").endswith("is a loopback address")
        assert receiver.connections == 0


@needs_ipv6
@pytest.mark.parametrize("host", ["[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"])
async def test_no_form_of_it_in_ipv6_is_either(guarded: HttpSender, host: str) -> None:
    async with RawReceiver(saying(OK), host="::") as receiver:
        outcome = await guarded.send(made(f"http://{host}:{receiver.port}/"), REQUEST)

        assert (outcome.reason or "").endswith("is a loopback address")
        assert receiver.connections == 0


async def test_the_reason_names_the_address_and_what_would_allow_it(
    guarded: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, {"hooks.example": ["10.1.2.3", "169.254.169.254"]})
    outcome = await guarded.send(made("http://hooks.example:1/"), REQUEST)

    assert outcome.reason == (
        "cannot connect: 10.1.2.3 is in a private network that MDM_WEBHOOK_ALLOWED_NETWORKS does not list"
    )


async def test_the_operators_own_word_is_not_guarded(guarded: HttpSender) -> None:
    async with RawReceiver(saying(OK)) as receiver:
        assert (await guarded.send(Subscription("config", receiver.url), REQUEST)).delivered


async def test_what_the_guard_allows_is_posted_to() -> None:
    guard = AddressGuard((ip_network("10.0.0.0/8"),), is_loopback_allowed=True)
    async with (
        HttpSender(SystemClock(), guard=guard) as sender,
        RawReceiver(saying(OK)) as receiver,
    ):
        assert (await sender.send(made(receiver.url), REQUEST)).delivered


async def test_of_several_addresses_only_those_allowed_are_connected_to(
    half_guarded: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    Names(monkeypatch, {"hooks.example": ["127.0.0.2", "127.0.0.1", "127.0.0.3"]})
    async with (
        RawReceiver(saying(CLOSING, then_close=True)) as good,
        RawReceiver(saying(OK), host="127.0.0.2", wanted_port=good.port) as second,
        RawReceiver(saying(OK), host="127.0.0.3", wanted_port=good.port) as third,
    ):
        for _ in range(4):
            url = good.url.replace("127.0.0.1", "hooks.example")
            assert (await half_guarded.send(made(url), REQUEST)).delivered

        assert (good.connections, second.connections, third.connections) == (4, 0, 0)


async def test_a_name_that_means_another_address_at_its_second_look_up_reaches_the_first(
    half_guarded: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS that changes between the check and the connection."""
    table = {"hooks.example": ["127.0.0.1"]}
    names = Names(monkeypatch, table)
    look_up = names._look_up

    async def look_up_and_change(host: str | bytes, port: int, **options: object) -> list[object]:
        found = await look_up(host, port, **options)
        table["hooks.example"] = ["127.0.0.2"]
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up_and_change)
    async with (
        RawReceiver(saying(CLOSING, then_close=True)) as good,
        RawReceiver(saying(OK), host="127.0.0.2", wanted_port=good.port) as inside,
    ):
        subscription = made(good.url.replace("127.0.0.1", "hooks.example"))
        first = await half_guarded.send(subscription, REQUEST)
        half_guarded._targets["s1"].http.host._until = float("-inf")  # its look-up is old
        second = await half_guarded.send(subscription, REQUEST)

        assert first.delivered
        assert second.reason == "cannot connect: 127.0.0.2 is a loopback address"
        assert (good.connections, inside.connections) == (1, 0)


async def test_a_refused_name_is_looked_up_at_every_attempt(
    half_guarded: HttpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"hooks.example": ["127.0.0.2"]}
    Names(monkeypatch, table)
    async with RawReceiver(saying(OK)) as receiver:
        subscription = made(receiver.url.replace("127.0.0.1", "hooks.example"))
        before = await half_guarded.send(subscription, REQUEST)
        table["hooks.example"] = ["127.0.0.1"]

        assert not before.delivered
        assert (await half_guarded.send(subscription, REQUEST)).delivered


async def test_a_redirect_to_the_inside_is_a_failure_and_not_followed(
    half_guarded: HttpSender,
) -> None:
    async with RawReceiver(saying(OK), host="127.0.0.2") as inside:
        answer = b"HTTP/1.1 307 To\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n"
        async with RawReceiver(saying(answer % inside.url.encode())) as receiver:
            outcome = await half_guarded.send(made(receiver.url), REQUEST)

        assert outcome.reason == "answered 307: redirects are not followed"
        assert inside.connections == 0


async def test_a_look_at_a_certificate_goes_to_an_address_that_was_checked(
    half_guarded: HttpSender, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the reason of a failure another handshake is made."""
    names = Names(monkeypatch, {"hooks.example": ["127.0.0.2", "127.0.0.1"]})
    async with (
        RawReceiver(saying(OK), trust.server(Kind.UNTRUSTED)) as good,
        RawReceiver(saying(OK), trust.server(Kind.UNTRUSTED), "127.0.0.2", good.port) as inside,
    ):
        url = good.url.replace("127.0.0.1", "hooks.example")
        outcome = await half_guarded.send(made(url), REQUEST)

        assert "issued by CA of others" in (outcome.reason or "")
        assert names.asked == ["hooks.example"]
        assert inside.connections == 0
