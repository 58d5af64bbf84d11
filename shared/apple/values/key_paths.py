"""The name of a request\'s key in a refusal."""

MAX_NAME = 80
"""Characters of a name that are shown."""


def shown(name: str) -> str:
    """A name out of a request, fit to be shown: short, and without what cannot be encoded."""
    short = name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..."
    return short if short.isprintable() else short.encode("ascii", "backslashreplace").decode()


def inside(path: str, name: str) -> str:
    """The path of a key inside a dictionary."""
    return f"{path}.{shown(name)}" if path else shown(name)
