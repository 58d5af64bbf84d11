"""The contract of `CommandQueue`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.command import Command, Place, PlaceState
from shared.domain.enrollment import EnrollmentKey
from shared.ports.queue import CommandQueue, HandOut, Report, StoredCommands
from tests.contract.stores import KEYRING, STORES, open_store
from tests.fakes.queue import FakeCommandQueue

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OTHER = "gen-2"
FINAL_REPORTS = [PlaceState.ACKNOWLEDGED, PlaceState.ERROR, PlaceState.FORMAT_ERROR]

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
ANNA = EnrollmentKey("MAC:anna", device="MAC", udid="MAC", user="anna")
PAD = EnrollmentKey("PAD", device="PAD", udid="PAD")


@dataclass
class Kept:
    """A queue, and what it keeps beside the places."""

    queue: CommandQueue
    commands: StoredCommands


@pytest.fixture(params=STORES)
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    if request.param == "fake":
        fake = FakeCommandQueue()
        yield Kept(fake, fake)
        return
    from shared.storage.queue import MongoCommandQueue
    from shared.storage.stored_commands import MongoStoredCommands

    async with open_store(request) as mongo:
        yield Kept(MongoCommandQueue(mongo, KEYRING), MongoStoredCommands(mongo))


@pytest.fixture
def queue(kept: Kept) -> CommandQueue:
    return kept.queue


def generation_of(device: str) -> str:
    """The generation of a device now; no two devices share one."""
    return f"gen-1-{device}"


def command(letter: str = "a") -> Command:
    plist = f"<plist>{letter}</plist>".encode()
    return Command(letter * 64, f"uuid-{letter}", "DeviceInformation", plist)


def place(uuid: str = "c1", key: EnrollmentKey = MAC, **changes: object) -> Place:
    made = Place(
        enrollment=key.id,
        device=key.device,
        command_uuid=uuid,
        command_hash="a" * 64,
        request_type="DeviceInformation",
        generation=generation_of(key.device),
        order=f"order-{uuid}",
        accepted_at=NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # any field of a Place


def report(state: PlaceState, of: Place, **changes: object) -> Report:
    made = Report(of.enrollment, of.command_uuid, of.generation, state, event_id="event-1")
    return replace(made, **changes)  # type: ignore[arg-type]  # any field of a Report


async def stored(queue: CommandQueue, of: Place) -> Place:
    """What is there under this place's name (inserting it again changes nothing)."""
    [there] = await queue.insert([of])
    assert there is not None
    return there


async def listed(pages: AsyncIterator[list[Place]]) -> list[Place]:
    return [place async for page in pages for place in page]


async def hand_out(queue: CommandQueue, of: Place, by: str = "connect-1") -> Place:
    assert await queue.hand_out([HandOut(of, of.generation)], by, NOW) == {of.id}
    return await stored(queue, of)


async def finished(queue: CommandQueue, state: PlaceState, of: Place | None = None) -> Place:
    """A place that has come to this final state."""
    of = of or place()
    await queue.insert([of])
    if state is PlaceState.CANCELLED:
        await queue.cancel_one(of.enrollment, of.command_uuid)
    elif state is PlaceState.DROPPED_REENROLLED:
        await queue.drop(of)
    else:
        await hand_out(queue, of)
        await queue.report([report(state, of)], NOW)
    there = await stored(queue, of)
    assert there.state is state
    return there


async def late_answer(queue: CommandQueue, of: Place) -> PlaceState | None:
    there = (await stored(queue, of)).late_answer
    return None if there is None else there.state


# --- stored commands


async def test_stored_commands_come_back_byte_for_byte(queue: CommandQueue) -> None:
    await queue.store([command("a"), command("b")], NOW)

    found = await queue.commands({command("a").hash, command("b").hash, "f" * 64})

    assert found == {c.hash: c for c in (command("a"), command("b"))}


