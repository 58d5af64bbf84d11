"""What the services need from the outside world, as Protocols.

The MongoDB adapters are in `shared.storage`, the RabbitMQ and in-process ones in `shared.messaging`,
fakes for unit tests in `tests.fakes`; one contract suite per port runs against all of them.
All methods may raise `Unavailable` (StoreUnavailable, BrokerUnavailable); every write may be
repeated. Methods take lists because one flush serves many requests.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from shared.domain.command import Command, Place, PlaceState
from shared.domain.enrollment import Enrollment, EnrollmentKey, Inventory, PushTarget, Waiting
from shared.domain.event import Event, Topic
from shared.domain.subscription import Delivery, Lane, Subscription


class Clock(Protocol):
    """Wall clock for what is stored and shown, monotonic clock for durations."""

    def now(self) -> datetime:
        """The time in UTC, with a timezone."""

    def time_ns(self) -> int:
        """The time in nanoseconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""

    async def sleep(self, duration: timedelta) -> None: ...


class Ids(Protocol):
    def new(self) -> str:
        """A UUIDv7 as text: later ids of one process sort after earlier ones."""


# --- enrollments (owner: checkin) ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Binding:
    """Bind a certificate to a device, on condition that its generation is still `generation`.

    `replaces` is the certificate that was bound so far; it is retired.

    `is_new`: the device has no record yet; the certificate is reserved for it, and the change of its
    Authenticate makes the record.
    """

    key: EnrollmentKey
    generation: str | None
    certificate: str
    is_new: bool
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One message's effect on an enrollment; only what is not None is written.

    Applied on condition that the generation of its record is still `expected_generation`, as it was
    read. `by` is the event's id, by which the outcome is found again. The record of a user channel is
    made where there is none; it gets `generation`, which is its device's. `certificate` is the one
    that an Authenticate showed, and must still be bound. `makes_record`: the device had no record.
    """

    key: EnrollmentKey
    by: str
    expected_generation: str | None
    topic: Topic
    at: datetime
    generation: str | None = None
    certificate: str | None = None
    makes_record: bool = False
    push: PushTarget | None = None
    unlock_token: bytes | None = field(default=None, repr=False)
    bootstrap_token: bytes | None = field(default=None, repr=False)
    inventory: Inventory | None = None

    @property
    def ends_user_channels(self) -> bool:
        """A device that enrolls anew, or leaves, takes its user channels with it."""
        return self.key.is_device_channel and (
            self.topic is Topic.CHECK_OUT
            or (self.topic is Topic.AUTHENTICATE and self.expected_generation is not None)
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """`waiting` to set on a device's record (rule 8): its event of this time is not confirmed."""

    device: str
    created_at: int


class Enrollments(Protocol):
    async def load(self, ids: Collection[str]) -> dict[str, Enrollment]:
        """The enrollments of these ids (removed ones too), read from the primary."""

    async def find(self, names: Collection[str]) -> dict[str, list[Enrollment]]:
        """Enrollments by any id an API client may use (enrollment id, UDID, UserID, EnrollmentID,
        serial number); removed ones are left out. An exact enrollment id beats the other kinds, a
        device channel beats its user channels. More than one: the name is ambiguous."""

    async def holders(self, certificates: Collection[str]) -> dict[str, str]:
        """certificate -> id of the device for which it is reserved: bound to it, now or once, or in
        a binding that was overtaken. A certificate never changes its holder."""

    async def bind(self, bindings: Sequence[Binding]) -> list[bool]:
        """Bind, each on its condition. False: overtaken, or the certificate has another holder."""

    async def apply(self, changes: Sequence[Change]) -> list[bool]:
        """Apply, each on its condition. False: overtaken. Authenticate makes `by` the generation."""

    async def revive(self, enrollments: Collection[str]) -> None:
        """Enrollments that were removed have spoken again: their records count anew."""

    async def mark_waiting(self, marks: Sequence[Mark]) -> list[bool]:
        """Set the marks; False where no record matches."""

    async def waiting(self, partitions: Collection[int]) -> dict[str, Waiting]:
        """Devices of these partitions whose events wait."""

    async def read_waiting(self, device: str) -> Waiting | None: ...

    async def clear_waiting(self, device: str, count: int) -> bool:
        """Unset since and upto, on condition that `count` is still the one given."""

    async def seen(self, times: Mapping[str, datetime]) -> None:
        """Raise last_seen; never makes a record."""

    async def block(self, device: str, blocked: bool) -> bool:
        """False: no such device."""

    async def remove(self, devices: Collection[str]) -> list[str]:
        """Turn devices and their user channels into stubs; returns the enrollment ids removed."""

    async def devices(self, query: "DeviceQuery") -> list[Enrollment]:
        """Device channels that are not removed, by id."""

    async def mark_token(self, enrollment: str, token: bytes, *, dead: bool) -> bool:
        """Mark the push token dead or alive on condition that it is still the one we hold."""


