"""The values that a subscription may be given, each with the words for what it must be."""

import re
import ssl
from base64 import b64decode
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

from services.webhook.endpoints.signing import SECRET_PREFIX
from shared.apple.messages.connect import Status
from shared.domain.errors import display_name
from shared.domain.event import OWN_PREFIX, Topic
from shared.domain.subscription import MICROMDM_TOPICS
from shared.nearest import nearest
from shared.network.urls import read_url
from shared.settings.values import Duration, Durations, within
from shared.web.api.openapi import about, like, one_of
from shared.web.api.requests import Expected, printable, unlike

LONGEST_URL = 2048
LONGEST_CA = 256 * 1024
LONGEST_VALUE = 4096
"""Characters of a header's value, of a token and of a key."""
MOST_HEADERS = 32
MOST_FILTERED = 1000
MOST_WAITS = 50
MOST_CONCURRENT = 256
MOST_OF_BATCH = 100
SLOWEST = 1 / 10_000
FASTEST = 100_000
_SECRET_BYTES = range(24, 65)

OWN_TOPICS = f"{OWN_PREFIX}*"
PATTERNS = (MICROMDM_TOPICS, OWN_TOPICS)
_TOPICS = sorted({*Topic, *PATTERNS})
EXTRA_KEYS = ("payload",)

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VISIBLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_OURS = re.compile(
    r"accept|authorization|connection|content-.*|expect|host|keep-alive|proxy-.*|te|trailer|"
    r"transfer-encoding|upgrade|user-agent|webhook-.*|x-hmac-signature|x-macromdm-.*",
    re.IGNORECASE,
)


def _receiver_url(given: str) -> str:
    if len(given) > LONGEST_URL or not re.fullmatch(r"[\x21-\x5b\x5d-\x7e]+", given):
        raise unlike(f"a URL of up to {LONGEST_URL} ASCII characters, without spaces")
    if "#" in given:
        raise unlike("a URL without a fragment")
    try:
        url = read_url(given)
    except ValueError:
        raise unlike("a URL such as https://inventory.example.org/mdm") from None
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise unlike("a URL that begins with https:// or http://")
    if not url.port:
        raise unlike("a URL with a port of 1 to 65535, or without one")
    if "@" in url.raw_authority:
        raise unlike("a URL without user and password: put them into `authorization`")
    return given


def _one_among(given: str, values: Collection[str], what: str) -> str:
    if given in values:
        return given
    near = nearest(given, sorted(values))
    raise unlike(f"{what} (nearest: {near})" if near else f"{what}: {', '.join(values)}")


def _topic(given: str) -> str:
    return _one_among(given, _TOPICS, "a topic")


def _status(given: str) -> str:
    return _one_among(given, list(Status), "a status")


def _own_topic(given: str) -> str:
    if not given.startswith(OWN_PREFIX):
        raise unlike(f"a topic that begins with {OWN_PREFIX}")
    return _topic(given)


def _headers(given: dict[str, str | None]) -> dict[str, str | None]:
    for name, value in given.items():
        if not _TOKEN.fullmatch(name):
            raise unlike(f"names of headers, not {display_name(name)!r}")
        if _OURS.fullmatch(name):
            raise unlike(f"no header {name}: the server sends its own, or none")
        if value is not None and not (len(value) <= LONGEST_VALUE and _VISIBLE.fullmatch(value)):
            raise unlike(f"{name} of 1 to {LONGEST_VALUE} printable ASCII characters")
    if len({name.lower() for name in given}) != len(given):
        raise unlike("each header once: letter case does not matter")
    return given


def _secret(given: str) -> str:
    encoded = given.removeprefix(SECRET_PREFIX)
    with suppress(ValueError):
        if encoded != given and len(b64decode(encoded, validate=True)) in _SECRET_BYTES:
            return given
    raise ValueError


def _ca(given: str) -> str:
    with suppress(ssl.SSLError):
        if given and given.isascii():  # without any, those of the system would count
            ssl.create_default_context(cadata=given)
            return given
    raise unlike("CA certificates in PEM")


def _visible(given: str) -> str:
    if not _VISIBLE.fullmatch(given):
        raise ValueError
    return given


