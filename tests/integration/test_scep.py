"""SCEP over HTTP, on two replicas of check-in that share a store; Debian's scepclient is a client that
we did not write."""

import asyncio
import base64
import os
import plistlib
import subprocess
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared.concurrency.clock import SystemClock
from shared.security.challenges import ScepChallenges
from shared.security.identity import fingerprint_of
from shared.settings.scep import ChallengeSettings
from shared.storage.certificates.challenges import NAME as CHALLENGES
from shared.storage.certificates.challenges import MongoChallenges
from shared.storage.certificates.issued import NAME as ISSUED
from shared.storage.certificates.issued import MongoIssuedCertificates
from shared.storage.mongo import Mongo
from tests.conftest import remove_topology
from tests.support.harness.processes import HasUrl
from tests.support.harness.scep import (
    RENEWAL_REQ,
    Client,
    Reply,
    Shape,
    csr,
    key_number,
    subject_of,
)
from tests.support.harness.system import ServiceProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCEPCLIENT = "/usr/bin/scepclient"
PKI_MESSAGE = "application/x-pki-message"
KEYS = 4
VALIDITY = ChallengeSettings.model_fields["scep_challenge_validity"].default


@dataclass
class Replicas:
    """Two processes of check-in, and the store behind them."""

    processes: Sequence[ServiceProcess]
    http: httpx.AsyncClient
    mongo: Mongo
    ca: x509.Certificate
    folder: Path

    @property
    def book(self) -> ScepChallenges:
        return ScepChallenges(MongoChallenges(self.mongo), SystemClock(), validity=VALIDITY)

    @property
    def issued(self) -> MongoIssuedCertificates:
        return MongoIssuedCertificates(self.mongo)

    def url(self, replica: int = 0) -> str:
        return f"{self.processes[replica].url}/scep"

    def client(self, number: int = 0) -> Client:
        return Client(self.ca, key_number(number % KEYS))

    async def post(self, message: bytes, replica: int = 0) -> httpx.Response:
        return await self.http.post(
            f"{self.url(replica)}?operation=PKIOperation",
            content=message,
            headers={"Content-Type": PKI_MESSAGE},
        )

    async def ask(self, client: Client, message: bytes, replica: int = 0) -> Reply:
        answer = await self.post(message, replica)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == PKI_MESSAGE
        return client.read(answer.content)

    async def stored(self) -> tuple[int, int]:
        """How many certificates are recorded, and how many challenges are used."""
        issued = await self.mongo.collection(ISSUED).find({})
        used = await self.mongo.collection(CHALLENGES).find({"used_by": {"$ne": None}})
        return len(issued), len(used)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(
    store_server: HasUrl, rabbit: HasUrl, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Replicas]:
    await remove_topology(rabbit.url)
    folder = tmp_path_factory.mktemp("scep")
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = urlunsplit(urlsplit(store_server.url)._replace(path=f"/{name}"))
    settings = {"MDM_MONGODB_URL": url, "MDM_AMQP_URL": rabbit.url}
    processes = [ServiceProcess("checkin", folder / str(each), settings) for each in range(2)]
    mongo = Mongo(url, driver="pymongo")
    async with httpx.AsyncClient(timeout=60) as http:
        try:
            for process in processes:  # both at once, so that both want to make the CA
                process.launch()
            for process in processes:
                await asyncio.to_thread(process.wait_until_serving)
            got = await http.get(f"{processes[0].url}/scep?operation=GetCACert")
            ca = x509.load_der_x509_certificate(got.content)
            yield Replicas(processes, http, mongo, ca, folder)
        finally:
            for process in processes:
                process.close()
            await mongo.close()


