"""The known name that somebody probably meant."""

import difflib
from collections.abc import Iterable

LONGEST = 80
"""Characters; a longer name is compared with nothing."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, without regard to letter case and underscores;
    None when none is near."""
    if len(name) > LONGEST:
        return None
    by_folded = {_folded(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_folded(name), by_folded, 1)
    return by_folded[near[0]] if near else None


def _folded(name: str) -> str:
    return name.replace("_", "").lower()
