"""/health says that the process lives; /ready that it can do its work."""

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import __version__
from app.routes.context import answer, context_of
from app.wire.service import Health, Ready
from storage import keys
from storage.errors import StorageError

READY_LIFE_S = 2.0
"""How long one look at the bucket counts: probes must not cost a request each."""


async def health(_: Request) -> Response:
    return answer(Health(status="ok", version=__version__))


async def ready(request: Request) -> Response:
    state = request.app.state
    checked_at, found = getattr(state, "ready", (0.0, None))
    if found is None or time.monotonic() - checked_at > READY_LIFE_S:
        found = await _look(request)
        state.ready = (time.monotonic(), found)
    return answer(found, 200 if found.status == "ready" else 503)


async def _look(request: Request) -> Ready:
    try:
        await context_of(request).stores.objects.list(keys.PROBES, limit=1)
    except StorageError:
        return Ready(status="not_ready", detail="the bucket does not answer")
    return Ready(status="ready", detail="the bucket answers")


ROUTES = (
    Route("/health", health, methods=["GET"], name="get_health"),
    Route("/ready", ready, methods=["GET"], name="get_ready"),
)
