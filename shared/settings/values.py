"""The forms of settings: addresses, durations, lists, URLs, and what is refused about each.

Every validator raises ValueError with words that fit behind the variable's name:
`MDM_HTTP: must be host:port or :port`.
"""

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from shared.domain.errors import Misconfigured

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SHORT_KEY = 16
"""API keys below this length are taken with a warning."""

PLACEHOLDERS = ("change-me", "changeme", "change_me", "replace-me")
_UNITS = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_SIZES: dict[str, int] = {"": 1} | {
    unit + rest: 1024**power for power, unit in enumerate("kmgt", start=1) for rest in ("", "ib")
}


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on; an empty host means every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def reachable(self) -> str:
        """The address under which this machine itself reaches it."""
        everywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared
        return str(Address(everywhere.get(self.host, self.host), self.port))


def _address(value: Any) -> Address:
    if isinstance(value, Address):
        return value
    host, colon, port = str(value).strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be host:port or :port, such as 127.0.0.1:8080")
    return Address(host, int(port))


def _duration(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]*)\s*", str(value).lower(), re.ASCII)
    if match is None or match[2] not in _UNITS:
        raise ValueError("must be a duration such as 30 s, 5 min, 1 h or 30 d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _durations(value: Any) -> tuple[timedelta, ...]:
    steps = value if isinstance(value, list | tuple) else _items(value)
    if not steps:
        raise ValueError("must be a list of durations such as 1 s, 5 s, 30 s")
    return tuple(map(_duration, steps))


def _items(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(str(each) for each in value)
    return tuple(each.strip() for each in str(value).split(",") if each.strip())


def _networks(value: Any) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(each, strict=False) for each in _items(value))
    except ValueError:
        raise ValueError("must be a list of addresses or networks such as 10.0.0.0/8") from None


def parse_size(value: Any) -> int:
    match = re.fullmatch(r"(\d{1,12})\s*([a-z]*)", str(value).strip().lower(), re.ASCII)
    if match is None or match[2] not in _SIZES or int(match[1]) == 0:
        raise ValueError("must be a size in bytes, or such as 4 MiB")
    return int(match[1]) * _SIZES[match[2]]


def secret_text(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _url(value: Any, *, schemes: tuple[str, ...]) -> str:
    url = secret_text(value).strip()
    wanted = " or ".join(f"{scheme}://" for scheme in schemes)
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in schemes and parts.netloc:
            return url
    raise ValueError(f"must be a URL that begins with {wanted}")


def without_credentials(url: str) -> str:
    """A URL that may be shown: user, password and query may hold secrets."""
    parts = urlsplit(url)
    query = "..." if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _api_key(value: Any) -> str:
    text = secret_text(value).strip()
    keys = text.split()
    if not keys:
        raise ValueError("is empty; give a long random key, such as of `openssl rand -hex 32`")
    if any(placeholder in key.lower() for key in keys for placeholder in PLACEHOLDERS):
        raise ValueError("is the placeholder of the example; give a long random key instead")
    return text


def _header_name(value: Any) -> str:
    name = str(value).strip().lower()
    if not re.fullmatch(r"[a-z0-9!#$%&'*+.^_`|~-]+", name):
        raise ValueError("must be the name of one HTTP header")
    return name


def must_be_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def within(low: Any, high: Any, says: str) -> AfterValidator:
    """The value is from `low` to `high`, where they are not None; else the error says so."""

    def check(value: Any) -> Any:
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(says)
        return value

    return AfterValidator(check)


AddressValue = Annotated[Address, BeforeValidator(_address)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Durations = Annotated[tuple[timedelta, ...], BeforeValidator(_durations)]
Names = Annotated[tuple[str, ...], BeforeValidator(_items)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]
Size = Annotated[int, BeforeValidator(parse_size)]
_HttpUrl = BeforeValidator(partial(_url, schemes=("https", "http")))
HttpUrl = Annotated[str, AfterValidator(lambda url: url.rstrip("/")), _HttpUrl]
SecretHttpUrl = Annotated[SecretStr, _HttpUrl]
MongodbUrl = Annotated[
    SecretStr, BeforeValidator(partial(_url, schemes=("mongodb", "mongodb+srv")))
]
AmqpUrl = Annotated[SecretStr, BeforeValidator(partial(_url, schemes=("amqp", "amqps")))]
ApiKey = Annotated[SecretStr, BeforeValidator(_api_key)]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
File = Annotated[Path, AfterValidator(must_be_file)]


def format_duration(duration: timedelta) -> str:
    """A duration as settings write it."""
    seconds = duration.total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + " s"


def read_file(setting: str, file: Path) -> bytes:
    """Raises Misconfigured, which names the setting."""
    try:
        return file.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"{setting}: cannot read {file} ({exc.strerror})") from None
