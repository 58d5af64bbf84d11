"""SQLite as a `Database`: what a single process keeps in its data folder."""

from shared.storage.sqlite.database import DamagedFile, SqliteDatabase, open_database
from shared.storage.sqlite.engine.connections import FILE, Damaged

__all__ = ["FILE", "Damaged", "DamagedFile", "SqliteDatabase", "open_database"]
