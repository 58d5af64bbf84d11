"""The errors of pydantic in the words of this server: each fits behind "expected"."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from shared.domain.errors import BadRequest, Fault

Words = Callable[[Mapping[str, Any]], str]

_WORDS: dict[str, Words] = {
    "bool_parsing": lambda _: "true or false",
    "bool_type": lambda _: "true or false",
    "expected": lambda context: str(context["text"]),
    "extra_forbidden": lambda _: "no such key",
    "finite_number": lambda _: "a number",
    "float_parsing": lambda _: "a number",
    "float_type": lambda _: "a number",
    "greater_than": lambda context: f"a number above {context['gt']}",
    "greater_than_equal": lambda context: f"a number that is not below {context['ge']}",
    "int_from_float": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_parsing_size": lambda _: "a smaller number",
    "int_type": lambda _: "a whole number",
    "less_than": lambda context: f"a number below {context['lt']}",
    "less_than_equal": lambda context: f"a number that is not above {context['le']}",
    "list_type": lambda _: "a list",
    "literal_error": lambda context: f"one of {context['expected']}",
    "missing": lambda _: "a value",
    "path_type": lambda _: "the path of a file or folder",
    "string_pattern_mismatch": lambda context: f"text that matches {context['pattern']}",
    "string_too_long": lambda context: f"at most {context['max_length']} characters",
    "string_too_short": lambda context: f"at least {context['min_length']} characters",
    "string_type": lambda _: "text",
    "too_long": lambda context: f"at most {context['max_length']} entries",
}


def expected(error: Mapping[str, Any]) -> str | None:
    """What would have been right, for one of `ValidationError.errors()`; None for an error of a
    validator of our own, whose message says it."""
    kind = error["type"]
    if kind in ("value_error", "assertion_error"):
        return None
    words = _WORDS.get(kind)
    return words(error.get("ctx", {})) if words else "another value"


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
