"""GET /metrics: what this process has answered since it started, in Prometheus' text format.

Labels are of closed sets: operations, methods, classes of statuses, types of problems. No tenant, no key, no job.
"""

import time

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth import METRICS_PATH
from app.outcome import outcome_of

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""A method or a path that this API does not have: clients invent them without end."""
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Up to the longest poll."""


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        asked = ("operation", "method", "status")
        self._requests = Counter(
            "comfyui_modal_requests", "Requests that were answered", asked, registry=self._registry
        )
        self._seconds = Histogram(
            "comfyui_modal_request_seconds",
            "From a request's head to the end of its answer",
            asked,
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._jobs = Counter("comfyui_modal_jobs_accepted", "Jobs that were accepted", registry=self._registry)
        self._refusals = Counter(
            "comfyui_modal_refusals", "Refused requests by problem type", ("problem",), registry=self._registry
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """One answer; a status of 0 for a client that went before it got one."""
        method, route = scope["method"], scope.get("route")
        operation = route.name if isinstance(route, Route) else OTHER
        labels = (operation, method if method in METHODS else OTHER, f"{status // 100}xx" if status else "none")
        self._requests.labels(*labels).inc()
        self._seconds.labels(*labels).observe(seconds)
        outcome = outcome_of(scope)
        self._jobs.inc(outcome.jobs_accepted)
        if outcome.problem is not None:
            self._refusals.labels(outcome.problem).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Outermost: it sees what became of crashes as well."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.count(scope, status, time.perf_counter() - started)


def metrics_route(metrics: Metrics) -> Route:
    async def show(_: Request) -> Response:
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"})

    return Route(METRICS_PATH, show, methods=["GET"], name="get_metrics")
