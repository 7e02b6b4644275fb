"""/v1/system: versions and workers of this deployment. It reads two small objects for each pool."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.routes.context import NO_STORE, answer, context_of
from app.views.system import system_view
from storage.concurrency import gather
from storage.keys import DEFAULT_POOL


async def show(request: Request) -> Response:
    context = context_of(request)
    pools = (DEFAULT_POOL, *context.config.gpu_pools)
    found = await gather(*(context.stores.worker_facts.read(pool) for pool in pools))
    starts = await gather(*(context.stores.engine_starts.state(pool) for pool in pools))
    workers = dict(zip(pools, found, strict=True))
    return answer(system_view(workers, dict(zip(pools, starts, strict=True))), headers=NO_STORE)


ROUTES = (Route("/v1/system", show, methods=["GET"], name="get_system"),)
