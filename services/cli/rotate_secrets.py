"""`python -m services rotate-secrets`: everything in the store under the first key of MDM_SECRET_KEY.

Promises: it works beside running services, a bounded batch at a time; it may be cut short and run
again; at its end it says what is left under which key, and fails where anything is.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TextIO

from services.cli.opening import command_settings, opened_stores
from shared.domain.errors import CannotDecrypt
from shared.ports.keyring import EncryptedValues, KeyCount

STEP = 10_000
"""Documents between two lines about the progress."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


async def run(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    async with opened_stores(command_settings(environ)) as stores:
        await rotate(stores.encrypted_values, sys.stdout)


async def rotate(values: EncryptedValues, out: TextIO) -> None:
    """Re-encrypt, then look at everything once more. CannotDecrypt when something is left."""
    for collection in values.collections:
        seen = encrypted = 0
        async for ids in values.batches(collection):
            encrypted += await values.reencrypt(collection, ids)
            if seen // STEP != (seen + len(ids)) // STEP:
                out.write(f"{collection}: {seen + len(ids)} documents looked at ...\n")
                out.flush()
            seen += len(ids)
        out.write(f"{collection}: {seen} documents looked at, {encrypted} values re-encrypted\n")
    counted = await _count(values)
    for key in sorted(counted, key=str):
        name = "in clear" if key is None else f"key {key}"
        mark = " (current)" if key == values.current else ""
        out.write(f"{name}: {counted[key]} values{mark}\n")
    out.flush()  # before what is said about what is left
    left = counted.total() - counted[values.current]
    if left:
        raise CannotDecrypt(
            f"{left} values are not under the current key: run it again once no service encrypts with "
            "another one; what is left then needs a key that MDM_SECRET_KEY lacks, or was altered"
        )


async def _count(values: EncryptedValues) -> KeyCount:
    counted: KeyCount = Counter()
    for collection in values.collections:
        async for ids in values.batches(collection):
            counted += await values.count(collection, ids)
    return counted
