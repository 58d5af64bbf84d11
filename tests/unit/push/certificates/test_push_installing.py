"""What may be installed and removed, and what is refused because devices would be lost."""

import asyncio
from pathlib import Path

import pytest

from services.push.certificates.install import MOST_TOPICS
from shared.domain.errors import BadRequest, Conflict, NotFound
from shared.security.push_certificate import FRESH, CurrentTopic
from tests.support.harness.push_certificates import TOPIC
from tests.support.push_certificate_world import DAY, OTHER, Replica, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def replica(world: World) -> Replica:
    return Replica(world)


async def current(world: World, of_file: str | None = None) -> str | None:
    """What an enrollment profile names."""
    return await CurrentTopic(world.store, of_file, world.clock).current()


async def test_the_first_certificate_is_what_devices_enroll_under(
    world: World, replica: Replica
) -> None:
    assert await current(world) is None
    assert await replica.install(world.issue()) == []

    assert await current(world) == TOPIC
    assert replica.certificates.default == TOPIC


async def test_a_renewal_needs_no_word_however_many_are_enrolled(
    world: World, replica: Replica
) -> None:
    await replica.install(world.issue())
    world.enroll("MAC")

    assert await replica.install(world.issue()) == []


async def test_another_topic_is_refused_with_the_number_of_enrolled_devices(
    world: World, replica: Replica
) -> None:
    await replica.install(world.issue())
    for device in ("MAC", "PAD"):
        world.enroll(device)
    before = dict(world.store.stored)

    with pytest.raises(Conflict, match=rf"2 devices .*force_topic={OTHER}"):
        await replica.install(world.issue(OTHER))

    assert world.store.stored == before
    assert set(replica.certificates.topics) == {TOPIC}
    assert await current(world) == TOPIC


async def test_by_its_name_another_topic_stands_beside_the_first_and_is_current(
    world: World, replica: Replica
) -> None:
    await replica.install(world.issue())
    world.enroll("MAC")

    await replica.install(world.issue(OTHER), OTHER)

    assert set(replica.certificates.topics) == {TOPIC, OTHER}
    assert replica.certificates.default == OTHER
    assert await current(world) == OTHER


async def test_a_topic_that_is_no_devices_yet_needs_no_name(world: World, replica: Replica) -> None:
    await replica.install(world.issue())

    await replica.install(world.issue(OTHER))

    assert await current(world) == OTHER


async def test_the_topic_of_devices_that_have_no_certificate_is_welcome(
    world: World, replica: Replica
) -> None:
    world.enroll("MAC")

    await replica.install(world.issue())

    assert await current(world) == TOPIC


async def test_a_force_topic_that_is_not_the_certificates_is_refused(
    world: World, replica: Replica
) -> None:
    with pytest.raises(BadRequest, match="force_topic"):
        await replica.install(world.issue(), OTHER)

    assert world.store.stored == {}


async def test_renewing_the_other_topic_does_not_change_which_is_current(
    world: World, replica: Replica
) -> None:
    await replica.install(world.issue(OTHER))
    await replica.install(world.issue())

    await replica.install(world.issue(OTHER))

    assert await current(world) == TOPIC


async def test_by_its_name_the_first_topic_is_current_again(world: World, replica: Replica) -> None:
    first = world.issue()
    await replica.install(first)
    await replica.install(world.issue(OTHER))

    await replica.install(first, TOPIC)

    assert await current(world) == TOPIC


async def test_renewing_the_second_file_leaves_the_first_ones_topic_current(world: World) -> None:
    files = world.issue(), world.issue(OTHER)
    replica = Replica(world, *files)
    world.enroll("MAC")

    await replica.install(world.issue(OTHER))

    assert replica.certificates.default == TOPIC
    assert await current(world, TOPIC) == TOPIC


