"""Any text in the query string of a list, a page or a call that waits is read, or refused by its name."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, QueryParams

from services.commands.history.listing import Position
from services.commands.history.long_poll import read_wait
from services.commands.history.requests import CommandFilters, write_position
from services.commands.jobs.schemas import Page
from services.commands.submit.service import IDEMPOTENCY_KEY, uuid_by_key
from shared.domain.errors import BadRequest
from shared.settings.expected import refusal

TEXTS = st.text(max_size=40) | st.from_regex(r"[0-9A-Za-z+/=_.:-]{0,40}", fullmatch=True)
Filters = TypeVar("Filters", bound=BaseModel)
NAMES = ("limit", "cursor", "since", "until", "state", "request_type", "udid", "wait")


def filters(kind: type[Filters], query: QueryParams) -> Filters:
    """The query string as FastAPI hands it to a model."""
    names = [name for name in query if name in kind.model_fields]
    try:
        return kind.model_validate(
            {name: query.getlist(name) if name == "state" else query[name] for name in names}
        )
    except ValidationError as exc:
        raise refusal(exc.errors()) from None


def is_read_or_refused(read: Callable[[], object]) -> str | None:
    """The name that the refusal begins with."""
    try:
        read()
    except BadRequest as refused:
        return str(refused).partition(":")[0]
    return None


@given(st.dictionaries(st.sampled_from(NAMES), TEXTS))
def test_any_query_is_read_or_refused_by_its_name(given: dict[str, str]) -> None:
    query = QueryParams(given)

    names = [
        is_read_or_refused(lambda: filters(CommandFilters, query).query(None)),
        is_read_or_refused(lambda: filters(Page, query)),
        is_read_or_refused(lambda: read_wait(query.get("wait"), timedelta(minutes=2))),
    ]

    assert set(filter(None, names)) <= given.keys()


@given(st.binary(max_size=300))
def test_any_idempotency_key_is_taken_or_refused(key: bytes) -> None:
    headers = Headers(raw=[(b"idempotency-key", key)])

    refused = is_read_or_refused(lambda: uuid_by_key(headers.getlist(IDEMPOTENCY_KEY), "ci"))

    assert refused in {None, IDEMPOTENCY_KEY}


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC)), st.uuids()
)
def test_a_cursor_comes_back_as_it_was_given(at: datetime, order: UUID) -> None:
    position = Position(at, str(order))

    read = filters(CommandFilters, QueryParams({"cursor": write_position(position)}))

    assert read.query(None).after == position