@dataclass(frozen=True, slots=True)
class DeviceQuery:
    """None: no filter. `per_page` 0: all."""

    page: int = 0
    per_page: int = 0
    serial_numbers: Sequence[str] | None = None
    udids: Sequence[str] | None = None


# --- journal and writers (owner: checkin) ---------------------------------------------------------


class Journal(Protocol):
    async def append(self, events: Sequence[Event]) -> list[bool]:
        """Store events. False, per event: its outcome is unknown or it was refused; never answer 200."""

    async def read(self, ids: Collection[str]) -> dict[str, Event]: ...

    async def of_device(self, device: str, since: int, upto: int, limit: int) -> list[Event]:
        """The first `limit` events of a device with since <= created_at <= upto, whoever wrote them,
        by time."""

    async def of_writer(self, writer: str, above: int, limit: int) -> list[tuple[int, Mark]]:
        """Number and mark of the first `limit` events of a writer above a number, by number."""


@dataclass(frozen=True, slots=True)
class WriterRecord:
    """One process start. `watermark`: up to this number every event is done (rule 6);
    `leases` counts how often it was taken over."""

    id: str
    watermark: int
    heartbeat: int
    leases: int = 0


class Writers(Protocol):
    async def register(self, writer: str) -> None: ...

    async def beat(self, writer: str, watermark: int) -> None:
        """Count the heartbeat up and raise the watermark; makes the record if it is gone."""

    async def all(self) -> list[WriterRecord]:
        """By start, earliest first."""

    async def lease(self, record: WriterRecord) -> bool:
        """Take a stale writer over, on condition that nothing changed since `record` was read."""

    async def advance(self, writer: str, watermark: int) -> None:
        """Raise the watermark (never lower it)."""

    async def remove(self, writer: str) -> None:
        """Forget a writer whose events are all done."""


