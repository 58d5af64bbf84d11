"""The store of a process, as the ports that services ask for."""

from collections.abc import Collection
from datetime import timedelta

from shared.ports.access import AuditLog, Profiles, Tokens
from shared.ports.certificates import (
    AuthorityStore,
    Challenges,
    EnrolledTopics,
    IssuedCertificates,
    PushCertificates,
    PushExpiries,
)
from shared.ports.deliveries import Activities, Deliveries, DeliveryRecords, Replays, Subscriptions
from shared.ports.devices import Devices, Migration
from shared.ports.enrollments import Enrollments
from shared.ports.events import Journal, Refusals, Writers
from shared.ports.identities import Identities
from shared.ports.keyring import EncryptedValues, Keyring
from shared.ports.members import Members
from shared.ports.pushes import Pushes
from shared.ports.queue import CommandQueue, Expiries, Jobs, StoredCommands
from shared.storage.access.audit import MongoAuditLog
from shared.storage.access.profiles import MongoProfiles
from shared.storage.access.tokens import MongoTokens
from shared.storage.certificates.authority import MongoAuthorityStore
from shared.storage.certificates.challenges import MongoChallenges
from shared.storage.certificates.issued import MongoIssuedCertificates
from shared.storage.certificates.push import MongoPushCertificates, MongoPushExpiries
from shared.storage.database import Database
from shared.storage.enrollments.changes import MongoRefusals
from shared.storage.enrollments.devices import MongoDevices, MongoEnrolledTopics
from shared.storage.enrollments.identities import MongoIdentities
from shared.storage.enrollments.imports import MongoMigration
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.events.deliveries import MongoDeliveries
from shared.storage.events.journal import MongoJournal
from shared.storage.events.subscriptions import MongoSubscriptions
from shared.storage.events.webhook_history import (
    MongoActivities,
    MongoDeliveryRecords,
    MongoReplays,
)
from shared.storage.heartbeats import MongoMembers, MongoWriters
from shared.storage.indexes import indexes_of
from shared.storage.maintenance.reencryption import MongoEncryptedValues
from shared.storage.queue.commands import MongoStoredCommands
from shared.storage.queue.expiries import MongoExpiries
from shared.storage.queue.jobs import MongoJobs
from shared.storage.queue.pushes import MongoPushes
from shared.storage.queue.store import MongoCommandQueue


class Stores:
    """One adapter of each port; `tests.support.fakes.stores` fills it with fakes instead."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self.activities: Activities = MongoActivities(database, keyring)
        self.audit: AuditLog = MongoAuditLog(database)
        self.authority: AuthorityStore = MongoAuthorityStore(database, keyring)
        self.challenges: Challenges = MongoChallenges(database)
        self.deliveries: Deliveries = MongoDeliveries(database, keyring)
        self.delivery_records: DeliveryRecords = MongoDeliveryRecords(database)
        self.devices: Devices = MongoDevices(database, keyring)
        self.encrypted_values: EncryptedValues = MongoEncryptedValues(database, keyring)
        self.enrolled_topics: EnrolledTopics = MongoEnrolledTopics(database)
        self.enrollments: Enrollments = MongoEnrollments(database, keyring)
        self.expiries: Expiries = MongoExpiries(database)
        self.identities: Identities = MongoIdentities(database, keyring)
        self.issued: IssuedCertificates = MongoIssuedCertificates(database)
        self.jobs: Jobs = MongoJobs(database)
        self.journal: Journal = MongoJournal(database, keyring)
        self.members: Members = MongoMembers(database)
        self.migration: Migration = MongoMigration(database, keyring)
        self.profiles: Profiles = MongoProfiles(database)
        self.push_certificates: PushCertificates = MongoPushCertificates(database, keyring)
        self.push_expiries: PushExpiries = MongoPushExpiries(database)
        self.pushes: Pushes = MongoPushes(database)
        self.queue: CommandQueue = MongoCommandQueue(database, keyring)
        self.refusals: Refusals = MongoRefusals(database)
        self.replays: Replays = MongoReplays(database)
        self.stored_commands: StoredCommands = MongoStoredCommands(database)
        self.tokens: Tokens = MongoTokens(database)
        self.writers: Writers = MongoWriters(database)

    async def prepare(self, *ports: str, **retention: timedelta) -> None:
        """Make the indexes of these ports. A port whose documents leave after a time that the
        operator sets is named with that time: `journal=settings.event_retention`."""
        chosen: dict[str, timedelta | None] = {**dict.fromkeys(ports), **retention}
        await self._database.ensure(
            [index for port, kept in chosen.items() for index in indexes_of(port, kept)]
        )

    def subscriptions(
        self, configured_url: str | None = None, extra_topics: Collection[str] = ()
    ) -> Subscriptions:
        return MongoSubscriptions(self._database, self._keyring, configured_url, extra_topics)
