"""Writes docs/openapi.json and docs/api.md from the routes of the four services, or says whether they are
current.

    python deploy/local/openapi_document.py [--check]

What stands above the mark of docs/api.md is written by hand.
"""

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from generated import below, write_or_check  # noqa: E402 - beside this script

from services.runtime.program import ALL_SERVICES, ServicesProgram  # noqa: E402 - after the path to it
from services.webhook.routes import webhooks  # noqa: E402
from shared.settings import AllSettings, load  # noqa: E402
from shared.telemetry.metrics import Metrics  # noqa: E402
from shared.web.server.document import document_of  # noqa: E402

DOCUMENT = ROOT / "docs" / "openapi.json"
PAGE = ROOT / "docs" / "api.md"
MARK = "<!-- From here on written by deploy/local/openapi_document.py; do not edit. -->\n"
LONGEST = 1500
"""Characters of an example on the page."""
OF_DEVICES = ("/mdm", "/checkin", "/ota/", "/scep")
Document = dict[str, Any]


async def document() -> Document:
    """Of all four services, on a store and a broker of their own."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {"MDM_DATA_DIR": folder, "MDM_API_KEY": "x" * 32}
        program = ServicesProgram(ALL_SERVICES, load(AllSettings, environ), Metrics())
        try:
            return document_of(await program.build(), webhooks)
        finally:
            await program.close()


def page(document: Document) -> Iterator[str]:
    """One section for each tag, with an example of each route."""
    for tag in document["tags"]:
        yield f"\n## {tag['name'].capitalize()}\n\n{tag['description']}\n"
        for path, item in (*document["paths"].items(), *document["webhooks"].items()):
            for method, operation in item.items():
                if operation["tags"][-1] == tag["name"]:
                    yield from _route(document, method.upper(), path, operation)


def _route(document: Document, method: str, path: str, operation: Document) -> Iterator[str]:
    yield f"\n### {method} {path}\n\n{operation['summary']}.\n"
    is_webhook = path in document["webhooks"]
    request = _example(operation.get("requestBody", {}))
    if is_webhook:
        yield _code("json", request)
    elif path.startswith(OF_DEVICES):
        yield "\nDevices call it.\n"
    else:
        yield _code("sh", _curl(method, path, operation, request))
        yield from _answer(operation)


def _curl(method: str, path: str, operation: Document, request: object) -> str:
    key = ' -u "micromdm:$MDM_API_KEY"' if operation.get("security") else ""
    verb = "" if method == "GET" else f" -X {method}"
    body = "" if request is None else f" \\\n  -d {quote(_compact(request))}"
    path = re.sub(r"{(\w+)}", lambda found: f"${found[1].upper()}", path)
    return f'curl{verb}{key} "$SERVER{path}"{body}'


def _answer(operation: Document) -> Iterator[str]:
    responses = operation["responses"]
    status = "201" if "201" in responses else min(responses)
    answer = responses[status]
    example = _example(answer)
    yield f"\n{status}: {answer['description']}\n"
    if example is not None:
        text = json.dumps(example, indent=2, ensure_ascii=False)
        yield (
            _code("json", text) if len(text) <= LONGEST else "\nThe example is long: see `/docs`.\n"
        )


def _example(described: Document) -> Any:
    """The example of a body or answer; None where it has none."""
    contents = described.get("content", {}).values()
    return next((content["example"] for content in contents if "example" in content), None)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value


def _code(language: str, text: object) -> str:
    shown = text if isinstance(text, str) else json.dumps(text, indent=2, ensure_ascii=False)
    return f"\n```{language}\n{shown}\n```\n"


def main(arguments: Sequence[str]) -> int:
    made = asyncio.run(document())
    files = {
        DOCUMENT: json.dumps(made, indent=1, ensure_ascii=False) + "\n",
        PAGE: below(PAGE, MARK, "".join(page(made))),
    }
    return write_or_check(files, arguments, "openapi_document.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
