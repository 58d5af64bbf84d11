"""`python -m services all` as a process, on the embedded store and the in-process broker."""

import asyncio
import contextlib
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


@dataclass
class Installation:
    """A data folder, and the port of whoever runs on it: any free one at first, then the same."""

    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    port: int = 0

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MDM_DATA_DIR": str(self.folder),
            "MDM_HTTP": f"127.0.0.1:{self.port}",
            "MDM_OPS_HTTP": "127.0.0.1:0",
            **self.more,
        }

    async def run(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=self.environ,
            start_new_session=True,
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
        """The process, once it said that it serves, and what it said."""
        process = await self.run("all")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                said = (await process.stdout.readuntil(b"/metrics\n")).decode()
            listens = re.search(r"https?://127.0.0.1:(\d+)", said)
            assert listens is not None
            self.port = int(listens[1])
            yield process, said
        except asyncio.IncompleteReadError:
            pytest.fail(f"it ended at once: {(await process.communicate())[1].decode()}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    async with asyncio.timeout(PATIENCE):
        _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()


async def test_a_newcomer_can_go_on_from_what_the_first_start_says(tmp_path: Path):
    installation = Installation(tmp_path / "data")

    async with installation.serving() as (process, said):
        key = (tmp_path / "data" / "api-key").read_text().strip()
        async with httpx.AsyncClient(auth=("micromdm", key)) as client:
            listed = await client.post(f"http://127.0.0.1:{installation.port}/v1/devices")
            docs = await client.get(f"http://127.0.0.1:{installation.port}/docs")
        process.terminate()
        code, _ = await ended(process)

    assert key not in said
    assert f"http://127.0.0.1:{installation.port}" in said
    assert (listed.status_code, listed.json()) == (200, {"devices": []})
    assert docs.status_code == 200
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
        code, errors = await ended(await second.run("all"))
        made, _ = await ended(
            await installation.run("identity", "--name", "device-1", "--out", str(tmp_path / "ids"))
        )

    assert code == 2
    assert errors.splitlines()[-1].startswith("macromdm: MDM_DATA_DIR: ")
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
