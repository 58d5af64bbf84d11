"""What is wrong with MDM_TLS_CERT and MDM_TLS_KEY is said in words, when the process starts."""

from pathlib import Path

import pytest

from shared.domain.errors import Misconfigured
from shared.web.server.listener import Tls, check_tls
from tests.support.harness.push_certificates import PushAuthority


def test_a_pair_that_can_serve_is_taken(tmp_path: Path) -> None:
    pair = PushAuthority(tmp_path).server()

    check_tls(Tls(pair.certificate, pair.key))


def test_the_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    authority = PushAuthority(tmp_path)
    pair, other = authority.server(), authority.issue()

    with pytest.raises(Misconfigured, match=r"with MDM_TLS_KEY: the key is another certificate's$"):
        check_tls(Tls(pair.certificate, other.key))


def test_what_is_no_pem_is_refused(tmp_path: Path) -> None:
    pair = PushAuthority(tmp_path).server()
    pair.certificate.write_bytes(b"rubbish")

    with pytest.raises(Misconfigured, match=r"with MDM_TLS_KEY: expected both in PEM$"):
        check_tls(Tls(pair.certificate, pair.key))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none"

    with pytest.raises(Misconfigured, match=r"cannot be read \(No such file or directory\)$"):
        check_tls(Tls(missing, missing))
