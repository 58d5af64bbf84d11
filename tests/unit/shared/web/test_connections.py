"""Which connection gives way when a listener has too many."""

import pytest

from shared.web.server.connections import Connections


class Client:
    def __init__(self, crowd: Connections, address: str) -> None:
        self._crowd = crowd
        self._address = address
        self.waits_for_client = True
        self.has_given_way = False

    def give_way(self) -> None:
        self.has_given_way = True
        self._crowd.leave(self, self._address)
        self._crowd.leave_handshake(self, self._address)


class Crowd:
    """A listener that holds eight connections."""

    def __init__(self) -> None:
        self._connections = Connections(8)

    def enter(self, address: str, count: int) -> list[Client]:
        made = [Client(self._connections, address) for _ in range(count)]
        for each in made:
            self._connections.enter(each, address)
        return made

    def shake(self, address: str, count: int) -> list[Client]:
        made = [Client(self._connections, address) for _ in range(count)]
        for each in made:
            self._connections.enter_handshake(each, address)
        return made


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


def gone(clients: list[Client]) -> list[bool]:
    return [each.has_given_way for each in clients]


def test_while_there_is_room_none_gives_way(crowd: Crowd):
    assert not any(gone(crowd.enter("a", 1) + crowd.shake("a", 7)))


def test_the_oldest_of_the_largest_address_that_waits_gives_way(crowd: Crowd):
    few, many = crowd.enter("a", 3), crowd.enter("b", 5)
    many[0].waits_for_client = False

    assert gone(crowd.enter("c", 1)) == [False]
    assert gone(few) == [False] * 3
    assert gone(many) == [False, True, False, False, False]


def test_connections_without_a_handshake_give_way_to_those_with_one(crowd: Crowd):
    one, many = crowd.shake("a", 1), crowd.shake("b", 7)

    assert gone(crowd.enter("c", 4)) == [False] * 4
    assert gone(one) == [False]
    assert gone(many) == [True] * 4 + [False] * 3


def test_connections_without_a_handshake_give_way_to_newer_ones_of_their_kind(crowd: Crowd):
    begun = crowd.enter("a", 6)

    many = crowd.shake("b", 40)

    assert gone(begun) == [False] * 6
    assert gone(many) == [True] * 38 + [False] * 2
    assert gone(crowd.shake("c", 1)) == [False]


def test_an_address_that_holds_all_connections_keeps_no_handshake_out(crowd: Crowd):
    begun = crowd.enter("a", 8)

    assert gone(crowd.shake("b", 2)) == [False] * 2
    assert gone(begun) == [True] * 2 + [False] * 6


def test_where_all_are_worked_on_the_newest_gives_way(crowd: Crowd):
    for each in crowd.enter("a", 8):
        each.waits_for_client = False

    assert gone(crowd.shake("b", 1)) == [True]
    assert gone(crowd.enter("a", 1)) == [True]
