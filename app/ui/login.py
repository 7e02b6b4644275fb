"""Log in with an API key, log out, and the one-time link of `comfyui-modal open`."""

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.auth import Doorkeeper
from app.problems import Problem
from app.ui.guard import ROOT, is_https, session_cookies
from app.ui.pages import render
from app.ui.routing import action, form, page, see_other, session_or_none
from app.ui.sessions import Sessions

_OWN_PATH = re.compile(rf"{ROOT}(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*/?", re.ASCII)
"""Paths that a login may lead to. Only these characters: no scheme, host, backslash or second slash."""


def sessions_of(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


async def show_login(request: Request) -> Response:
    if session_or_none(request) is not None:
        return see_other("/jobs")
    return render(request, "login.html", wanted=_own_path(request.query_params.get("next", "")), refusal=None)


async def login(request: Request) -> Response:
    sessions, fields = sessions_of(request), form(request)
    wanted = _own_path(fields.get("next", ""))
    try:
        # A new token each time: a session that was planted before the login is worth nothing after it.
        token = await sessions.login(fields.get("key", "").strip(), is_secure=is_https(request))
    except Problem as problem:
        return render(request, "login.html", problem.type.status, wanted=wanted, refusal=problem)
    return _logged_in(request, token, wanted)


async def logout(request: Request) -> Response:
    response = see_other("/login")
    response.headers.update(session_cookies(request, sessions_of(request), ""))
    response.headers["clear-site-data"] = '"cache"'
    return response


async def new_link(request: Request) -> Response:
    """Make a one-time link for the holder of an API key, which comes in the header as for /v1."""
    door: Doorkeeper = request.app.state.door
    try:
        principal = await door.principal_of(request.scope)
        door.check(principal, "GET", "/v1/")
    except Problem as problem:  # for a program, not for a browser
        return problem.response()
    return JSONResponse({"path": f"{ROOT}/open?token={await sessions_of(request).new_link(principal)}"}, 201)


async def show_link(request: Request) -> Response:
    """Ask before a link is followed, and say whose key it is: somebody else may have made and sent it."""
    # Always: a browser does not tell a link that was typed from a redirect of any site that somebody went to.
    token = request.query_params.get("token", "")
    holder = await sessions_of(request).holder_of_link(token)
    if holder is None:
        return _refused_link(request)
    session = session_or_none(request)
    present = session.holder if session is not None and session.holder.kid != holder.kid else None
    return render(request, "open.html", token=token, holder=holder, present=present)


async def follow_link(request: Request) -> Response:
    cookie = await sessions_of(request).follow(form(request).get("token", ""), is_secure=is_https(request))
    return _refused_link(request) if cookie is None else _logged_in(request, cookie, ROOT)


def _refused_link(request: Request) -> Response:
    refusal = Problem("unauthorized", "this link was used already, or is older than a minute")
    return render(request, "login.html", 401, wanted=ROOT, refusal=refusal)


def _logged_in(request: Request, token: str, path: str) -> Response:
    response = see_other(path.removeprefix(ROOT) if path.rstrip("/") != ROOT else "/jobs")
    response.headers.update(session_cookies(request, sessions_of(request), token))
    return response


def _own_path(path: str) -> str:
    return path if _OWN_PATH.fullmatch(path) else ROOT


ROUTES = (
    page("/login", show_login, "show_login", is_public=True),
    action("/login", login, "login", is_public=True),
    action("/logout", logout, "logout"),
    page("/open", show_link, "show_link", is_public=True),
    action("/open", follow_link, "follow_link", is_public=True),
    Route("/links", new_link, methods=["POST"], name="ui_new_link"),
)
