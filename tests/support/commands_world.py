"""The commands service on fakes: a small fleet, and barriers between the steps of a request."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from services.commands.devices.service import DeviceInventory, DeviceRemoval
from services.commands.history.cancel import OpenCommands
from services.commands.queue.priority import Priority
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.requeue import EntryResolver, QueueRules
from services.commands.queue.service import QueueService
from services.commands.queue.targets import Targets
from services.commands.submit.stored_unlock import StoredUnlockToken
from services.commands.upkeep.expiry import Expiry
from services.runtime.wanted_topics import WantedTopics
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.request.plist import PreparedCommand, encode_command
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import (
    PARTITIONS,
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    Inventory,
)
from shared.domain.event import Topic
from shared.ports.enrollments import Change
from shared.ports.queue import Report, SendClaim
from shared.telemetry.metrics import Metrics
from tests.support.fakes.clock import FakeClock, FakeIds, settle
from tests.support.fakes.devices import FakeDevices
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.journal import FakeJournal, FakePublisher
from tests.support.fakes.push_requests import FakePushRequests
from tests.support.fakes.queue import FakeCommandQueue, undisturbed
from tests.support.fakes.subscriptions import FakeSubscriptions

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
PAD = EnrollmentKey("PAD", device="PAD", udid="PAD")
ANNA = EnrollmentKey("MAC:anna", device="MAC", udid="MAC", user="anna")
ANNA_ON_PAD = EnrollmentKey("PAD:anna", device="PAD", udid="PAD", user="anna")
PRIVATE = EnrollmentKey("E-1", device="E-1", enrollment_id="E-1")

CATALOGUE = CommandCatalogue.load()

FIRST_UUID = "0198f1d2-0000-7000-8000-000000000001"


class Barrier:
    """Stops whoever comes to an operation, until the test lets them go on."""

    def __init__(self) -> None:
        self._gates: dict[str, list[asyncio.Event]] = {}
        self._arrived: dict[str, asyncio.Event] = {}

    def stop(self, operation: str) -> asyncio.Event:
        """The next one to come to this operation waits for the event that is returned."""
        gate = asyncio.Event()
        self._gates.setdefault(operation, []).append(gate)
        self._arrived[operation] = asyncio.Event()
        return gate

    async def reached(self, operation: str) -> None:
        await self._arrived[operation].wait()

    async def __call__(self, operation: str) -> None:
        await undisturbed(operation)
        if gates := self._gates.get(operation):
            gate = gates.pop(0)
            self._arrived[operation].set()
            await gate.wait()


class Share:
    """These partitions, or all, for ever."""

    def __init__(self, *partitions: int) -> None:
        self.partitions = frozenset(partitions or range(PARTITIONS))

    async def refresh(self) -> frozenset[int]:
        return self.partitions

    async def leave(self) -> None:
        self.partitions = frozenset()


@dataclass
class World:
    """Everything that the commands service works with. `at_store` stops its operations."""

    rules: QueueRules = field(default_factory=QueueRules)
    clock: FakeClock = field(default_factory=FakeClock)
    ids: FakeIds = field(default_factory=FakeIds)
    at_store: Barrier = field(default_factory=Barrier)
    push_requests: FakePushRequests = field(default_factory=FakePushRequests)
    metrics: Metrics = field(default_factory=Metrics)
    priority: Priority = field(default_factory=Priority)

    def __post_init__(self) -> None:
        self.queue = FakeCommandQueue(self.at_store)
        self.enrollments = FakeEnrollments(self.at_store)
        self.targets = Targets(self.enrollments)
        self.reconciler = Reconciler(self.queue, self.queue, self.targets, self.clock)
        self.subscriptions = FakeSubscriptions()
        self.wanted = WantedTopics(self.subscriptions)
        self.open_commands = OpenCommands(self.queue, self.targets, self.reconciler, self.wanted)
        devices = FakeDevices(self.enrollments)
        removal = DeviceRemoval(self.enrollments, self.queue, self.wanted, self.ids, self.clock)
        self.inventory = DeviceInventory(self.enrollments, devices, self.targets, removal)
        self.unlock = StoredUnlockToken(devices, self.targets)
        self.journal = FakeJournal(self.at_store)
        self.publisher = FakePublisher()
        self.expiry = self.expirer()
        self.queue_service, self._other = self.replica(), self.replica()
        self._hands = 0
        self._generations = 1
        serials = {"MAC": "C02", "PAD": "DMP"}
        for key in (MAC, PAD, PRIVATE, ANNA):
            self.enrollments.add(enrolled(key, serials.get(key.id)))

    def expirer(self, *partitions: int) -> Expiry:
        """The work of one replica that ends overdue commands, for these partitions or all."""
        return Expiry(
            self.queue,
            self.enrollments,
            self.journal,
            self.publisher,
            Share(*partitions),
            self.clock,
            self.priority.yield_to_interactive,
        )

    def replica(self) -> QueueService:
        resolver = EntryResolver(
            self.queue,
            self.targets,
            self.reconciler,
            self.expiry.hand_over,
            self.clock,
            self.rules,
        )
        return QueueService(
            self.queue,
            self.targets,
            self.push_requests,
            self.ids,
            self.metrics,
            CATALOGUE.advise,
            resolver,
            self.priority,
        )

    # --- the API client

    async def post(self, target: str = "MAC", uuid: str = FIRST_UUID, text: str = "a") -> bool:
        """Queue a command; commands of the same uuid and text are the same."""
        return (await self.queue_service.enqueue(command(target, uuid, text))).is_new

    async def post_elsewhere(self) -> bool:
        """Queue the same command at another replica, which a batch under way does not hold up."""
        return (await self._other.enqueue(command("MAC", FIRST_UUID, "a"))).is_new

    async def shown(self, target: str = "MAC") -> list[str]:
        """The uuids that a reader of the queue sees."""
        return [found.uuid for found in await self.open_commands.of(target)]

    # --- the device, as check-in serves it

    async def authenticate(self, device: str = "MAC") -> str:
        """Enroll a device anew, with the cleaning of the generation that this replaces."""
        replaced = self.enrollments.records[device].generation
        generation = await self.apply_authenticate(device)
        if replaced is not None:
            await self.queue.end_generation(device, replaced)
        return generation

    async def apply_authenticate(self, device: str = "MAC") -> str:
        """The first half of an Authenticate; its cleaning has not happened yet."""
        record = self.enrollments.records[device]
        self._generations += 1
        by = f"gen-{self._generations}"
        topic = Topic.AUTHENTICATE
        now = self.clock.now()
        change = Change(
            record.key, by, record.generation, topic, now, certificate=record.certificate
        )
        done = await self.enrollments.apply([change])
        assert done == [True]
        return by

    async def connect(self, key: EnrollmentKey = MAC) -> QueueEntry | None:
        """Ask for the next command."""
        generation = self.enrollments.records[key.device].generation
        for entry in await self.queue.open_entries(key):
            self._hands += 1
            by = f"connect-{self._hands}"
            if await self.queue.mark_sent([SendClaim(entry, generation)], by, self.clock.now()):
                return entry
        return None

    async def answer(
        self,
        entry: QueueEntry,
        state: EntryState = EntryState.ACKNOWLEDGED,
        event_id: str = "event",
    ) -> None:
        generation = self.enrollments.records[entry.device].generation
        report = Report(entry.enrollment, entry.command_uuid, generation, state, event_id)
        await self.queue.report([report], self.clock.now())

    # --- looking

    def entry(self, key: EnrollmentKey = MAC, uuid: str = FIRST_UUID) -> QueueEntry:
        """The one entry under this name."""
        [found] = [
            entry
            for entry in self.queue.entries.values()
            if (entry.enrollment, entry.command_uuid) == (key.id, uuid)
        ]
        return found

    def generation(self, device: str = "MAC") -> str | None:
        return self.enrollments.records[device].generation


def enrolled(key: EnrollmentKey, serial: str | None = None) -> Enrollment:
    return Enrollment(
        key,
        EnrollmentStatus.ENROLLED,
        generation=f"gen-1-{key.id}" if key.is_device_channel else None,
        certificate=f"cert-{key.id}" if key.is_device_channel else None,
        inventory=Inventory(serial_number=serial),
    )


def removed(record: Enrollment) -> Enrollment:
    return replace(record, status=EnrollmentStatus.REMOVED)


def command(target: str = "MAC", uuid: str = FIRST_UUID, text: str = "a") -> PreparedCommand:
    made = encode_command(uuid, "DeviceInformation", {"Queries": [text]})
    return PreparedCommand((target,), made, {"command_uuid": uuid})


async def stopped(
    world: World, operation: str, work: Callable[[], "asyncio.Future[bool]"]
) -> tuple["asyncio.Future[bool]", asyncio.Event]:
    """Begin `work` and let it run until it comes to `operation`; the event lets it go on."""
    gate = world.at_store.stop(operation)
    begun = work()
    async with asyncio.timeout(5):
        await world.at_store.reached(operation)
    await settle()
    return begun, gate


MINUTE = timedelta(minutes=1)
