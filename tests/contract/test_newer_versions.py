"""Every adapter reads past what a newer version wrote: the document beside it is served as ever."""

import ast
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from shared.domain.access import Scope, Token
from shared.domain.binding import Binding
from shared.domain.command import EntryState, QueueEntry, Terms, entry_id
from shared.domain.enrollment import PARTITIONS, EnrollmentKey, EnrollmentStatus
from shared.domain.errors import OfNewerVersion
from shared.domain.event import Event, Topic
from shared.domain.identity import (
    BoundBy,
    DeviceCertificate,
    Identity,
    Quarantine,
    QuarantineReason,
    Renewal,
    RenewalFailure,
)
from shared.domain.job import Job, JobState, Progress
from shared.domain.outbox import quarantined, renewal_failed
from shared.domain.subscription import (
    Replay,
    ReplayChoice,
    ReplayState,
    Subscription,
    SubscriptionState,
)
from shared.domain.versions import is_known, known
from shared.ports.devices import DeviceFilter
from shared.ports.enrollments import Change, DeviceQuery
from shared.ports.identities import Attempt
from shared.ports.queue import EntryWindow, Report, SendClaim
from shared.storage.access import tokens
from shared.storage.database import Database
from shared.storage.enrollments import devices, identities
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.events import journal, webhook_history
from shared.storage.events.subscriptions import MongoSubscriptions
from shared.storage.queue import jobs
from shared.storage.queue.expiries import MongoExpiries
from shared.storage.queue.store import MongoCommandQueue
from tests.contract.stores import DRIVERS, KEYRING, open_store

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
HOUR = timedelta(hours=1)
NEWER = "of tomorrow"
OLD, NEW = (EnrollmentKey(name, device=name, udid=name) for name in ("OLD", "NEW"))
"""The devices of each test: the record of NEW gets a value of a newer version."""
OURS = range(PARTITIONS)
WINDOW = EntryWindow(NOW - HOUR, NOW + HOUR)


@dataclass
class Store:
    database: Database

    def __post_init__(self) -> None:
        self.enrollments = MongoEnrollments(self.database, KEYRING)
        self.identities = identities.MongoIdentities(self.database, KEYRING)
        self.devices = devices.MongoDevices(self.database, KEYRING)
        self.queue = MongoCommandQueue(self.database, KEYRING)
        self.jobs = jobs.MongoJobs(self.database)
        self.journal = journal.MongoJournal(self.database, KEYRING)
        self.tokens = tokens.MongoTokens(self.database)
        self.subscriptions = MongoSubscriptions(self.database, KEYRING)
        self.replays = webhook_history.MongoReplays(self.database)

    async def write(self, collection: str, id_: str, path: str, value: Any = NEWER) -> None:
        """As a newer version would."""
        documents = self.database.collection(collection)
        assert await documents.update_one({"_id": id_}, {"$set": {path: value}}) == 1

    async def read_all(self) -> dict[str, list[str]]:
        """The ids in every list of what may be of a newer version."""
        load, find = self.enrollments.load, self.enrollments.find
        named = await find({"OLD", "NEW"})
        opened = await self.queue.open_of_devices({"OLD", "NEW"})
        reads: dict[str, Any] = {
            "load": [each.id for each in (await load({"OLD", "NEW"})).values()],
            "find": [each.id for found in named.values() for each in found],
            "devices": [each.id for each in await self.enrollments.devices(DeviceQuery())],
            "page": [each.id for each in await self.devices.page(DeviceFilter(limit=9))],
            "to_renew": [each.id for each in await self.identities.to_renew(OURS, NOW)],
            "bound": [each.id for one in OURS for each in await self.identities.bound(one, "", 9)],
            "notices": [each.device.id for each in await self.identities.outbox(OURS)],
            "places": [each.device for each in await self.queue.accepted_in(WINDOW)],
            "open": [name for name, entries in opened.items() if entries],
            "jobs": [each.id for each in await self.jobs.newest(None, 9)],
            "running": [each.id for each in await self.jobs.running()],
            "tokens": [each.id for each in await self.tokens.all()],
            "webhooks": [each.id for each in await self.subscriptions.all()],
            "replays": [each.id for name in ("OLD", "NEW") for each in await self.replays.of(name)],
            "replaying": [each.id for each in await self.replays.running()],
        }
        return {name: sorted(set(ids)) for name, ids in reads.items()}

    async def entry(self, device: str) -> QueueEntry:
        return (await self.queue.entries_of([entry_id(device, "c")]))[entry_id(device, "c")]


@pytest.fixture(params=DRIVERS)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """One of everything for each of the two devices."""
    async with open_store(request) as database:
        for indexes in (
            identities.INDEXES,
            tokens.INDEXES,
            jobs.indexes(HOUR),
            webhook_history.indexes(HOUR),
            journal.indexes(timedelta(days=3650)),
        ):
            await database.ensure(indexes)
        made = Store(database)
        for key in (OLD, NEW):
            await fill(made, key)
        yield made


