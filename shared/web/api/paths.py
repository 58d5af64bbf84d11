"""Paths in which an id holds a slash: `%2F` names one and divides nothing.

What routes match is the decoded path, in which `%2F` and `%25` stay as they are; what a route takes out of
it is decoded by `parameter`. RFC 3986, section 2.2: an encoded delimiter is data.
"""

import re
from urllib.parse import unquote

_KEPT = re.compile("%(?=2f|25)", re.IGNORECASE)
_NO_ESCAPE = re.compile("%(?![0-9a-f]{2})", re.IGNORECASE)


def routed(raw_path: bytes) -> str:
    """The path for the routes. Slashes that follow each other are one, as where a profile's
    SERVER_URL ended with a slash; encoded ones are not touched."""
    path = re.sub("/{2,}", "/", raw_path.decode("latin-1"))
    return unquote(_KEPT.sub("%25", _NO_ESCAPE.sub("%25", path)))


def parameter(matched: str) -> str:
    """Path parameters, decoded from the path that a route matched."""
    return unquote(matched)