def _duration(least: timedelta, most: timedelta, words: str, example: str) -> Any:
    says = f"a duration from {words}, such as {example}"
    schema = WithJsonSchema({"type": "string", "examples": [example]})
    return Annotated[Duration, within(least, most, says), Expected(says), schema]


Text = Annotated[str, AfterValidator(printable)]
Name = Annotated[
    Text,
    Field(min_length=1, max_length=100),
    Expected("1 to 100 printable characters"),
    like("inventory"),
]
ReceiverUrl = Annotated[
    str, AfterValidator(_receiver_url), like("https://inventory.example.org/mdm")
]
TopicNames = Annotated[
    list[Annotated[str, AfterValidator(_topic)]],
    Field(min_length=1, max_length=100),
    Expected("a list of 1 to 100 topics"),
    about(f"Topics, and `{'`, `'.join(PATTERNS)}`; `{MICROMDM_TOPICS}` without it.", ["mdm.*"]),
]
OwnTopicNames = Annotated[
    list[Annotated[str, AfterValidator(_own_topic)]],
    Field(max_length=100),
    Expected("a list of up to 100 topics"),
    about("Topics of ours, beside those of `topics`.", ["macromdm.CommandExpired"]),
]
ExtraKeys = Annotated[
    list[Annotated[str, Field(pattern=f"^({'|'.join(EXTRA_KEYS)})$"), Expected("payload")]],
    Field(max_length=len(EXTRA_KEYS)),
    Expected("a list of keys: payload"),
    about("Keys beside MicroMDM's: `payload`, the property list as JSON.", ["payload"]),
]
Filtered = Annotated[
    list[Annotated[Text, Field(min_length=1, max_length=256), Expected("1 to 256 characters")]],
    Field(max_length=MOST_FILTERED),
    Expected(f"a list of up to {MOST_FILTERED} texts"),
]
Statuses = Annotated[
    list[Annotated[str, AfterValidator(_status), one_of(Status)]],
    Field(max_length=len(Status)),
    Expected("a list of statuses"),
    like([Status.ERROR]),
]
Headers = Annotated[
    dict[str, str | None],
    Field(max_length=MOST_HEADERS),
    Expected(f"an object of up to {MOST_HEADERS} headers"),
    AfterValidator(_headers),
    about("Sent with every request. Answers show their names only.", {"X-Tenant": "blue"}),
]
Credential = Annotated[
    str,
    Field(max_length=LONGEST_VALUE),
    AfterValidator(_visible),
    Expected(f"1 to {LONGEST_VALUE} printable ASCII characters"),
]
Pem = Annotated[str, Field(max_length=LONGEST_CA), AfterValidator(_ca)]
Secret = Annotated[
    str,
    Field(max_length=128),
    AfterValidator(_secret),
    Expected(f"{SECRET_PREFIX} and the base64 of 24 to 64 bytes"),
    like("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
]
Timeout = _duration(timedelta(seconds=1), timedelta(seconds=30), "1 s to 30 s", "30 s")
FormerSecretKept = _duration(timedelta(), timedelta(days=30), "0 s to 30 d", "24 h")
Concurrency = Annotated[
    int,
    Field(ge=1, le=MOST_CONCURRENT),
    Expected(f"a whole number from 1 to {MOST_CONCURRENT}"),
    about("Requests at once, of each replica.", 64),
]
Rate = Annotated[
    float,
    Field(ge=SLOWEST, le=FASTEST, allow_inf_nan=False),
    Expected(f"a number from {SLOWEST} to {FASTEST}"),
    about("Requests a second, of all replicas together.", 50),
]
RetrySchedule = Annotated[
    Durations,
    Field(max_length=MOST_WAITS),
    Expected(f"a list of up to {MOST_WAITS} durations such as 1 s, 5 min"),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "string"},
            "description": "Waits between the attempts of an event; without it those of "
            "MDM_WEBHOOK_RETRY_SCHEDULE.",
        }
    ),
]
Batch = Annotated[
    int,
    Field(ge=1, le=MOST_OF_BATCH),
    Expected(f"a whole number from 1 to {MOST_OF_BATCH}"),
    about("The most events of a request.", 1),
]
Redact = Annotated[bool, Expected("true or false"), about("Without secrets of devices.", False)]