# --- the queue (owner: commands; checkin moves the state of places) --------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """A device's answer to a command: closes or rests its place, on rule 5's conditions (a place of
    generation None counts as of this one)."""

    enrollment: str
    command_uuid: str
    generation: str | None
    state: PlaceState
    event_id: str


@dataclass(frozen=True, slots=True)
class HandOut:
    """One place to hand to its device, on condition that it is open and of this generation, or was
    queued before the device was known (generation None)."""

    place: Place
    generation: str | None


class CommandQueue(Protocol):
    # for the command API
    async def store(self, commands: Sequence[Command], at: datetime) -> None:
        """Store commands or, where they are stored already, touch them (rule 13)."""

    async def insert(self, places: Sequence[Place]) -> list[Place | None]:
        """Insert places. Per place: None if it was inserted now, else the one that is there."""

    async def stamp(self, place: Place, generation: str | None) -> None:
        """Give a place another generation, on condition that it is open."""

    async def requeue(self, place: Place, seen: Place) -> bool:
        """Queue anew in the place of `seen`, on condition that this final state is unchanged."""

    async def drop(self, place: Place) -> Place | None:
        """End a place of a past generation as DROPPED_REENROLLED, on condition that it is open and of
        the generation seen; returns what is there then."""

    async def open_places(self, enrollment: EnrollmentKey) -> list[Place]:
        """All open places of an enrollment, of any generation, in queue order."""

    async def cancel(self, enrollments: Sequence[EnrollmentKey]) -> int:
        """End all open places of these enrollments as CANCELLED; how many there were."""

    async def cancel_one(self, enrollment: str, command_uuid: str) -> bool: ...

    async def has_open(self, enrollments: Sequence[EnrollmentKey]) -> set[str]:
        """Which of these enrollments (ids) have an open place."""

    async def accepted_between(self, since: datetime, until: datetime) -> list[Place]:
        """Open places accepted in a closed window of time (for the push sweep)."""

    # for check-in
    async def report(self, reports: Sequence[Report], at: datetime) -> int:
        """Apply reports, each on condition that its place is open, of this generation, and handed out
        since it was queued. One that finds another final state is kept there as the late answer;
        any other changes nothing, such as a repetition of the report that closed the place.
        Returns how many places it closed."""

    async def open_of_devices(self, devices: Collection[str]) -> dict[str, list[Place]]:
        """device -> open places of all its channels, in queue order, fit for `hand_out`."""

    async def hand_out(self, handouts: Sequence[HandOut], by: str, at: datetime) -> set[str]:
        """Mark as handed out by `by`, each on its condition; the ids of the places that were."""

    async def end_generation(self, device: str, generation: str) -> int:
        """End the open places of the generation that an Authenticate replaced, and those that were
        queued before the device was known (generation None)."""

    async def commands(self, hashes: Collection[str]) -> dict[str, Command]: ...

    # for the janitor (rule 13)
    async def untouched(self, prefix: str, before: datetime) -> dict[str, datetime]:
        """hash -> `touched` of the stored commands whose hash begins with `prefix` (lower-case hex)
        and which nobody has touched since `before`."""

    async def in_use(self, hashes: Collection[str]) -> set[str]:
        """Which of these commands have a place, open or finished."""

    async def forget(self, commands: Mapping[str, datetime]) -> int:
        """Delete stored commands (hash -> `touched` as read), each on condition that `touched` is
        still the one given; how many were."""


# --- events on the broker ---------------------------------------------------------------------------


class EventPublisher(Protocol):
    async def publish(
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        """Publish events, started together; per event whether the broker took it within the deadline.

        Never raises for a broken broker. `settled` is called once for each event when the promise
        passed to somebody else: at the broker's confirm, or (in-process broker) at the consumer's ack.
        It may be called before `publish` returns, and is not called for an event that is lost."""


class Received(Protocol):
    """An event as a consumer gets it: `body` is the webhook's JSON, the same bytes every time."""

    @property
    def event_id(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    async def ack(self) -> None:
        """Acked; on a lost channel it does nothing, the event comes again."""

    async def park(self, reason: str) -> None:
        """Put it aside for an operator (queue `parked`), confirmed, then acked."""


class OpenPartition(Protocol):
    @property
    def is_lost(self) -> bool:
        """True once the channel is gone: acks have no effect any more."""

    async def close(self) -> None:
        """Give the partition up by closing its channel; what is not acked goes to the next consumer."""


class PartitionConsumer(Protocol):
    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        """Become the consumer of a partition: `on_event` is called for its events, in order."""


# --- pushes (owner: push) ---------------------------------------------------------------------------


class PushWishes(Protocol):
    def wish(self, enrollments: Collection[str]) -> None:
        """Ask for a push, soon, in the background. May be lost when the process dies; the sweep
        finds what was never pushed (rule 12)."""


class WishConsumer(Protocol):
    async def consume(self, on_wishes: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        """Call `on_wishes` with enrollment ids until cancelled; acked once it returns, given back when
        it raises. Reconnects by itself."""


@dataclass(frozen=True, slots=True)
class PushRecord:
    """How the latest push of one enrollment ended; exists while the sweep may have to push again.

    `tried_at` is when that push began, `next_at` when the sweep looks again. `error` is None when
    APNs took it; `attempts` counts the pushes before it that ended alike. Times are kept to the
    millisecond.
    """

    enrollment: str
    tried_at: datetime
    next_at: datetime
    attempts: int = 0
    pushed_at: datetime | None = None
    error: str | None = None


class Pushes(Protocol):
    async def record(self, records: Sequence[PushRecord]) -> None:
        """Store at most one record per enrollment; without `pushed_at` the earlier one stays."""

    async def load(self, enrollments: Collection[str]) -> dict[str, PushRecord]: ...

    async def due(
        self, partitions: Collection[int], until: datetime, limit: int
    ) -> list[PushRecord]:
        """Records of these partitions with next_at <= until, the longest due first."""

    async def forget(self, records: Sequence[PushRecord]) -> None:
        """Delete records, each on condition that no push was recorded since it was read."""

    async def positions(self) -> dict[int, datetime]:
        """partition -> time up to which the sweep has looked for places that were never pushed."""

    async def advance(self, partitions: Collection[int], to: datetime) -> None:
        """Raise these positions (never lower them)."""

    async def reset(self, partitions: Collection[int], to: datetime) -> None:
        """Set these positions, back as well: they were written by a clock that went wrong."""


# --- subscriptions and deliveries (owner: webhook) ----------------------------------------------------


class Subscriptions(Protocol):
    async def all(self) -> list[Subscription]: ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a lane: the lowest and the highest number, and the id of the oldest event."""

    lowest: int
    highest: int
    oldest: str


class Deliveries(Protocol):
    async def store(self, deliveries: Sequence[Delivery]) -> list[int]:
        """Store each unless its event is stored for that subscription already; per delivery the
        number that is stored. At most one delivery of a lane in a call: nobody may see a later one
        before an earlier one."""

    async def blocked(self, partition: int) -> dict[Lane, Backlog]:
        """Lanes of a partition with a pending delivery."""

    async def waiting(self, lane: Lane, first: int, last: int) -> list[Delivery]:
        """The pending deliveries of a lane with first <= number <= last, by number."""

    async def lease(
        self, deliveries: Sequence[Delivery], holder: str, until: datetime, now: datetime
    ) -> set[str]:
        """Claim pending deliveries for one attempt each, on condition that no other lease on them is
        good; the ids of those claimed. `holder` is a value that was never used before. A lease that
        ends more than twice as far ahead as `until` is not good: a wrong clock made it."""

    async def delivered(self, deliveries: Sequence[Delivery]) -> None: ...

    async def failed(self, delivery: Delivery, holder: str, body: bytes | None = None) -> None:
        """Write attempts, next_attempt_at, last_error and state as they are in `delivery` and end
        the lease, on condition that the lease is `holder`'s; keep `body`, if there is one, with it."""

    async def body(self, delivery_id: str) -> bytes | None:
        """What `failed` kept with it."""

    async def given_up(self, partition: int) -> list[Delivery]:
        """Deliveries of a partition that were given up on, by id."""

    async def retry(self, ids: Collection[str] | None, now: datetime) -> int:
        """Make deliveries that were given up on pending again (None: all of them), with a fresh
        schedule; how many there were."""


# --- who serves which partitions ----------------------------------------------------------------------


class Members(Protocol):
    async def beat(self, role: str, member: str) -> None:
        """Count this member's heartbeat up."""

    async def heartbeats(self, role: str) -> dict[str, int]:
        """member -> heartbeat. Whoever reads judges staleness by its own monotonic clock."""

    async def leave(self, role: str, member: str) -> None: ...


# --- our own CA (owner: checkin) ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredAuthority:
    """Our CA as it is kept: certificate and private key, each in PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


class AuthorityStore(Protocol):
    async def load(self) -> StoredAuthority | None:
        """The installation's CA, None before there is one."""

    async def create(self, candidate: StoredAuthority) -> StoredAuthority:
        """Store it if there is none yet; returns what is there then, the same for everybody."""
