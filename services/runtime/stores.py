"""The store of a process, as the ports that services ask for.

Promise: an adapter is imported and made on first use, so that a process holds no more code than its
own services need.
"""

from collections.abc import Collection
from datetime import timedelta
from functools import cached_property

from shared.ports.access import AuditLog, Profiles, Tokens
from shared.ports.certificates import (
    AuthorityStore,
    Challenges,
    EnrolledTopics,
    IssuedCertificates,
    PushCertificates,
)
from shared.ports.deliveries import Deliveries, Subscriptions
from shared.ports.devices import Devices, Migration
from shared.ports.enrollments import Enrollments
from shared.ports.events import Journal, Refusals, Writers
from shared.ports.identities import Identities
from shared.ports.keyring import EncryptedValues, Keyring
from shared.ports.members import Members
from shared.ports.pushes import Pushes
from shared.ports.queue import CommandQueue, Expiries, Jobs, StoredCommands
from shared.storage.database import Database
from shared.storage.indexes import indexes_of


class Stores:
    """One adapter of each port; `tests.support.fakes.stores` fills it with fakes instead."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def prepare(self, *ports: str, **retention: timedelta) -> None:
        """Make the indexes of these ports. A port whose documents leave after a time that the
        operator sets is named with that time: `journal=settings.event_retention`."""
        chosen: dict[str, timedelta | None] = {**dict.fromkeys(ports), **retention}
        await self._database.ensure(
            [index for port, kept in chosen.items() for index in indexes_of(port, kept)]
        )

    @cached_property
    def audit(self) -> AuditLog:
        from shared.storage.access.audit import MongoAuditLog

        return MongoAuditLog(self._database)

    @cached_property
    def authority(self) -> AuthorityStore:
        from shared.storage.certificates.authority import MongoAuthorityStore

        return MongoAuthorityStore(self._database, self._keyring)

    @cached_property
    def challenges(self) -> Challenges:
        from shared.storage.certificates.challenges import MongoChallenges

        return MongoChallenges(self._database)

    @cached_property
    def deliveries(self) -> Deliveries:
        from shared.storage.events.deliveries import MongoDeliveries

        return MongoDeliveries(self._database, self._keyring)

    @cached_property
    def devices(self) -> Devices:
        from shared.storage.enrollments.devices import MongoDevices

        return MongoDevices(self._database, self._keyring)

    @cached_property
    def encrypted_values(self) -> EncryptedValues:
        from shared.storage.maintenance.reencryption import MongoEncryptedValues

        return MongoEncryptedValues(self._database, self._keyring)

    @cached_property
    def enrolled_topics(self) -> EnrolledTopics:
        from shared.storage.enrollments.devices import MongoEnrolledTopics

        return MongoEnrolledTopics(self._database)

    @cached_property
    def enrollments(self) -> Enrollments:
        from shared.storage.enrollments.store import MongoEnrollments

        return MongoEnrollments(self._database, self._keyring)

    @cached_property
    def expiries(self) -> Expiries:
        from shared.storage.queue.expiries import MongoExpiries

        return MongoExpiries(self._database)

    @cached_property
    def identities(self) -> Identities:
        from shared.storage.enrollments.identities import MongoIdentities

        return MongoIdentities(self._database, self._keyring)

    @cached_property
    def issued(self) -> IssuedCertificates:
        from shared.storage.certificates.issued import MongoIssuedCertificates

        return MongoIssuedCertificates(self._database)

    @cached_property
    def jobs(self) -> Jobs:
        from shared.storage.queue.jobs import MongoJobs

        return MongoJobs(self._database)

    @cached_property
    def journal(self) -> Journal:
        from shared.storage.events.journal import MongoJournal

        return MongoJournal(self._database, self._keyring)

    @cached_property
    def members(self) -> Members:
        from shared.storage.heartbeats import MongoMembers

        return MongoMembers(self._database)

    @cached_property
    def migration(self) -> Migration:
        from shared.storage.enrollments.imports import MongoMigration

        return MongoMigration(self._database, self._keyring)

    @cached_property
    def profiles(self) -> Profiles:
        from shared.storage.access.profiles import MongoProfiles

        return MongoProfiles(self._database)

    @cached_property
    def push_certificates(self) -> PushCertificates:
        from shared.storage.certificates.push import MongoPushCertificates

        return MongoPushCertificates(self._database, self._keyring)

    @cached_property
    def pushes(self) -> Pushes:
        from shared.storage.queue.pushes import MongoPushes

        return MongoPushes(self._database)

    @cached_property
    def queue(self) -> CommandQueue:
        from shared.storage.queue.store import MongoCommandQueue

        return MongoCommandQueue(self._database, self._keyring)

    @cached_property
    def refusals(self) -> Refusals:
        from shared.storage.enrollments.changes import MongoRefusals

        return MongoRefusals(self._database)

    @cached_property
    def stored_commands(self) -> StoredCommands:
        from shared.storage.queue.commands import MongoStoredCommands

        return MongoStoredCommands(self._database)

    def subscriptions(
        self, configured_url: str | None, extra_topics: Collection[str]
    ) -> Subscriptions:
        from shared.storage.events.deliveries import MongoSubscriptions

        return MongoSubscriptions(self._database, configured_url, extra_topics)

    @cached_property
    def tokens(self) -> Tokens:
        from shared.storage.access.tokens import MongoTokens

        return MongoTokens(self._database)

    @cached_property
    def writers(self) -> Writers:
        from shared.storage.heartbeats import MongoWriters

        return MongoWriters(self._database)
