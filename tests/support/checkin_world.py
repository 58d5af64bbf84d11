"""A small world for tests of check-in: replicas that share one store, and devices that speak to them.

A replica's batch can be held at any of its steps, so that a test writes the interleaving it means.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from services.checkin.answers import Answer
from services.checkin.authorization.authorizer import Authorizer
from services.checkin.authorization.certificate_policy import BindingRules
from services.checkin.authorization.quarantine import QuarantineRecorder
from services.checkin.exchange import DeviceExchange
from services.checkin.journal.last_seen import LastSeen
from services.checkin.journal.outbox import Outbox
from services.checkin.journal.relay import Relay
from services.checkin.journal.takeover import TakeOver
from services.checkin.journal.writer import Marks, Writer
from services.checkin.messages import HANDLERS
from services.checkin.pipeline.batch import DeviceBatch, DeviceEvents
from services.checkin.pipeline.changes import EnrollmentChanges
from services.checkin.pipeline.commands import NextCommands
from services.checkin.pipeline.derived import DerivedEvents
from services.checkin.pipeline.device_auth import SMALL_BODY
from services.checkin.refusals.senders import Senders
from services.runtime.wanted_topics import WantedTopics
from shared.apple.messages.checkin import Authenticate, CheckinMessage, CheckOut, TokenUpdate
from shared.apple.messages.connect import Connect, Status
from shared.concurrency.heavy_work import HeavyWork
from shared.concurrency.partitions import PartitionShare
from shared.domain.command import Command, QueueEntry
from shared.domain.enrollment import EnrollmentKey, Inventory
from shared.domain.identity import DeviceCertificate
from shared.telemetry.metrics import Metrics
from tests.support.fakes.audit import FakeAuditLog
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.identities import FakeIdentities
from tests.support.fakes.issued import FakeIssuedCertificates
from tests.support.fakes.journal import FakeJournal, FakeMembers, FakePublisher, FakeWriters
from tests.support.fakes.push_requests import FakePushRequests
from tests.support.fakes.queue import FakeCommandQueue
from tests.support.fakes.refusals import FakeRefusals
from tests.support.fakes.subscriptions import FakeSubscriptions


class Killed(BaseException):
    """The process ends here: nothing of it goes on."""


@dataclass
class Barrier:
    """Holds a batch at a step until the test lets go."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        self.reached.set()
        await self.released.wait()


class Step(StrEnum):
    """The points at which a test can stop or kill a batch."""

    AUTHORIZED = "authorized"
    JOURNALED = "journaled"
    APPLIED = "applied"
    PUBLISHED = "published"
    MARKED = "marked"
    SENT = "sent"
    """The events of applied changes and of sent commands are journaled."""


Reached = Callable[[Step], Awaitable[None]]


class SteppedBatch(DeviceBatch):
    """A batch that reports the end of each step."""

    reached: Reached

    async def _authorize(self, exchanges: Sequence[DeviceExchange]) -> None:
        await super()._authorize(exchanges)
        await self.reached(Step.AUTHORIZED)

    async def _journal(self, exchanges: Sequence[DeviceExchange], term: object) -> None:
        await super()._journal(exchanges, term)
        await self.reached(Step.JOURNALED)

    async def _apply(self, exchanges: Sequence[DeviceExchange]) -> None:
        await super()._apply(exchanges)
        await self.reached(Step.APPLIED)


class SteppedEvents(DeviceEvents):
    """The events of such a batch."""

    reached: Reached

    async def publish(self, exchanges: Sequence[DeviceExchange]) -> list[DeviceExchange]:
        waiting = await super().publish(exchanges)
        await self.reached(Step.PUBLISHED)
        return waiting

    async def journal_outcomes(self, exchanges: Sequence[DeviceExchange]) -> None:
        await super().journal_outcomes(exchanges)
        await self.reached(Step.SENT)

    async def mark(self, exchanges: Sequence[DeviceExchange]) -> None:
        await super().mark(exchanges)
        await self.reached(Step.MARKED)


