"""SQLite as a `Database`: what a single process keeps in its data folder."""

from shared.storage.sqlite.connections import FILE, Damaged
from shared.storage.sqlite.database import SqliteDatabase, open_database

__all__ = ["FILE", "Damaged", "SqliteDatabase", "open_database"]
