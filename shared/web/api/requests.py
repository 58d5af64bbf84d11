"""Requests of API clients: bodies and query strings, read into pydantic models.

Promises: what is wrong is named by its path, in the words of its field (`Expected`). However large a body
is, others are served while it is parsed; of one kind of request one large body is parsed at a time, so that
threads do not keep each other and the loop from working.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.annotated_handlers import GetCoreSchemaHandler
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import CoreSchema, no_info_wrap_validator_function

from shared.apple.request.read_json import parse_json
from shared.concurrency.heavy_work import HeavyWork
from shared.settings.expected import refusal
from shared.times import parse_rfc3339
from shared.web.body import JSON_LIMIT, read_body

T = TypeVar("T")
BodyT = TypeVar("BodyT", bound="Body")

MOST_OF_PAGE = 1000
SMALL = 32 * 1024
"""Bytes up to which parsing takes less than the way to a thread and back is worth."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The words for all faults of a field itself; faults inside it have their own, unless it is `whole`."""

    text: str
    whole: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(value)
        except ValidationError as exc:
            if not self.whole and any(error["loc"] for error in exc.errors(include_url=False)):
                raise
            raise unlike(self.text) from None


def unlike(expected: str) -> PydanticCustomError:
    """The error of a validator, in words that fit behind "expected"."""
    return PydanticCustomError("expected", "{text}", {"text": expected})


def printable(text: str) -> str:
    """A lone surrogate is JSON, but no store takes it."""
    if not text.isprintable():
        raise unlike("no control characters")
    return text


MOMENT = "a date with an offset as in RFC 3339 (2024-10-21T07:00:00Z)"


def _moment(given: object) -> datetime | None:
    # In a query string a plus sign that was not escaped arrives as a space.
    found = parse_rfc3339(given.replace(" ", "+")) if isinstance(given, str) and given else None
    if given and found is None:
        raise unlike(MOMENT)
    return found


Moment = Annotated[datetime | None, BeforeValidator(_moment)]
"""A time in a query string; empty is absent."""


def _digits(given: object) -> object:
    if isinstance(given, str) and not (given.isascii() and given.isdigit() and len(given) < 6):
        raise ValueError
    return given


PageSize = Annotated[
    int,
    Field(ge=1, le=MOST_OF_PAGE),
    BeforeValidator(_digits),
    Expected(f"a whole number from 1 to {MOST_OF_PAGE}"),
]


class Body(BaseModel):
    """A body in JSON. A key whose value is null is absent; unknown keys are ignored. A body without required
    keys may be empty."""

    model_config = ConfigDict(strict=True, frozen=True)

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Raises BadRequest."""
        given = parse_json(raw) if raw.strip() or cls._required() else {}
        try:
            return cls.model_validate(given)
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
            for each in errors:
                each["loc"] = cls.named(each["loc"])
            raise refusal(errors) from None

    @classmethod
    def named(cls, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """The path by which an error names a key."""
        return loc

    @classmethod
    def key_of(cls, name: str) -> str:
        """The key that a name in a body is."""
        return name

    @classmethod
    def _required(cls) -> list[str]:
        fields = cls.model_fields.items()
        return [field.alias or name for name, field in fields if field.is_required()]

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        # A required key that is missing is null, so that its field refuses it in its own words.
        there = {cls.key_of(name): value for name, value in given.items() if value is not None}
        return dict.fromkeys(cls._required()) | there


class MicroMdmBody(Body):
    """A body as MicroMDM's clients write it: letter case of keys does not matter."""

    @classmethod
    def key_of(cls, name: str) -> str:
        folded = name.lower()
        keys = (field.alias or known for known, field in cls.model_fields.items())
        return next((each for each in keys if each.lower() == folded), folded)


class Parsing:
    """Parses bodies of the routes of one kind."""

    def __init__(self) -> None:
        self._work = HeavyWork("large bodies", threads=1)

    async def read(self, request: Request, kind: type[BodyT], limit: int = JSON_LIMIT) -> BodyT:
        """The body of a request; `limit` is in bytes. Raises BadRequest, TooLarge, Unavailable."""
        return await self.of(kind.read, await read_body(request, limit))

    async def of(self, parse: Callable[[bytes], T], body: bytes) -> T:
        """The result of `parse`, or the error that it raises. Unavailable when too many wait."""
        return parse(body) if len(body) <= SMALL else await self._work.do(parse, body)
