"""What runs here: the API, the last worker of each pool, the queue, and the limits."""

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import context_of, tenant_of
from app.api.limits import Limits, limits_of
from app.api.system import read_system
from app.ui.pages import render
from app.ui.routing import page
from storage.concurrency import both


async def show(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    system, active = await both(read_system(context), context.stores.active_jobs.of(tenant, at_most=1_000))
    return render(
        request,
        "system.html",
        system=system,
        queued=active.queued,
        running=active.active - active.queued,
        limits=_limits(limits_of(context.config)),
    )


def _limits(limits: Limits) -> list[tuple[str, object, str]]:
    fields = type(limits).model_fields
    return [(name, value, fields[name].description or "") for name, value in limits.model_dump().items()]


ROUTES = (page("/system", show, "show_system"),)