async def test_the_same_certificate_again_changes_nothing(world: World, replica: Replica) -> None:
    pair = world.issue()
    await replica.install(pair)
    before = dict(world.store.stored)

    await replica.install(pair)

    assert world.store.stored == before


async def test_a_renewal_that_was_never_proven_gives_way_and_what_it_was_to_replace_stays(
    world: World, replica: Replica
) -> None:
    old, wrong, right = world.issue(), world.issue(), world.issue()
    for pair in (old, wrong, right):
        await replica.install(pair)

    assert replica.certificates.ranked(TOPIC) == (right, old)


async def test_going_back_to_the_old_certificate_works(world: World, replica: Replica) -> None:
    old, new = world.issue(), world.issue()
    for pair in (old, new, old):
        await replica.install(pair)

    assert replica.certificates.ranked(TOPIC) == (old, new)


async def test_an_expired_certificate_is_not_kept_for_the_new_one(
    world: World, replica: Replica
) -> None:
    await replica.install(world.issue(ends=1))
    world.clock.advance(DAY)
    new = world.issue()

    await replica.install(new)

    assert replica.certificates.ranked(TOPIC) == (new,)


async def test_of_renewals_at_once_on_two_replicas_none_breaks_the_other(world: World) -> None:
    replicas = [Replica(world), Replica(world)]
    await replicas[0].install(world.issue())
    rivals = [world.issue(), world.issue()]

    await asyncio.gather(*(r.install(p) for r, p in zip(replicas, rivals, strict=True)))

    for replica in replicas:
        await replica.rotation.look()
    assert replicas[0].certificates.ranked(TOPIC) == replicas[1].certificates.ranked(TOPIC)
    assert replicas[0].certificates.ranked(TOPIC)[0] in rivals


async def test_who_installs_hears_of_an_early_end_and_of_devices_without_a_certificate(
    world: World, replica: Replica
) -> None:
    world.enroll("MAC", OTHER)

    warnings = await replica.install(world.issue(ends=59), TOPIC)

    assert len(warnings) == 2
    assert "59 days" in warnings[0]
    assert warnings[1].startswith("1 enrolled devices")


async def test_there_is_an_end_to_topics(world: World, replica: Replica) -> None:
    for number in range(MOST_TOPICS):
        await replica.install(world.issue(f"{TOPIC}{number}"))

    with pytest.raises(Conflict, match="remove one"):
        await replica.install(world.issue())
    await replica.install(world.issue(f"{TOPIC}0"))


async def test_a_topic_with_enrolled_devices_goes_only_by_its_name(
    world: World, replica: Replica
) -> None:
    await replica.install(world.issue())
    world.enroll("MAC")

    with pytest.raises(Conflict, match=rf"1 enrolled devices .*force_topic={TOPIC}"):
        await replica.installation.remove(TOPIC, None)
    kept = set(replica.certificates.topics)
    await replica.installation.remove(TOPIC, TOPIC)

    assert kept == {TOPIC}
    assert set(replica.certificates.topics) == set()
    assert await current(world) is None


async def test_where_a_file_serves_too_the_installed_one_goes_freely(world: World) -> None:
    file = world.issue()
    replica = Replica(world, file)
    await replica.install(world.issue())
    world.enroll("MAC")

    await replica.installation.remove(TOPIC, None)

    assert replica.certificates.ranked(TOPIC) == (file,)
    with pytest.raises(NotFound):
        await replica.installation.remove(TOPIC, None)


async def test_profiles_follow_within_seconds_without_a_read_for_each(
    world: World, replica: Replica
) -> None:
    reads: list[str] = []

    async def counted(operation: str) -> None:
        reads.append(operation)

    topics = CurrentTopic(world.store, "of a file", world.clock)
    world.store.before = counted
    named = [await topics.current() for _ in range(3)]
    first_reads = len(reads)
    await replica.install(world.issue())
    world.clock.advance(FRESH)

    assert named == ["of a file"] * 3
    assert first_reads == 1
    assert await topics.current() == TOPIC
