"""What the driver knows of elections, and what we make of it."""

from typing import Any

from bson import ObjectId
from pymongo.hello import Hello
from pymongo.server_description import ServerDescription
from pymongo.topology_description import TOPOLOGY_TYPE, TopologyDescription

from shared.storage.mongo.client import term_of

FIRST, SECOND = ObjectId("7fffffff0000000000000001"), ObjectId("7fffffff0000000000000002")


def server(port: int, **hello: Any) -> ServerDescription:
    return ServerDescription(("db", port), Hello({"ok": 1, "maxWireVersion": 17, **hello}))


def primary(port: int, election: ObjectId) -> ServerDescription:
    return server(port, setName="rs", isWritablePrimary=True, setVersion=1, electionId=election)


def secondary(port: int) -> ServerDescription:
    return server(port, setName="rs", secondary=True)


def term(*servers: ServerDescription, kind: int = TOPOLOGY_TYPE.ReplicaSetWithPrimary) -> object:
    known = {each.address: each for each in servers}
    return term_of(TopologyDescription(kind, known, "rs", None, None, None))  # type: ignore[arg-type]


def test_a_term_lasts_as_long_as_its_primary() -> None:
    assert term(primary(1, FIRST), secondary(2)) == term(secondary(2), primary(1, FIRST))


def test_another_primary_is_another_term() -> None:
    assert term(primary(1, FIRST), secondary(2)) != term(secondary(1), primary(2, SECOND))


def test_a_primary_that_was_elected_again_is_another_term() -> None:
    assert term(primary(1, FIRST)) != term(primary(1, SECOND))


def test_no_primary_is_another_term() -> None:
    nobody = term(secondary(1), kind=TOPOLOGY_TYPE.ReplicaSetNoPrimary)

    assert nobody != term(primary(1, FIRST))


def test_a_server_alone_has_one_term() -> None:
    assert term(server(1), kind=TOPOLOGY_TYPE.Single) is None
