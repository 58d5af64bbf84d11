"""Collections `commands` and `queue`. Owner: commands; checkin moves the state of entries.

An entry has `open_device` exactly while it is open, so that index holds no history. Writes with the same
effect on many entries are one `update_many`, which costs half of a bulk of single updates; where its sum
falls short, the entries are read again (rule 3)."""

from collections.abc import AsyncIterator, Sequence
from collections.abc import Collection as Names
from datetime import datetime
from itertools import groupby
from typing import Any

from shared.domain.command import Command, EntryState, QueueEntry, entry_id
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import StoreUnavailable
from shared.ports.keyring import Keyring
from shared.ports.queue import EntryWindow, Report, Rival
from shared.storage.database import Bulk, Database, Query, UpdateOne
from shared.storage.queue.commands import command_document, command_of
from shared.storage.queue.documents import (
    COMMANDS,
    FORGOTTEN,
    NAME,
    OPEN,
    OPTIONAL,
    WHILE_OPEN,
    EntriesOnDemand,
    condition_of,
    encode_entry,
    ending,
    entries_of,
    newest_first,
    only_open,
)
from shared.storage.queue.open_entries import OpenEntries
from shared.storage.queue.sent_entries import SentEntries, endings
from shared.storage.reads import find_by_id, pages, up_to
from shared.storage.records import record

ATTEMPTS = 3
"""Tries of a write whose documents are deleted at the same time."""


