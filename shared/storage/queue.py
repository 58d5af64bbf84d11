"""Collections `commands` and `queue`: what is to be done, and each command's place in each queue.

Owner: commands; checkin moves the state of places. A place has `open_device` exactly while it is
open, so the index of open places holds nothing of a device's history. Writes that have the same
effect on many places go as one `update_many` with the conditions in it, which costs half of a bulk
of single updates; where its sum falls short of what was asked, the places are read again (rule 3).
"""

from collections.abc import AsyncIterator, Sequence
from collections.abc import Collection as Names
from datetime import datetime
from itertools import groupby
from typing import Any

from shared.domain.command import Command, Place, PlaceState, place_id
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import StoreUnavailable
from shared.ports.keyring import Keyring
from shared.ports.queue import HandOut, PlaceWindow, Report, Wanted
from shared.storage.database import Database, Query, UpdateOne
from shared.storage.hand_outs import HandOuts
from shared.storage.open_places import OpenPlaces
from shared.storage.paging import Pages, up_to
from shared.storage.place_documents import (
    COMMANDS,
    FORGOTTEN,
    NAME,
    OPEN,
    OPTIONAL,
    WHILE_OPEN,
    condition_of,
    ending,
    from_document,
    in_queue_order,
    newest_first,
    only_open,
    to_document,
)
from shared.storage.rivals import Rivals
from shared.storage.stored_commands import command_document, command_of

ATTEMPTS = 3
"""How often a write is begun again when a document that it met was deleted at the same time."""


