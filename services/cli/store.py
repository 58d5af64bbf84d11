"""`python -m services store`: back up the store of a data folder, check it, copy it, or prepare it.

Promises: backup and check work beside a running server, which goes on, and without one; neither makes a
store where there is none. Prepare may run twice, and beside services of this version and the one before.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from services.cli.opening import command_settings, opened_folder, opened_stores
from services.cli.store_copy import copy_store
from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.settings import AllSettings
from shared.storage.indexes import PORTS
from shared.storage.sqlite import FILE, DamagedFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    to_file = actions.add_parser("backup", help="write one snapshot of the data folder's store")
    to_file.add_argument(
        "file", type=Path, metavar="FILE", help="new, for its owner only; never over another"
    )
    actions.add_parser("check", help="look whether the data folder's store is whole: 0 or 1")
    copy = actions.add_parser("copy", help="all that one store has into another one")
    actions.add_parser("prepare", help="make the indexes of this version before its services start")
    location = "FOLDER|MONGODB_URL"
    copy.add_argument("--from", required=True, dest="source", metavar=location)
    copy.add_argument("--to", required=True, dest="target", metavar=location)


async def run(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    settings = command_settings(environ)
    if given.action == "copy":
        await copy_store(given.source, given.target, sys.stdout)
    elif given.action == "prepare":
        await prepare(settings, sys.stdout)
    elif given.action == "backup":
        await backup(settings, given.file.absolute(), sys.stdout)
    else:
        await check(settings, sys.stdout)


async def prepare(settings: AllSettings, out: TextIO) -> None:
    """Make the indexes of all services, with the retentions of the settings. Raises StoreUnavailable."""
    retentions = {
        "audit": settings.audit_retention,
        "jobs": settings.command_retention,
        "journal": settings.event_retention,
        "queue": settings.command_retention,
        "webhook_history": settings.event_retention,
    }
    _say(out, "making the indexes of this version, which takes minutes on a large store")
    async with opened_stores(settings) as stores:
        await stores.prepare(*(port for port in PORTS if port not in retentions), **retentions)
    _say(out, "the store is prepared")


async def backup(settings: AllSettings, target: Path, out: TextIO) -> None:
    """Write one snapshot of the store to a new file, named by its absolute path, since the server may
    run in another folder. Raises Misconfigured and StoreUnavailable."""
    async with opened_folder(_folder(settings)) as store:
        size = await store.backup(target, lambda progress: _say(out, progress))
    _say(out, f"the store is in {target} ({size / 1_000_000:.1f} MB)")


async def check(settings: AllSettings, out: TextIO) -> None:
    """Look at all of the store. Raises StoreUnavailable where anything is wrong with it."""
    try:
        async with opened_folder(_folder(settings)) as store:
            checked = await store.check(lambda progress: _say(out, progress))
    except DamagedFile as exc:
        raise StoreUnavailable(str(exc)) from exc
    for fault in checked.faults:
        _say(out, fault)
    if checked.count > len(checked.faults):
        _say(out, f"... and {checked.count - len(checked.faults)} more")
    if checked.count:
        raise StoreUnavailable(
            f"the store in {settings.data_dir} is not whole (faults: {checked.count}): end the server and "
            "restore a backup (docs/storage.md)"
        )
    _say(out, f"the store is whole: {checked.documents} documents")


def _folder(settings: AllSettings) -> Path:
    """The data folder, where it has a store."""
    if settings.mongodb_url is not None:
        raise Misconfigured(
            "MDM_MONGODB_URL: is set, and this is for the store of a data folder; MongoDB has its own "
            "tools (docs/storage.md)"
        )
    if not (settings.data_dir / FILE).exists():
        raise Misconfigured(f"MDM_DATA_DIR: there is no {FILE} in {settings.data_dir}")
    return settings.data_dir


def _say(out: TextIO, line: str) -> None:
    out.write(f"{line}\n")
    out.flush()
