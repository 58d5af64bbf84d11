"""URLs, read as strictly everywhere."""

from yarl import URL


def read_url(text: str) -> URL:
    """Raises ValueError for what is no URL."""
    try:
        return URL(text)
    except IndexError as exc:  # of yarl, for a host of brackets alone
        raise ValueError("no URL") from exc
