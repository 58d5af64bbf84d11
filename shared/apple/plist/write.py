"""Writes property lists in XML, compact, and exactly what was given.

plistlib turns a carriage return into a line feed, breaks data into lines (slow for a profile of some
megabytes) and takes several times as long for a small command. Equal values give equal bytes.
"""

import binascii
from collections.abc import Mapping
from datetime import datetime

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN"'
    ' "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
    '<plist version="1.0">'
)
_TAIL = "</plist>\n"

Parts = list[str | bytes]
LARGE = 64 * 1024
"""Data from this size on stays bytes: each copy of a profile of five megabytes costs milliseconds."""


def write(root: Mapping[str, object]) -> bytes:
    """The property list; values are what plistlib gives, and naive datetimes are UTC."""
    parts: Parts = [_HEAD]
    _dictionary(root, parts)
    parts.append(_TAIL)
    try:
        return "".join(parts).encode()  # type: ignore[arg-type]  # that is what is tried
    except TypeError:
        return b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)


def _escaped(text: str) -> str:
    if text.isalnum():  # as most names are
        return text
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("\r", "&#13;")  # a bare one would be read as a line feed
    )


def _dictionary(value: Mapping[str, object], parts: Parts) -> None:
    parts.append("<dict>")
    for key, inner in value.items():
        parts.append(f"<key>{_escaped(key)}</key>")
        _value(inner, parts)
    parts.append("</dict>")


def _value(value: object, parts: Parts) -> None:
    match value:
        case str():
            parts.append(f"<string>{_escaped(value)}</string>")
        case bool():
            parts.append("<true/>" if value else "<false/>")
        case dict():
            _dictionary(value, parts)
        case list():
            parts.append("<array>")
            for item in value:
                _value(item, parts)
            parts.append("</array>")
        case bytes():
            encoded = binascii.b2a_base64(value, newline=False)
            text = encoded if len(encoded) > LARGE else encoded.decode()
            parts += ("<data>", text, "</data>")
        case _:
            parts.append(_leaf(value))


def _leaf(value: object) -> str:
    match value:
        case int():
            return f"<integer>{value}</integer>"
        case float():
            return f"<real>{value!r}</real>"
        case datetime():
            return f"<date>{value.replace(microsecond=0, tzinfo=None).isoformat()}Z</date>"
    raise TypeError(f"a property list cannot hold {type(value).__name__}")
