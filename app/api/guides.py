"""/guides: the pages of docs/ as HTML, so that the API's reference links to them wherever it runs.

A page is rendered when it is first asked for. The images bring docs/ along, next to the package `app`.
"""

import functools
import itertools
import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.documents import Document
from app.problems import Problem

ROOT = Path(__file__).parents[2] / "docs"
SECTIONS = ("tutorial", "how-to", "reference", "explanation")

_CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="../../docs/guide.css">
<link rel="icon" href="data:,">
</head>
<body>
<nav><a href="../../docs">API reference</a></nav>
<main>
{body}
</main>
</body>
</html>
"""


@functools.cache
def guides() -> frozenset[str]:
    """Return the names of all pages, such as `how-to/webhooks`."""
    return frozenset(f"{section}/{path.stem}" for section in SECTIONS for path in (ROOT / section).glob("*.md"))


@functools.cache
def _guide(name: str) -> Document:
    # Imported here because most processes of the API never render a page.
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse((ROOT / f"{name}.md").read_text(encoding="utf-8"))
    title = name
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            before.attrSet("id", _anchor(token.content))
            title = token.content if before.tag == "h1" else title
        for child in token.children or ():
            if child.type == "link_open":
                child.attrs = _link(str(child.attrs.get("href", "")), posixpath.dirname(name))
    body = markdown.renderer.render(tokens, markdown.options, {})
    page = _PAGE.format(title=title.replace("&", "&amp;").replace("<", "&lt;"), body=body)
    return Document.of(page.encode(), "text/html; charset=utf-8", headers={"content-security-policy": _CSP})


def _anchor(heading: str) -> str:
    """Return the fragment by which the pages link to a heading: as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _link(href: str, section: str) -> dict[str, str | int | float]:
    """Return the attributes of a link: without a target if it leads to a file that is not served."""
    parts = urlsplit(href)
    if parts.scheme or not parts.path:
        return {"href": href}
    target = posixpath.normpath(posixpath.join(section, parts.path))
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    if target == "reference/openapi.json":
        return {"href": "../../openapi.json"}
    name = target.removesuffix(".md")
    return {"href": f"../{name}{fragment}"} if name in guides() else {}


async def guide(request: Request) -> Response:
    name = f"{request.path_params['section']}/{request.path_params['name']}"
    # Only known names reach the cache, which keeps every page, and no other path reaches the file system.
    if name not in guides():
        raise Problem("not-found", "there is no such guide")
    return _guide(name).response(request)


ROUTES = (Route("/guides/{section}/{name}", guide, methods=["GET"], name="get_guide"),)
