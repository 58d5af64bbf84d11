"""docs/operations.md says of sharding what the indexes of the collections allow."""

import re
from pathlib import Path

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


def test_a_collection_that_may_be_sharded_exists() -> None:
    known = {index.collection for index in all_indexes()} | {"commands", "certificates"}
    rows = re.findall(
        r"^\| ([`\w, ]+) \| `\{_id: \"hashed\"\}`", DOCUMENT.read_text(), re.MULTILINE
    )

    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert named
    assert named <= known