def certificate(key: EnrollmentKey) -> DeviceCertificate:
    return DeviceCertificate(f"cert-{key.id}", "CN=x", "1f", NOW - HOUR, NOW + HOUR)


async def fill(store: Store, key: EnrollmentKey) -> None:
    shown = certificate(key)
    identity = Identity(shown, NOW, BoundBy.AUTHENTICATE, True)
    change = Change(key, f"gen-{key.id}", None, Topic.AUTHENTICATE, NOW)
    change = replace(change, certificate=shown.fingerprint, makes_record=True, identity=identity)
    await store.enrollments.bind([Binding(key, None, shown.fingerprint, is_new=True)])
    assert await store.enrollments.apply([change]) == [True]
    seen = Quarantine(NOW, NOW, QuarantineReason.EXPIRED, shown)
    outbox_event = quarantined(f"notice-{key.id}", 1, shown.fingerprint, seen)
    assert await store.identities.quarantine(key.id, shown.fingerprint, seen, outbox_event)
    renewal = Renewal(1, "c", NOW, RenewalFailure.PROFILE)
    told = renewal_failed(f"told-{key.id}", 2, identity, RenewalFailure.PROFILE, 1)
    attempt = Attempt(key.id, shown.fingerprint, None, renewal, NOW, told)
    assert await store.identities.attempt([attempt]) == [True]
    await store.queue.insert(
        [
            QueueEntry(
                key.id, key.id, "c", "hash", "ProfileList", f"gen-{key.id}", "1", accepted_at=NOW
            )
        ]
    )
    await store.jobs.add(
        Job(key.id, "c", "hash", "ProfileList", Terms(), True, "ci", total=1, created_at=NOW)
    )
    await store.journal.append([event(key)])
    await store.subscriptions.add(Subscription(key.id, "https://receiver.example/"))
    await store.replays.add(Replay(key.id, key.id, ReplayChoice(), NOW))
    scopes = frozenset({Scope.READ, Scope.COMMANDS})
    assert await store.tokens.add(Token(key.id, key.id, key.id, scopes, NOW, "key"))


def event(key: EnrollmentKey) -> Event:
    return Event(f"event-{key.id}", Topic.CONNECT, key, 1, b"{}", "writer", 1)


Read = Callable[[Store], Awaitable[StrEnum | None]]


async def status(store: Store) -> StrEnum | None:
    return (await store.enrollments.load({"NEW"}))["NEW"].status


async def bound_by(store: Store) -> StrEnum | None:
    identity = (await store.enrollments.load({"NEW"}))["NEW"].identity
    return None if identity is None else identity.how


async def reason(store: Store) -> StrEnum | None:
    quarantine = (await store.enrollments.load({"NEW"}))["NEW"].quarantine
    return None if quarantine is None else quarantine.reason


async def failure(store: Store) -> StrEnum | None:
    renewal = (await store.enrollments.load({"NEW"}))["NEW"].renewal
    return None if renewal is None else renewal.failed


async def state(store: Store) -> StrEnum | None:
    return (await store.entry("NEW")).state


async def late_answer(store: Store) -> StrEnum | None:
    late = (await store.entry("NEW")).late_answer
    return None if late is None else late.state


async def job_state(store: Store) -> StrEnum | None:
    job = await store.jobs.get("NEW")
    return None if job is None else job.state


async def webhook_state(store: Store) -> StrEnum | None:
    subscription = await store.subscriptions.get("NEW")
    assert subscription is None or subscription.is_held  # its events wait for the newer version
    return None if subscription is None else subscription.state


async def replay_state(store: Store) -> StrEnum | None:
    replay = await store.replays.get("NEW", "NEW")
    return None if replay is None else replay.state


async def nothing(_: Store) -> StrEnum | None:
    """What is of a newer version is left out, so there is nothing to show."""
    return None


LATE = {"state": NEWER, "event_id": "e", "at": NOW}
ENTRY = entry_id("NEW", "c")
VALUES: dict[str, tuple[type[StrEnum], tuple[str, str, str, Any], Read, set[str]]] = {
    "status": (EnrollmentStatus, ("enrollments", "NEW", "status", NEWER), status, set()),
    "bound by": (BoundBy, ("enrollments", "NEW", "identity.how", NEWER), bound_by, set()),
    "quarantine": (
        QuarantineReason,
        ("enrollments", "NEW", "quarantine.reason", NEWER),
        reason,
        set(),
    ),
    "renewal": (RenewalFailure, ("enrollments", "NEW", "renewal.failed", NEWER), failure, set()),
    "place": (EntryState, ("queue", ENTRY, "state", NEWER), state, {"open"}),
    "late answer": (EntryState, ("queue", ENTRY, "late_answer", LATE), late_answer, set()),
    "job": (JobState, ("jobs", "NEW", "state", NEWER), job_state, {"running"}),
    "scope": (Scope, ("tokens", "NEW", "scopes", ["read", NEWER]), nothing, set()),
    "webhook": (SubscriptionState, ("webhooks", "NEW", "state", NEWER), webhook_state, set()),
    "replay": (ReplayState, ("replays", "NEW:NEW", "state", NEWER), replay_state, {"replaying"}),
    "topic": (Topic, ("events", "event-NEW", "topic", NEWER), nothing, set()),
}
"""What a newer version may write: of which set, where, how it is read, and which lists leave it out."""