class MongoCommandQueue:
    """Implements `shared.ports.queue.CommandQueue`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._keyring = keyring
        self._commands = database.collection(COMMANDS)
        self._places = database.collection(NAME)
        self._open = OpenPlaces(self._places)
        self._hand_outs = HandOuts(self._places)
        self._rivals = Rivals(self._places)

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

    async def insert(self, places: Sequence[Place]) -> list[Place | None]:
        there: list[Place | None] = [None] * len(places)
        missing = list(range(len(places)))
        for _ in range(ATTEMPTS):
            taken = await self._places.insert_many([to_document(places[i]) for i in missing])
            taken_places = [missing[index] for index in sorted(taken)]
            if not taken_places:
                return there
            found = await self._read([places[index].id for index in taken_places])
            for index in taken_places:
                there[index] = found.get(places[index].id)
            # One that was taken and is gone has expired meanwhile, so its name is free again.
            missing = [index for index in taken_places if there[index] is None]
            if not missing:
                return there
        raise StoreUnavailable("places expire while they are queued anew")

    async def _read(self, ids: Sequence[str]) -> dict[str, Place]:
        found = await self._places.find({"_id": {"$in": list(ids)}})
        return {document["_id"]: from_document(document) for document in found}

    async def places_of(self, ids: Names[str]) -> dict[str, Place]:
        return await self._read(list(ids)) if ids else {}

    async def stamp(self, place: Place, generation: str | None) -> None:
        await self._places.update_one(
            {"_id": place.id, "order": place.order, "state": {"$in": OPEN}},
            {"$set": {"generation": generation}},
        )

    async def requeue(self, place: Place, seen: Place) -> bool:
        if seen.state.is_open:
            return False
        document = to_document(place)
        del document["_id"]
        return 1 == await self._places.update_one(
            {"_id": place.id, "order": seen.order, "state": seen.state.value},
            {
                "$set": document,
                "$unset": {name: "" for name in OPTIONAL if name not in document},
            },
        )

    async def drop(self, place: Place) -> Place | None:
        await self._end(
            {"_id": place.id, "generation": place.generation},
            PlaceState.DROPPED_REENROLLED,
        )
        return (await self._read([place.id])).get(place.id)

    async def open_places(self, enrollment: EnrollmentKey) -> list[Place]:
        found = await self._places.find(
            {"open_device": enrollment.device, "enrollment": enrollment.id}
        )
        return in_queue_order(found)

    async def cancel(self, enrollments: Sequence[EnrollmentKey]) -> int:
        return await self._end(
            {
                "open_device": {"$in": sorted({key.device for key in enrollments})},
                "enrollment": {"$in": [key.id for key in enrollments]},
            },
            PlaceState.CANCELLED,
        )

    async def cancel_devices(self, devices: Names[str]) -> int:
        return await self._end({"open_device": {"$in": sorted(devices)}}, PlaceState.CANCELLED)

    async def cancel_one(
        self, enrollment: str, command_uuid: str, order: str | None = None
    ) -> bool:
        named = {"_id": place_id(enrollment, command_uuid)}
        condition = named if order is None else {**named, "order": order}
        return 1 == await self._end(condition, PlaceState.CANCELLED)

    async def _end(self, condition: Query, state: PlaceState) -> int:
        """End the open places that match, once; the time of it is the store's own. One in a state of a
        newer version is left to that version."""
        return await self._places.update_many({"state": {"$in": OPEN}, **condition}, ending(state))

    async def highest_orders(self, places: Sequence[Place]) -> dict[tuple[str, str], str]:
        return await self._rivals.highest_orders(places)

    async def supersede(self, places: Sequence[Place]) -> int:
        return await self._rivals.supersede(places)

    async def count_open(self, enrollment: EnrollmentKey) -> int:
        found = await self._places.find(
            {"open_device": enrollment.device, "enrollment": enrollment.id}, {"_id": 1}
        )
        return len(found)

    async def has_due(self, enrollments: Sequence[EnrollmentKey], at: datetime) -> set[str]:
        return await self._open.has_due(enrollments, at)

    async def accepted_in(self, window: PlaceWindow, limit: int | None = None) -> list[Place]:
        newest: dict[str, Any] = {"sort": newest_first(window), "limit": limit} if limit else {}
        found = await self._places.find(condition_of(window), **newest)
        return [from_document(document) for document in found]

    def accepted_between(self, since: datetime, until: datetime) -> AsyncIterator[list[Place]]:
        window = {"$gte": since, "$lte": until}
        return self._paged("accepted_at", {"accepted_at": window, "open_device": {"$exists": True}})

    def beginning_between(self, since: datetime, until: datetime) -> AsyncIterator[list[Place]]:
        window = {"$gte": since, "$lte": until}
        return self._paged("timer", {"timer": window, "not_before": window})

    async def _paged(self, field: str, query: Query) -> AsyncIterator[list[Place]]:
        above = up_to(query[field]["$lte"])
        async for page in Pages(self._places, field).read(query, above):
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
        ids = [place_id(report.enrollment, report.command_uuid) for report in reports]
        update: dict[str, Any] = {
            "$set": {"state": state.value, "answered_at": at},
            "$unset": FORGOTTEN,
        }
        if not state.is_open:
            update["$set"]["finished_at"] = at
            update["$unset"] = WHILE_OPEN | FORGOTTEN
        matched = await self._places.update_many(
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
        """Those that say something else than the final state that they found."""
        found = await self._places.find({"_id": {"$in": list(reports)}}, {"state": 1})
        late = {
            document["_id"]: document["state"]
            for document in found
            if document["state"] not in (*OPEN, reports[document["_id"]].state.value)
        }
        await self._places.bulk_write(
            [
                UpdateOne(
                    {"_id": place, "state": state},
                    {
                        "$set": {
                            "late_answer": {
                                "state": reports[place].state.value,
                                "event_id": reports[place].event_id,
                                "at": at,
                            }
                        }
                    },
                )
                for place, state in late.items()
            ]
        )

    async def open_of_devices(self, devices: Names[str]) -> dict[str, list[Place] | None]:
        return await self._open.of_devices(devices)

    async def next_of(self, wanted: Sequence[Wanted], at: datetime) -> list[Place | None]:
        return await self._open.next_of(wanted, at)

    async def hand_out(self, handouts: Sequence[HandOut], by: str, at: datetime) -> set[str]:
        return await self._hand_outs.hand_out(handouts, by, at)

    async def move_back(self, places: Sequence[Place]) -> set[str]:
        keyed = [place for place in places if place.collapse_key is not None]
        if keyed:
            # Before it moves, so that a process that dies here leaves one that is met again.
            await self._hand_outs.let_supersede(keyed)
            await self._rivals.supersede(keyed)
        return await self._hand_outs.move_back(places)

    async def end_generation(self, device: str, generation: str) -> int:
        return await self._end(
            {"open_device": device, "generation": {"$in": [None, generation]}},
            PlaceState.DROPPED_REENROLLED,
        )

    async def commands(self, hashes: Names[str]) -> dict[str, Command]:
        if not hashes:
            return {}
        found = await self._commands.find({"_id": {"$in": list(hashes)}})
        return {document["_id"]: command_of(document, self._keyring) for document in found}
