"""The file of a store: its connections, tables and indexes, its reads, and its commits in one thread."""
