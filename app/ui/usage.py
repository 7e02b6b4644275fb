"""Usage: jobs, seconds of workers and money by day, workflow and tenant, added up from the newest jobs.

Nothing is counted apart from the records: a removed job does not count, and of a busy tenant only the newest jobs do.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import Context, context_of, tenant_of
from app.api.jobs import page_of_jobs
from app.problems import Problem
from app.ui.chart import Chart, chart_of
from app.ui.pages import render, seconds, usd
from app.ui.routing import page, session_of
from app.ui.sessions import is_operator
from storage.concurrency import map_bounded
from storage.jobs.filters import JobFilter
from storage.jobs.models import total_seconds, total_usd
from storage.jobs.record import JobRecord, Status
from storage.keys import DEFAULT_TENANT

DAYS = 14
MOST_JOBS = 1_000
"""Jobs that are added up, for one GET each. Several tenants share them equally."""
MOST_TENANTS = 20
TENANTS_AT_ONCE = 4
MAX_AGE_S = 60.0
"""The greatest age of the sums: to add them up anew for each visitor would read every job each time."""
OWN_GRAPHS = "own graphs"


@dataclass(frozen=True, slots=True)
class Used:
    """What one job used. `usd` is None where the price of its GPU is not known."""

    tenant: str
    day: str
    workflow: str
    is_failed: bool
    seconds: float
    gpu_seconds: float
    usd: float | None


@dataclass(slots=True)
class Sum:
    jobs: int = 0
    failed: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    usd: float = 0.0
    is_priced: bool = False

    def add(self, used: Used) -> None:
        self.jobs += 1
        self.failed += used.is_failed
        self.seconds += used.seconds
        self.gpu_seconds += used.gpu_seconds
        if used.usd is not None:
            self.usd += used.usd
            self.is_priced = True


@dataclass(frozen=True, slots=True)
class Usage:
    """The sums, the largest first. `is_cut`: a tenant had more than `most` jobs."""

    days: Mapping[str, Sum]
    workflows: Sequence[tuple[str, Sum]]
    tenants: Sequence[tuple[str, Sum]]
    total: Sum
    most: int
    asked: int
    """The tenants that were asked, also those without a job."""
    is_cut: bool


async def show(request: Request) -> Response:
    context, tenant, holder = context_of(request), tenant_of(request), session_of(request).holder
    is_of_all, sees_all = request.query_params.get("tenants") == "all", is_operator(holder)
    if is_of_all and not sees_all:
        detail = f"only a key of the tenant {DEFAULT_TENANT} with the scope admin sees other tenants"
        raise Problem("insufficient-scope", detail)
    now = context.stores.clock.now()

    async def read() -> Usage:
        return await read_usage(context, await _tenants(context) if is_of_all else [tenant], now)

    usage: Usage = await context.shared.get(tenant, ("ui", "usage", is_of_all), read, max_age_s=MAX_AGE_S)
    return render(
        request,
        "usage.html",
        usage=usage,
        charts=_charts(usage.days),
        is_of_all=is_of_all,
        sees_all=sees_all,
        span=DAYS,
    )


async def read_usage(context: Context, tenants: Sequence[str], now: datetime) -> Usage:
    """Add up the newest jobs: for one LIST for each tenant, and at most `MOST_JOBS` GETs in all."""
    wanted = JobFilter(created_after=now - timedelta(days=DAYS))
    limit = MOST_JOBS // max(1, len(tenants))
    pages = await map_bounded(
        tenants,
        lambda tenant: page_of_jobs(context, tenant, used_of, wanted, limit=limit, cursor=None),
        at_once=TENANTS_AT_ONCE,
    )
    used = [one for listed in pages for one in listed.rows]
    days = {day: Sum() for day in _days(now)} | _sums(used, lambda one: one.day)
    # Only the sums are kept for the next visitors, because each tenant has some of its own.
    return Usage(
        days=dict(list(days.items())[-DAYS:]),
        workflows=_largest(_sums(used, lambda one: one.workflow)),
        tenants=_largest(_sums(used, lambda one: one.tenant)),
        total=_sums(used, lambda _: "all").get("all", Sum()),
        most=limit,
        asked=len(tenants),
        is_cut=any(listed.next_cursor is not None for listed in pages),
    )


async def _tenants(context: Context) -> list[str]:
    """Return the tenants that have a key in the bucket, and the deployment's own."""
    known = {record.tenant for record in await context.stores.api_keys.all()}
    return [DEFAULT_TENANT, *sorted(known - {DEFAULT_TENANT})][:MOST_TENANTS]


def used_of(record: JobRecord) -> Used:
    return Used(
        tenant=record.tenant,
        day=record.created_at.date().isoformat(),
        workflow=record.workflow_name or OWN_GRAPHS,
        is_failed=record.status is Status.FAILED,
        seconds=total_seconds(record.gpu_time),
        gpu_seconds=sum(one.seconds for one in record.gpu_time if one.gpu is not None),
        usd=total_usd(record.gpu_time),
    )


def _sums(rows: Iterable[Used], name: Callable[[Used], str]) -> dict[str, Sum]:
    found: dict[str, Sum] = defaultdict(Sum)
    for used in rows:
        found[name(used)].add(used)
    return found


def _largest(named: Mapping[str, Sum]) -> list[tuple[str, Sum]]:
    return sorted(named.items(), key=lambda item: (-item[1].seconds, -item[1].jobs))


def _charts(days: Mapping[str, Sum]) -> list[Chart]:
    """Return a chart of the jobs, of the time, and of the cost where a price is known."""
    names, found = list(days), list(days.values())
    charts = [
        chart_of("Jobs", names, [one.jobs for one in found], lambda n: f"{n:.0f}", [one.failed for one in found]),
    ]
    if any(one.gpu_seconds for one in found):
        charts.append(chart_of("GPU time", names, [one.gpu_seconds for one in found], seconds))
    else:
        charts.append(chart_of("Worker time", names, [one.seconds for one in found], seconds))
    if any(one.is_priced for one in found):
        charts.append(chart_of("Cost", names, [one.usd for one in found], usd))
    return charts


def _days(now: datetime) -> list[str]:
    return [(now - timedelta(days=ago)).date().isoformat() for ago in reversed(range(DAYS))]


ROUTES = (page("/usage", show, "show_usage"),)
