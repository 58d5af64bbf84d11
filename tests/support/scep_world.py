"""A small world for tests of SCEP: replicas that share a store, and clients that ask them."""

from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from services.checkin.scep.certificate_status import CertificateStatuses
from services.checkin.scep.issuing import Issuing
from services.checkin.scep.server import ScepServer
from shared.concurrency.heavy_work import HeavyWork
from shared.security.authority import IDENTITY_VALIDITY, Authority
from shared.security.certificates.public_keys import PublicKey
from shared.security.challenges import KEY_SIZE, PURPOSE, ChallengeTokens, ScepChallenges
from shared.telemetry.metrics import Metrics
from tests.support.fakes.challenges import FakeChallenges
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.identities import FakeIdentities
from tests.support.fakes.issued import FakeIssuedCertificates
from tests.support.harness.scep import Client, Reply, Shape, csr, key_number

CHALLENGE_VALIDITY = timedelta(hours=1)
VALIDITY = timedelta(days=365)
STATIC = "the-static-challenge"


@cache
def _authority() -> Authority:
    """The same for all tests of the process, as making one takes long."""
    return Authority.create(FakeClock())


@dataclass
class ScepWorld:
    """What all replicas share."""

    static: str | None = None
    allow_legacy: bool = True
    is_elsewhere: bool = False
    """Another server gives devices their identities."""
    clock: FakeClock = field(default_factory=FakeClock)
    challenges: FakeChallenges = field(default_factory=FakeChallenges)
    issued: FakeIssuedCertificates = field(default_factory=FakeIssuedCertificates)
    enrollments: FakeEnrollments = field(default_factory=FakeEnrollments)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.authority = _authority()
        static = None if self.static is None else SecretStr(self.static)
        self.book = ScepChallenges(
            self.challenges,
            self.clock,
            validity=CHALLENGE_VALIDITY,
            static=static,
            tokens=ChallengeTokens(self.authority.derived_key(PURPOSE, KEY_SIZE)),
        )
        self.commands_book = ScepChallenges(
            self.challenges, self.clock, validity=CHALLENGE_VALIDITY, static=static
        )
        self.identities = FakeIdentities(self.enrollments)
        self.server = self.replica()

    @property
    def ca(self) -> x509.Certificate:
        return self.authority.certificate

    def certified(self, key: PublicKey) -> x509.Certificate:
        """A certificate that SCEP did not give out."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "by hand")])
        return self.authority.certify(name, key, self.clock, IDENTITY_VALIDITY)

    def replica(self) -> ScepServer:
        work = HeavyWork("SCEP requests")
        renewals = ScepChallenges(
            self.challenges, self.clock, validity=CHALLENGE_VALIDITY, renews_only=True
        )
        issuing = Issuing(
            self.authority,
            renewals if self.is_elsewhere else self.book,
            self.issued,
            CertificateStatuses(self.enrollments, self.issued),
            self.identities,
            self.clock,
            VALIDITY,
            work,
        )
        return ScepServer(
            self.authority, issuing, work, self.metrics, allow_legacy=self.allow_legacy
        )

    def client(self, number: int = 0) -> Client:
        return Client(self.ca, key_number(number))

    async def ask(
        self,
        client: Client,
        challenge: str | None,
        *,
        shape: Shape | None = None,
        server: ScepServer | None = None,
        **said: Any,
    ) -> Reply:
        """One enrollment request with its reply."""
        message = client.request(csr(client.key, challenge), shape=shape, **said)
        return client.read(await (server or self.server).operate(message))

    async def enrolled(self, number: int = 0, **bound: str) -> Client:
        """A client that has a certificate of ours."""
        client = self.client(number)
        challenge = await self.book.issue_once(**bound)
        reply = await self.ask(client, challenge, transaction=f"enrolls-{number}")
        assert reply.certificate is not None
        return Client(self.ca, client.key, reply.certificate)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"macromdm_{name}_total", labels) or 0.0
