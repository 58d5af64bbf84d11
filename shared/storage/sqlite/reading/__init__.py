"""Reads of the file: by which index, and in steps."""
