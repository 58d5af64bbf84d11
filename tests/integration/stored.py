"""What stands in a store, read as anybody could who gets hold of it, without the code that wrote it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import bson
import pymongo

Document = dict[str, Any]


def always(document: Document) -> bool:
    return True


class Stored(Protocol):
    """A store beside the server that works on it."""

    @property
    def settings(self) -> dict[str, str]:
        """What a process needs to work on it."""

    def documents(self, collection: str | None = None) -> Iterator[Document]:
        """Of one collection, or of all."""

    def written(self) -> bytes:
        """Everything that is in it."""


def count(store: Stored, collection: str, matches: Callable[[Document], bool] = always) -> int:
    return sum(matches(document) for document in store.documents(collection))


class InMongodb:
    """A database of MongoDB."""

    def __init__(self, url: str) -> None:
        self.settings = {"MDM_MONGODB_URL": url}
        self._client: pymongo.MongoClient[Document] = pymongo.MongoClient(url)

    def documents(self, collection: str | None = None) -> Iterator[Document]:
        database = self._client.get_default_database()
        for name in [collection] if collection else database.list_collection_names():
            yield from database[name].find()

    def written(self) -> bytes:
        return b"".join(bson.encode(document) for document in self.documents())

    def close(self) -> None:
        self._client.close()


_COLLECTIONS = (
    "SELECT t.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE c.name = '_document'"
)


class InFolder:
    """The embedded store of a data folder."""

    def __init__(self, folder: Path) -> None:
        self.settings = {"MDM_DATA_DIR": str(folder)}
        self._file = folder / "store.db"

    def documents(self, collection: str | None = None) -> Iterator[Document]:
        for blob in self._blobs(collection):
            yield bson.decode(blob)

    def written(self) -> bytes:
        """The documents whole, and the files as they are: a document may be cut there by a page's end."""
        files = [path.read_bytes() for path in self._file.parent.glob(f"{self._file.name}*")]
        return b"".join([*self._blobs(), *files])

    def _blobs(self, collection: str | None = None) -> list[bytes]:
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as connection:
            names = [name for (name,) in connection.execute(_COLLECTIONS)]
            assert collection is None or collection in names
            return [
                blob
                for name in names
                if collection in {None, name}
                for (blob,) in connection.execute(f'SELECT _document FROM "{name}"')
            ]
