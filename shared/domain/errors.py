"""The errors that MacroMDM raises; everything else is a bug.

    MdmError
    ├── Refused              the sender is wrong; sending it again will not help
    │   ├── BadRequest       what was sent cannot be used (names the field)
    │   ├── Unauthenticated  the API credentials are missing or wrong
    │   ├── Forbidden        the caller is known and may not do this
    │   ├── NotFound
    │   ├── Conflict
    │   └── TooLarge
    ├── Blocked              a blocked device asks for commands (the one 401 a device may get)
    ├── Unavailable          we cannot do it now; sending it again may help
    │   ├── StoreUnavailable
    │   │   └── OfNewerVersion   a newer version wrote it: a replica of that one can read it
    │   ├── BrokerUnavailable
    │   ├── CannotDecrypt       a stored secret is encrypted with a key that we lack, or was altered
    │   └── Overtaken        another request changed the enrollment meanwhile
    ├── TooManyRequests      the client must wait before it comes again (says how long)
    ├── UpstreamFailed       a third party that we asked (APNs) refused
    └── Misconfigured        a setting cannot be used

`shared.web.problems` maps them to HTTP answers, in that one place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


class MdmError(Exception):
    """Base of all errors that MacroMDM raises on purpose; `str()` is safe to show."""


class Refused(MdmError):
    """The sender is wrong."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a request: where (`settings[0].item`), and what was expected."""

    path: str
    expected: str


LONGEST_NAME = 80
"""Characters of a client's name for a key that an error shows."""


def display_name(name: str) -> str:
    """A name out of a request, fit to be shown: short, and without what cannot be encoded."""
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
    return short if short.isprintable() else short.encode("ascii", "backslashreplace").decode()


def key_path(path: str, name: str) -> str:
    """The path of a key inside the dictionary at `path`."""
    return f"{path}.{display_name(name)}" if path else display_name(name)


class BadRequest(Refused):
    """The request cannot be used; `faults` lists every fault found."""

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


def unfit(path: str, expected: str) -> BadRequest:
    """The refusal of one value: the one at `path` is not what is expected there."""
    return BadRequest(f"{path}: expected {expected}", [Fault(path, expected)])


class Unauthenticated(Refused):
    """The API credentials are missing or wrong."""


class Forbidden(Refused):
    """The API caller is known and lacks the scope that the message names."""


class NotFound(Refused):
    """There is no such thing."""


class Conflict(Refused):
    """The request contradicts what is stored."""


class TooLarge(Refused):
    """A body or a field is over its limit."""


class Blocked(MdmError):
    """A blocked device asks for commands; a 401 makes it unenroll, which is the purpose."""


class Unavailable(MdmError):
    """We cannot do it now."""


class StoreUnavailable(Unavailable):
    """MongoDB does not answer, or its outcome is unknown."""


class OfNewerVersion(StoreUnavailable):
    """A document holds a value that only a newer version knows."""


class BrokerUnavailable(Unavailable):
    """RabbitMQ does not answer or did not confirm."""


class CannotDecrypt(Unavailable):
    """A stored secret cannot be opened; the message names the place and the key's id, no secret."""


class Overtaken(Unavailable):
    """Another request of the same device changed its enrollment first, or the client is gone."""


class TooManyRequests(MdmError):
    """The client has asked too often, or too much at once; it may come again after `retry_after`."""

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UpstreamFailed(MdmError):
    """A third party refused what we asked of it."""


class Misconfigured(MdmError):
    """A setting or an argument cannot be used; the message names it and says what to do."""