async def test_storing_a_command_again_touches_it(kept: Kept) -> None:
    await kept.queue.store([command()], NOW)
    await kept.queue.store([command()], NOW + MINUTE)

    untouched = await kept.commands.untouched("", NOW + 2 * MINUTE)

    assert untouched == {command().hash: NOW + MINUTE}


async def test_a_touch_never_makes_a_command_older(kept: Kept) -> None:
    await kept.queue.store([command()], NOW)
    await kept.queue.store([command()], NOW - MINUTE)

    assert await kept.commands.untouched("", NOW + MINUTE) == {command().hash: NOW}


async def test_two_of_the_same_command_in_one_flush_are_stored_once(queue: CommandQueue) -> None:
    await queue.store([command(), command()], NOW)

    assert set(await queue.commands({command().hash})) == {command().hash}


async def test_untouched_takes_only_its_prefix_and_only_what_is_old(kept: Kept) -> None:
    await kept.queue.store([command("a"), command("b")], NOW)
    await kept.queue.store([replace(command("c"), hash="a" + "c" * 63)], NOW + MINUTE)

    assert await kept.commands.untouched("a", NOW + MINUTE) == {"a" * 64: NOW}
    assert set(await kept.commands.untouched("b", NOW + MINUTE)) == {"b" * 64}
    assert await kept.commands.untouched("aa", NOW) == {}


async def test_a_command_with_a_finished_place_is_in_use(kept: Kept) -> None:
    await finished(kept.queue, PlaceState.ACKNOWLEDGED, place("c1", command_hash="a" * 64))
    await kept.queue.insert([place("c2", command_hash="b" * 64)])

    in_use = await kept.commands.in_use({"a" * 64, "b" * 64, "c" * 64})

    assert in_use == {"a" * 64, "b" * 64}


async def test_rule_13_a_command_is_forgotten_only_if_nobody_touched_it(
    kept: Kept,
) -> None:
    await kept.queue.store([command("a"), command("b")], NOW)
    seen = await kept.commands.untouched("", NOW + MINUTE)
    await kept.queue.store([command("b")], NOW + MINUTE)

    forgotten = await kept.commands.forget(seen)

    assert forgotten == 1
    assert set(await kept.queue.commands({"a" * 64, "b" * 64})) == {"b" * 64}


# --- insert, stamp, requeue, drop


async def test_a_new_place_is_open_and_of_its_generation(queue: CommandQueue) -> None:
    new = place(priority=3)

    assert await queue.insert([new]) == [None]

    assert await queue.open_places(MAC) == [new]


async def test_a_place_without_a_generation_comes_back_as_it_was(queue: CommandQueue) -> None:
    new = place(generation=None)
    await queue.insert([new])

    assert await queue.open_places(MAC) == [new]


async def test_inserting_a_uuid_again_gives_the_place_that_is_there(queue: CommandQueue) -> None:
    first = place("c1", command_hash="a" * 64)
    await queue.insert([first])

    there = await queue.insert([place("c1", command_hash="b" * 64), place("c2")])

    assert there == [first, None]


async def test_of_two_equal_places_in_one_flush_the_first_is_new(queue: CommandQueue) -> None:
    first, second = place(order="order-1"), place(order="order-2")

    assert await queue.insert([first, second]) == [None, first]


async def test_one_uuid_may_stand_in_many_queues(queue: CommandQueue) -> None:
    places = [place("c1", key) for key in (MAC, ANNA, PAD)]

    assert await queue.insert(places) == [None, None, None]


async def test_ids_and_uuids_that_join_to_the_same_text_stay_apart(queue: CommandQueue) -> None:
    one = place("b:c", EnrollmentKey("a", device="a", udid="a"))
    other = place("c", EnrollmentKey("a:b", device="a", udid="a", user="b"))

    assert await queue.insert([one, other]) == [None, None]


async def test_an_open_place_can_be_stamped_anew(queue: CommandQueue) -> None:
    await queue.insert([place()])

    await queue.stamp(place(), OTHER)

    assert (await stored(queue, place())).generation == OTHER


