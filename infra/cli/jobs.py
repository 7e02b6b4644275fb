"""`comfyui-modal jobs`."""

import json
import sys

from rich.table import Table

from infra.cli.client import Client, Json
from infra.cli.output import Terminal, print_json, printable


def list_page(api: tuple[str, str], status: str | None, limit: int, cursor: str | None, *, as_json: bool) -> int:
    with Client(*api) as client:
        page = client.jobs(status=status, limit=limit, cursor=cursor)
    if as_json:
        return print_json(page)
    table = Table("job", "status", "created", "progress", box=None, pad_edge=False)
    for job in page["jobs"]:
        table.add_row(job["job_id"], job["status"], job["created_at"][:19], f"{job['progress']} %")
    console = Terminal()
    console.print(table)
    if page["next_cursor"]:
        console.print(f"more: --cursor {page['next_cursor']}", highlight=False)
    return 0


def show_job(api: tuple[str, str], job_id: str, *, as_json: bool) -> int:
    with Client(*api) as client:
        job = client.job(job_id)
    return print_json(job) if as_json else _print_job(job)


def cancel_job(api: tuple[str, str], job_id: str) -> int:
    with Client(*api) as client:
        job = client.cancel(job_id)
    return _print_job(job)


def print_logs(api: tuple[str, str], job_id: str, attempt: int | None) -> int:
    with Client(*api) as client:
        sys.stdout.write(printable(client.logs(job_id, attempt)))
    return 0


def remove_job(api: tuple[str, str], job_id: str) -> int:
    with Client(*api) as client:
        left = client.remove(job_id)
    if left is not None:
        return _print_job(left)
    Terminal().print(f"removed {job_id}", highlight=False, markup=False)
    return 0


def _print_job(job: Json) -> int:
    console = Terminal()
    for name in ("job_id", "status", "progress", "created_at", "started_at", "completed_at", "error"):
        if job[name] is not None:
            console.print(f"{name:13}{job[name]}", highlight=False, markup=False)
    if job["error_detail"]:
        detail = {key: value for key, value in job["error_detail"].items() if value is not None}
        console.print(f"{'error_detail':13}{json.dumps(detail)}", highlight=False, markup=False)
    for output in job["outputs"]:
        console.print(f"{'output':13}{output['filename']}  {output['size_bytes']} bytes", highlight=False, markup=False)
        console.print(f"{'':13}{output['url']}", highlight=False, markup=False, soft_wrap=True)
    return 0
