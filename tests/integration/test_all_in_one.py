"""`python -m services all` as a process, on the embedded store and the in-process broker."""

import os
import signal
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.installation import Installation, ended


async def test_a_newcomer_can_go_on_from_what_the_first_start_says(tmp_path: Path):
    installation = Installation(tmp_path / "data")

    async with installation.serving() as (process, said):
        key = (tmp_path / "data" / "api-key").read_text().strip()
        async with httpx.AsyncClient(auth=("micromdm", key)) as client:
            listed = await client.post(f"http://127.0.0.1:{installation.port}/v1/devices")
            docs = await client.get(f"http://127.0.0.1:{installation.port}/docs")
            made = {"url": "http://127.0.0.1:9/", "name": "first"}
            url = f"http://127.0.0.1:{installation.port}/v1/webhooks"
            subscribed = await client.post(url, json=made)
        process.terminate()
        code, _ = await ended(process)
    async with installation.serving() as (_, said_then):
        pass

    assert key not in said
    assert f"http://127.0.0.1:{installation.port}" in said
    assert (listed.status_code, listed.json()) == (200, {"devices": []})
    assert docs.status_code == 200
    assert "nowhere yet" in said
    assert subscribed.status_code == 201
    assert "1 webhook made by" in said_then
    assert code == 0


async def test_all_routes_are_in_one_openapi_document(tmp_path: Path):
    installation = Installation(tmp_path / "data")

    async with installation.serving(), httpx.AsyncClient() as client:
        found = await client.get(f"http://127.0.0.1:{installation.port}/openapi.json")

    wanted = {"/mdm/checkin", "/mdm/connect", "/v1/commands", "/push/{udid}", "/version"}
    assert wanted <= set(found.json()["paths"])


async def test_a_second_process_on_the_folder_is_refused_and_an_identity_is_made_beside_it(
    tmp_path: Path,
):
    installation = Installation(tmp_path / "data")
    second = Installation(tmp_path / "data")

    async with installation.serving():
        began = time.monotonic()
        code, errors = await ended(await second.run("all"))
        took = time.monotonic() - began
        made, _ = await ended(
            await installation.run("identity", "--name", "device-1", "--out", str(tmp_path / "ids"))
        )

    assert code == 2
    assert errors.splitlines()[-1].startswith("macromdm: MDM_DATA_DIR: ")
    assert took < 10
    assert made == 0
    assert (tmp_path / "ids" / "device-1-cert.pem").exists()


async def test_it_starts_again_on_port_and_folder_after_kill_9_of_its_group(tmp_path: Path):
    installation = Installation(tmp_path / "data")

    async with installation.serving() as (process, _):
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    async with installation.serving(), httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{installation.port}/version")

    assert answer.status_code == 200


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encodings = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*encodings, serialization.NoEncryption()))
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(encodings[0]))
    return tmp_path / "cert.pem", tmp_path / "key.pem"


async def test_tls_is_served_directly(tmp_path: Path, tls_files: tuple[Path, Path]):
    certificate, key = tls_files
    more = {"MDM_TLS_CERT": str(certificate), "MDM_TLS_KEY": str(key)}
    installation = Installation(tmp_path / "data", more)
    trust = ssl.create_default_context(cafile=str(certificate))

    async with installation.serving() as (_, said), httpx.AsyncClient(verify=trust) as client:
        answer = await client.get(f"https://localhost:{installation.port}/version")

    assert answer.status_code == 200
    assert f"https://127.0.0.1:{installation.port}" in said


async def test_a_certificate_that_cannot_be_used_is_found_by_check_config(
    tmp_path: Path, tls_files: tuple[Path, Path]
):
    _, key = tls_files
    more = {"MDM_TLS_CERT": str(key), "MDM_TLS_KEY": str(key)}

    code, errors = await ended(await Installation(tmp_path, more).run("all", "--check-config"))

    assert code == 2
    assert errors.splitlines()[-1].startswith("macromdm: MDM_TLS_CERT: ")
