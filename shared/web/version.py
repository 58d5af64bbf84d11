"""`GET /version`, with the keys that MicroMDM's clients know; no authentication."""

import platform

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

router = APIRouter(tags=["server"])


@router.get("/version", summary="Which version runs here", responses={200: _ANSWER})
async def version() -> dict[str, str]:
    return {**_EXAMPLE, "go_version": f"python{platform.python_version()}"}
