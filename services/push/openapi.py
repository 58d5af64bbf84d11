"""What OpenAPI says of errors: each with an example."""

from typing import Any

from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]


class Problem(BaseModel):
    """What went wrong: `error` for people, the members of RFC 9457 for programs."""

    error: str
    type: str
    title: str
    status: int
    detail: str


def error(status: int, title: str, said: str) -> dict[str, Any]:
    """One entry of a route's `responses`."""
    return {
        "model": Problem,
        "description": title,
        "content": {
            "application/json": {
                "example": {
                    "error": "Unauthorized" if status == 401 else said,
                    "type": f"urn:macromdm:problem:{title.lower().replace(' ', '-')}",
                    "title": title,
                    "status": status,
                    "detail": said,
                }
            }
        },
    }