class World:
    """All that replicas share."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ids = FakeIds()
        self.enrollments = FakeEnrollments()
        self.identities = FakeIdentities(self.enrollments)
        self.refusals = FakeRefusals(self.enrollments)
        self.issued = FakeIssuedCertificates()
        self.rules = BindingRules()
        self.journal = FakeJournal()
        self.writers = FakeWriters()
        self.queue = FakeCommandQueue()
        self.publisher = FakePublisher()
        self.members = FakeMembers()
        self.push_requests = FakePushRequests()
        self.audit = FakeAuditLog()
        self.subscriptions = FakeSubscriptions()

    async def replica(self) -> "Replica":
        replica = Replica(self)
        await replica.writer.register()
        await replica.wanted.refresh()
        return replica

    async def enqueue(
        self, key: EnrollmentKey, uuid: str, *, generation: str | None = None
    ) -> QueueEntry:
        """Put a command into the queue of an enrollment, as the command API does."""
        command = Command(f"hash-{uuid}", uuid, "DeviceInformation", f"plist-{uuid}".encode())
        await self.queue.store([command], self.clock.now())
        known = self.enrollments.records.get(key.device)
        if generation is None and known is not None:
            generation = known.generation
        entry = QueueEntry(
            enrollment=key.id,
            device=key.device,
            command_uuid=uuid,
            command_hash=command.hash,
            request_type=command.request_type,
            generation=generation,
            order=self.ids.new(),
            accepted_at=self.clock.now(),
        )
        await self.queue.insert([entry])
        return entry


class Replica:
    """One check-in process."""

    def __init__(self, world: World) -> None:
        self.metrics = Metrics()
        marks = Marks(world.enrollments, self.metrics)
        self.writer = Writer(world.writers, world.journal, marks, world.clock, world.ids)
        self._at: dict[Step, Callable[[], Awaitable[None]]] = {}
        self.seen = LastSeen(world.enrollments, world.refusals, world.clock)
        self.senders = Senders(world.enrollments)
        self.quarantine = QuarantineRecorder(world.identities, world.clock, world.ids, self.metrics)
        self.wanted = WantedTopics(world.subscriptions)
        self.batch = self._batch(world)
        self.share = PartitionShare(world.members, world.clock, "relay", self.writer.id)
        self.relay = Relay(
            world.enrollments,
            world.journal,
            world.publisher,
            self.share,
            world.clock,
            self.metrics,
        )
        self.outbox = Outbox(
            world.identities,
            world.enrollments,
            world.journal,
            world.publisher,
            self.share,
            world.clock,
        )
        self.takeover = TakeOver(world.writers, world.journal, marks, world.clock, self.metrics)

    def _batch(self, world: World) -> SteppedBatch:
        clock, ids, metrics = world.clock, world.ids, self.metrics
        authorizer = Authorizer(
            world.enrollments,
            world.issued,
            world.audit,
            self.quarantine,
            world.rules,
            clock,
            ids,
            metrics,
        )
        derived = self.derived = DerivedEvents(
            self.wanted, world.queue, world.identities, self.writer, HeavyWork("large answers")
        )
        events = SteppedEvents(
            world.journal,
            self.writer,
            world.publisher,
            world.enrollments,
            derived,
            clock,
            ids,
            metrics,
        )
        batch = SteppedBatch(
            authorizer,
            events,
            EnrollmentChanges(
                world.enrollments, world.queue, world.push_requests, authorizer, derived, clock
            ),
            NextCommands(world.queue, clock, ids, metrics),
            self.seen,
            self.senders,
            clock,
            metrics,
        )
        batch.reached = events.reached = self._reached
        return batch

    async def _reached(self, step: Step) -> None:
        action = self._at.pop(step, None)
        if action is not None:
            await action()

    def hold(self, step: Step) -> Barrier:
        """Hold the next batch that comes to this step."""
        barrier = Barrier()
        self._at[step] = barrier.wait
        return barrier

    def kill(self, step: Step) -> None:
        """End the next batch that comes to this step, as a kill -9 of its process would."""

        async def die() -> None:
            raise Killed

        self._at[step] = die

    async def serve(self, *requests: DeviceExchange) -> list[Answer | Exception]:
        exchanges = [replace(request) for request in requests]
        for exchange in exchanges:
            if len(exchange.body) > SMALL_BODY:
                await self.derived.read(exchange)
        return list(await self.batch.handle(exchanges))

    async def relay_all(self) -> None:
        await self.share.refresh()
        await self.relay.relay_waiting()


@dataclass
class Device:
    """A simulated device: builds its requests."""

    udid: str = "MAC"
    certificate: str = "certificate-1"
    is_connected: bool = True
    is_expired: bool = False
    not_after: datetime | None = None

    @property
    def key(self) -> EnrollmentKey:
        return EnrollmentKey(self.udid, device=self.udid, udid=self.udid)

    def user(self, name: str) -> EnrollmentKey:
        return EnrollmentKey(f"{self.udid}:{name}", device=self.udid, udid=self.udid, user=name)

    def says(self, message: CheckinMessage | Connect) -> DeviceExchange:
        shown = DeviceCertificate(
            self.certificate, not_after=self.not_after, is_expired=self.is_expired
        )
        handler = HANDLERS[type(message)]
        return DeviceExchange(message, handler, shown, b"<plist/>", None, self._is_connected)

    async def _is_connected(self) -> bool:
        await asyncio.sleep(0)
        return self.is_connected

    def authenticate(self) -> DeviceExchange:
        return self.says(Authenticate(self.key, "", Inventory(serial_number=f"S-{self.udid}")))

    def token_update(self, key: EnrollmentKey | None = None, token: bytes = b"t") -> DeviceExchange:
        return self.says(TokenUpdate(key or self.key, "topic", token, "magic"))

    def check_out(self) -> DeviceExchange:
        return self.says(CheckOut(self.key))

    def idle(self, key: EnrollmentKey | None = None) -> DeviceExchange:
        return self.says(Connect(key or self.key, Status.IDLE))

    def reports(
        self, status: Status, uuid: str, key: EnrollmentKey | None = None
    ) -> DeviceExchange:
        return self.says(Connect(key or self.key, status, uuid))

    async def enroll(self, replica: Replica) -> None:
        for request in (self.authenticate(), self.token_update()):
            [answer] = await replica.serve(request)
            assert answer == Answer(), answer
