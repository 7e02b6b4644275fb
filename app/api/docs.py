"""/docs, /openapi.json and /problems: the API's documentation, served without third-party requests."""

import functools
import json
from collections.abc import AsyncIterator
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from app.openapi import document
from app.problems import PROBLEM_TYPES, Problem

_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "docs.js": "text/javascript"}
PIECE_BYTES = 32 * 1024
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ComfyUI Modal API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/docs.js"></script>
</body>
</html>
"""


async def openapi(_: Request) -> Response:
    return _in_pieces(_openapi(), {}, "application/json")


@functools.cache
def _openapi() -> bytes:
    """Return the OpenAPI document as JSON."""
    # Cached: building it takes 50 ms, and the endpoint needs no key.
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()


async def page(_: Request) -> Response:
    return HTMLResponse(_PAGE, headers={"content-security-policy": _CSP})


async def asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _ASSETS:
        raise Problem("not-found", "there is no such file")
    headers = {"cache-control": "public, max-age=86400"}
    if name == "docs.js":
        return _in_pieces(_static(name), headers, _ASSETS[name])
    return _in_pieces(_static(f"{name}.gz"), headers | {"content-encoding": "gzip"}, _ASSETS[name])


def _in_pieces(body: bytes, headers: dict[str, str], content_type: str) -> Response:
    """Stream a public document in pieces."""
    # These endpoints need no key: a client that does not read must occupy one piece of memory, not the whole document.
    return StreamingResponse(_pieces(body), 200, {**headers, "content-length": str(len(body))}, content_type)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


@functools.cache
def _static(name: str) -> bytes:
    return (files("app") / "static" / name).read_bytes()


async def problems(_: Request) -> Response:
    return JSONResponse({kind.uri: {"status": kind.status, "title": kind.title} for kind in PROBLEM_TYPES.values()})


async def problem(request: Request) -> Response:
    kind = PROBLEM_TYPES.get(request.path_params["slug"])
    if kind is None:
        raise Problem("not-found", "there is no such problem type")
    return PlainTextResponse(f"{kind.title} ({kind.status})\n\nWhat to do: {kind.hint}\n")


DOCS_ROUTES = (
    Route("/openapi.json", openapi, methods=["GET"], name="get_openapi"),
    Route("/docs", page, methods=["GET"], name="get_docs"),
    Route("/docs/{name}", asset, methods=["GET"], name="get_docs_asset"),
)
ROUTES = (
    Route("/problems", problems, methods=["GET"], name="list_problem_types"),
    Route("/problems/{slug}", problem, methods=["GET"], name="get_problem_type"),
)
