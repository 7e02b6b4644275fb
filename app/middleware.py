"""Pure ASGI middleware: request ids, safe headers and a log line for every answer, a problem for every crash.

A client that breaks off gets a line with the status 0.
"""

import logging
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth import Doorkeeper, Principal, needs_key
from app.problems import Problem
from storage.bucket.budget import budget_of

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
LOGGED_CHARACTERS = 200
"""Of a method and of a path. Anyone can send long ones, without a key, and each request has a line."""
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class AnswerMiddleware:
    """Logs the path and never the query: a query may carry what a client should not have put there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            pass  # it broke off while its body was read: there is nobody to answer, and nothing has failed
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id, "path": _shortened(scope["path"])})
            if status:
                raise  # the answer has begun: only cutting it off is left
            problem = Problem("internal-error", f"the API failed; request id {request_id}")
            await problem.response()(scope, receive, send_with_headers)
        finally:
            milliseconds = round((time.perf_counter() - started) * 1000, 1)
            asked = {"method": _shortened(scope["method"]), "path": _shortened(scope["path"])}
            about = {"request_id": request_id, "status": status, "ms": milliseconds}
            logger.info("request", extra=asked | about | _asker(scope))


def _shortened(text: str) -> str:
    return text if len(text) <= LOGGED_CHARACTERS else f"{text[:LOGGED_CHARACTERS]}…"


def _asker(scope: Scope) -> dict[str, str]:
    """Whose request it was, where that is known. Of the key its name alone."""
    principal: Principal | None = scope.get("state", {}).get("principal")
    return {} if principal is None else {"tenant": principal.tenant, "kid": principal.kid}


class BudgetMiddleware:
    """Bounds what each request may wait for the bucket; `scope["state"]["budget"]` tells how it went."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with budget_of(self._seconds) as budget:
            scope.setdefault("state", {})["budget"] = budget
            await self._app(scope, receive, send)


class AuthMiddleware:
    """Every path below /v1, and that of the metrics, needs an API key that may do this; `scope["state"]["principal"]`
    says whose it is."""

    def __init__(self, app: ASGIApp, *, door: Doorkeeper) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and needs_key(scope["path"]):
            try:
                principal = await self._door.principal_of(scope)
                state = scope.setdefault("state", {})
                state["principal"] = principal
                if (budget := state.get("budget")) is not None:
                    budget.owner = principal.tenant
                self._door.check(principal, scope["method"], scope["path"])
            except Problem as problem:
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)
