"""The list of commands: newest first, page by page, while everything changes."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.commands.history.listing import PATIENCE, EntryList, ListQuery
from shared.domain.command import EntryState, QueueEntry
from tests.support.commands_world import Barrier, World
from tests.support.fakes.clock import START
from tests.support.life_client import LifeClient

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


@pytest.fixture
async def client() -> AsyncIterator[LifeClient]:
    made = LifeClient(World())
    yield made
    await made.http.aclose()


def put(
    world: World, uuid: str, at: datetime, enrollment: str = "MAC", **terms: object
) -> QueueEntry:
    """An entry, queued at a time."""
    device = enrollment.partition(":")[0]
    entry = QueueEntry(
        enrollment=enrollment,
        device=device,
        command_uuid=uuid,
        command_hash="hash",
        request_type="ProfileList",
        generation=world.generation(device),
        order=world.ids.new(),
        accepted_at=at,
    )
    entry = replace(entry, **terms)  # type: ignore[arg-type]  # fields of an entry
    world.queue.entries[entry.id] = entry
    return entry


async def test_commands_of_all_queues_are_listed_newest_first(client: LifeClient) -> None:
    world = client.world
    await world.post("PAD", "old")
    world.clock.advance(400 * DAY)
    await world.post("MAC", "middle")
    world.clock.advance(SECOND)
    await world.post("anna", "new")

    status, page = await client.call("")

    assert status == 200
    assert [shown["command_uuid"] for shown in page["commands"]] == ["new", "middle", "old"]
    assert [shown["udid"] for shown in page["commands"]] == ["MAC:anna", "MAC", "PAD"]
    assert page["commands"][0]["state"] == "queued"
    assert page["next_cursor"] is None


async def test_an_empty_list_is_a_page(client: LifeClient) -> None:
    assert await client.call("") == (200, {"commands": [], "next_cursor": None})


async def test_the_filters_leave_out_what_was_not_asked_for(client: LifeClient) -> None:
    world = client.world
    put(world, "a", START - DAY, state=EntryState.ERROR)
    put(world, "b", START - 2 * SECOND, "MAC:anna", state=EntryState.ACKNOWLEDGED)
    put(world, "c", START - SECOND, "PAD", request_type="DeviceLock")
    put(world, "d", START, "PAD")

    async def listed(*params: tuple[str, str]) -> str:
        return "".join(await client.all(*params))

    assert await listed() == "dcba"
    assert await listed(("state", "error")) == "a"
    assert await listed(("state", "error,acknowledged")) == "ba"
    assert await listed(("state", "error"), ("state", "queued")) == "dca"
    assert await listed(("request_type", "DeviceLock")) == "c"
    assert await listed(("udid", "PAD")) == "dc"
    assert (
        await listed(("udid", "DMP"), ("state", "queued"), ("request_type", "ProfileList")) == "d"
    )
    assert await listed(("udid", "anna")) == "b"
    assert await listed(("udid", "nobody")) == ""
    assert await listed(("since", "2026-01-02T03:04:04Z")) == "dc"
    assert await listed(("until", "2026-01-02T04:04:04 01:00")) == "cba"
    assert await listed(("since", "2026-01-02T03:04:03Z"), ("until", "2026-01-02T03:04:03Z")) == "b"
    assert await listed(("state", "")) == "dcba"


@pytest.mark.parametrize(
    ("param", "value", "expected"),
    [
        ("state", "error,done", "one or several of queued, sent, not_now"),
        ("since", "yesterday", "a date with an offset"),
        ("until", "2026-01-02T03:04:05", "a date with an offset"),
        ("since", "1900-01-01T00:00:00Z", "a date with an offset"),
        ("limit", "0", "a whole number from 1 to 1000"),
        ("limit", "1001", "a whole number"),
        ("limit", "²", "a whole number"),
        ("cursor", "x", "the next_cursor of an earlier page"),
        ("cursor", "%", "the next_cursor"),
        ("cursor", "ü", "the next_cursor"),
        ("cursor", base64.urlsafe_b64encode(b"99999999999999999.a").decode(), "the next_cursor"),
        ("cursor", base64.urlsafe_b64encode(b"1.$where").decode(), "the next_cursor"),
        ("udid", "a\0b", "at most 256 characters"),
        ("request_type", "x" * 257, "at most 256 characters"),
    ],
)
async def test_what_cannot_be_used_is_named(
    client: LifeClient, param: str, value: str, expected: str
) -> None:
    status, problem = await client.call("", params=[(param, value)])

    assert status == 400
    [fault] = problem["faults"]
    assert fault["path"] == param
    assert fault["expected"].startswith(expected)


async def test_all_that_cannot_be_used_is_told_at_once(client: LifeClient) -> None:
    _, problem = await client.call("?state=x&limit=x&cursor=x")

    assert {fault["path"] for fault in problem["faults"]} == {"state", "limit", "cursor"}


# --- pages


async def test_what_is_queued_meanwhile_moves_nothing(client: LifeClient) -> None:
    world = client.world
    for n in range(6):
        put(world, f"{n}", START - n * SECOND)
    first, cursor = await client.page(("limit", "2"))
    put(world, "new", world.clock.now())
    put(world, "same time", START - SECOND)
    assert cursor is not None

    second, _ = await client.page(("limit", "3"), ("cursor", cursor))

    assert (first, second) == (["0", "1"], ["2", "3", "4"])


async def test_what_is_queued_anew_moves_to_the_front_and_nothing_else_moves(
    client: LifeClient,
) -> None:
    world = client.world
    for n in range(5):
        put(world, f"{n}", START - n * SECOND, state=EntryState.CANCELLED)
    first, cursor = await client.page(("limit", "2"))
    put(world, "3", world.clock.now() + SECOND)
    assert cursor is not None

    second, _ = await client.page(("limit", "2"), ("cursor", cursor))

    assert (first, second) == (["0", "1"], ["2", "4"])
    assert (await client.page(("limit", "1")))[0] == ["3"]


async def test_what_ends_meanwhile_leaves_no_gap(client: LifeClient) -> None:
    world = client.world
    for n in range(4):
        put(world, f"{n}", START - n * SECOND)
    _, cursor = await client.page(("limit", "2"), ("state", "queued"))
    await world.queue.cancel_one("MAC", "1")
    await world.queue.cancel_one("MAC", "2")
    assert cursor is not None

    second, _ = await client.page(("limit", "2"), ("state", "queued"), ("cursor", cursor))

    assert second == ["3"]


@pytest.mark.parametrize("limit", [1, 2, 7, 50])
async def test_many_of_one_time_are_cut_by_their_order(client: LifeClient, limit: int) -> None:
    world = client.world
    for n in range(20):
        put(world, f"{n:02}", START)
    put(world, "before", START - SECOND)

    found = await client.all(limit=limit)

    assert found == [*(f"{n:02}" for n in reversed(range(20))), "before"]


async def test_a_page_settles_what_it_shows(client: LifeClient) -> None:
    world = client.world
    put(world, "past", START, generation="gen-0")
    put(world, "over", START - SECOND, expires_at=START)
    put(world, "there", START - 2 * SECOND)

    _, page = await client.call("")

    states = [(shown["command_uuid"], shown["state"]) for shown in page["commands"]]
    assert states == [("past", "dropped_reenrolled"), ("over", "expired"), ("there", "queued")]


async def test_what_has_just_ended_is_not_shown_as_open(client: LifeClient) -> None:
    world = client.world
    put(world, "over", START, expires_at=START)
    put(world, "there", START - SECOND)

    assert await client.all(("state", "queued")) == ["there"]


async def test_a_command_accepted_by_a_clock_a_little_ahead_is_there(client: LifeClient) -> None:
    put(client.world, "ahead", START + 2 * SECOND)

    assert await client.all() == ["ahead"]


# --- cost


class Counted(Barrier):
    """Counts the queries; each takes `cost` of the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = 0
        self.cost = timedelta()
        self.world: World | None = None

    async def __call__(self, operation: str) -> None:
        await super().__call__(operation)
        if operation == "accepted_in":
            self.queries += 1
            assert self.world is not None
            self.world.clock.advance(self.cost)


