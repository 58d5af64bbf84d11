"""`GET /version`, with the keys that MicroMDM's clients know; no authentication."""

import platform
from functools import cache
from pathlib import Path

from fastapi import APIRouter

VERSION = "0.1.0"
"""The version of MacroMDM; a test holds it equal to pyproject.toml's."""

USER_AGENT = f"MacroMDM/{VERSION}"
"""The name under which webhook receivers and APNs see us."""

TAG = {"name": "server", "description": "The server itself."}

_EXAMPLE = {
    "version": VERSION,
    "branch": "",
    "revision": "",
    "go_version": "python3.11.9",
    "build_date": "",
    "build_user": "",
}
_ANSWER = {
    "description": "No key is needed.",
    "content": {"application/json": {"example": _EXAMPLE}},
}

_REVISION = Path(__file__).with_name("revision")
"""A file that the build of the image writes: the commit."""

router = APIRouter(tags=["server"])


@router.get("/version", summary="Which version runs here", responses={200: _ANSWER})
async def version() -> dict[str, str]:
    python = f"python{platform.python_version()}"
    return {**_EXAMPLE, "revision": revision(), "go_version": python}


@cache
def revision(file: Path = _REVISION) -> str:
    """The commit of an image, or "" where it runs from a checkout."""
    return file.read_text(encoding="utf-8").strip() if file.exists() else ""
