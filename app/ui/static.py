"""The style sheet and scripts of the pages. htmx is vendored, with its licence and its SHA-256."""

import functools

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.documents import Document
from app.problems import Problem
from app.ui.pages import FOLDER

_FILES = {
    "htmx.min.js": "text/javascript; charset=utf-8",
    "ui.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "ui.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@functools.cache
def _file(name: str) -> Document:
    # Revalidated each time: a page and the script of another version would not fit together.
    return Document.of((FOLDER / "static" / name).read_bytes(), _FILES[name], cache_control="no-cache")


async def show(request: Request) -> Response:
    name = request.path_params["name"]
    # Only known names reach the cache and the file system.
    if name not in _FILES:
        raise Problem("not-found", "there is no such file")
    return _file(name).response(request)


ROUTES = (Route("/static/{name}", show, methods=["GET"], name="ui_static"),)
