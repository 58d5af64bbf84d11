"""A device that installs its enrollment profile again goes on with its enrollment (rules 1, 4 and 16)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from services.checkin.answers import Answer
from services.checkin.authorization.certificate_policy import BindingRules
from services.checkin.exchange import DeviceExchange
from shared.apple.messages.checkin import (
    Authenticate,
    GetBootstrapToken,
    SetBootstrapToken,
    TokenUpdate,
)
from shared.apple.messages.connect import Status
from shared.domain.command import EntryState
from shared.domain.enrollment import EnrollmentStatus, Inventory
from shared.domain.errors import Blocked, Overtaken
from shared.domain.event import Topic
from shared.domain.identity import BoundBy
from tests.support.checkin_world import Barrier, Device, Killed, Replica, Step, World
from tests.unit.checkin.authorization.test_bindings import issue, record, refused

INSTALL, WAITING, OF_ANNA = "install", "waiting", "of-anna"
NEXT = Device(certificate="next")
ANNA = NEXT.user("anna")

FIRST: dict[str, Callable[[Device], DeviceExchange]] = {
    "Authenticate": Device.authenticate,
    "TokenUpdate": Device.token_update,
    "TokenUpdate of a user": lambda device: device.token_update(ANNA),
    "Idle": Device.idle,
    "Idle of a user": lambda device: device.idle(ANNA),
    "NotNow": lambda device: device.reports(Status.NOT_NOW, INSTALL),
    "Acknowledged": lambda device: device.reports(Status.ACKNOWLEDGED, INSTALL),
    "GetBootstrapToken": lambda device: device.says(GetBootstrapToken(device.key)),
    "SetBootstrapToken": lambda device: device.says(SetBootstrapToken(device.key, b"boot")),
}


def with_secrets(device: Device) -> DeviceExchange:
    return device.says(TokenUpdate(device.key, "topic", b"t", "magic", unlock_token=b"unlock"))


async def renewing(certificate: str = "next", **facts: str | None) -> tuple[World, Replica, Device]:
    """A device with all that an enrollment may have: a user, tokens, commands of which one was sent.
    Our SCEP has given out `certificate` in place of its own."""
    world = World()
    replica = await world.replica()
    device = Device(certificate="old")
    await device.enroll(replica)
    for request in (
        with_secrets(device),
        device.token_update(device.user("anna")),
        device.says(SetBootstrapToken(device.key, b"boot")),
    ):
        assert await replica.serve(request) == [Answer()]
    await world.enqueue(device.key, INSTALL)
    assert await replica.serve(device.idle()) == [Answer(b"plist-install")]
    await world.enqueue(device.key, WAITING)
    await world.enqueue(device.user("anna"), OF_ANNA)
    issue(world, certificate, renewed_from="old", **facts)
    return world, replica, device


def states(world: World) -> dict[str, EntryState]:
    return {entry.command_uuid: entry.state for entry in world.queue.entries.values()}


def is_dropped(world: World) -> bool:
    return EntryState.DROPPED_REENROLLED in states(world).values()


def is_kept(world: World, generation: str | None) -> bool:
    """Whether the device has all that it had."""
    there, anna = record(world), record(world, "MAC:anna")
    tokens = (there.bootstrap_token, world.enrollments.unlock_tokens.get("MAC"))
    return (
        there.generation == generation
        and there.status is EnrollmentStatus.ENROLLED
        and there.push is not None
        and there.token_updated_at is not None
        and tokens == (b"boot", b"unlock")
        and (anna.status, anna.generation) == (EnrollmentStatus.ENROLLED, generation)
        and anna.push is not None
        and not is_dropped(world)
    )


def is_new(world: World, generation: str | None) -> bool:
    """Whether nothing is left of the enrollment that was."""
    there = record(world)
    is_open = any(entry.state.is_open for entry in world.queue.entries.values())
    tokens = (there.bootstrap_token, world.enrollments.unlock_tokens.get("MAC"))
    return there.generation != generation and tokens == (None, None) and not is_open


async def serves(replica: Replica, *requests: DeviceExchange) -> None:
    for request in requests:
        [answer] = await replica.serve(request)
        assert isinstance(answer, Answer), answer


async def held(
    replica: Replica, step: Step, request: DeviceExchange
) -> tuple[Barrier, asyncio.Task]:  # type: ignore[type-arg]
    """A request that is held at a step."""
    barrier = replica.hold(step)
    task = asyncio.create_task(replica.serve(request))
    await barrier.reached.wait()
    return barrier, task


# --- what stays


@pytest.mark.parametrize("says", FIRST.values(), ids=FIRST)
async def test_rule_16_whichever_message_binds_first_the_authenticate_renews(
    says: Callable[[Device], DeviceExchange],
) -> None:
    world, replica, _ = await renewing()
    generation = record(world).generation

    await serves(replica, says(NEXT), NEXT.authenticate())
    assert is_kept(world, generation)
    await serves(replica, NEXT.token_update(), NEXT.reports(Status.ACKNOWLEDGED, INSTALL))

    assert is_kept(world, generation)
    assert states(world)[INSTALL] is EntryState.ACKNOWLEDGED
    identity = record(world).identity
    assert identity is not None and identity.how is BoundBy.RENEWAL
    assert record(world).retired_certificates == ("old",)


@pytest.mark.parametrize("facts", [{}, {"udid": "MAC"}], ids=["RenewalReq", "our challenge"])
@pytest.mark.parametrize("mode", [False, True], ids=["open", "bound"])
async def test_rule_04_an_authenticate_of_a_renewal_forgets_nothing(
    mode: bool, facts: dict[str, str]
) -> None:
    world, _, _ = await renewing(**facts)
    world.rules = BindingRules(only_meant=mode)
    replica = await world.replica()
    generation = record(world).generation
    tells = Inventory(serial_number="S-MAC", os_version="27.0")

    await serves(replica, NEXT.says(Authenticate(NEXT.key, "", tells)))

    assert is_kept(world, generation)
    assert record(world).inventory == tells
    event = list(world.journal.events.values())[-1]
    assert (event.topic, event.raw_payload) == (Topic.AUTHENTICATE, b"<plist/>")
    await serves(replica, NEXT.token_update(token=b"new"))
    push = record(world).push
    assert is_kept(world, generation)
    assert push is not None and push.token == b"new"
    assert await replica.serve(NEXT.reports(Status.ACKNOWLEDGED, INSTALL)) == [
        Answer(b"plist-waiting")
    ]


async def test_a_block_outlives_a_renewal() -> None:
    world, replica, _ = await renewing()
    generation = record(world).generation
    await world.enrollments.block("MAC", True)

    await serves(replica, NEXT.authenticate(), NEXT.token_update())

    [answer] = await replica.serve(NEXT.idle())
    assert isinstance(answer, Blocked)
    assert is_kept(world, generation)


async def test_a_device_that_came_by_migration_is_renewed_likewise() -> None:
    world, replica, device = await renewing()
    there = record(world)
    assert there.identity is not None
    migrated = replace(there, identity=replace(there.identity, how=BoundBy.MIGRATION))
    world.enrollments.add(migrated)

    await serves(replica, NEXT.authenticate(), NEXT.token_update())

    assert is_kept(world, migrated.generation)
    assert refused(await replica.serve(device.idle()))


async def test_a_second_renewal_is_one_as_well() -> None:
    world, replica, _ = await renewing()
    issue(world, "after-next", renewed_from="next")
    generation = record(world).generation
    for certificate in ("next", "after-next"):
        device = Device(certificate=certificate)
        await serves(replica, device.authenticate(), device.authenticate(), device.token_update())

    assert is_kept(world, generation)


# --- kills, repetitions, and what is late


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("says", ["authenticate", "token_update"])
@pytest.mark.parametrize("is_bound", [False, True], ids=["unbound", "bound"])
async def test_rule_16_a_kill_between_any_two_steps_of_its_authenticate_forgets_nothing(
    is_bound: bool, says: str, step: Step
) -> None:
    world, first, _ = await renewing()
    second = await world.replica()
    generation = record(world).generation
    if is_bound:
        await serves(first, NEXT.idle(ANNA))
    if says == "token_update":
        await serves(first, NEXT.authenticate())
    first.kill(step)
    with pytest.raises(Killed):
        await first.serve(getattr(NEXT, says)())

    await serves(second, getattr(NEXT, says)())
    assert is_kept(world, generation)
    await serves(second, NEXT.token_update(), NEXT.reports(Status.ACKNOWLEDGED, INSTALL))

    assert is_kept(world, generation)
    assert states(world)[INSTALL] is EntryState.ACKNOWLEDGED
    await NEXT.enroll(second)
    assert is_new(world, generation)


@pytest.mark.parametrize("first", ["Authenticate", "TokenUpdate", "Idle of a user"])
async def test_rule_16_a_repeated_authenticate_renews_until_a_token_update_follows(
    first: str,
) -> None:
    world, replica, _ = await renewing()
    generation = record(world).generation
    await serves(replica, FIRST[first](NEXT))
    for _ in range(3):
        await serves(replica, NEXT.authenticate(), NEXT.token_update(ANNA))
        assert is_kept(world, generation)
    assert record(world, "MAC:anna").renewed is None

    await serves(replica, NEXT.token_update())
    assert is_kept(world, generation)
    await serves(replica, NEXT.authenticate())

    assert is_new(world, generation)
    assert record(world).status is EnrollmentStatus.AUTHENTICATED
    assert record(world, "MAC:anna").status is EnrollmentStatus.CHECKED_OUT
    again = record(world).generation
    await serves(replica, NEXT.token_update())
    await world.enqueue(NEXT.key, "later")
    await serves(replica, NEXT.authenticate())
    assert is_new(world, again)


async def test_rule_16_two_replicas_that_get_its_authenticate_at_once_forget_nothing() -> None:
    world, first, _ = await renewing()
    second = await world.replica()
    generation = record(world).generation

    answers = await asyncio.gather(
        first.serve(NEXT.authenticate()), second.serve(NEXT.authenticate())
    )
    assert [Answer()] in answers
    await serves(second, NEXT.authenticate(), NEXT.token_update())

    assert is_kept(world, generation)


@pytest.mark.parametrize("certificate", ["old", "next"])
@pytest.mark.parametrize("step", [Step.AUTHORIZED, Step.JOURNALED])
async def test_rule_16_a_late_token_update_of_before_does_not_end_the_renewal(
    step: Step, certificate: str
) -> None:
    world, first, _ = await renewing()
    second = await world.replica()
    generation = record(world).generation
    before = Device(certificate=certificate).token_update(token=b"before")
    barrier, late = await held(first, step, before)
    await serves(second, NEXT.authenticate())

    barrier.released.set()
    [overtaken] = await late

    assert isinstance(overtaken, Overtaken)
    await serves(second, NEXT.authenticate(), NEXT.token_update())
    assert is_kept(world, generation)


async def test_a_late_token_update_does_not_end_the_renewal_that_came_after_it() -> None:
    world, first, _ = await renewing()
    second = await world.replica()
    issue(world, "after-next", renewed_from="next")
    generation = record(world).generation
    await serves(second, NEXT.authenticate())
    barrier, late = await held(first, Step.JOURNALED, NEXT.token_update())
    after = Device(certificate="after-next")
    await serves(second, after.idle())

    barrier.released.set()
    await late
    await serves(second, after.authenticate(), after.authenticate(), after.token_update())

    assert is_kept(world, generation)


@pytest.mark.parametrize("step", [Step.AUTHORIZED, Step.JOURNALED])
async def test_rule_01_a_check_out_that_was_given_up_does_not_end_a_renewed_enrollment(
    step: Step,
) -> None:
    world, first, device = await renewing()
    second = await world.replica()
    generation = record(world).generation
    barrier, late = await held(first, step, device.check_out())
    await serves(second, NEXT.authenticate(), NEXT.token_update())

    barrier.released.set()
    [overtaken] = await late

    assert isinstance(overtaken, Overtaken)
    assert is_kept(world, generation)


@pytest.mark.parametrize("step", [Step.AUTHORIZED, Step.JOURNALED])
@pytest.mark.parametrize("is_given_up", [False, True])
async def test_rule_01_a_check_out_beside_another_message_counts_if_its_device_waits_for_it(
    step: Step, is_given_up: bool
) -> None:
    world, first, device = await renewing()
    second = await world.replica()
    barrier, late = await held(first, step, device.check_out())
    await serves(second, device.says(SetBootstrapToken(device.key, b"later")))

    device.is_connected = not is_given_up
    barrier.released.set()
    [outcome] = await late

    there = EnrollmentStatus.ENROLLED if is_given_up else EnrollmentStatus.CHECKED_OUT
    assert isinstance(outcome, Overtaken) if is_given_up else outcome == Answer()
    assert record(world).status is there


@pytest.mark.parametrize("step", [Step.AUTHORIZED, Step.JOURNALED])
async def test_rule_01_a_check_out_that_was_given_up_does_not_end_what_authenticated_again(
    step: Step,
) -> None:
    world, first, _ = await renewing()
    second = await world.replica()
    generation = record(world).generation
    await serves(second, NEXT.authenticate())
    leaving = Device(certificate="next")
    barrier, late = await held(first, step, leaving.check_out())
    await serves(second, NEXT.authenticate(), NEXT.token_update())

    leaving.is_connected = False
    barrier.released.set()
    [overtaken] = await late

    assert isinstance(overtaken, Overtaken)
    assert is_kept(world, generation)


@pytest.mark.parametrize("step", [Step.AUTHORIZED, Step.JOURNALED])
async def test_rule_01_an_authenticate_that_was_given_up_does_not_undo_a_renewal(
    step: Step,
) -> None:
    """It found the device removed, and would begin a new enrollment; then the device spoke, and renewed."""
    world, first, _ = await renewing()
    second = await world.replica()
    await serves(second, NEXT.idle())
    await world.enrollments.remove(["MAC"], "removal")
    barrier, late = await held(first, step, NEXT.authenticate())
    await serves(second, NEXT.idle(), NEXT.authenticate(), NEXT.token_update())
    there = record(world)

    barrier.released.set()
    [overtaken] = await late

    assert isinstance(overtaken, Overtaken)
    assert record(world) == there


# --- what is a new enrollment all the same


@pytest.mark.parametrize("certificate", ["old", "wiped", "of-another", "after-next"])
async def test_a_certificate_that_does_not_follow_the_bound_one_begins_anew(
    certificate: str,
) -> None:
    world, replica, _ = await renewing()
    issue(world, "of-another", renewed_from="another")
    issue(world, "after-next", renewed_from="next")
    generation = record(world).generation

    await serves(replica, Device(certificate=certificate).authenticate())

    assert is_new(world, generation)


async def test_what_an_administrator_bound_is_no_renewal() -> None:
    world, replica, _ = await renewing()
    generation = record(world).generation
    await serves(replica, NEXT.idle())
    there = record(world)
    assert there.identity is not None
    by_hand = replace(there.identity, how=BoundBy.ADMINISTRATOR)
    world.enrollments.add(replace(there, identity=by_hand))

    await serves(replica, NEXT.authenticate())

    assert is_new(world, generation)


async def test_after_a_reset_what_follows_begins_anew() -> None:
    world, replica, _ = await renewing()
    generation = record(world).generation
    await world.identities.reset("MAC", "old")

    await serves(replica, NEXT.authenticate())

    assert is_new(world, generation)


@pytest.mark.parametrize("way", ["check out", "removal"])
@pytest.mark.parametrize("step", [None, *Step])
async def test_rule_16_a_device_that_left_begins_anew_with_what_follows_its_certificate(
    step: Step | None, way: str
) -> None:
    world, first, device = await renewing()
    second = await world.replica()
    generation = record(world).generation
    if way == "removal":
        await world.enrollments.remove(["MAC"], "removal")
    else:
        await serves(first, device.check_out())
    if step is not None:
        first.kill(step)
        with pytest.raises(Killed):
            await first.serve(NEXT.authenticate())

    await serves(second, NEXT.authenticate(), NEXT.token_update())

    again = record(world).generation
    assert again != generation
    assert record(world).bootstrap_token is None
    await serves(second, NEXT.authenticate())
    assert record(world).generation != again


async def test_a_removed_device_begins_anew_though_its_first_authenticate_was_cut_short() -> None:
    world, first, _ = await renewing()
    second = await world.replica()
    generation = record(world).generation
    await serves(first, NEXT.idle())
    await world.enrollments.remove(["MAC"], "removal")
    undisturbed = world.enrollments.before

    async def die(operation: str) -> None:
        if operation == "apply":
            raise Killed

    world.enrollments.before = die
    with pytest.raises(Killed):
        await first.serve(NEXT.authenticate())
    world.enrollments.before = undisturbed

    await serves(second, NEXT.authenticate())

    assert is_new(world, generation)


async def test_a_device_that_checked_out_and_asked_first_begins_anew_each_time() -> None:
    world, replica, device = await renewing()
    generation = record(world).generation
    await serves(replica, device.check_out(), NEXT.idle(), NEXT.authenticate())
    again = record(world).generation
    assert is_new(world, generation)

    await serves(replica, NEXT.token_update(), NEXT.authenticate())

    assert is_new(world, again)


async def test_a_record_of_an_earlier_version_is_renewed_likewise() -> None:
    """It says by what its certificate was bound, and nothing of an Authenticate since."""
    world, replica, _ = await renewing()
    await serves(replica, NEXT.idle())
    there = record(world)
    assert (there.renewing, there.renewed) == (None, None)

    await serves(replica, NEXT.authenticate())

    assert is_kept(world, there.generation)


async def test_a_certificate_of_an_earlier_version_without_an_origin_begins_anew() -> None:
    world, replica, device = await renewing()
    there = record(world)
    world.enrollments.add(replace(there, identity=None))

    await serves(replica, device.authenticate())

    assert is_new(world, there.generation)