@pytest.mark.parametrize("state", [PlaceState.CANCELLED, PlaceState.ACKNOWLEDGED])
async def test_a_final_place_is_not_stamped(queue: CommandQueue, state: PlaceState) -> None:
    before = await finished(queue, state)

    await queue.stamp(before, OTHER)

    assert await stored(queue, before) == before


@pytest.mark.parametrize(
    "state", [*FINAL_REPORTS, PlaceState.CANCELLED, PlaceState.DROPPED_REENROLLED]
)
async def test_a_final_place_can_be_queued_anew(queue: CommandQueue, state: PlaceState) -> None:
    before = await finished(queue, state)
    again = place(order="order-9", generation=OTHER, priority=2, accepted_at=NOW + MINUTE)

    assert await queue.requeue(again, before) is True

    assert await queue.open_places(MAC) == [again]


async def test_an_open_place_is_not_queued_anew(queue: CommandQueue) -> None:
    await queue.insert([place()])

    assert await queue.requeue(place(order="order-9"), place()) is False

    assert await queue.open_places(MAC) == [place()]


async def test_rule_05_only_one_of_two_queues_a_final_place_anew(queue: CommandQueue) -> None:
    before = await finished(queue, PlaceState.CANCELLED)

    outcomes = await asyncio.gather(
        queue.requeue(place(order="order-8"), before), queue.requeue(place(order="order-9"), before)
    )

    assert sorted(outcomes) == [False, True]


async def test_a_place_that_ended_again_meanwhile_is_not_queued_anew(queue: CommandQueue) -> None:
    before = await finished(queue, PlaceState.CANCELLED)
    await queue.requeue(place(order="order-8"), before)
    await queue.cancel_one("MAC", "c1")

    assert await queue.requeue(place(order="order-9"), before) is False


async def test_dropping_ends_an_open_place_of_the_generation_seen(queue: CommandQueue) -> None:
    await queue.insert([place()])

    dropped = await queue.drop(place())

    assert dropped is not None
    assert dropped.state is PlaceState.DROPPED_REENROLLED
    assert dropped.finished_at is not None
    assert await stored(queue, place()) == dropped


async def test_dropping_shows_a_place_that_was_stamped_anew_unchanged(queue: CommandQueue) -> None:
    await queue.insert([place()])
    await queue.stamp(place(), OTHER)

    there = await queue.drop(place())

    assert there == place(generation=OTHER)
    assert await queue.open_places(MAC) == [place(generation=OTHER)]


async def test_dropping_shows_a_final_place_unchanged(queue: CommandQueue) -> None:
    before = await finished(queue, PlaceState.ACKNOWLEDGED)

    assert await queue.drop(before) == before
    assert await stored(queue, before) == before


async def test_dropping_a_place_that_is_gone_shows_nothing(queue: CommandQueue) -> None:
    assert await queue.drop(place()) is None


async def test_a_place_without_a_generation_can_be_dropped(queue: CommandQueue) -> None:
    await queue.insert([place(generation=None)])

    dropped = await queue.drop(place(generation=None))

    assert dropped is not None
    assert dropped.state is PlaceState.DROPPED_REENROLLED


# --- reading and cancelling


async def test_open_places_are_in_order_of_priority_then_acceptance(queue: CommandQueue) -> None:
    await queue.insert(
        [
            place("late", order="order-3"),
            place("early", order="order-1"),
            place("urgent", order="order-9", priority=1),
            place("middle", order="order-2"),
            place("lazy", order="order-0", priority=10),
        ]
    )

    found = [p.command_uuid for p in await queue.open_places(MAC)]

    assert found == ["urgent", "early", "middle", "late", "lazy"]


async def test_open_places_are_of_any_generation_and_of_this_enrollment_only(
    queue: CommandQueue,
) -> None:
    mine = [place("c1"), place("c2", generation=OTHER), place("c3", generation=None)]
    await queue.insert([*mine, place("c4", ANNA), place("c5", PAD)])
    await finished(queue, PlaceState.ACKNOWLEDGED, place("c6"))

    found = await queue.open_places(MAC)

    assert found == mine


