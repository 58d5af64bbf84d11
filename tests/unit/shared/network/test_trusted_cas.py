"""Files of CAs that settings name are looked at when the process starts."""

import socket
import ssl
from pathlib import Path

import pytest

from services.runtime.program import check
from shared.domain.errors import Misconfigured
from shared.network.trusted_cas import client_tls
from shared.settings import WebhookSettings, load
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
