"""Cursors of lists: a position as a short text that fits into a query string."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

EXPECTED = "the next_cursor of an earlier page"
_MOST = 4096


def write_cursor(position: str) -> str:
    return urlsafe_b64encode(position.encode()).decode().rstrip("=")


def read_cursor(given: str) -> str | None:
    """The position that `write_cursor` wrote; None for anything else."""
    if not given.isascii() or len(given) > _MOST:
        return None
    try:
        position = urlsafe_b64decode(given + "=" * (-len(given) % 4)).decode()
    except ValueError:
        return None
    return position if write_cursor(position) == given else None
