"""Pure ASGI middleware: request ids, security headers, access log, crashes, bucket budgets, keys, tenants' shares.

A request whose client disconnects before the response is logged with the status 0.
"""

import logging
import time
import uuid
from contextlib import ExitStack

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth import COMFY_V2_HEALTH, NO_TENANT, Doorkeeper, Principal, needs_key
from app.body.large import TenantCount
from app.loop_shares import LoopShares, metered
from app.problems import Problem
from app.turns import MOST_WAITING, LoopTurns, NoTurn
from storage.bucket.budget import budget_of
from storage.fair_slots import NoSlot

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
PROBE_PATHS, PROBES = ("/health", "/ready", COMFY_V2_HEALTH), "/health"
"""Paths without a key whose requests have turns of their own, and the name of this group."""
LOGGED_CHARACTERS = 200
"""Characters of a method or path in the log: unauthenticated clients can send long ones, and each request is logged."""
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class AnswerMiddleware:
    """Adds a request id and security headers, logs each response, and converts a crash into a problem."""

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
                    headers.setdefault(name, value)  # /docs sets its own content security policy
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            pass  # the client disconnected: no response is possible, and the API did not fail
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id, "path": _shortened(scope["path"])})
            if status:
                raise  # the response has started, so the server can only abort the connection
            problem = Problem("internal-error", f"the API failed; request id {request_id}")
            await problem.response()(scope, receive, send_with_headers)
        finally:
            milliseconds = round((time.perf_counter() - started) * 1000, 1)
            # Never the query, into which clients may put secrets.
            asked = {"method": _shortened(scope["method"]), "path": _shortened(scope["path"])}
            about = {"request_id": request_id, "status": status, "ms": milliseconds}
            logger.info("request", extra=asked | about | _asker(scope))


def _shortened(text: str) -> str:
    return text if len(text) <= LOGGED_CHARACTERS else f"{text[:LOGGED_CHARACTERS]}…"


def _asker(scope: Scope) -> dict[str, str]:
    """Return the tenant and key id of an authenticated request; the key itself is never logged."""
    principal: Principal | None = scope.get("state", {}).get("principal")
    return {} if principal is None else {"tenant": principal.tenant, "kid": principal.kid}


class BudgetMiddleware:
    """Bounds the total time that a request waits for the bucket, by a budget in `scope["state"]["budget"]`."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with budget_of(self._seconds) as budget:
            scope.setdefault("state", {})["budget"] = budget
            await self._app(scope, receive, send)


class AuthMiddleware:
    """Authenticates requests below /v1 and /api/v2 and for the metrics, and stores the `Principal` in `scope["state"]`.

    A few requests of one tenant begin in each iteration of the event loop (`app.turns`). All requests without a valid
    key count as one tenant. `scope["state"]["group"]` is the tenant, or the group of the requests that have none.
    """

    def __init__(self, app: ASGIApp, *, door: Doorkeeper) -> None:
        self._app = app
        self._door = door
        self._turns = LoopTurns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # `get`, because a lifespan scope has no path.
        session: Principal | None = scope.get("state", {}).get("principal")
        app, tenant = self._app, PROBES if scope.get("path") in PROBE_PATHS else NO_TENANT
        if session is not None:  # a page, whose session stands for its key
            tenant = session.tenant
        if scope["type"] == "http" and needs_key(scope["path"]):
            try:
                principal = await self._door.principal_of(scope)
                tenant = principal.tenant
                state = scope.setdefault("state", {})
                # Stored before the checks, so that the access log names the tenant and key of a refused request too.
                state["principal"] = principal
                if (budget := state.get("budget")) is not None:
                    budget.owner = tenant  # bucket connections and the heavy thread are shared per tenant
                self._door.check(principal, scope["method"], scope["path"])
            except Problem as problem:
                app = problem.response()
        scope.setdefault("state", {})["group"] = tenant
        try:
            await self._turns.turn(tenant)
        except NoTurn:
            detail = f"{MOST_WAITING} requests wait to begin already, yours or those of all clients without a key"
            app = Problem("too-many-requests", detail, headers={"Retry-After": "1"}).response()
        await app(scope, receive, send)


class InFlightMiddleware:
    """Bounds the requests of one tenant in flight. It runs inside AuthMiddleware, which sets the tenant."""

    def __init__(self, app: ASGIApp, *, count: TenantCount) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal | None = scope.get("state", {}).get("principal")
        with ExitStack() as held:
            if principal is not None:
                try:
                    held.enter_context(self._count.counted(principal.tenant))
                except Problem as problem:
                    await problem.response()(scope, receive, send)
                    return
            await self._app(scope, receive, send)


class LoopShareMiddleware:
    """Keeps a tenant to its share of the event loop (`app.loop_shares`). It runs inside InFlightMiddleware.

    Probes never wait. They count as active, so that the load of a tenant does not delay them.
    """

    def __init__(self, app: ASGIApp, *, shares: LoopShares) -> None:
        self._app = app
        self._shares = shares

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        group = scope["state"]["group"]
        if group == PROBES:
            self._shares.note_arrival(group)
            await self._app(scope, receive, send)
            return
        try:
            await self._shares.turn(group)
        except NoSlot:
            detail = "your requests keep this API process busy, and others need it as well"
            problem = Problem("too-many-requests", detail, headers={"Retry-After": "5"})
            await problem.response()(scope, receive, send)
            return
        await metered(self._shares, group, self._app(scope, receive, send))
