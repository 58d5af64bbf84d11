"""The language of the code: the glossary's words, and short active English."""

import ast
import io
import re
import tokenize

from tests.architecture.sources import ROOT, SOURCES, relative, tree_of

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
RELATIVE = re.compile(
    r"(What|Who|Whom|Whose|Whether|Which|How|Where|When|Those|Of|Whoever|Whatever)\b"
)
DIALECT = re.compile(
    r"\b(whoever|whatever|nobody|somebody|anybody|anew|in vain|stands?|told|tells?|hears?|heard|meets?|met|"
    r"is to be|are to be|let be|lets be|thereby|therein)\b",
    re.IGNORECASE,
)
PLAIN = re.compile(r"_in_turn_|_its_turn_")
"""English that only looks like a word of the list."""
MOST_RELATIVE = 0.03
MOST_DIALECT = 5 / 10_000


def forbidden() -> set[str]:
    """The words of the glossary's third column, and the phrases as identifiers have them."""
    rows = re.findall(r"^\| \*\*[^|]+\|[^|]+\|([^|]*)\|[^|]*\|$", GLOSSARY, re.MULTILINE)
    return {
        word.strip().replace(" ", "_") for row in rows for word in row.split(",") if word.strip()
    }


def words_of(identifier: str) -> str:
    """`QueuedEntries` and `queued_entries` -> `_queued_entries_`."""
    return "_" + "_".join(part.lower() for part in PART.findall(identifier)) + "_"


def identifiers(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Name():
                found.add(node.id)
            case ast.Attribute():
                found.add(node.attr)
            case ast.arg():
                found.add(node.arg)
    return found


def test_no_identifier_has_a_word_that_the_glossary_replaces() -> None:
    words = forbidden()
    pattern = re.compile("|".join(f"_{word}s?_" for word in sorted(words)))
    found = {
        f"{relative(path)}: {name}"
        for path in SOURCES
        for name in identifiers(tree_of(path))
        if pattern.search(PLAIN.sub("_", words_of(name)))
    }

    assert len(words) > 8
    assert not found


def documentation() -> list[tuple[str, str]]:
    """Every docstring, also those of constants and fields, with where it is."""
    found = []
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            body = getattr(node, "body", None)
            for each in body if isinstance(body, list) else ():
                is_text = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
                if is_text and isinstance(each.value.value, str):
                    found.append((f"{relative(path)}:{each.lineno}", each.value.value.strip()))
    return found


def test_docstrings_are_sentences() -> None:
    written = documentation()
    relatives = [f"{where}: {text[:60]}" for where, text in written if RELATIVE.match(text)]

    assert len(relatives) <= MOST_RELATIVE * len(written), relatives[:40]


def test_the_prose_is_plain_english() -> None:
    words = 0
    found = []
    for path in SOURCES:
        source = io.StringIO(path.read_text(encoding="utf-8"))
        for token in tokenize.generate_tokens(source.readline):
            is_prose = token.type == tokenize.STRING and " " in token.string
            if is_prose or token.type == tokenize.COMMENT:
                words += len(re.findall(r"[A-Za-z']+", token.string))
                hits = DIALECT.findall(token.string)
                found += [f"{relative(path)}:{token.start[0]}: {hit}" for hit in hits]

    assert len(found) <= MOST_DIALECT * words, f"{len(found)} of {words}: {found[:40]}"
