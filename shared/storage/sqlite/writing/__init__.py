"""Writes to the file: gathered into commits, in one thread, on one connection."""