async def test_cancelling_ends_all_open_places_of_these_enrollments(queue: CommandQueue) -> None:
    done = await finished(queue, PlaceState.ACKNOWLEDGED, place("c1"))
    sent, queued, user = place("c2"), place("c3"), place("c4", ANNA)
    await queue.insert([sent, queued, user, place("c5", PAD)])
    await hand_out(queue, sent)

    assert await queue.cancel([MAC, ANNA]) == 3

    for ended in (sent, queued, user):
        there = await stored(queue, ended)
        assert there.state is PlaceState.CANCELLED
        assert there.finished_at is not None
    assert await stored(queue, done) == done
    assert await queue.open_places(PAD) == [place("c5", PAD)]


async def test_cancelling_again_ends_nothing(queue: CommandQueue) -> None:
    await finished(queue, PlaceState.CANCELLED)

    assert await queue.cancel([MAC]) == 0


async def test_one_command_can_be_cancelled(queue: CommandQueue) -> None:
    await queue.insert([place("c1"), place("c2"), place("c1", PAD)])

    assert await queue.cancel_one("MAC", "c1") is True

    assert (await stored(queue, place("c1"))).state is PlaceState.CANCELLED
    assert await queue.open_places(MAC) == [place("c2")]
    assert await queue.open_places(PAD) == [place("c1", PAD)]


async def test_a_command_that_is_final_or_unknown_is_not_cancelled(queue: CommandQueue) -> None:
    done = await finished(queue, PlaceState.ACKNOWLEDGED)

    assert await queue.cancel_one("MAC", "c1") is False
    assert await queue.cancel_one("MAC", "unknown") is False
    assert await stored(queue, done) == done


async def test_cancelling_one_of_another_order_changes_nothing(queue: CommandQueue) -> None:
    await queue.insert([place("c1")])

    assert await queue.cancel_one("MAC", "c1", "order-before") is False
    assert await queue.open_places(MAC) == [place("c1")]
    assert await queue.cancel_one("MAC", "c1", "order-c1") is True


async def test_has_due_names_enrollments_with_an_open_place(queue: CommandQueue) -> None:
    await finished(queue, PlaceState.ACKNOWLEDGED, place("c1", MAC))
    await queue.insert([place("c2", ANNA)])
    rested = place("c3", PAD)
    await queue.insert([rested])
    await hand_out(queue, rested)
    await queue.report([report(PlaceState.NOT_NOW, rested)], NOW)

    assert await queue.has_due([MAC, ANNA, PAD], NOW) == {"MAC:anna", "PAD"}


async def test_accepted_between_takes_open_places_of_a_closed_window(queue: CommandQueue) -> None:
    times = {"c1": NOW - MINUTE, "c2": NOW, "c3": NOW + MINUTE, "c4": NOW + 2 * MINUTE}
    await queue.insert([place(uuid, accepted_at=at) for uuid, at in times.items()])
    await finished(queue, PlaceState.CANCELLED, place("c5", accepted_at=NOW))

    found = await listed(queue.accepted_between(NOW, NOW + MINUTE))

    assert {p.command_uuid for p in found} == {"c2", "c3"}


# --- handing out


async def test_handing_out_marks_the_place(queue: CommandQueue) -> None:
    await queue.insert([place()])

    handed = await hand_out(queue, place(), by="connect-7")

    assert handed == place(
        state=PlaceState.SENT,
        handed_by="connect-7",
        handed_at=NOW,
        first_handed_at=NOW,
        attempts=1,
    )


async def test_a_place_is_handed_out_again_until_it_is_final(queue: CommandQueue) -> None:
    await queue.insert([place()])
    await hand_out(queue, place(), by="connect-1")

    again = await hand_out(queue, place(), by="connect-2")

    assert again == place(
        state=PlaceState.SENT,
        handed_by="connect-2",
        handed_at=NOW,
        first_handed_at=NOW,
        attempts=2,
    )


