"""How the list of push certificates looks to API clients."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from services.push.certificates.store import CertificateBook
from shared.security.push_certificate import PushCertificate


class State(StrEnum):
    CURRENT = "current"
    WAITING = "waiting"
    """Until its first push that APNs takes; the previous one is kept."""
    EXPIRED = "expired"


def shown(
    book: CertificateBook, enrolled: Mapping[str, int], now: datetime
) -> dict[str, list[dict[str, object]]]:
    """`enrolled`: devices by topic."""
    return {
        "certificates": [
            _entry(book, topic, enrolled.get(topic, 0), now) for topic in sorted(book.topics)
        ],
        "without_certificate": [
            {"topic": topic, "enrollments": devices}
            for topic, devices in sorted(enrolled.items())
            if topic not in book.topics
        ],
    }


def _entry(book: CertificateBook, topic: str, enrollments: int, now: datetime) -> dict[str, object]:
    [first, *others] = book.ranked(topic)
    installed = book.installed.get(topic)
    is_file = installed is None or installed.newest != first
    return {
        **_certificate(first),
        "days_left": max(0, first.remaining(now).days),
        "state": _state(book, first, now),
        "source": "file" if is_file else "api",
        "installed_at": None if is_file or not installed else installed.installed_at.isoformat(),
        "is_default": topic == book.default,
        "enrollments": enrollments,
        "previous": _certificate(others[0]) if others else None,
    }


def _certificate(certificate: PushCertificate) -> dict[str, object]:
    return {
        "topic": certificate.topic,
        "serial_number": certificate.serial_number,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
    }


def _state(book: CertificateBook, first: PushCertificate, now: datetime) -> State:
    if first.has_expired(now):
        return State.EXPIRED
    installed = book.installed.get(first.topic)
    if installed is None or installed.before is None or installed.newest != first:
        return State.CURRENT
    return State.WAITING
