"""Reasons of failed connections: from any exception of any library, in words, and without its class."""

import inspect
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import aiormq.exceptions
import h2.exceptions
import httpx
import pymongo.errors
import pytest

from services.push.send.apns import BROKE_OFF, BROKEN
from services.webhook.endpoints import http_client
from services.webhook.endpoints.connecting import Host
from services.webhook.endpoints.sender import HttpSender
from services.webhook.endpoints.target import RequestTarget
from shared.domain.errors import BrokerUnavailable, MdmError
from shared.domain.subscription import Subscription
from shared.messaging.rabbit.connection import translated as of_broker
from shared.network.connection_failures import Peer, Shown, is_about_certificate, reason_of
from shared.network.peer_certificates import PeerCertificates
from shared.storage.mongo import driver_errors as of_store
from tests.support.fakes.clock import FakeClock

TARGET = Peer("MDM_WEBHOOK_URL", "MDM_WEBHOOK_CA")
SECRET = "amqp://user:secret@host/"


def instances(module: ModuleType, base: type[BaseException], **more: object) -> Iterator[Any]:
    """One exception of each class, whose text has its class and a secret in it."""
    for name, kind in inspect.getmembers(module, inspect.isclass):
        if issubclass(kind, base):
            members = {"__init__": lambda self: None, "__str__": lambda self: self.args[0]} | more
            made = type(name, (kind,), members)()
            made.args = (f"{name} {SECRET}",)
            yield made


def must_be_words(reason: str, error: BaseException) -> None:
    assert reason, type(error)
    assert "secret" not in reason
    for kind in type(error).__mro__:
        if kind.__name__ not in ("Exception", "object", "BaseException"):
            assert kind.__name__ not in reason


def test_no_exception_of_the_broker_s_library_shows_its_class() -> None:
    for error in instances(aiormq.exceptions, aiormq.exceptions.AMQPError):
        with pytest.raises(BrokerUnavailable) as caught, of_broker():
            raise error
        must_be_words(str(caught.value).removeprefix("RabbitMQ: "), error)


async def test_no_exception_of_the_store_s_library_shows_its_class() -> None:
    passing = (pymongo.errors.DuplicateKeyError, pymongo.errors.BulkWriteError)
    bare = {"details": None, "code": None, "timeout": False}
    for error in instances(pymongo.errors, pymongo.errors.PyMongoError, **bare):
        if not isinstance(error, passing):
            with pytest.raises(MdmError) as caught, of_store():
                raise error
            must_be_words(str(caught.value).removeprefix("MongoDB: "), error)


async def test_no_exception_of_the_webhook_s_library_shows_its_class() -> None:
    sender = HttpSender(FakeClock())
    head = b"Authorization: Basic secret"
    http = http_client.HttpTarget(Host("host", 1, None), head, None, timedelta(seconds=1))
    target = RequestTarget(Subscription("config", "http://host:1/"), http, None)
    assert "secret" not in repr(target)
    for error in instances(http_client, http_client.HttpFailure):
        must_be_words(await sender._reason(error, target), error)


async def test_no_exception_of_apns_libraries_shows_its_class() -> None:
    peers = PeerCertificates(FakeClock())
    for module, base in ((httpx, httpx.HTTPError), (h2.exceptions, h2.exceptions.H2Error)):
        for error in instances(module, base):
            assert isinstance(error, BROKEN)
            reason = await peers.reason_of(error, TARGET, ("127.0.0.1", 1)) or BROKE_OFF
            must_be_words(reason, error)


def alert(kind: str) -> ssl.SSLError:
    return ssl.SSLError(1, f"[SSL: {kind}] {kind.lower().replace('_', ' ')} (_ssl.c:1006)")


def refused(details: str) -> ssl.SSLError:
    text = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {details} (_ssl.c:1006)"
    return ssl.SSLCertVerificationError(1, text)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("Multiple exceptions: [Errno 111] a, [Errno 111] b"), "connection refused: "),
        (ConnectionRefusedError(111, "Connect call failed"), "connection refused: "),
        (OSError(113, "x"), "no route to the host"),
        (OSError(101, "x"), "no route to the host's network"),
        (OSError(24, "x"), "Too many open files"),
        (ConnectionResetError(), "the connection was closed without an answer"),
        (TimeoutError(), "no answer in time"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "the host of MDM_WEBHOOK_URL is not found: "),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "the host of MDM_WEBHOOK_URL cannot be looked"),
        (ExceptionGroup("all", [OSError(113, "x"), OSError(111, "x")]), "no route to the host"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "the connection was closed "),
        (
            alert("SSLV3_ALERT_BAD_CERTIFICATE"),
            "it refuses our client certificate (bad certificate)",
        ),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), "it refuses our client certificate (unknown ca)"),
        (alert("TLSV1_ALERT_PROTOCOL_VERSION"), "no common version of TLS"),
        (alert("SSLV3_ALERT_HANDSHAKE_FAILURE"), "the TLS handshake failed (handshake failure)"),
        (alert("WRONG_VERSION_NUMBER"), "what answers there speaks no TLS"),
        (
            refused("CA cert does not include key usage extension"),
            "its certificate is refused: CA cert",
        ),
    ],
    ids=lambda each: str(each)[:40],
)
def test_the_cause_decides_the_words(error: Exception, reason: str) -> None:
    wrapped = RuntimeError("of a library")
    wrapped.__cause__ = error

    assert str(reason_of(error, TARGET)).startswith(reason)
    assert str(reason_of(wrapped, TARGET)).startswith(reason)


def test_what_is_none_of_the_network_has_no_reason() -> None:
    assert reason_of(ValueError("x"), TARGET) is None


def test_of_another_name_the_certificate_s_are_told() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    shown = Shown("a", "CA", ("a.example", "b.example"), now, now)
    error = refused("Hostname mismatch, certificate is not valid for 'c.example'.")

    assert is_about_certificate(error)
    assert reason_of(error, TARGET, shown) == (
        "its certificate is for a.example, b.example, not for c.example: "
        "change the host in MDM_WEBHOOK_URL, or that certificate"
    )
