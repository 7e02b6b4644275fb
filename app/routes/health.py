"""/health says that the process lives; /ready that it can do its work."""

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
"""How long one look at the bucket counts: probes must not cost a request each."""
READY_WAIT_S = 1.5
"""How long a probe waits for that look."""
NOT_READY = Ready(status="not_ready", detail="the bucket does not answer, or refuses writes")


async def health(_: Request) -> Response:
    return answer(Health(status="ok", version=__version__))


async def ready(request: Request) -> Response:
    """Answers within `READY_WAIT_S`, also while the bucket hangs. All probes share one look at it, so that those which
    give up do not take the bucket's connections one after the other."""
    state = request.app.state
    looked: _Looked | None = getattr(state, "ready", None)
    if looked is None or looked.is_old():
        looked = state.ready = _Looked(background(_look(request)))
    await asyncio.wait({looked.task}, timeout=READY_WAIT_S)
    found = looked.task.result() if looked.task.done() else NOT_READY
    return answer(found, 200 if found.status == "ready" else 503)


class _Looked:
    """A look at the bucket, under way or done. It counts for `READY_LIFE_S` after its end."""

    def __init__(self, task: asyncio.Task[Ready]) -> None:
        self.task = task
        self._ended_at: float | None = None
        task.add_done_callback(self._end)

    def is_old(self) -> bool:
        return self._ended_at is not None and time.monotonic() - self._ended_at > READY_LIFE_S

    def _end(self, _: asyncio.Task[Ready]) -> None:
        self._ended_at = time.monotonic()


async def _look(request: Request) -> Ready:
    """By a read and a write: a bucket whose disk was full still answers reads."""
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
