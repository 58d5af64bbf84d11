"""`GET /version`, with the keys that MicroMDM's clients know; no authentication."""

import platform

from fastapi import APIRouter

VERSION = "0.1.0"
"""The version of MacroMDM; a test holds it equal to pyproject.toml's."""

router = APIRouter(tags=["server"])


@router.get("/version", summary="Which version runs here")
async def version() -> dict[str, str]:
    return {
        "version": VERSION,
        "branch": "",
        "revision": "",
        "go_version": f"python{platform.python_version()}",
        "build_date": "",
        "build_user": "",
    }
