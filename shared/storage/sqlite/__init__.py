"""SQLite as a `Database`: what a single process keeps in its data folder."""

from shared.storage.sqlite.connections import FILE, Damaged
from shared.storage.sqlite.database import DamagedFile, SqliteDatabase, open_database

__all__ = ["FILE", "Damaged", "DamagedFile", "SqliteDatabase", "open_database"]