async def test_a_rested_place_is_handed_out_again(queue: CommandQueue) -> None:
    await queue.insert([place()])
    await hand_out(queue, place())
    await queue.report([report(PlaceState.NOT_NOW, place())], NOW)

    again = await hand_out(queue, place(), by="connect-2")

    assert again.state is PlaceState.SENT


@pytest.mark.parametrize("state", [PlaceState.CANCELLED, PlaceState.ACKNOWLEDGED])
async def test_a_final_place_is_not_handed_out(queue: CommandQueue, state: PlaceState) -> None:
    done = await finished(queue, state)

    handed = await queue.hand_out([HandOut(done, done.generation)], "connect-2", NOW)

    assert handed == set()
    assert await stored(queue, done) == done


async def test_a_place_of_another_generation_is_not_handed_out(queue: CommandQueue) -> None:
    await queue.insert([place()])

    handed = await queue.hand_out([HandOut(place(), OTHER)], "connect-1", NOW)

    assert handed == set()
    assert await queue.open_places(MAC) == [place()]


async def test_a_place_from_before_the_device_was_known_goes_to_any_generation(
    queue: CommandQueue,
) -> None:
    nameless = place(generation=None)
    await queue.insert([nameless])

    assert await queue.hand_out([HandOut(nameless, OTHER)], "connect-1", NOW) == {nameless.id}


async def test_rule_03_a_bulk_hand_out_tells_which_places_it_got(queue: CommandQueue) -> None:
    mine, stale, cancelled = place("c1"), place("c2", PAD), place("c3", ANNA)
    await queue.insert([mine, stale, cancelled])
    await queue.cancel([ANNA])

    handed = await queue.hand_out(
        [
            HandOut(mine, mine.generation),
            HandOut(stale, OTHER),
            HandOut(cancelled, cancelled.generation),
        ],
        "connect-1",
        NOW,
    )

    assert handed == {mine.id}


async def test_two_hand_outs_at_once_leave_one_name_on_the_place(queue: CommandQueue) -> None:
    await queue.insert([place()])

    first, second = await asyncio.gather(
        queue.hand_out([HandOut(place(), place().generation)], "connect-1", NOW),
        queue.hand_out([HandOut(place(), place().generation)], "connect-2", NOW),
    )

    name = (await stored(queue, place())).handed_by
    assert name in {"connect-1", "connect-2"}
    assert place().id in (first if name == "connect-1" else second)


async def test_rule_03_a_cancel_beside_a_hand_out_wins_or_loses_never_both(
    queue: CommandQueue,
) -> None:
    places = [place(f"c{n}") for n in range(20)]
    await queue.insert(places)

    async with asyncio.TaskGroup() as beside:
        handing = beside.create_task(
            queue.hand_out([HandOut(p, p.generation) for p in places], "connect-1", NOW)
        )
        cancels = [beside.create_task(queue.cancel_one("MAC", p.command_uuid)) for p in places[::2]]
    handed = handing.result()

    # A cancel may come after the hand-out; but what it ended first was not handed out.
    assert all(cancel.result() for cancel in cancels)
    for p in places:
        there = await stored(queue, p)
        if there.handed_by is None:
            assert p.id not in handed


async def test_open_of_devices_has_all_channels_in_queue_order(queue: CommandQueue) -> None:
    mac = [
        place("c3", ANNA, priority=1),
        place("c1", MAC, order="order-1"),
        place("c2", ANNA, order="order-2"),
        place("c4", MAC, order="order-4", generation=OTHER),
    ]
    await queue.insert([mac[2], mac[0], place("c5", PAD), mac[3], mac[1]])
    await finished(queue, PlaceState.CANCELLED, place("c6", order="order-0"))

    found = await queue.open_of_devices({"MAC", "PAD", "NOBODY"})

    assert found["MAC"] == mac
    assert found["PAD"] == [place("c5", PAD)]
    assert not found.get("NOBODY")


async def test_what_open_of_devices_gives_can_be_handed_out(queue: CommandQueue) -> None:
    await queue.insert([place()])
    [found] = (await queue.open_of_devices({"MAC"}))["MAC"]

    assert await queue.hand_out([HandOut(found, found.generation)], "connect-1", NOW) == {
        place().id
    }


