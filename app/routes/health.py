"""/health reports that the process is alive, /ready that the bucket accepts writes."""

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import __version__
from app.routes.context import answer, context_of
from app.wire.service import Health, Ready
from storage import keys
from storage.bucket.budget import background
from storage.errors import DiskAlmostFull, StorageError

READY_LIFE_S = 2.0
"""Seconds for which a check of the bucket is reused, so that frequent probes do not cost a bucket request each."""
READY_WAIT_S = 1.5
"""Seconds that a probe waits for the check."""
NOT_READY = Ready(status="not_ready", detail="the bucket does not answer, or refuses writes")


async def health(_: Request) -> Response:
    return answer(Health(status="ok", version=__version__))


async def ready(request: Request) -> Response:
    """Respond within `READY_WAIT_S`, even while the bucket hangs."""
    state = request.app.state
    # All probes share one check: probes that time out must not use up the bucket's connections one by one.
    check: _Check | None = getattr(state, "ready", None)
    if check is None or check.is_old():
        check = state.ready = _Check(background(_probe(request)))
    await asyncio.wait({check.task}, timeout=READY_WAIT_S)
    found = check.task.result() if check.task.done() else NOT_READY
    return answer(found, 200 if found.status == "ready" else 503)


class _Check:
    """A check of the bucket, running or done. It is valid until `READY_LIFE_S` after its end."""

    def __init__(self, task: asyncio.Task[Ready]) -> None:
        self.task = task
        self._ended_at: float | None = None
        task.add_done_callback(self._end)

    def is_old(self) -> bool:
        return self._ended_at is not None and time.monotonic() - self._ended_at > READY_LIFE_S

    def _end(self, _: asyncio.Task[Ready]) -> None:
        self._ended_at = time.monotonic()


async def _probe(request: Request) -> Ready:
    """Check the bucket with a read and a write, because a bucket with a full disk still serves reads."""
    services = context_of(request).services
    try:
        services.check_disk()
        await services.stores.objects.list(keys.PROBES, limit=1)
        await services.stores.objects.put(keys.probe("ready"), b"probe", content_type="text/plain")
    except DiskAlmostFull as error:
        return Ready(status="not_ready", detail=str(error))
    except StorageError:
        return NOT_READY
    return Ready(status="ready", detail="the bucket takes writes")


ROUTES = (
    Route("/health", health, methods=["GET"], name="get_health"),
    Route("/ready", ready, methods=["GET"], name="get_ready"),
)
