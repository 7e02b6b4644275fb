"""GET /metrics: counters of this process since its start, in Prometheus' text format.

Every label has a closed set of values: operation, method, status class, problem type, pool. No label names a tenant,
key or job. The engines' times are of all workers and read from the bucket.
"""

import time
from contextlib import suppress

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.context import context_of
from app.auth import METRICS_PATH
from app.outcome import outcome_of
from storage.errors import StorageError
from storage.keys import DEFAULT_POOL
from storage.pools.engine_use import EngineUse

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""The label of unknown methods and paths, which would otherwise make the number of time series unbounded."""
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Histogram buckets in seconds, up to the longest long poll."""


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

        self._engine_seconds = Gauge(
            "comfyui_modal_engine_seconds",
            "What engines did since they were ready, of the workers that reported within a day",
            ("pool", "state"),
            registry=self._registry,
        )
        self._computed_share = Gauge(
            "comfyui_modal_engine_computed_share",
            "The share of this time in which engines ran prompts",
            ("pool",),
            registry=self._registry,
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one response. A status of 0 means that the client disconnected before the response."""
        # The router sets the route in the scope that all middleware share; it is missing for an unknown path.
        method, route = scope["method"], scope.get("route")
        operation = route.name if isinstance(route, Route) else OTHER
        labels = (operation, method if method in METHODS else OTHER, f"{status // 100}xx" if status else "none")
        self._requests.labels(*labels).inc()
        self._seconds.labels(*labels).observe(seconds)
        outcome = outcome_of(scope)
        self._jobs.inc(outcome.jobs_accepted)
        if outcome.problem is not None:
            self._refusals.labels(outcome.problem).inc()

    def show_use(self, pool: str, use: EngineUse) -> None:
        """Set the sums of the pool's engines."""
        self._engine_seconds.labels(pool, "computing").set(use.computed_s)
        self._engine_seconds.labels(pool, "idle").set(use.idle_s)
        self._computed_share.labels(pool).set(use.computed_share or 0.0)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Counts every response. It is the outermost middleware, so that it counts the responses to crashes as well."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            self._metrics.count(scope, status, time.perf_counter() - started)


def metrics_route(metrics: Metrics) -> Route:
    async def show(request: Request) -> Response:
        context = context_of(request)
        for pool in (DEFAULT_POOL, *context.config.gpu_pools):
            with suppress(StorageError):  # the other figures need no bucket
                metrics.show_use(pool, await context.stores.engine_use.sum(pool))
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"})

    return Route(METRICS_PATH, show, methods=["GET"], name="get_metrics")
