"""The known name that was probably meant, and when two spellings are one name."""

import difflib
from collections.abc import Iterable

LONGEST = 80
"""Characters; a longer name is compared with nothing."""


def folded(name: str) -> str:
    """The same for names that differ in letter case and underscores only."""
    return name.replace("_", "").lower()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, without regard to letter case and underscores;
    None when none is near."""
    if len(name) > LONGEST:
        return None
    by_folded = {folded(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(folded(name), by_folded, 1)
    return by_folded[near[0]] if near else None
