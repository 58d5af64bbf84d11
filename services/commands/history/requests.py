"""The query string of a list of commands, and the cursor in it, which is text that clients hand back."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from services.commands.history.listing import ListQuery, Position
from shared.apple.values.reading import MAX_TEXT_ID, is_writable
from shared.domain.command import EntryState
from shared.times import EPOCH
from shared.web.api.cursor import EXPECTED, read_cursor, write_cursor
from shared.web.api.openapi import one_of
from shared.web.api.requests import MOMENT, Moment, PageSize, unlike

_CURSOR = re.compile(r"([0-9]{1,17})\.([0-9A-Za-z-]{0,64})")
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def read_position(cursor: str) -> Position:
    """Raises an error of pydantic for text that `write_position` did not make."""
    match = _CURSOR.fullmatch(read_cursor(cursor) or "")
    after = timedelta(microseconds=int(match[1])) if match else timedelta()
    if match is None or after > _LATEST - EPOCH:
        raise unlike(EXPECTED)
    return Position(EPOCH + after, match[2])


def write_position(position: Position) -> str:
    microseconds = (position.accepted_at - EPOCH) // timedelta(microseconds=1)
    return write_cursor(f"{microseconds}.{position.order}")


def _text(given: str) -> str:
    if len(given) > MAX_TEXT_ID or not is_writable(given):
        raise unlike(f"at most {MAX_TEXT_ID} characters, none of them a control character")
    return given


def _states(given: list[str]) -> list[str]:
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if not {*EntryState}.issuperset(names):
        raise unlike("one or several of " + ", ".join(EntryState))
    return names


def _in_range(moment: datetime | None) -> datetime | None:
    if moment is not None and not EPOCH <= moment <= _LATEST:
        raise unlike(MOMENT)
    return moment


def _cursor(given: str) -> str:
    read_position(given)
    return given


Text = Annotated[str | None, AfterValidator(_text)]
StoredMoment = Annotated[Moment, AfterValidator(_in_range)]


class CommandFilters(BaseModel):
    """A filter of commands; several conditions must all hold. An empty parameter is absent."""

    state: Annotated[
        list[Annotated[str, one_of(EntryState)]],
        BeforeValidator(_states),
        Field(description="One or several, repeated or separated by commas."),
    ] = []
    request_type: Text = Field(None, description="Apple's name, such as `ProfileList`.")
    udid: Text = Field(None, description="Any unique name of one device or user.")
    since: StoredMoment = Field(None, description="Accepted then or later.")
    until: StoredMoment = Field(None, description="Accepted then or earlier.")
    limit: PageSize = Field(100, description="Commands in one page.")
    cursor: Annotated[str | None, AfterValidator(_cursor)] = Field(
        None, description="`next_cursor` of the page before."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if value != ""}

    def query(self, enrollment: str | None) -> ListQuery:
        """`enrollment`: the id of the one whose name is `udid`."""
        return ListQuery(
            limit=self.limit,
            states=frozenset(map(EntryState, self.state)) or None,
            request_type=self.request_type,
            enrollment=enrollment,
            since=self.since,
            until=self.until,
            after=read_position(self.cursor) if self.cursor else None,
        )
