"""`python -m services store copy`: everything that one store has into another one.

Promises: no service uses either folder meanwhile, nor the target's before the copy was
checked; a copy that was cut short goes on when the command is given again; a folder's keys go along, and
never in the place of others; no secret of a URL is shown.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TextIO

from services.runtime.key_files import API_KEY_FILE, SECRET_KEY_FILE, kept_key
from services.runtime.single_process import locked_folder
from services.runtime.store_folder import (
    FORMER,
    begin_copy,
    end_copy,
    has_former,
    has_store,
    is_unfinished,
)
from shared.concurrency.clock import SystemClock
from shared.domain.errors import Misconfigured
from shared.storage.database import Database
from shared.storage.maintenance.copying import Copying
from shared.storage.sqlite import open_database

SAYS_EVERY = timedelta(seconds=5)
_SCHEMES = ("mongodb://", "mongodb+srv://")
_KEYS = {SECRET_KEY_FILE: "MDM_SECRET_KEY", API_KEY_FILE: "MDM_API_KEY"}


@dataclass(frozen=True, slots=True)
class Location:
    """One end of a copy: a data folder, or a MongoDB. Shown without the URL, which may have a password."""

    option: str
    given: str

    @property
    def folder(self) -> Path | None:
        return None if self.given.startswith(_SCHEMES) else Path(self.given).resolve()

    def __str__(self) -> str:
        return f"the MongoDB of {self.option}" if self.folder is None else str(self.folder)


async def copy_store(source_given: str, target_given: str, out: TextIO) -> None:
    """Misconfigured: it cannot be done with these two, and why; Conflict: the target holds something else;
    StoreUnavailable: begin again."""

    def say(line: str) -> None:
        out.write(f"{line}\n")
        out.flush()

    source, target = Location("--from", source_given), Location("--to", target_given)
    is_former = _is_former(source, target)
    async with AsyncExitStack() as stack:
        for folder in sorted({location.folder for location in (source, target) if location.folder}):
            stack.enter_context(locked_folder(folder))
        _check_keys(source.folder, target.folder)
        say(f"copying {source} to {target}")
        for location in (source, target):
            if location.folder is None:
                say(f"no service may run on {location} until this command says that it is done")
        database = await stack.enter_async_context(_opened(source, is_former=is_former))
        count = await _copied(database, source, target, say)
        say(f"done: {count} documents are in {target}, each compared with its original")
        for line in _next_steps(source, target, is_former=is_former):
            say(line)


def _is_former(source: Location, target: Location) -> bool:
    """True where the source is the former store. Misconfigured: these two places cannot be copied."""
    if source.folder is not None and source.folder == target.folder:
        if not has_former(source.folder):
            raise Misconfigured(
                "--to: is the same as --from, which has no store of an earlier version"
            )
        return True
    if source.given == target.given:
        raise Misconfigured("--to: is the same as --from")
    if target.folder is not None and has_former(target.folder):
        raise Misconfigured(f"--to: {target.folder} has the store of an earlier version itself")
    if source.folder is None:
        return False
    if is_unfinished(source.folder):
        raise Misconfigured(f"--from: the copy into {source} was not finished")
    if not has_store(source.folder) and not has_former(source.folder):
        raise Misconfigured(f"--from: there is no store in {source}")
    return not has_store(source.folder)


async def _copied(
    source: Database, origin: Location, target: Location, say: Callable[[str], None]
) -> int:
    """Copy, compare, and return how many documents are in the target."""
    if not await source.names():  # as in a database whose name is misspelt
        raise Misconfigured(f"--from: there is nothing in {origin}")
    folder = target.folder
    if folder is not None and not has_store(folder):
        _begin(origin.folder, folder)  # before there is a store that could be served from
    async with _opened(target) as database:
        copying = Copying(source, database, SystemClock().now(), _Progress(say).tell)
        await copying.check_target()
        if folder is not None:
            _begin(origin.folder, folder)
        await copying.fill()
        say("all is copied; each document is compared now")
        counts = await copying.verify()
    if folder is not None:
        end_copy(folder)
    return sum(counts.values())


@asynccontextmanager
async def _opened(location: Location, *, is_former: bool = False) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:
        if location.folder is None:
            database = _mongo(location.given, location.option)
        elif is_former:
            from shared.storage.maintenance.former import former_store

            url = await stack.enter_async_context(former_store(location.folder / FORMER))
            database = _mongo(url, location.option)
        else:
            database = open_database(location.folder, SystemClock())
        stack.push_async_callback(database.close)
        yield database


class _Progress:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._next = monotonic() + SAYS_EVERY.total_seconds()

    def tell(self, name: str, count: int, what: str) -> None:
        if monotonic() >= self._next:
            self._say(f"{name}: {count} documents {what}")
            self._next = monotonic() + SAYS_EVERY.total_seconds()


def _mongo(url: str, option: str) -> Database:
    from shared.storage.mongo import Mongo

    try:
        return Mongo(url, driver="pymongo")
    except Misconfigured:
        raise Misconfigured(f"{option}: is not a usable MongoDB URL") from None


def _check_keys(source: Path | None, target: Path | None) -> None:
    """Misconfigured where a key of the target is another one than that of the source."""
    if source is None or target is None:
        return
    for name in _KEYS:
        ours, theirs = source / name, target / name
        if ours.exists() and theirs.exists() and _text(ours) != _text(theirs):
            raise Misconfigured(
                f"--to: {theirs} is another key than {ours}; remove it if nothing needs it"
            )


def _begin(source: Path | None, target: Path) -> None:
    """Mark the target, and give it the keys: a server that is started on it too early makes its own."""
    begin_copy(target)
    for name, variable in _KEYS.items():
        if source is not None and (source / name).exists():
            kept_key(target, name, _text(source / name), variable)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as exc:
        raise Misconfigured(f"cannot read {file}: {exc.strerror}") from None


def _next_steps(source: Location, target: Location, *, is_former: bool) -> Iterator[str]:
    key = None if source.folder is None else source.folder / SECRET_KEY_FILE
    if key is None or not key.exists():
        yield f"its secrets are encrypted: MDM_SECRET_KEY must stay what it was for {source}"
    elif target.folder is None:
        yield f"its secrets are encrypted: MDM_SECRET_KEY must be the content of {key}"
    if is_former:
        yield f"once the server runs well with it, {source.folder}/{FORMER} can be removed"