# --- reports


@pytest.mark.parametrize("state", FINAL_REPORTS)
async def test_a_report_closes_the_place(queue: CommandQueue, state: PlaceState) -> None:
    await queue.insert([place()])
    await hand_out(queue, place())

    await queue.report([report(state, place())], NOW + MINUTE)

    there = await stored(queue, place())
    assert there.state is state
    assert there.finished_at == NOW + MINUTE
    assert await queue.open_places(MAC) == []


async def test_not_now_rests_the_place_and_keeps_it_open(queue: CommandQueue) -> None:
    await queue.insert([place()])
    await hand_out(queue, place())

    closed = await queue.report([report(PlaceState.NOT_NOW, place())], NOW)

    assert closed == 0

    [rested] = await queue.open_places(MAC)
    assert rested.state is PlaceState.NOT_NOW
    assert rested.finished_at is None


async def test_a_rested_place_is_closed_by_a_later_answer(queue: CommandQueue) -> None:
    await queue.insert([place()])
    await hand_out(queue, place())
    await queue.report([report(PlaceState.NOT_NOW, place())], NOW)

    await queue.report([report(PlaceState.ACKNOWLEDGED, place())], NOW)

    assert (await stored(queue, place())).state is PlaceState.ACKNOWLEDGED


async def test_a_report_of_another_generation_changes_nothing(queue: CommandQueue) -> None:
    await queue.insert([place()])
    before = await hand_out(queue, place())

    await queue.report([report(PlaceState.ACKNOWLEDGED, place(), generation=OTHER)], NOW)

    assert await stored(queue, place()) == before


async def test_a_report_closes_a_place_from_before_the_device_was_known(
    queue: CommandQueue,
) -> None:
    nameless = place(generation=None)
    await queue.insert([nameless])
    await queue.hand_out([HandOut(nameless, OTHER)], "connect-1", NOW)

    await queue.report([report(PlaceState.ACKNOWLEDGED, nameless, generation=OTHER)], NOW)

    assert (await stored(queue, nameless)).state is PlaceState.ACKNOWLEDGED


async def test_a_report_of_a_place_that_was_never_handed_out_changes_nothing(
    queue: CommandQueue,
) -> None:
    await queue.insert([place()])

    await queue.report([report(PlaceState.ACKNOWLEDGED, place())], NOW)

    assert await queue.open_places(MAC) == [place()]


async def test_rule_05_a_late_report_does_not_close_a_place_that_was_queued_anew(
    queue: CommandQueue,
) -> None:
    before = await finished(queue, PlaceState.ACKNOWLEDGED)
    again = place(order="order-9")
    await queue.requeue(again, before)

    await queue.report([report(PlaceState.ACKNOWLEDGED, place())], NOW)

    assert await queue.open_places(MAC) == [again]


@pytest.mark.parametrize("first", [PlaceState.CANCELLED, PlaceState.ACKNOWLEDGED])
async def test_rule_05_a_final_state_is_written_once(
    queue: CommandQueue, first: PlaceState
) -> None:
    done = await finished(queue, first)

    await queue.report([report(PlaceState.ERROR, place())], NOW + MINUTE)
    await queue.report([report(PlaceState.NOT_NOW, place())], NOW + MINUTE)

    there = await stored(queue, place())
    assert replace(there, late_answer=None) == done


async def test_a_report_of_an_unknown_command_makes_no_place(queue: CommandQueue) -> None:
    await queue.report([report(PlaceState.ACKNOWLEDGED, place())], NOW)

    assert await queue.insert([place()]) == [None]


