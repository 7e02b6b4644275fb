"""Usage: jobs, seconds of workers and money by day and by workflow, added up from the newest jobs.

Nothing is counted apart from the records, so what was removed does not count, and a busy tenant sees its newest jobs.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from app.api.context import context_of, tenant_of
from app.api.jobs import page_of_jobs
from app.ui.pages import render
from app.ui.routing import page
from storage.jobs.filters import JobFilter
from storage.jobs.models import total_seconds, total_usd
from storage.jobs.record import JobRecord, Status

DAYS = 14
MOST_JOBS = 1_000
"""Jobs that are added up, for one GET each."""
OWN_GRAPHS = "own graphs"


@dataclass(frozen=True, slots=True)
class Used:
    """What one job used."""

    day: str
    workflow: str
    is_failed: bool
    seconds: float
    usd: float | None


@dataclass(slots=True)
class Sum:
    jobs: int = 0
    failed: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    is_priced: bool = field(default=False)

    def add(self, used: Used) -> None:
        self.jobs += 1
        self.failed += used.is_failed
        self.seconds += used.seconds
        if used.usd is not None:
            self.usd += used.usd
            self.is_priced = True


async def show(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    now = context.stores.clock.now()
    wanted = JobFilter(created_after=now - timedelta(days=DAYS))
    listed = await context.shared.get(
        tenant,
        ("ui", "usage"),
        lambda: page_of_jobs(context, tenant, used_of, wanted, limit=MOST_JOBS, cursor=None),
    )
    days = {day: Sum() for day in _days(now)} | sums(listed.rows, lambda used: used.day)
    workflows = sorted(sums(listed.rows, lambda used: used.workflow).items(), key=lambda item: -item[1].seconds)
    total = sums(listed.rows, lambda _: "all").get("all", Sum())
    return render(
        request,
        "usage.html",
        days=list(days.items())[-DAYS:],
        tallest=max((one.seconds for one in days.values()), default=0) or 1,
        workflows=workflows,
        total=total,
        is_cut=listed.next_cursor is not None,
        most=MOST_JOBS,
    )


def used_of(record: JobRecord) -> Used:
    return Used(
        day=record.created_at.date().isoformat(),
        workflow=record.workflow_name or OWN_GRAPHS,
        is_failed=record.status is Status.FAILED,
        seconds=total_seconds(record.gpu_time),
        usd=total_usd(record.gpu_time),
    )


def sums(rows: Iterable[Used], name: Callable[[Used], str]) -> dict[str, Sum]:
    found: dict[str, Sum] = defaultdict(Sum)
    for used in rows:
        found[name(used)].add(used)
    return found


def _days(now: datetime) -> list[str]:
    return [(now - timedelta(days=ago)).date().isoformat() for ago in reversed(range(DAYS))]


ROUTES = (page("/usage", show, "show_usage"),)
