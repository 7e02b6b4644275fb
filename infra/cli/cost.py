"""`comfyui-modal jobs cost`: the cost of jobs since a time, by GPU, workflow shape and status.

The sums are based on the list of jobs, which does not contain removed jobs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from infra.cli.arguments import span
from infra.cli.output import Json, Refused, Terminal, print_json

if TYPE_CHECKING:
    from comfyui_modal_client import Client

PAGE = 200
_SHOWN = 12
"""Characters of a workflow shape that the table shows."""


@dataclass(slots=True)
class Sum:
    """A sum of costs. `usd` covers the priced time only; `unpriced_gpu_seconds` is GPU time without a known price."""

    jobs: int = 0
    gpu_seconds: float = 0.0
    usd: float = 0.0
    unpriced_gpu_seconds: float = 0.0

    def add(self, part: Json) -> None:
        self.jobs += 1
        self.add_time(part)

    def add_time(self, part: Json) -> None:
        self.gpu_seconds = round(self.gpu_seconds + part["gpu_seconds"], 3)
        self.usd = round(self.usd + (part["usd"] or 0.0), 6)
        if part["gpu"] is not None and part["usd"] is None:
            self.unpriced_gpu_seconds = round(self.unpriced_gpu_seconds + part["gpu_seconds"], 3)


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs by GPU, workflow shape and status. A job on two GPUs counts once in each GPU's row, and once in `total`."""

    total: Sum = field(default_factory=Sum)
    rows: dict[tuple[str | None, str, str], Sum] = field(default_factory=dict)


def print_costs(client: "Client", since: str, *, as_json: bool) -> None:
    begin = begin_of(since)
    costs = summed(jobs_since(client, begin))
    _print_json(costs, begin) if as_json else _print_table(costs, begin)


def begin_of(since: str) -> datetime:
    """Parse `--since`. Raises `Refused`."""
    try:
        return moment(since, datetime.now(UTC))
    except (ValueError, OverflowError):
        raise Refused(f"--since {since} is neither a span (7d, 12h, 30m) nor a date (2026-11-23)") from None


def moment(text: str, now: datetime) -> datetime:
    """Parse `7d`, `12h` or `30m` before now, or an ISO 8601 date or time, in UTC by default. Raises ValueError."""
    if (ago := span(text)) is not None:
        return now - ago
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def jobs_since(client: "Client", begin: datetime) -> Iterator[Mapping[str, Any]]:
    """Yield the jobs created since `begin`, newest first, page by page."""
    cursor: str | None = None
    while True:
        page = client.jobs(limit=PAGE, cursor=cursor)
        for job in page["jobs"]:
            # The list begins with the newest job, so all that follow are older as well.
            if datetime.fromisoformat(job["created_at"]) < begin:
                return
            yield job
        cursor = page["next_cursor"]
        if cursor is None:
            return


def summed(jobs: Iterable[Mapping[str, Any]]) -> Costs:
    costs = Costs()
    for job in jobs:
        parts = job["cost"]["by_gpu"] or [{"gpu": None, "gpu_seconds": 0.0, "usd": None}]
        costs.total.jobs += 1  # once, however many GPUs it used
        for part in parts:
            costs.total.add_time(part)
            costs.rows.setdefault((part["gpu"], job["workflow_shape"], job["status"]), Sum()).add(part)
    return costs


def _print_json(costs: Costs, begin: datetime) -> None:
    rows = [
        {"gpu": gpu, "workflow_shape": shape, "status": status, **asdict(row)}
        for (gpu, shape, status), row in _dearest_first(costs)
    ]
    print_json({"since": begin.isoformat(), "total": asdict(costs.total), "rows": rows})


def _print_table(costs: Costs, begin: datetime) -> None:
    table = Table("GPU", "workflow", "status", "jobs", "GPU seconds", "USD", box=None, pad_edge=False)
    for (gpu, shape, status), row in _dearest_first(costs):
        table.add_row(gpu or "none", shape[:_SHOWN], status, str(row.jobs), f"{row.gpu_seconds:.1f}", _usd(row, gpu))
    total = costs.total
    table.add_row("all", "", "", str(total.jobs), f"{total.gpu_seconds:.1f}", f"{total.usd:.4f}")
    console = Terminal()
    console.print_line(f"jobs since {begin.isoformat(timespec='seconds')}")
    console.print(table)
    if total.unpriced_gpu_seconds:
        console.print_line(
            f"{total.unpriced_gpu_seconds:.1f} GPU seconds have no known price: set COMFYUI_MODAL_GPU_PRICES"
        )


def _usd(row: Sum, gpu: str | None) -> str:
    return "" if gpu is None or row.unpriced_gpu_seconds == row.gpu_seconds else f"{row.usd:.4f}"


def _dearest_first(costs: Costs) -> list[tuple[tuple[str | None, str, str], Sum]]:
    return sorted(costs.rows.items(), key=lambda item: (-item[1].usd, -item[1].gpu_seconds, str(item[0])))
