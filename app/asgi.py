"""`create_app` builds the HTTP API over given services. Importing the module does no work."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from app.api import docs, job_events
from app.api.context import Context
from app.auth import Doorkeeper
from app.batch_state import BatchWatch
from app.body.arriving import ArrivingBodies, NewestBodies
from app.body.large import LargeBodies, TenantCount
from app.comfy_v2 import routes as comfy_v2
from app.comfy_v2.middleware import ComfyV2Middleware
from app.loop_shares import LoopShares
from app.middleware import AnswerMiddleware, AuthMiddleware, BudgetMiddleware, InFlightMiddleware, LoopShareMiddleware
from app.openapi import OPERATIONS
from app.problems import Problem, of_os_error, of_storage
from app.services import Services
from app.shared import SharedReads
from app.streams.feeds import Feeds
from app.streams.live import LiveWatch
from app.streams.response import OpenStreams
from app.ui import pages
from app.ui.guard import SessionMiddleware
from app.ui.keys import MOST_MAKING, TENANTS_MAKING
from app.ui.routing import MOST_PAGES
from app.ui.sessions import Sessions
from app.unread import UnreadMiddleware
from app.watch import JobWatch
from storage.errors import StorageError
from storage.fair_slots import FairSlots
from storage.jobs.feed import JobFeed
from storage.stores import Stores


def create_app(services: Services) -> Starlette:
    config = services.config
    routes = [*(operation.route() for operation in (*OPERATIONS, *comfy_v2.OPERATIONS)), *docs.ROUTES]
    if config.docs:
        routes += docs.DOCS_ROUTES
        docs.prepare()
    handlers: Mapping[Any, Any] = {
        Problem: _on_problem,
        StorageError: _on_storage_error,
        OSError: _on_os_error,
        HTTPException: _on_http_exception,
    }
    counting: list[Middleware] = []
    if config.metrics:
        # Imported here because metrics are off by default, and loading the client library slows the start.
        from app.metrics import Metrics, MetricsMiddleware, metrics_route

        metrics = Metrics()
        routes.append(metrics_route(metrics))
        counting.append(Middleware(MetricsMiddleware, metrics=metrics))
    door = Doorkeeper(services.stores.api_keys, config, services.stores.clock)
    sessions = Sessions(door, services.stores.clock, config.session_secret)
    in_flight = TenantCount(config.max_requests_in_flight, "are in flight already")
    app = Starlette(
        routes=routes,
        # Outermost first. The metrics count the problem that AnswerMiddleware makes of a crash. A CORS preflight has no
        # key, so it is answered before authentication. The budget includes the lookup of the key in the bucket, and
        # UnreadMiddleware needs the principal that AuthMiddleware sets.
        middleware=[
            *counting,
            Middleware(ComfyV2Middleware),
            Middleware(AnswerMiddleware),
            *_cors(config.cors_origins),
            Middleware(BudgetMiddleware, seconds=config.bucket_timeout_s),
            *([Middleware(SessionMiddleware, sessions=sessions, door=door)] if config.ui else []),
            Middleware(AuthMiddleware, door=door),
            Middleware(InFlightMiddleware, count=in_flight),
            Middleware(LoopShareMiddleware, shares=LoopShares()),
            Middleware(UnreadMiddleware, most_bytes=config.max_unread_bytes),
        ],
        exception_handlers=handlers,
    )
    # A redirect to the path without its slash would be an absolute URL built from the client's Host header.
    app.router.redirect_slashes = False
    app.state.context = Context(
        services,
        JobWatch(services.stores.jobs, services.stores.signal),
        BatchWatch(services.stores.batches, services.stores.signal),
        LargeBodies(config.max_large_requests),
        LargeBodies(config.max_receiving_requests, one_of_each=True),
        ArrivingBodies(config.max_receiving_requests),
        LargeBodies(MOST_PAGES, one_of_each=True),
        TenantCount(config.max_unfinished_requests, "have not sent their bodies in whole"),
        NewestBodies(config.max_unfinished_requests),
        in_flight,
        TenantCount(config.max_long_polls, "wait for a job or batch already"),
        TenantCount(config.max_webhook_tests, "test a receiver already"),
        OpenStreams(
            door, most=config.max_streams, most_of_key=config.max_streams_of_key, budget_s=config.bucket_timeout_s
        ),
        Feeds(partial(_job_feed, services.stores), partial(job_events.render, services), poll_s=config.feed_poll_s),
        LiveWatch(services.stores.jobs, services.stores.live, services.stores.signal, services.stores.clock),
        asyncio.Lock(),
        SharedReads(budget_s=config.bucket_timeout_s),
        FairSlots(TENANTS_MAKING, each=1, max_waiting=MOST_MAKING, wait_s=config.bucket_timeout_s),
        SharedReads(budget_s=config.bucket_timeout_s, max_waiting=config.max_requests_in_flight),
    )
    if config.ui:
        app.router.routes += pages(app.state.context, door, sessions)
    return app


def _job_feed(stores: Stores, tenant: str) -> JobFeed:
    return JobFeed(stores.jobs, stores.objects, stores.clock, tenant)


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """CORS for the configured origins; no middleware without any."""
    if not origins:
        return []
    # `allow_credentials` stays off: API keys come in a header, never in a cookie.
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "authorization",
                "content-type",
                "idempotency-key",
                "if-none-match",
                "last-event-id",
                "prefer",
            ],
            expose_headers=[
                "etag",
                "idempotency-replayed",
                "location",
                "preference-applied",
                "retry-after",
                "x-comfy-request-id",
                "x-request-id",
            ],
        )
    ]


async def _on_problem(_: Request, problem: Problem) -> Response:
    return problem.response()


async def _on_storage_error(request: Request, error: StorageError) -> Response:
    return of_storage(error, may_have_written=request.state.budget.may_have_written).response()


async def _on_os_error(_: Request, error: OSError) -> Response:
    return of_os_error(error).response()


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Render the router's own errors, 404 and 405, as problems."""
    if error.status_code == 405:
        headers = {key: value for key, value in (error.headers or {}).items() if key.lower() == "allow"}
        return Problem("method-not-allowed", f"{request.method} is not for this path", headers=headers).response()
    return Problem("not-found", "there is nothing at this path").response()
