"""Places that the rules of the layout do not reach yet. Each list may only shrink."""

SMALL_FILES = frozenset(
    {
        "services/runtime/store_health.py",
    }
)
"""Files under 60 lines with one importer: to be merged into it."""

IN_A_CIRCLE = frozenset[str]()
"""Packages that import one another."""

ARROWS_UP = frozenset[str]()
"""Imports against the layers of a service."""

BUNDLES = frozenset[str]()
"""Dataclasses that only bundle dependencies."""

KNOW_THE_WEB_FRAMEWORK = frozenset[str]()
"""Files besides routes and apps that import FastAPI."""

DEFINED_TWICE = frozenset(
    {
        "Refused",
        "Target",
        "refusal",
    }
)
"""Public names that several modules define."""

FLOATS_OF_SECONDS = frozenset(
    {
        "services/cli/store_copy.py",
    }
)
"""Files with constants of time that are bare numbers."""