def test_every_closed_set_that_an_adapter_reads_is_tried() -> None:
    read: set[type] = set()
    for path in Path(jobs.__file__).parents[1].rglob("*.py"):
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in {"known", "record"}:
                continue
            kind = getattr(module, ast.unparse(node.args[0]), None)
            read |= closed_sets_of(kind, {keyword.arg for keyword in node.keywords})

    assert read == {kind for kind, *_ in VALUES.values()}


def closed_sets_of(hint: Any, given: Collection[str | None] = ()) -> set[type]:
    """The closed sets among the values of this type; of a dataclass, without the fields that are given."""
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {hint}
    hints = list(get_args(hint))
    if isinstance(hint, type) and is_dataclass(hint):
        hints = [each for name, each in get_type_hints(hint).items() if name not in given]
    return set().union(*map(closed_sets_of, hints))


@pytest.mark.parametrize("name", VALUES)
async def test_a_value_of_a_newer_version_is_shown_as_written_and_hides_nothing_beside_it(
    store: Store, name: str
) -> None:
    _, (collection, id_, path, value), read, left_out = VALUES[name]
    before = await store.read_all()

    await store.write(collection, id_, path, value)

    found = await store.read_all()
    assert {kind: ["OLD"] if kind in left_out else ids for kind, ids in before.items()} == found
    assert (
        {"NEW", "OLD"} == set(before["to_renew"]) == set(before["notices"]) == set(before["open"])
    )
    shown = await read(store)
    assert shown is None or (shown.value, is_known(shown)) == (NEWER, False)


async def test_a_outbox_event_of_a_newer_version_waits_for_that_version(store: Store) -> None:
    await store.write("enrollments", "NEW", "notices.told-NEW.topic")

    outgoing = await store.identities.outbox(OURS)
    await store.identities.published(outgoing)

    assert {each.outbox_event.id for each in outgoing} == {"notice-NEW", "notice-OLD", "told-OLD"}
    await store.write("enrollments", "NEW", "notices.told-NEW.topic", Topic.RENEWAL_FAILED.value)
    assert [each.outbox_event.id for each in await store.identities.outbox(OURS)] == ["told-NEW"]


async def test_an_entry_of_a_newer_version_is_neither_handed_out_nor_ended(store: Store) -> None:
    entry = await store.entry("NEW")
    await store.write("queue", entry.id, "state")
    await store.write("queue", entry.id, "expires_at", NOW)
    await store.write("queue", entry.id, "timer", NOW)
    queue, expiries = store.queue, MongoExpiries(store.database)
    answer = Report("NEW", "c", "gen-NEW", EntryState.ACKNOWLEDGED, "e")

    assert await queue.mark_sent([SendClaim(entry, "gen-NEW")], "me", NOW) == set()
    assert await queue.cancel([NEW]) == 0
    assert await queue.cancel_one("NEW", "c") is False
    assert await queue.end_generation("NEW", "gen-NEW") == 0
    assert await queue.report([answer], NOW) == 0
    await queue.drop(entry)
    overdue = [entry async for page in expiries.overdue(NOW + HOUR) for entry in page]
    assert overdue == []
    await expiries.expire([entry], NOW + HOUR)

    assert (await store.entry("NEW")).state == NEWER


async def test_a_job_of_a_newer_version_is_not_worked_on(store: Store) -> None:
    await store.write("jobs", "NEW", "state")

    assert [job.id for job in await store.jobs.running()] == ["OLD"]
    assert Progress() == (await store.jobs.newest(None, 1))[0].progress


async def test_an_event_of_a_newer_version_says_so(store: Store) -> None:
    await store.write("events", "event-NEW", "topic")

    with pytest.raises(OfNewerVersion, match="event-NEW"):
        await store.journal.read(["event-NEW"])
    assert await store.journal.read(["event-OLD"]) == {"event-OLD": event(OLD)}


async def test_an_attempt_to_renew_is_on_condition_of_a_failure_that_only_a_newer_version_knows(
    store: Store,
) -> None:
    await store.write("enrollments", "NEW", "renewal.failed")
    seen = Renewal(1, "c", NOW, known(RenewalFailure, NEWER))

    told = [replace(seen, failed=RenewalFailure.EXPIRED), seen]
    stored = [Attempt("NEW", "cert-NEW", each, None, NOW + HOUR) for each in told]

    assert await store.identities.attempt(stored) == [False, True]


async def test_the_version_before_reads_a_job_that_failed_as_finished(store: Store) -> None:
    """It knows two states, and raises for a third."""
    await store.jobs.finish("NEW", Progress(), NOW, "why")

    [stored] = await store.database.collection("jobs").find({"_id": "NEW"})
    assert (stored["state"], stored["error"]) == ("finished", "why")
