"""/openapi.json and /docs: the OpenAPI document of all services, and a page to read it in a browser.

Promises: every service serves the same document, which a client finds behind any proxy.
The page and all that it loads come from this server, so it works without the internet. Its script and style
are files of the package fastapi-offline, whose code is never imported.
"""

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from starlette.responses import FileResponse, Response

from shared.domain.errors import NotFound

PACKAGE = "fastapi_offline"
DOCUMENT = Path(__file__).with_name("openapi.json")
OPENAPI, DOCS = "/openapi.json", "/docs"
SCRIPT, STYLE = f"{DOCS}/swagger-ui-bundle.js", f"{DOCS}/swagger-ui.css"
FAVICON, REDIRECT = f"{DOCS}/favicon.svg", f"{DOCS}/oauth2-redirect"
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<rect width="16" height="16" rx="3" fill="#246"/>'
    '<path d="M3 12V4l5 5 5-5v8" fill="none" stroke="#fff" stroke-width="2"/></svg>'
)


def add_docs(app: FastAPI) -> None:
    """Add the document, the page and its files to an app."""
    for path, answer in (
        (OPENAPI, _document),
        (DOCS, _page),
        (SCRIPT, _asset),
        (STYLE, _asset),
        (FAVICON, _favicon),
        (REDIRECT, _redirect),
    ):
        app.add_route(path, answer, include_in_schema=False)


async def _document(_: Request) -> Response:
    return FileResponse(DOCUMENT, media_type="application/json")


async def _page(request: Request) -> Response:
    root = request.scope.get("root_path", "").rstrip("/")
    return get_swagger_ui_html(
        openapi_url=root + OPENAPI,
        title="MacroMDM - Swagger UI",
        swagger_js_url=root + SCRIPT,
        swagger_css_url=root + STYLE,
        swagger_favicon_url=root + FAVICON,
        oauth2_redirect_url=root + REDIRECT,
        swagger_ui_parameters={"validatorUrl": None},  # else it asks validator.swagger.io
    )


async def _asset(request: Request) -> Response:
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise NotFound(f"the package {PACKAGE} is not installed")
    return FileResponse(Path(package.origin).parent / "static" / Path(request.url.path).name)


async def _favicon(_: Request) -> Response:
    return Response(_ICON, media_type="image/svg+xml")


async def _redirect(_: Request) -> Response:
    return get_swagger_ui_oauth2_redirect_html()