def listing(counted: Counted) -> tuple[World, EntryList]:
    world = World(at_store=counted)
    counted.world = world
    return world, EntryList(world.queue, world.reconciler, world.clock)


async def test_the_beginning_is_reached_in_few_queries() -> None:
    counted = Counted()
    _, entries = listing(counted)

    assert await entries.page(ListQuery(limit=100)) == ([], None)

    assert counted.queries <= 35


async def test_a_full_page_of_recent_commands_asks_for_little() -> None:
    counted = Counted()
    world, entries = listing(counted)
    for n in range(50):
        put(world, f"{n}", START - n * SECOND)

    found, _ = await entries.page(ListQuery(limit=10))

    assert len(found) == 10
    assert counted.queries <= 2


async def test_a_page_that_takes_long_ends_and_goes_on_later() -> None:
    counted = Counted()
    world, entries = listing(counted)
    put(world, "far", START - 300 * DAY)
    counted.cost = PATIENCE / 3
    first, following = await entries.page(ListQuery(limit=10))
    counted.cost = timedelta()
    assert following is not None

    second, end = await entries.page(ListQuery(limit=10, after=following))

    assert (first, counted.queries > 4) == ([], True)
    assert [entry.command_uuid for entry in second] == ["far"]
    assert end is None


OFFSETS = st.lists(
    st.one_of(
        st.integers(0, 5).map(lambda n: timedelta(milliseconds=n)),
        st.integers(0, 10**6).map(lambda n: timedelta(seconds=n)),
        st.integers(0, 10**9).map(lambda n: timedelta(microseconds=n)),
    ),
    max_size=40,
)


@settings(max_examples=40)
@given(OFFSETS, st.integers(1, 12))
async def test_pages_together_are_the_whole_list(offsets: list[timedelta], limit: int) -> None:
    world = World()
    entries = EntryList(world.queue, world.reconciler, world.clock)
    put_there = [put(world, f"{n}", START - offset) for n, offset in enumerate(offsets)]
    expected = sorted(put_there, key=lambda p: (p.accepted_at, p.order), reverse=True)
    query, found = ListQuery(limit), list[QueueEntry]()
    for _ in range(len(offsets) + 1):
        page, following = await entries.page(query)
        found += page
        if following is None:
            break
        query = replace(query, after=following)

    assert found == expected
