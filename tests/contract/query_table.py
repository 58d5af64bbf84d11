"""Which index each query of our adapters goes by in SQLite: a table for `query_plans`.

A query is written as its conditions, without their values, and its order. What goes by `_id` is not listed.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Whole:
    """A query that no index serves, and why that may be."""

    reason: str


PAGE = Whole("a page, cut by its limit: in the order of `_id` from where the page before ended")
IN_A_RANGE = Whole("a range of `_id`: as many as stand in it, which the janitor keeps small")
COUNTED = Whole("counted every minute or less; an index would cost every check-in more")
OF_ONE = Whole("a range of `_id`: what one subscription has, a few dozen at the most")
FEW = Whole("a handful of documents, all of which are wanted")

MARK_SENT = (
    "open_device_1_enrollment_1_state_1_not_before_1_generation_1_moved_1_priority_1_order_1"
)

QUERIES: dict[str, dict[str | Whole, tuple[str, ...]]] = {
    "activities": {
        OF_ONE: (
            "_id between",
            "_id between by _id",
        ),
    },
    "audit": {
        "keys_1__id_1": ("_id between, keys = by _id backwards",),
    },
    "commands": {
        IN_A_RANGE: ("_id between, touched <",),
    },
    "deliveries": {
        "asked_1": ("asked =",),
        "given_up_1": ("given_up =",),
        "lane_1_number_1": ("lane = by number",),
        "partition_1__id_1_lane_1_number_1": ("_id >, partition = by _id",),
        PAGE: ("_id between by _id",),
    },
    "enrollments": {
        "names_1": (
            "_id >, inventory.serial_number =, names =, status !=, user is null by _id",
            "device =, generation in or null, names =, status !=",
            "inventory.serial_number =, names =, status !=, user is null by _id",
            "inventory.serial_number in, names in, status !=, user is null by _id",
            "device in, names in, status !=",
            "names in",
        ),
        "notices_in_1": ("notices_in in",),
        "renewal_in_1__id_1": ("_id >, renewal_in = by renewal_in, _id",),
        "renewal_in_1_renewal_look_1": (
            "renewal_in =, renewal_look between by renewal_in, renewal_look",
        ),
        "waiting_in_1__id_1": (
            "_id >, waiting_in = by waiting_in, _id",
            "waiting_in in by waiting_in, _id",
        ),
        COUNTED: ("status =, user is null",),
        PAGE: (
            "_id between, status != by _id",
            "_id >, status !=, user is null by _id",
            "_id > by _id",
            "blocked !=, status !=, user is null by _id",
            "blocked =, status !=, user is null by _id",
            "inventory.model =, inventory.os_version =, status !=, user is null by _id",
            "inventory.model =, status !=, user is null by _id",
            "inventory.os_version =, status !=, user is null by _id",
            "last_seen <, status !=, user is null by _id",
            "last_seen >=, status !=, user is null by _id",
            "migrating_until is not null, status !=, user is null by _id",
            "migrating_until is null, status !=, user is null by _id",
            "quarantine is not null, status !=, user is null by _id",
            "quarantine is null, status !=, user is null by _id",
            "status !=, user is null by _id",
            "status =, user is null by _id",
        ),
    },
    "events": {
        "device_1_created_at_1": (
            "command_uuid =, created_at between, device =, enrollment =, topic = by created_at",
            "created_at between, device = by created_at",
        ),
        "at_1": ("at between by at",),
        "writer_1_number_1": ("number >, writer = by number",),
    },
    "issued": {
        "fingerprint_1": ("fingerprint in",),
        "renewed_from_1": ("renewed_from =",),
    },
    "jobs": {
        "running_1": (
            "owner =, running =",
            "running =",
        ),
        PAGE: (
            "_id < by _id backwards",
            "everything by _id backwards",
        ),
    },
    "members": {
        "role_1": ("role =",),
    },
    "profiles": {
        PAGE: ("_id > by _id",),
    },
    "push_certificates": {
        FEW: (
            "everything",
            "everything by _id",
        ),
    },
    "push_expiries": {
        FEW: ("everything",),
    },
    "pushes": {
        "next_at_1": (
            "next_at between by next_at",
            "next_at between, partition in by next_at",
        ),
    },
    "queue": {
        "accepted_at_1__id_1": (
            "_id >, accepted_at =, open_device exists by accepted_at, _id",
            "accepted_at between",
            "accepted_at between by accepted_at backwards",
            "accepted_at between, open_device exists by accepted_at, _id",
        ),
        "command_1": ("command =",),
        "enrollment_1_accepted_at_1": (
            "accepted_at between, enrollment = by enrollment backwards, accepted_at backwards",
            "accepted_at between, enrollment =, request_type =, state in",
        ),
        "open_device_1_collapse_key_1": (
            "collapse in, open_device in",
            "collapse_key in, open_device in",
            "generation in or null, open_device =, state in",
            "open_device in, state in",
            "open_device in",
            "open_device in by open_device",
        ),
        MARK_SENT: (
            "enrollment =, generation in or null, not_before is null, open_device =, state in"
            " by moved, priority, order",
            "enrollment =, not_before <=, open_device =, state in by not_before",
            "enrollment =, not_before is null, open_device =, state in",
            "enrollment =, open_device =",
            "enrollment in, open_device in, state in",
        ),
        "timer_1__id_1": (
            "_id >, expires_at <=, state in, timer = by timer, _id",
            "_id >, finished_at <, state in, timer = by timer, _id",
            "_id >, not_before between, timer = by timer, _id",
            "expires_at <=, state in, timer between by timer, _id",
            "finished_at <, state in, timer between by timer, _id",
            "not_before between, timer between by timer, _id",
        ),
    },
    "replays": {
        "running_1": ("running =",),
        OF_ONE: ("_id between by _id",),
    },
    "tokens": {
        FEW: ("everything by _id",),
    },
    "webhooks": {
        FEW: (
            "_id != by _id",
            "everything",
        ),
    },
    "writers": {
        FEW: ("everything",),
    },
}
"""For each collection: an index, or that there is none and why, and the queries that go by it."""