async def test_both_replicas_have_one_ca_and_say_the_same(replicas: Replicas) -> None:
    for operation, content_type in (
        ("GetCACert", "application/x-x509-ca-cert"),
        ("GetCACaps", "text/plain; charset=utf-8"),
    ):
        answers = [
            await replicas.http.get(replicas.url(each), params={"operation": operation})
            for each in range(2)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert {answer.headers["Content-Type"] for answer in answers} == {content_type}
        assert answers[0].content == answers[1].content

    assert answers[0].text.split() == (
        ["Renewal", "SHA-1", "SHA-256", "AES", "DES3", "SCEPStandard", "POSTPKIOperation"]
    )


async def test_200_enrollments_at_once_over_two_replicas_get_200_certificates_of_one_ca(
    replicas: Replicas,
) -> None:
    challenges = [await replicas.book.issue_once() for _ in range(200)]
    clients = [replicas.client(number) for number in range(200)]
    messages = [
        client.request(
            csr(client.key, challenge, subject=subject_of(f"device {number}")),
            transaction=f"one-of-200-{number}",
        )
        for number, (client, challenge) in enumerate(zip(clients, challenges, strict=True))
    ]

    replies = await asyncio.gather(
        *(
            replicas.ask(client, message, number % 2)
            for number, (client, message) in enumerate(zip(clients, messages, strict=True))
        )
    )

    certificates = [reply.certificate for reply in replies]
    assert all(each is not None for each in certificates)
    serials = {each.serial_number for each in certificates if each}
    assert len(serials) == 200
    for number, certificate in enumerate(certificates):
        assert certificate is not None
        certificate.verify_directly_issued_by(replicas.ca)
        assert certificate.subject == subject_of(f"device {number}")
    prints = [fingerprint_of(each.public_bytes(Encoding.DER)) for each in certificates if each]
    assert len(await replicas.issued.by_fingerprint(prints)) == 200
    logged = "".join(process.output() for process in replicas.processes)
    assert "scep_issued" in logged
    assert not any(challenge in logged for challenge in challenges)


async def test_a_request_that_both_replicas_get_at_once_has_one_certificate(
    replicas: Replicas,
) -> None:
    client = replicas.client()
    challenge = await replicas.book.issue_once()
    message = client.request(csr(client.key, challenge), transaction="on-both")
    before = await replicas.stored()

    replies = await asyncio.gather(
        *(replicas.ask(client, message, number % 2) for number in range(10))
    )

    assert len({reply.certificate for reply in replies}) == 1
    assert replies[0].certificate is not None
    assert await replicas.stored() == (before[0] + 1, before[1] + 1)


async def test_of_many_with_one_challenge_on_both_replicas_one_gets_a_certificate(
    replicas: Replicas,
) -> None:
    challenge = await replicas.book.issue_once()
    clients = [replicas.client(number) for number in range(8)]
    before = await replicas.stored()

    replies = await asyncio.gather(
        *(
            replicas.ask(
                client, client.request(csr(client.key, challenge), transaction=f"s-{n}"), n % 2
            )
            for n, client in enumerate(clients)
        )
    )

    successes = [reply.certificate for reply in replies if reply.is_success]
    assert len(set(successes)) == 1  # those that have the same key get the same one
    assert len(successes) == 8 // KEYS
    assert await replicas.stored() == (before[0] + 1, before[1] + 1)


async def test_profiles_write_nothing_and_the_challenge_of_each_is_used_once_on_any_replica(
    replicas: Replicas,
) -> None:
    stored = replicas.mongo.collection(CHALLENGES)
    before = len(await stored.find({}))
    profiles = [
        await replicas.http.get(f"{replicas.processes[number % 2].url}/mdm/enroll")
        for number in range(10)
    ]
    assert len(await stored.find({})) == before
    challenges = [challenge_of(profile.content) for profile in profiles]
    assert len(set(challenges)) == 10

    replies = [
        await replicas.ask(
            client, client.request(csr(client.key, challenges[0]), transaction=f"p-{n}"), 1 - n
        )
        for n, client in ((0, replicas.client(0)), (1, replicas.client(1)))
    ]

    assert [reply.is_success for reply in replies] == [True, False]
    assert len(await stored.find({})) == before + 1


def challenge_of(profile: bytes) -> str:
    payloads = plistlib.loads(profile)["PayloadContent"]
    [scep] = [each for each in payloads if each["PayloadType"] == "com.apple.security.scep"]
    return str(scep["PayloadContent"]["Challenge"])


@pytest.mark.parametrize("escape", ["whole", "plus as a space", "url-safe", "line ends"])
async def test_a_request_comes_in_the_query_as_clients_write_it(
    replicas: Replicas, escape: str
) -> None:
    client = replicas.client()
    challenge = await replicas.book.issue_once()
    message = client.request(csr(client.key, challenge), transaction=f"in-the-query-{escape}")
    text = base64.b64encode(message).decode()
    written = {
        "whole": quote(text, safe=""),
        "plus as a space": text.replace("=", "%3D"),  # the server sees `+` as a space
        "url-safe": base64.urlsafe_b64encode(message).decode().rstrip("="),
        "line ends": quote(base64.encodebytes(message).decode(), safe=""),
    }[escape]

    answer = await replicas.http.get(f"{replicas.url()}?operation=PKIOperation&message={written}")

    assert answer.status_code == 200, answer.text
    assert client.read(answer.content).is_success


async def test_a_renewal_is_recorded_with_the_certificate_before_it(replicas: Replicas) -> None:
    client = replicas.client()
    challenge = await replicas.book.issue_once(udid="UDID-R")
    first = await replicas.ask(
        client, client.request(csr(client.key, challenge), transaction="to-be-renewed")
    )
    old = Client(replicas.ca, client.key, first.certificate)

    renewed = await replicas.ask(
        old, old.request(csr(key_number(1)), kind=RENEWAL_REQ, transaction="renews"), 1
    )

    assert renewed.certificate is not None
    assert first.certificate is not None
    fingerprint = fingerprint_of(renewed.certificate.public_bytes(Encoding.DER))
    [recorded] = (await replicas.issued.by_fingerprint([fingerprint])).values()
    before = fingerprint_of(first.certificate.public_bytes(Encoding.DER))
    assert (recorded.udid, recorded.renewed_from) == ("UDID-R", before)


async def test_refusals_leave_nothing_behind(replicas: Replicas) -> None:
    client = replicas.client()
    other = Client(replicas.ca, key_number(1), client.certificate)
    unused = await replicas.book.issue_once()
    before = await replicas.stored()
    good = csr(client.key, unused)
    messages = {
        "wrong challenge": (client, client.request(csr(client.key, "wrong"), transaction="x1")),
        "no challenge": (client, client.request(csr(client.key, None), transaction="x2")),
        "signature": (other, other.request(good, transaction="x3")),
        "digest": (client, client.request(good, shape=Shape(digest="md5"), transaction="x4")),
        "self-signed renewal": (
            client,
            client.request(good, kind=RENEWAL_REQ, transaction="x6"),
        ),
        "message type": (client, client.request(good, kind="22", transaction="x7")),
    }

    heard = {
        name: (await replicas.ask(client, message)).fail_info
        for name, (client, message) in messages.items()
    }

    assert heard == {
        "wrong challenge": "2",
        "no challenge": "2",
        "signature": "1",
        "digest": "0",
        "self-signed renewal": "4",
        "message type": "2",
    }
    assert await replicas.stored() == before


@pytest.mark.parametrize(
    ("method", "query", "body", "status"),
    [
        ("GET", "", b"", 400),
        ("GET", "operation=getcacaps", b"", 400),
        ("GET", "operation=GetNextCACert", b"", 400),
        ("POST", "operation=GetCACaps", b"", 400),
        ("POST", "", b"x", 400),
        ("GET", "operation=PKIOperation", b"", 400),
        ("GET", "operation=PKIOperation&message=%00", b"", 400),
        ("GET", "operation=PKIOperation&message=AAAA", b"", 400),
        ("POST", "operation=PKIOperation", b"", 400),
        ("POST", "operation=PKIOperation", b"\x30\x80" * 4000, 400),
        ("POST", "operation=PKIOperation", bytes(40_000), 413),
        ("PUT", "operation=PKIOperation", b"", 405),
        ("DELETE", "", b"", 405),
    ],
)
async def test_what_is_no_scep_is_told_in_json(
    replicas: Replicas, method: str, query: str, body: bytes, status: int
) -> None:
    answer = await replicas.http.request(method, f"{replicas.url()}?{query}", content=body)

    assert answer.status_code == status
    assert answer.json()["status"] == status


async def test_issued_and_refused_are_counted(replicas: Replicas) -> None:
    client = replicas.client()
    await replicas.ask(client, client.request(csr(client.key, "wrong"), transaction="counted"))

    text = replicas.processes[0].metrics()

    for line in ('scep_refused_total{reason="challenge"}', 'scep_issued_total{kind="enrollment"}'):
        [found] = [each for each in text.splitlines() if each.startswith(f"macromdm_{line}")]
        assert float(found.split()[-1]) >= 1


# Debian's client


def scepclient(folder: Path, url: str, challenge: str) -> subprocess.CompletedProcess[bytes]:
    if not os.path.exists(SCEPCLIENT):
        pytest.fail("scepclient is missing: apt-get install scep", pytrace=False)
    arguments = ["-server-url", url, "-private-key", "key.pem", "-certificate", "client.pem"]
    return subprocess.run(
        [SCEPCLIENT, *arguments, "-challenge", challenge, "-cn", "a Debian client"],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=60,
    )


def openssl(folder: Path, line: str) -> str:
    done = subprocess.run(["openssl", *line.split()], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def test_debians_client_enrolls_and_renews(replicas: Replicas, tmp_path: Path) -> None:
    challenge = await replicas.book.issue_once(serial_number="SERIAL-D")
    (tmp_path / "ca.pem").write_bytes(replicas.ca.public_bytes(Encoding.PEM))

    enrolled = await asyncio.to_thread(scepclient, tmp_path, replicas.url(), challenge)

    assert enrolled.returncode == 0, (enrolled.stdout, enrolled.stderr)
    first = (tmp_path / "client.pem").read_bytes()
    openssl(tmp_path, "verify -CAfile ca.pem -purpose sslclient client.pem")
    subject = openssl(tmp_path, "x509 -in client.pem -noout -subject -nameopt RFC2253")
    assert "CN=a Debian client" in subject

    # With a certificate at hand it renews (RenewalReq); the challenge is not needed for that.
    renewed = await asyncio.to_thread(scepclient, tmp_path, replicas.url(1), "")

    assert renewed.returncode == 0, (renewed.stdout, renewed.stderr)
    second = (tmp_path / "client.pem").read_bytes()
    openssl(tmp_path, "verify -CAfile ca.pem -purpose sslclient client.pem")
    der = x509.load_pem_x509_certificate(second).public_bytes(Encoding.DER)
    [recorded] = (await replicas.issued.by_fingerprint([fingerprint_of(der)])).values()
    before = x509.load_pem_x509_certificate(first).public_bytes(Encoding.DER)
    assert recorded.renewed_from == fingerprint_of(before)
    assert recorded.serial_number == "SERIAL-D"


async def test_debians_client_hears_of_a_wrong_challenge(
    replicas: Replicas, tmp_path: Path
) -> None:
    before = await replicas.stored()
    key = key_number(3).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(key)

    done = await asyncio.to_thread(scepclient, tmp_path, replicas.url(), "wrong")

    assert done.returncode != 0
    assert b"failInfo" in done.stderr + done.stdout
    assert not (tmp_path / "client.pem").exists()
    assert await replicas.stored() == before


@pytest.fixture(scope="module", autouse=True)
def _keys() -> None:
    """Made before any test's clock runs."""
    for number in range(KEYS):
        key_number(number)
