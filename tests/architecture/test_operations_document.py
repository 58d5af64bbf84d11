"""docs/operations.md says of sharding what the indexes of the collections allow."""

import re
from pathlib import Path

from services.runtime.stores import Stores
from shared.storage.indexes import all_indexes

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def test_a_collection_with_a_unique_field_beside_its_id_is_named_as_not_to_be_sharded() -> None:
    unique = {(index.collection, index.keys[0][0]) for index in all_indexes() if index.unique}
    rows = re.findall(r"^\| `(\w+)` \| none: (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)

    named = {
        (collection, field)
        for collection, reason in rows
        for field in re.findall(r"`(\w+)`", reason.partition(" unique")[0])
    }

    assert unique
    assert named == unique


class Names:
    """A database that notes which collections are asked for."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def collection(self, name: str) -> object:
        self.seen.add(name)
        return object()


def test_every_collection_has_a_shard_key_or_the_reason_why_not() -> None:
    names = Names()
    Stores(names, None).subscriptions()  # type: ignore[arg-type]
    used = names.seen | {index.collection for index in all_indexes()}
    table = DOCUMENT.read_text().partition("### Sharding")[2].partition("\n## ")[0]
    rows = re.findall(r'^\| (`[\w`, ]+`) \| (?:`{_id: "hashed"}`|none: )', table, re.MULTILINE)

    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]

    assert sorted(named) == sorted(used)
