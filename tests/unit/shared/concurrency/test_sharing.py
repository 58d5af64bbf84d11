"""Promises of the division of partitions among replicas."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from shared.concurrency.partitions import STALE_AFTER, PartitionShare, assigned
from shared.domain.enrollment import PARTITIONS
from tests.support.fakes.journal import FakeMembers

NAMES = st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=8)
ALL = frozenset(range(PARTITIONS))


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def time_ns(self) -> int:
        return int(self.now().timestamp() * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, duration: timedelta) -> None:
        self.seconds += duration.total_seconds()


@given(NAMES)
def test_every_partition_has_exactly_one_member(names: set[str]) -> None:
    shares = [assigned(name, names) for name in names]

    assert frozenset().union(*shares) == ALL
    assert sum(map(len, shares)) == PARTITIONS


@given(NAMES)
def test_no_member_has_more_than_its_even_share(names: set[str]) -> None:
    assert max(len(assigned(name, names)) for name in names) <= -(-PARTITIONS // len(names))


@given(NAMES)
def test_the_order_in_which_members_are_listed_does_not_matter(names: set[str]) -> None:
    one = min(names)

    assert assigned(one, sorted(names)) == assigned(one, sorted(names, reverse=True))


def test_a_third_member_leaves_most_partitions_where_they_are() -> None:
    before = assigned("a", {"a", "b"})

    after = assigned("a", {"a", "b", "c"})

    assert len(after & before) >= len(after) - 3


async def test_two_members_that_see_each_other_divide_all_partitions() -> None:
    members, clock = FakeMembers(), FakeClock()
    a = PartitionShare(members, clock, "webhook", "a")
    b = PartitionShare(members, clock, "webhook", "b")

    for _ in range(2):
        await a.refresh()
        await b.refresh()
    of_a, of_b = await a.refresh(), await b.refresh()

    assert of_a | of_b == ALL
    assert not of_a & of_b


async def test_a_member_that_stands_still_is_left_out_after_a_while() -> None:
    members, clock = FakeMembers(), FakeClock()
    a = PartitionShare(members, clock, "webhook", "a")
    b = PartitionShare(members, clock, "webhook", "b")
    await a.refresh()
    await b.refresh()
    assert await a.refresh() != ALL

    await clock.sleep(STALE_AFTER - timedelta(seconds=1))
    still_shared = await a.refresh()
    await clock.sleep(timedelta(seconds=1))

    assert still_shared != ALL
    assert await a.refresh() == ALL


async def test_the_ghost_of_an_earlier_process_delays_nobody() -> None:
    members, clock = FakeMembers(), FakeClock()
    await members.raise_heartbeat("webhook", "killed")

    assert await PartitionShare(members, clock, "webhook", "new").refresh() == ALL


async def test_a_member_that_leaves_is_replaced_at_once() -> None:
    members, clock = FakeMembers(), FakeClock()
    a = PartitionShare(members, clock, "webhook", "a")
    b = PartitionShare(members, clock, "webhook", "b")
    await a.refresh()
    await b.refresh()
    await a.refresh()

    await b.leave()

    assert await a.refresh() == ALL


async def test_a_long_silent_member_is_forgotten_in_the_store() -> None:
    members, clock = FakeMembers(), FakeClock()
    a = PartitionShare(members, clock, "webhook", "a")
    await members.raise_heartbeat("webhook", "ghost")
    await a.refresh()

    await clock.sleep(timedelta(minutes=3))
    await a.refresh()

    assert set(await members.heartbeats("webhook")) == {"a"}


async def test_roles_are_divided_apart() -> None:
    members, clock = FakeMembers(), FakeClock()
    push = PartitionShare(members, clock, "push", "b")
    await push.refresh()
    await push.refresh()

    assert await PartitionShare(members, clock, "webhook", "a").refresh() == ALL
