"""Files of CAs that settings name are looked at when the process starts."""

import socket
import ssl
from pathlib import Path

import pytest

from services.runtime.program import check
from shared.concurrency.clock import SystemClock
from shared.domain.errors import Misconfigured
from shared.messaging.rabbit.broker import RabbitBroker
from shared.network.trusted_cas import client_tls
from shared.settings import WebhookSettings, load
from shared.storage.mongo import Mongo
from tests.support.harness.push_certificates import PushAuthority

ENOUGH = {
    "MDM_MONGODB_URL": "mongodb://127.0.0.1/x",
    "MDM_AMQP_URL": "amqp://127.0.0.1/",
    "MDM_API_KEY": "k" * 32,
    "MDM_SECRET_KEY": "A" * 43 + "=",
}


def checked(file: Path) -> None:
    check("webhook", load(WebhookSettings, ENOUGH | {"MDM_WEBHOOK_CA": str(file)}))


def test_a_file_of_cas_is_all_that_is_trusted(tmp_path: Path) -> None:
    file = PushAuthority(tmp_path).ca_file

    context = client_tls("MDM_WEBHOOK_CA", file)

    checked(file)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509_ca"] == 1


def test_a_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty.pem"
    file.write_bytes(b"")

    with pytest.raises(
        Misconfigured, match=r"^MDM_WEBHOOK_CA: .*empty.pem holds no CA certificates"
    ):
        checked(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"^MDM_WEBHOOK_CA: there is no file .*none.pem$"):
        checked(tmp_path / "none.pem")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(file))  # unreadable for root too

        with pytest.raises(Misconfigured, match=r"^MDM_APNS_CA: .*socket cannot be read \(.+\)$"):
            client_tls("MDM_APNS_CA", file)


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ("cafile=/none.pem", r"cafile: /none.pem cannot be read \(No such file or directory\)"),
        ("cafile=/dev/null", "cafile: /dev/null holds no CA certificates in PEM"),
        ("certfile=/none.pem", r"certfile: /none.pem cannot be read \(.+\)"),
        ("keyfile=/none.pem", r"keyfile: /none.pem cannot be read \(.+\)"),
    ],
)
def test_a_file_that_the_url_of_rabbitmq_names_is_looked_at(parameter: str, problem: str) -> None:
    with pytest.raises(Misconfigured, match=f"^MDM_AMQP_URL: {problem}$"):
        RabbitBroker(f"amqps://user:secret@127.0.0.1/?{parameter}", clock=SystemClock())


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ("tlsCAFile=/none.pem", r"/none.pem cannot be read \(No such file or directory\)"),
        ("tlsCAFile=/dev/null", "/dev/null holds no CA certificates in PEM"),
        ("tlsCertificateKeyFile=/none.pem", r"/none.pem cannot be read \(.+\)"),
    ],
)
def test_a_file_that_the_url_of_mongodb_names_is_looked_at(parameter: str, problem: str) -> None:
    name = parameter.partition("=")[0]

    with pytest.raises(Misconfigured, match=f"^MDM_MONGODB_URL: {name}: {problem}$"):
        Mongo(f"mongodb://user:secret@a.example,b.example/x?tls=true&{parameter}")