class MongoCommandQueue(OpenEntries, SentEntries):
    """Implements `shared.ports.queue.CommandQueue`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._commands = database.collection(COMMANDS)
        self._entries = database.collection(NAME)

    # --- for the command API

    async def store(self, commands: Sequence[Command], at: datetime) -> None:
        missing = list({command.hash: command for command in commands}.values())
        for _ in range(ATTEMPTS):
            documents = [command_document(command, at, self._keyring) for command in missing]
            known = await self._commands.insert_many(documents)
            if not known:
                return
            missing = [missing[index] for index in known]
            touched = await self._commands.update_many(
                {"_id": {"$in": [command.hash for command in missing]}},
                {"$max": {"touched": at}},
            )
            if touched == len(missing):
                return
            # The janitor deleted one between its duplicate key and its touch.
        raise StoreUnavailable("stored commands are deleted while they are queued")

    async def insert(self, entries: Sequence[QueueEntry]) -> list[QueueEntry | None]:
        taken = await self._entries.insert_many([encode_entry(entry) for entry in entries])
        return await self._there(entries, taken)

    async def _there(
        self, entries: Sequence[QueueEntry], taken: set[int]
    ) -> list[QueueEntry | None]:
        """The outcome of an insertion that met entries: these are read."""
        there: list[QueueEntry | None] = [None] * len(entries)
        for _ in range(ATTEMPTS):
            found = await self.entries_of([entries[index].id for index in taken])
            for index in taken:
                there[index] = found.get(entries[index].id)
            # An entry that was present and is gone has expired meanwhile: its name is free again.
            missing = [index for index in taken if there[index] is None]
            if not missing:
                return there
            met = await self._entries.insert_many([encode_entry(entries[i]) for i in missing])
            taken = {missing[index] for index in met}
            if not taken:
                return there
        raise StoreUnavailable("entries expire while they are queued again")

    async def put(
        self,
        commands: Sequence[Command],
        entries: Sequence[QueueEntry],
        rivals: Sequence[Rival],
        at: datetime,
    ) -> tuple[list[QueueEntry | None], int]:
        missing = list({command.hash: command for command in commands}.values())
        stored = [Bulk(COMMANDS, [command_document(each, at, self._keyring) for each in missing])]
        bulks = [Bulk(NAME, [encode_entry(entry) for entry in entries])]
        if ends := endings(rivals, entries):
            bulks.append(Bulk(NAME, operations=ends))
        done = await self._database.write_in_order([*stored, *bulks] if missing else bulks)
        if missing:
            (_, known), *done = done
            if known:  # they are touched before their entries
                await self.store([missing[index] for index in known], at)
                done = await self._database.write_in_order(bulks)
        (_, taken), *ended = done
        return await self._there(entries, taken), sum(count for count, _ in ended)

    async def entries_of(self, ids: Names[str]) -> dict[str, QueueEntry]:
        found = await find_by_id(self._entries, ids)
        return {id_: record(QueueEntry, document) for id_, document in found.items()}

    async def stamp(self, entry: QueueEntry, generation: str | None) -> None:
        await self._entries.update_one(
            {"_id": entry.id, "order": entry.order, "state": {"$in": OPEN}},
            {"$set": {"generation": generation}},
        )

    async def requeue(self, entry: QueueEntry, seen: QueueEntry) -> bool:
        if seen.state.is_open:
            return False
        document = encode_entry(entry)
        del document["_id"]
        return 1 == await self._entries.update_one(
            {"_id": entry.id, "order": seen.order, "state": seen.state.value},
            {
                "$set": document,
                "$unset": {name: "" for name in OPTIONAL if name not in document},
            },
        )

    async def drop(self, entry: QueueEntry) -> QueueEntry | None:
        await self._end(
            {"_id": entry.id, "generation": entry.generation},
            EntryState.DROPPED_REENROLLED,
        )
        return (await self.entries_of([entry.id])).get(entry.id)

    async def open_entries(self, enrollment: EnrollmentKey) -> list[QueueEntry]:
        found = await self._entries.find(
            {"open_device": enrollment.device, "enrollment": enrollment.id}
        )
        return [*EntriesOnDemand(found)]

    async def cancel(
        self, enrollments: Sequence[EnrollmentKey], *, with_event: bool = False
    ) -> int:
        return await self._end(
            {
                "open_device": {"$in": sorted({key.device for key in enrollments})},
                "enrollment": {"$in": [key.id for key in enrollments]},
            },
            EntryState.CANCELLED,
            with_event=with_event,
        )

    async def cancel_devices(self, devices: Names[str], *, with_event: bool = False) -> int:
        condition = {"open_device": {"$in": sorted(devices)}}
        return await self._end(condition, EntryState.CANCELLED, with_event=with_event)

    async def cancel_one(
        self,
        enrollment: str,
        command_uuid: str,
        order: str | None = None,
        *,
        with_event: bool = False,
    ) -> bool:
        named = {"_id": entry_id(enrollment, command_uuid)}
        condition = named if order is None else {**named, "order": order}
        return 1 == await self._end(condition, EntryState.CANCELLED, with_event=with_event)

    async def _end(self, condition: Query, state: EntryState, *, with_event: bool = False) -> int:
        """End the open entries that match, once, at a time of the store's own clock. An entry in a state of a
        newer version is left to that version."""
        update = ending(state, with_event=with_event)
        return await self._entries.update_many({"state": {"$in": OPEN}, **condition}, update)

    async def count_open(self, enrollment: EnrollmentKey) -> int:
        found = await self._entries.find(
            {"open_device": enrollment.device, "enrollment": enrollment.id}, {"_id": 1}
        )
        return len(found)

    async def accepted_in(self, window: EntryWindow, limit: int | None = None) -> list[QueueEntry]:
        sort = newest_first(window) if limit else ()
        return entries_of(
            await self._entries.find(condition_of(window), sort=sort, limit=limit or 0)
        )

    def accepted_between(self, since: datetime, until: datetime) -> AsyncIterator[list[QueueEntry]]:
        window = {"$gte": since, "$lte": until}
        return self._paged({"accepted_at": window, "open_device": {"$exists": True}}, until)

    def beginning_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[list[QueueEntry]]:
        window = {"$gte": since, "$lte": until}
        return self._paged({"timer": window, "not_before": window}, until)

    async def _paged(self, query: Query, until: datetime) -> AsyncIterator[list[QueueEntry]]:
        async for page in pages(self._entries, query, up_to(until)):
            yield only_open(page)

    # --- for check-in

    async def report(self, reports: Sequence[Report], at: datetime) -> int:
        closed = 0
        by_state = sorted(reports, key=lambda report: report.state.value)
        for state, same in groupby(by_state, key=lambda report: report.state):
            moved = await self._report(list(same), at)
            closed += 0 if state.is_open else moved
        return closed

    async def _report(self, reports: Sequence[Report], at: datetime) -> int:
        """Reports of one state; how many counted."""
        state = reports[0].state
        ids = [entry_id(report.enrollment, report.command_uuid) for report in reports]
        update: dict[str, Any] = {
            "$set": {"state": state.value, "answered_at": at},
            "$unset": FORGOTTEN,
        }
        if not state.is_open:
            update["$set"]["finished_at"] = at
            update["$unset"] = WHILE_OPEN | FORGOTTEN
        matched = await self._entries.update_many(
            {
                "_id": {"$in": ids},
                "generation": {"$in": [None, *(report.generation for report in reports)]},
                "state": {"$in": OPEN},
                "handed_by": {"$ne": None},
            },
            update,
        )
        if matched < len(reports):
            await self._keep_late_answers(dict(zip(ids, reports, strict=True)), at)
        return matched

    async def _keep_late_answers(self, reports: dict[str, Report], at: datetime) -> None:
        """Keep the reports that differ from the final state of their entries."""
        found = await find_by_id(self._entries, reports, {"state": 1})
        writes = []
        for id_, entry in found.items():
            report = reports[id_]
            if entry["state"] not in (*OPEN, report.state.value):
                late = {"state": report.state.value, "event_id": report.event_id, "at": at}
                as_read = {"_id": id_, "state": entry["state"]}
                writes.append(UpdateOne(as_read, {"$set": {"late_answer": late}}))
        await self._entries.bulk_write(writes)

    async def end_generation(self, device: str, generation: str) -> int:
        return await self._end(
            {"open_device": device, "generation": {"$in": [None, generation]}},
            EntryState.DROPPED_REENROLLED,
        )

    async def commands(self, hashes: Names[str]) -> dict[str, Command]:
        found = await find_by_id(self._commands, hashes)
        return {id_: command_of(document, self._keyring) for id_, document in found.items()}
