"""Routes of pages: a session is required, and each POST must come from a page of ours, before a handler runs."""

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from app.api.context import context_of, tenant_of
from app.auth import RECHECK
from app.ui.forms import Form, form_of
from app.ui.guard import CSRF_FIELD, ROOT, check_embedding, check_origin, check_token
from app.ui.pages import page_headers
from app.ui.sessions import Session

MOST_PAGES = 8
"""Pages that one process makes at once of documents of several megabytes; one tenant gets half of them."""

Handler = Callable[[Request], Awaitable[Response]]


def page(
    path: str,
    handler: Handler,
    name: str,
    *,
    is_public: bool = False,
    holds_documents: bool = False,
    is_stream: bool = False,
) -> Route:
    """Return the route of a page. `path` is below the root of the pages.

    With `holds_documents` it waits for one of `MOST_PAGES` places: it holds outputs, a graph, inputs, deliveries or a
    log. A stream is for scripts of our pages alone: a page of another origin could hold some of the key's by windows
    that it opens.
    """

    async def respond(request: Request) -> Response:
        check_embedding(request, may_be_opened=not is_stream)
        if not is_public and session_or_none(request) is None:
            return _to_login(request)
        return await (_in_its_place(request, handler) if holds_documents else handler(request))

    return Route(path, respond, methods=["GET"], name=f"ui_{name}")


def action(path: str, handler: Handler, name: str, *, is_public: bool = False, holds_documents: bool = False) -> Route:
    """Return the route of a form, whose fields the handler finds by `form`. `holds_documents` is as for `page`."""

    async def respond(request: Request) -> Response:
        check_origin(request, context_of(request).config.public_url)
        session = session_or_none(request)
        if session is None and not is_public:
            return _to_login(request)
        async with form_of(request, is_public=is_public) as fields:
            if session is not None and not is_public:
                check_token(request, session, fields.get(CSRF_FIELD))
                # Again, since a form may take half a minute: its key may have been revoked, or ended, meanwhile.
                await request.scope["state"][RECHECK]()
            request.state.form = {field: text for field, text in fields.items() if field != CSRF_FIELD}
            return await (_in_its_place(request, handler) if holds_documents else handler(request))

    return Route(path, respond, methods=["POST"], name=f"ui_{name}")


async def _in_its_place(request: Request, handler: Handler) -> Response:
    leave = await context_of(request).pages.enter(tenant_of(request))
    try:
        return await handler(request)
    finally:
        leave()


def form(request: Request) -> Form:
    fields: Form = request.state.form
    return fields


def session_of(request: Request) -> Session:
    session: Session = request.state.session
    return session


def session_or_none(request: Request) -> Session | None:
    session: Session | None = getattr(request.state, "session", None)
    return session


def is_fragment(request: Request) -> bool:
    """Return whether htmx asks for a part of the page."""
    return "hx-request" in request.headers


def see_other(path: str) -> Response:
    """Redirect to a page of ours after a form. `path` is below the root of the pages."""
    return RedirectResponse(f"{ROOT}{path}", 303, page_headers(None))


def _to_login(request: Request) -> Response:
    if is_fragment(request):
        # htmx would put the login page into a part of the page.
        return Response(status_code=401, headers={**page_headers(None), "hx-redirect": f"{ROOT}/login"})
    wanted = request.url.path if request.method == "GET" else ROOT
    return see_other(f"/login?next={quote(wanted, safe='/')}")