async def test_reports_in_bulk_are_each_on_their_own_condition(queue: CommandQueue) -> None:
    handed, waiting, gone = place("c1"), place("c2", PAD), place("c3", ANNA)
    await queue.insert([handed, waiting, gone])
    await hand_out(queue, handed)
    await queue.cancel([ANNA])

    closed = await queue.report(
        [report(PlaceState.ACKNOWLEDGED, p) for p in (waiting, gone, handed)], NOW
    )

    assert closed == 1
    assert (await stored(queue, handed)).state is PlaceState.ACKNOWLEDGED
    assert (await stored(queue, waiting)).state is PlaceState.QUEUED
    assert (await stored(queue, gone)).state is PlaceState.CANCELLED


async def test_a_repeated_report_changes_nothing(queue: CommandQueue) -> None:
    done = await finished(queue, PlaceState.ACKNOWLEDGED)

    await queue.report([report(PlaceState.ACKNOWLEDGED, done)], NOW + MINUTE)

    assert await stored(queue, done) == done


async def test_rule_05_a_report_that_finds_another_final_state_is_kept(kept: Kept) -> None:
    cancelled = await finished(kept.queue, PlaceState.CANCELLED)

    await kept.queue.report([report(PlaceState.ACKNOWLEDGED, cancelled)], NOW)

    assert await late_answer(kept.queue, cancelled) is PlaceState.ACKNOWLEDGED


async def test_a_report_that_comes_twice_is_not_kept_as_a_late_answer(kept: Kept) -> None:
    done = await finished(kept.queue, PlaceState.ACKNOWLEDGED)

    await kept.queue.report([report(PlaceState.ACKNOWLEDGED, done, event_id="event-2")], NOW)

    assert await late_answer(kept.queue, done) is None


async def test_a_report_on_an_open_place_that_it_may_not_close_is_not_kept(kept: Kept) -> None:
    waiting, handed = place("c1"), place("c2", PAD)
    await kept.queue.insert([waiting, handed])
    await hand_out(kept.queue, handed)

    await kept.queue.report(
        [
            report(PlaceState.ACKNOWLEDGED, waiting),
            report(PlaceState.ACKNOWLEDGED, handed, generation=OTHER),
        ],
        NOW,
    )

    assert await late_answer(kept.queue, waiting) is None
    assert await late_answer(kept.queue, handed) is None


async def test_beside_a_late_report_those_in_time_are_not_kept_as_late(kept: Kept) -> None:
    cancelled = await finished(kept.queue, PlaceState.CANCELLED, place("c1"))
    handed = place("c2", PAD)
    await kept.queue.insert([handed])
    await hand_out(kept.queue, handed)

    await kept.queue.report([report(PlaceState.ERROR, p) for p in (cancelled, handed)], NOW)

    assert await late_answer(kept.queue, cancelled) is PlaceState.ERROR
    assert await late_answer(kept.queue, handed) is None


async def test_a_place_that_is_queued_anew_has_no_late_answer(kept: Kept) -> None:
    cancelled = await finished(kept.queue, PlaceState.CANCELLED)
    await kept.queue.report([report(PlaceState.ACKNOWLEDGED, cancelled)], NOW)

    await kept.queue.requeue(place(order="order-9"), cancelled)

    assert await late_answer(kept.queue, cancelled) is None


# --- generations


async def test_ending_a_generation_drops_its_open_places_of_all_channels(
    queue: CommandQueue,
) -> None:
    old, user, rested = place("c1"), place("c2", ANNA), place("c3")
    from_before = place("c5", generation=None)
    newer, elsewhere = place("c4", generation=OTHER), place("c6", PAD)
    await queue.insert([old, user, rested, newer, from_before, elsewhere])
    await hand_out(queue, rested)
    await queue.report([report(PlaceState.NOT_NOW, rested)], NOW)
    done = await finished(queue, PlaceState.ACKNOWLEDGED, place("c7"))

    assert await queue.end_generation("MAC", generation_of("MAC")) == 4

    for ended in (old, user, rested, from_before):
        there = await stored(queue, ended)
        assert there.state is PlaceState.DROPPED_REENROLLED
        assert there.finished_at is not None
    assert await queue.open_places(MAC) == [newer]
    assert await queue.open_places(PAD) == [elsewhere]
    assert await stored(queue, done) == done
