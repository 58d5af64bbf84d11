"""What a SCEP enrollment costs: `make bench ARGS=--scep`, or `python -m tests.load.bench_scep`.

First the arithmetic alone, in this process, on one core, for CA keys of three sizes. Then a check-in
process with its store over HTTP, each request an enrollment of its own. All requests are made before a
clock starts. Bounded: a thousand enrollments, half a minute. Figures, not verdicts.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from shared.concurrency.clock import SystemClock
from shared.security import authority as authorities
from shared.security.authority import Authority
from shared.security.identity import fingerprint_of
from shared.security.scep.answer import success
from shared.security.scep.envelope import open_envelope
from shared.security.scep.message import read_pki_message, signer_certificate
from shared.security.scep.request import hash_of, read_certificate_request
from tests.load.scenarios import CONNECTIONS, Address, expect, say, spread
from tests.support.harness.http1 import Connection, request_bytes
from tests.support.harness.scep import Client, Shape, csr, key_number
from tests.support.harness.servers import Rabbit, Store
from tests.support.harness.system import ServiceProcess, cpu_seconds

ALONE = 200
ENROLLMENTS = 1_000
KEYS = 4
CHALLENGE = "a-static-challenge"
VALIDITY = timedelta(days=365)
SHAPES = {"AES-128, SHA-256": Shape(), "DES, SHA-1": Shape(cipher="des", digest="sha1")}


def enroll_alone(authority: Authority, message: bytes, clock: SystemClock) -> bytes:
    """Everything that `services.checkin.scep.server` does with a message, but for the store."""
    asked = read_pki_message(message)
    der = signer_certificate(asked, allow_legacy=True)
    signer = x509.load_der_x509_certificate(der)
    content = open_envelope(asked.content, authority, allow_legacy=True)
    key_hash = hash_of(signer.public_key())
    request = read_certificate_request(content, signed_by=key_hash, allow_legacy=True)
    certificate = authority.certify(request.subject, request.public_key, clock, VALIDITY)
    issued = certificate.public_bytes(Encoding.DER)
    fingerprint_of(issued)
    return success(asked, issued, signer, authority)


def messages(ca: x509.Certificate, count: int, shape: Shape) -> list[bytes]:
    clients = [Client(ca, key_number(number)) for number in range(KEYS)]
    requests = [csr(client.key, CHALLENGE) for client in clients]
    return [
        clients[number % KEYS].request(
            requests[number % KEYS], transaction=f"{shape.cipher}-{number}", shape=shape
        )
        for number in range(count)
    ]


def alone() -> None:
    """CPU of one enrollment without HTTP and store, by the size of the CA's key."""
    clock = SystemClock()
    for size in (2048, 3072, 4096):
        authority = with_key(size, clock)
        for name, shape in SHAPES.items():
            prepared = messages(authority.certificate, ALONE, shape)
            cpu = time.process_time()
            for message in prepared:
                enroll_alone(authority, message, clock)
            each = (time.process_time() - cpu) / ALONE
            say(f"alone    CA of RSA {size}, {name:16} {each * 1e6:6.0f} us CPU, {1 / each:5.0f}/s")


def with_key(size: int, clock: SystemClock) -> Authority:
    """A CA as `Authority.create` makes it, with a key of another size."""
    made = Authority.create(clock)
    if size == authorities.KEY_SIZE:
        return made
    key = rsa.generate_private_key(public_exponent=65537, key_size=size)
    name = made.certificate.subject
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        builder.public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made.certificate.not_valid_before_utc)
        .not_valid_after(made.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


@contextlib.contextmanager
def running() -> Iterator[tuple[ServiceProcess, Store]]:
    folder = Path(tempfile.mkdtemp(prefix="macromdm-bench-"))
    rabbit, store = Rabbit(folder / "rabbit"), Store(folder / "store")
    process: ServiceProcess | None = None
    try:
        rabbit.start()
        store.start()
        settings = {
            "MDM_AMQP_URL": rabbit.url,
            "MDM_MONGODB_URL": store.url,
            "MDM_SCEP_CHALLENGE": CHALLENGE,
        }
        process = ServiceProcess("checkin", folder / "checkin", settings)
        process.start()
        yield process, store
    finally:
        for server in filter(None, (process, store, rabbit)):
            server.close()
        shutil.rmtree(folder, ignore_errors=True)


async def over_http(process: ServiceProcess, store: Store) -> None:
    """Enrollments per second of one check-in process, and what each costs it and the store."""
    async with Connection("127.0.0.1", process.port) as connection:
        got = await connection.send(request_bytes("GET", "/scep?operation=GetCACert", "", b""))
    ca = x509.load_der_x509_certificate(got.body)
    for name, shape in SHAPES.items():
        prepared = [
            request_bytes("POST", "/scep?operation=PKIOperation", "", message)
            for message in messages(ca, ENROLLMENTS, shape)
        ]
        before = [cpu_seconds(each.pid) for each in (process, store)]
        began = time.perf_counter()
        await spread(prepared, _send, Address(process.port))
        seconds = time.perf_counter() - began
        used = [
            (cpu_seconds(each.pid) - cpu) / ENROLLMENTS
            for each, cpu in zip((process, store), before, strict=True)
        ]
        say(
            f"http     {name:16} {ENROLLMENTS / seconds:5.0f}/s   check-in {used[0] * 1e6:5.0f} us CPU "
            f"({1 / used[0]:4.0f}/s on one core), store {used[1] * 1e6:5.0f} us"
        )
    issued = [line for line in process.metrics().splitlines() if "scep_issued_total{" in line]
    say(f"issued   {sum(float(line.split()[-1]) for line in issued):.0f} certificates")


async def _send(connection: Connection, request: bytes) -> int:
    expect(await connection.send(request), 200)
    return 1


def main() -> None:
    say(
        f"{os.cpu_count()} cores, {CONNECTIONS} connections, {ENROLLMENTS} enrollments of each kind"
    )
    alone()
    with running() as (process, store):
        asyncio.run(over_http(process, store))


if __name__ == "__main__":
    main()
