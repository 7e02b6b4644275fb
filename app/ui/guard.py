"""What stands in front of every page: the session of the request, and the check that a form comes from our own page.

Cookies are sent to every port of a host, and SameSite counts all ports of a host as one site. So a POST must come from
the same origin by what the browser says of itself, and carry the token of its session as well.
"""

import hmac
import re
from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth import RECHECK, Doorkeeper, Principal
from app.problems import Problem
from app.ui.pages import problem_page
from app.ui.sessions import SESSION_LIFE, Session, Sessions

ROOT = "/ui"
STATIC = f"{ROOT}/static/"
UNCHECKED = frozenset((f"{ROOT}/login", f"{ROOT}/logout", f"{ROOT}/open", f"{ROOT}/links"))
"""Paths for which a session needs no scope, and no share of its key's request rate."""
CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
_HOST_PREFIX = "__Host-"


def is_page(path: str) -> bool:
    return path == ROOT or path.startswith(f"{ROOT}/")


class SessionMiddleware:
    """Stores the session and the principal of a page's request in `scope["state"]`, as AuthMiddleware does for /v1.

    The cookie is read for pages alone: /v1 takes no cookie, so no other site can use a session there.
    """

    def __init__(self, app: ASGIApp, *, sessions: Sessions, door: Doorkeeper) -> None:
        self._app = app
        self._sessions = sessions
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and is_page(scope["path"]) and not scope["path"].startswith(STATIC):
            try:
                session = await session_of(self._sessions, Headers(scope=scope))
                if session is not None:
                    state = scope.setdefault("state", {})
                    state["session"], state["principal"] = session, session.principal
                    state[RECHECK] = partial(self._principal_again, Headers(scope=scope))
                    if (budget := state.get("budget")) is not None:
                        budget.owner = session.principal.tenant
                    if scope["path"] not in UNCHECKED:
                        self._door.check(session.holder, scope["method"], "/v1/")
            except Problem as problem:
                app = problem_page(Request(scope), problem)
        await app(scope, receive, send)

    async def _principal_again(self, headers: Headers) -> Principal:
        session = await session_of(self._sessions, headers)
        if session is None:
            raise Problem("unauthorized", "the session has ended")
        return session.principal


async def session_of(sessions: Sessions, headers: Headers) -> Session | None:
    """Return the session of a request's cookies, of which the one that only HTTPS can set comes first."""
    for name, is_secure in ((f"{_HOST_PREFIX}{sessions.cookie}", True), (sessions.cookie, False)):
        token = _cookie(headers.get("cookie", ""), name)
        session = None if token is None else await sessions.session_of(token, is_secure=is_secure)
        if session is not None:
            return session
    return None


def _cookie(header: str, name: str) -> str | None:
    # Not by http.cookies, whose time is quadratic in Python before 3.11.10 (CVE-2024-7592). Tokens have no quotes.
    found = re.search(rf"(?:^|; ?){re.escape(name)}=([A-Za-z0-9_.-]*)(?:;|$)", header, re.ASCII)
    return None if found is None else found[1]


def session_cookies(request: Request, sessions: Sessions, token: str) -> Mapping[str, str]:
    """Return the header that sets the session's cookie, or removes it if `token` is empty."""
    is_secure = is_https(request)
    name = f"{_HOST_PREFIX}{sessions.cookie}" if is_secure else sessions.cookie
    life = int(SESSION_LIFE.total_seconds()) if token else 0
    # The prefix requires the path `/`, and keeps other hosts of the domain from setting the cookie.
    place = "Path=/; Secure" if is_secure else f"Path={ROOT}"
    return {"set-cookie": f"{name}={token}; {place}; Max-Age={life}; HttpOnly; SameSite=Strict"}


def is_https(request: Request) -> bool:
    """Return whether the browser speaks HTTPS, also where a proxy ends it: the browser names its scheme in `Origin`."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def check_embedding(request: Request, *, may_be_opened: bool = True) -> None:
    """Raise `Problem` if another page asks for this one as a part of itself, or opens what may not be opened by itself.

    A page of another port of this host is of the same site, so its requests carry the cookie: it could read nothing,
    but could hold the streams of the key.
    """
    is_foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
    # A frame is a navigation too, but not to a document.
    is_link = request.headers.get("sec-fetch-mode") == "navigate"
    is_window = is_link and request.headers.get("sec-fetch-dest", "document") == "document"
    if is_foreign and not (is_window and may_be_opened):
        raise Problem("cross-site-request", "the browser says that another page asked for this")


def check_origin(request: Request, public_url: str | None) -> None:
    """Raise `Problem` unless the browser sent this from a page of ours."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        # Browsers leave Sec-Fetch-Site out on plain HTTP, except to this machine.
        hosts = {request.headers.get("host", ""), urlsplit(public_url or "").netloc} - {""}
        # Compared as text: an invalid one cannot be parsed.
        is_ours = origin in {f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts}
    if not is_ours:
        raise Problem("cross-site-request", "the browser says that another page sent this")


def check_token(request: Request, session: Session, given: str | None) -> None:
    """Raise `Problem` unless the request carries the token of its session."""
    token = request.headers.get(CSRF_HEADER) or given or ""
    if not hmac.compare_digest(token.encode(), session.csrf.encode()):
        raise Problem("cross-site-request", "the form does not carry the token of your session")
