"""Collections `commands` and `queue`: what is to be done, and each command's place in each queue.

Owner: commands; checkin moves the state of places. A place has `open_device` exactly while it is
open, so the index of open places holds nothing of a device's history. Writes that have the same
effect on many places go as one `update_many` with the conditions in it, which costs half of a bulk
of single updates; where its sum falls short of what was asked, the places are read again (rule 3).
"""

from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from pymongo import UpdateOne

from shared.domain.command import OPEN_STATES, Command, Place, PlaceState, place_id
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import StoreUnavailable
from shared.ports.queue import HandOut, Report
from shared.storage.mongo import Document, Mongo, Query
from shared.storage.place_documents import from_document, queue_order, to_document

COMMANDS = "commands"
NAME = "queue"
ATTEMPTS = 3
"""How often a write is begun again when a document that it met was deleted at the same time."""

_OPEN = [state.value for state in OPEN_STATES]
_OF_THE_TIME_BEFORE = ("handed_by", "handed_at", "answered_at", "finished_at", "late_answer")


class MongoCommandQueue:
    """Implements `shared.ports.queue.CommandQueue`."""

    def __init__(self, mongo: Mongo) -> None:
        self._commands = mongo.collection(COMMANDS)
        self._places = mongo.collection(NAME)

    # --- for the command API

    async def store(self, commands: Sequence[Command], at: datetime) -> None:
        missing = list({command.hash: command for command in commands}.values())
        for _ in range(ATTEMPTS):
            known = await self._commands.insert_many([_command_document(c, at) for c in missing])
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

    async def stamp(self, place: Place, generation: str | None) -> None:
        await self._places.update_one(
            {"_id": place.id, "order": place.order, "state": {"$in": _OPEN}},
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
                "$unset": dict.fromkeys(_OF_THE_TIME_BEFORE, ""),
            },
        )

    async def drop(self, place: Place) -> Place | None:
        await self._end(
            {"_id": place.id, "generation": place.generation, "state": {"$in": _OPEN}},
            PlaceState.DROPPED_REENROLLED,
        )
        document = await self._places.find_one({"_id": place.id})
        return None if document is None else from_document(document)

    async def open_places(self, enrollment: EnrollmentKey) -> list[Place]:
        found = (await self.open_of_devices([enrollment.device])).get(enrollment.device, [])
        return [place for place in found if place.enrollment == enrollment.id]

    async def cancel(self, enrollments: Sequence[EnrollmentKey]) -> int:
        return await self._end(
            {
                "open_device": {"$in": sorted({key.device for key in enrollments})},
                "enrollment": {"$in": [key.id for key in enrollments]},
            },
            PlaceState.CANCELLED,
        )

    async def cancel_one(self, enrollment: str, command_uuid: str) -> bool:
        return 1 == await self._end(
            {"_id": place_id(enrollment, command_uuid), "state": {"$in": _OPEN}},
            PlaceState.CANCELLED,
        )

    async def _end(self, condition: Query, state: PlaceState) -> int:
        """End the places that match, once; the time of it is the store's own."""
        return await self._places.update_many(
            condition,
            {
                "$set": {"state": state.value},
                "$currentDate": {"finished_at": True},
                "$unset": {"open_device": ""},
            },
        )

    async def has_open(self, enrollments: Sequence[EnrollmentKey]) -> set[str]:
        places = await self.open_of_devices({key.device for key in enrollments})
        waiting = {place.enrollment for found in places.values() for place in found}
        return waiting.intersection(key.id for key in enrollments)

    async def accepted_between(self, since: datetime, until: datetime) -> list[Place]:
        found = await self._places.find(
            {"accepted_at": {"$gte": since, "$lte": until}, "open_device": {"$exists": True}}
        )
        return [from_document(document) for document in found]

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
        update: dict[str, Any] = {"$set": {"state": state.value, "answered_at": at}}
        if not state.is_open:
            update["$set"]["finished_at"] = at
            update["$unset"] = {"open_device": ""}
        matched = await self._places.update_many(
            {
                "_id": {"$in": ids},
                "generation": {"$in": [None, *(report.generation for report in reports)]},
                "state": {"$in": _OPEN},
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
            if document["state"] not in (*_OPEN, reports[document["_id"]].state.value)
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

    async def open_of_devices(self, devices: Names[str]) -> dict[str, list[Place]]:
        if not devices:
            return {}
        found = await self._places.find({"open_device": {"$in": list(devices)}})
        result: dict[str, list[Place]] = {}
        for place in sorted(map(from_document, found), key=queue_order):
            result.setdefault(place.device, []).append(place)
        return result

    async def hand_out(self, handouts: Sequence[HandOut], by: str, at: datetime) -> set[str]:
        if not handouts:
            return set()
        ids = [handout.place.id for handout in handouts]
        matched = await self._places.update_many(
            {
                "_id": {"$in": ids},
                # generations are unique, so none of another device's lets a place through
                "generation": {"$in": [None, *(handout.generation for handout in handouts)]},
                "state": {"$in": _OPEN},
            },
            {
                "$set": {"state": PlaceState.SENT.value, "handed_by": by, "handed_at": at},
                "$inc": {"attempts": 1},
            },
        )
        if matched == len(ids):
            return set(ids)
        found = await self._places.find(
            {"_id": {"$in": ids}, "handed_by": by, "state": {"$in": _OPEN}}, {"_id": 1}
        )
        return {document["_id"] for document in found}

    async def end_generation(self, device: str, generation: str) -> int:
        return await self._end(
            {"open_device": device, "generation": {"$in": [None, generation]}},
            PlaceState.DROPPED_REENROLLED,
        )

    async def commands(self, hashes: Names[str]) -> dict[str, Command]:
        if not hashes:
            return {}
        found = await self._commands.find({"_id": {"$in": list(hashes)}})
        return {
            document["_id"]: Command(
                hash=document["_id"],
                uuid=document["uuid"],
                request_type=document["request_type"],
                plist=bytes(document["plist"]),
            )
            for document in found
        }

    # --- for the janitor

    async def untouched(self, prefix: str, before: datetime) -> dict[str, datetime]:
        """A closed range of `_id`, so that its cost is that of the commands in it."""
        found = await self._commands.find(
            {"_id": {"$gte": prefix, "$lte": prefix + "g"}, "touched": {"$lt": before}},
            {"touched": 1},
        )
        return {document["_id"]: document["touched"] for document in found}

    async def in_use(self, hashes: Names[str]) -> set[str]:
        used: set[str] = set()
        for command_hash in hashes:  # one each: a command of a large fleet has many places
            if await self._places.find({"command": command_hash}, {"_id": 1}, limit=1):
                used.add(command_hash)
        return used

    async def forget(self, commands: Mapping[str, datetime]) -> int:
        return sum(
            [
                await self._commands.delete_one({"_id": command_hash, "touched": touched})
                for command_hash, touched in commands.items()
            ]
        )


def _command_document(command: Command, at: datetime) -> Document:
    return {
        "_id": command.hash,
        "uuid": command.uuid,
        "request_type": command.request_type,
        "plist": command.plist,
        "created": at,
        "touched": at,
    }
