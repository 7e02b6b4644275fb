"""What runs here: the API; the workers, queue, nodes and models of each pool; the limits; and checks of the bucket."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, context_of, tenant_of
from app.api.limits import Limits, limits_of
from app.api.system import SYSTEM_AGE_S, PoolView, SystemView, read_system
from app.auth import NO_TENANT
from app.findings import Finding
from app.heavy import off_loop
from app.problems import Problem
from app.ui.pages import render
from app.ui.routing import action, is_fragment, page, session_of
from app.ui.sessions import is_operator
from storage.concurrency import both, map_bounded
from storage.index_keys import QueueEntry, queue_prefix
from storage.keys import DEFAULT_TENANT
from storage.pools.engine_info import Published
from workflows.needs import CORE

MOST_QUEUED = 1_000
"""Queued jobs of a pool that are counted: as many as one LIST returns."""
MOST_MODELS = 500
"""Model files of a pool that are named; GET /v1/models lists all."""
OTHER_MODELS = "other folders"


@dataclass(frozen=True, slots=True)
class Queue:
    """Jobs of all tenants that wait for a worker of a pool. `has_more`: there are more than are counted."""

    jobs: int
    has_more: bool
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Engine:
    """What the engine of a pool has, as a worker published it. `packs` and `models` are counted by name and folder."""

    published_at: datetime
    comfyui_version: str | None
    classes: int
    packs: Sequence[tuple[str, int]]
    models: Sequence[tuple[str, Sequence[str]]]
    models_in_all: int
    models_left_out: int


@dataclass(frozen=True, slots=True)
class Pool:
    """`queue` is None for a key that sees its own tenant alone, and `engine` until a worker has published it."""

    view: PoolView
    queue: Queue | None
    engine: Engine | None


async def show(request: Request) -> Response:
    return await _shown(request, None)


async def check(request: Request) -> Response:
    """Run the checks of the bucket that `comfyui-modal doctor` makes. Each creates and removes an object."""
    context = context_of(request)
    if not is_operator(session_of(request).holder):
        detail = f"only a key of the tenant {DEFAULT_TENANT} with the scope admin may check the deployment"
        raise Problem("insufficient-scope", detail)
    examine = context.services.examine_bucket
    if examine is None:
        raise Problem("not-found", "this API has no checks: run `comfyui-modal doctor`")
    findings: Sequence[Finding] = await context.shared.get(NO_TENANT, ("ui", "checks"), examine)
    if is_fragment(request):
        return render(request, "fragments/findings.html", findings=findings)
    return await _shown(request, findings)


async def _shown(request: Request, findings: Sequence[Finding] | None) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    sees_all = is_operator(session_of(request).holder)

    async def read() -> tuple[SystemView, list[Pool]]:
        system = await read_system(context)
        return system, await map_bounded(system.pools, lambda view: _pool(context, view, sees_all=sees_all))

    (system, pools), active = await both(
        context.shared.get(NO_TENANT, ("ui", "system", sees_all), read, max_age_s=SYSTEM_AGE_S),
        context.stores.active_jobs.of(tenant, at_most=MOST_QUEUED),
    )
    return render(
        request,
        "system.html",
        system=system,
        pools=pools,
        queued=active.queued,
        running=active.active - active.queued,
        limits=_limits(limits_of(context.config)),
        findings=findings,
        may_check=sees_all and context.services.examine_bucket is not None,
        now=context.stores.clock.now(),
    )


async def _pool(context: Context, view: PoolView, *, sees_all: bool) -> Pool:
    queue = await _queue(context, view.name) if sees_all else None
    published = await context.stores.engine_info.published(view.name)
    # Off the loop: listing the models of thousands of classes may take a second the first time.
    engine = None if published is None else await off_loop(_engine, published)
    return Pool(view, queue, engine)


async def _queue(context: Context, pool: str) -> Queue:
    listed = await context.stores.objects.list(queue_prefix(pool), limit=MOST_QUEUED)
    waiting = []
    for key in listed.keys:
        try:
            waiting.append(QueueEntry.parse(key).created_at)
        except ValueError:  # not ours
            continue
    return Queue(len(waiting), bool(listed.more), min(waiting, default=None))


def _engine(published: Published) -> Engine:
    catalogue, models = published.catalogue, published.models
    packs = Counter(catalogue.pack(name) or CORE for name in published.class_types)
    folders: dict[str, list[str]] = {}
    for model in models[:MOST_MODELS]:
        folders.setdefault(model.folder or OTHER_MODELS, []).append(model.name)
    return Engine(
        published_at=published.info.published_at,
        comfyui_version=published.info.comfyui_version,
        classes=len(published.class_types),
        packs=packs.most_common(),
        models=list(folders.items()),
        models_in_all=len(models),
        models_left_out=max(0, len(models) - MOST_MODELS),
    )


def _limits(limits: Limits) -> list[tuple[str, object, str]]:
    fields = type(limits).model_fields
    return [(name, value, fields[name].description or "") for name, value in limits.model_dump().items()]


ROUTES = (page("/system", show, "show_system"), action("/system/check", check, "check_system"))
