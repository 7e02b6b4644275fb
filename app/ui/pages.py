"""Renders pages and problems from the templates, with the headers that every page carries."""

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from app import __version__
from app.auth import WRITE
from app.outcome import outcome_of
from app.problems import Problem
from app.urls import SCHEMES, origin_of
from storage.bucket.objects import ObjectStore

FOLDER = Path(__file__).parent
_KIB = 1024
_NAVIGATION = (
    ("jobs", "Jobs"),
    ("workflows", "Workflows"),
    ("batches", "Batches"),
    ("webhooks", "Webhooks"),
    ("usage", "Usage"),
    ("keys", "Keys"),
    ("system", "System"),
)


@functools.cache
def environment() -> Environment:
    # `autoescape` for every template, whatever it is called: each text on a page may come from a stranger.
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"size": size, "seconds": seconds, "moment": moment, "ago": ago, "usd": usd}
    made.globals |= {"version": __version__, "navigation": _NAVIGATION}
    return made


def render(request: Request, template: str, status: int = 200, /, **values: Any) -> Response:
    """Return a page, or for a request of htmx the fragment that it asked for."""
    session = getattr(request.state, "session", None)
    text = (
        environment()
        .get_template(template)
        .render(
            session=session,
            csrf="" if session is None else session.csrf,
            may_write=session is not None and session.holder.may(WRITE),
            section=_section(request),
            **values,
        )
    )
    return HTMLResponse(text, status, page_headers(_objects(request)))


def problem_page(request: Request, problem: Problem) -> Response:
    """Return a problem in the words of the API: a page, or for a request of htmx the text of its notice."""
    outcome_of(request.scope).problem = problem.type.slug
    is_fragment = "hx-request" in request.headers
    template = "fragments/problem.html" if is_fragment else "problem.html"
    response = render(request, template, problem.type.status, problem=problem)
    response.headers.update(problem.headers or {})
    return response


def page_headers(objects: ObjectStore | None) -> Mapping[str, str]:
    """Return the headers of a page. Pictures and players may load from the bucket, and from nowhere else."""
    bucket = f" {origin}" if objects is not None and (origin := bucket_origin(objects)) else ""
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:{bucket}; "
        f"media-src 'self'{bucket}; connect-src 'self'{bucket}; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        # With `no-referrer` browsers would send forms with `Origin: null`, and no page could be recognised as ours.
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
        "x-frame-options": "DENY",
    }


def bucket_origin(objects: ObjectStore) -> str | None:
    """Return the origin of presigned URLs; None if browsers cannot load from there."""
    parts = urlsplit(objects.presign_get("k", expires_s=60, filename="k", content_type="image/png").url)
    return origin_of(parts) if parts.scheme in SCHEMES else None


def size(count: int) -> str:
    """Return a number of bytes as people read it, such as `1.5 MiB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < _KIB or unit == "GiB":
            break
        value /= _KIB
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def seconds(value: float | None) -> str:
    """Return a duration, such as `0.04 s`, `1.5 s`, `12 s` or `3 min 5 s`."""
    if value is None:
        return "–"
    if value < 0.005:
        return "0 s"
    if value < 10:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def usd(value: float | None) -> str:
    return "–" if value is None else f"${value:.4f}" if value < 1 else f"${value:,.2f}"


def moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def ago(value: datetime, now: datetime) -> str:
    """Return how long ago this was, such as `5 min ago`."""
    passed = max(0.0, (now - value).total_seconds())
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if passed >= unit:
            return f"{passed // unit:.0f} {name} ago"
    return "just now" if passed < 5 else f"{passed:.0f} s ago"


def _section(request: Request) -> str:
    return request.url.path.removeprefix("/ui").strip("/").partition("/")[0]


def _objects(request: Request) -> ObjectStore | None:
    app = request.scope.get("app")
    if app is None or not hasattr(app.state, "context"):
        return None
    objects: ObjectStore = app.state.context.stores.objects
    return objects
