"""The errors of pydantic in the words of this server: each fits behind "expected"."""

from collections.abc import Iterable, Mapping
from typing import Any

from shared.domain.errors import BadRequest, Fault

_WORDS = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "expected": "{text}",
    "dict_type": "an object",
    "extra_forbidden": "no such key",
    "finite_number": "a number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number that is not below {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_type": "a whole number",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number that is not above {le}",
    "list_type": "a list",
    "literal_error": "one of {expected}",
    "missing": "a value",
    "model_type": "an object",
    "path_type": "the path of a file or folder",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "string_type": "text",
    "too_long": "at most {max_length} entries",
}


def expected(error: Mapping[str, Any]) -> str | None:
    """What would have been right, for one of `ValidationError.errors()`; None for an error of a
    validator of our own, whose message says it."""
    kind = error["type"]
    if kind in ("value_error", "assertion_error"):
        return None
    return _WORDS.get(kind, "another value").format_map(error.get("ctx", {}))


def message(error: Mapping[str, Any]) -> str:
    """A whole sentence without its subject: `expected ...`, or what a validator of ours says."""
    words = expected(error)
    if words is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return f"expected {words}"


def refusal(errors: Iterable[Mapping[str, Any]]) -> BadRequest:
    """The refusal of a request, with every fault that pydantic found."""
    found = [(_path(error["loc"]), error) for error in errors]
    faults = [Fault(path, expected(error) or message(error)) for path, error in found]
    return BadRequest("; ".join(f"{path}: {message(error)}" for path, error in found), faults)


def _path(location: Iterable[int | str]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")
