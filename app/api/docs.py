"""/, /docs, /openapi.json and /problems: the API's documentation, served without third-party requests."""

import functools
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from app import __version__
from app.api import guides
from app.documents import A_DAY, Document
from app.openapi import document
from app.problems import PROBLEM_TYPES, Problem

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "docs.js": "text/javascript",
    "docs.css": "text/css",
    "guide.css": "text/css",
}
_COMPRESSED = ("swagger-ui-bundle.js", "swagger-ui.css")
"""Assets that are shipped in compressed form only."""
_VARY = {"vary": "accept"}
_INDEX = {"docs": "docs", "openapi": "openapi.json", "problems": "problems", "health": "health", "ready": "ready"}
"""What a client that wants JSON gets at `/`: relative URLs, since an absolute one would repeat the Host header."""
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
<link rel="stylesheet" href="docs/docs.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/docs.js"></script>
</body>
</html>
"""


@functools.cache
def _openapi() -> Document:
    return Document.of_json(document())


@functools.cache
def _page() -> Document:
    return Document.of(_PAGE.encode(), "text/html; charset=utf-8", headers={"content-security-policy": _CSP})


@functools.cache
def _asset(name: str) -> Document:
    folder, content_type = files("app") / "static", _ASSETS[name]
    if name not in _COMPRESSED:
        return Document.of((folder / name).read_bytes(), content_type, cache_control=A_DAY)
    return Document(None, (folder / f"{name}.gz").read_bytes(), content_type, cache_control=A_DAY)


@functools.cache
def _problems() -> Document:
    return Document.of_json({kind.uri: {"status": kind.status, "title": kind.title} for kind in PROBLEM_TYPES.values()})


def prepare() -> None:
    """Make the documents, so that no request waits for it: the OpenAPI document takes 0.1 s."""
    for make in (_openapi, _page, _problems):
        make()


async def index(request: Request) -> Response:
    """Lead to /docs; a client that accepts JSON and not HTML gets the links instead."""
    accepted = request.headers.get("accept", "").lower()
    if "application/json" in accepted and "text/html" not in accepted:
        return JSONResponse({"name": "ComfyUI Modal API", "version": __version__, **_INDEX}, headers=_VARY)
    # A fixed, relative target: neither the Host header nor the query can lead anywhere else.
    return Response(status_code=302, headers={"location": "docs", **_VARY})


async def openapi(request: Request) -> Response:
    return _openapi().response(request)


async def page(request: Request) -> Response:
    return _page().response(request)


async def asset(request: Request) -> Response:
    name = request.path_params["name"]
    # Only known names reach the cache, which keeps every document that it makes.
    if name not in _ASSETS:
        raise Problem("not-found", "there is no such file")
    return _asset(name).response(request)


async def problems(request: Request) -> Response:
    return _problems().response(request)


async def problem(request: Request) -> Response:
    kind = PROBLEM_TYPES.get(request.path_params["slug"])
    if kind is None:
        raise Problem("not-found", "there is no such problem type")
    return PlainTextResponse(f"{kind.title} ({kind.status})\n\nWhat to do: {kind.hint}\n")


DOCS_ROUTES = (
    Route("/", index, methods=["GET"], name="get_index"),
    Route("/openapi.json", openapi, methods=["GET"], name="get_openapi"),
    Route("/docs", page, methods=["GET"], name="get_docs"),
    Route("/docs/{name}", asset, methods=["GET"], name="get_docs_asset"),
    *guides.ROUTES,
)
ROUTES = (
    Route("/problems", problems, methods=["GET"], name="list_problem_types"),
    Route("/problems/{slug}", problem, methods=["GET"], name="get_problem_type"),
)
