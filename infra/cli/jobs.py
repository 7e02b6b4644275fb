"""`comfyui-modal jobs`, and `comfyui-modal logs`."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from comfyui_modal_client import ListOptions
from infra.cli.arguments import AsJson, Out, ShowUrls, Target
from infra.cli.cost import begin_of, print_costs
from infra.cli.following import download as download_outputs
from infra.cli.following import exit_code, follow, print_error, print_files, print_warnings
from infra.cli.output import FAILED, Refused, Terminal, print_json, printable, usable_folder
from infra.cli.submission import label
from infra.cli.watching import print_event

jobs = App(name="jobs")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs are listed: those that pass every filter that is given."""

    status: Annotated[
        str | None, Parameter(help="queued, running, completed or failed; for cancelled ones --error-code cancelled")
    ] = None
    workflow: Annotated[str | None, Parameter(help="only jobs of the workflow with this name")] = None
    error_code: Annotated[
        str | None, Parameter(help="only failed jobs with this error code, such as timeout or cancelled")
    ] = None
    metadata: Annotated[
        tuple[str, ...],
        Parameter(name="--metadata", help="KEY=VALUE, may be repeated: only jobs with these labels", negative=""),
    ] = ()
    batch: Annotated[str | None, Parameter(help="only jobs of the batch with this id")] = None
    since: Annotated[str | None, Parameter(help="only jobs created since: a span (7d, 12h, 30m), or a date")] = None

    def options(self, limit: int, cursor: str | None) -> ListOptions:
        """Return the options of a page. Raises `Refused`."""
        return {
            "limit": limit,
            "cursor": cursor,
            "status": self.status,
            "workflow": self.workflow,
            "error_code": self.error_code,
            "metadata": dict(label(text) for text in self.metadata),
            "batch_id": self.batch,
            "created_after": None if self.since is None else begin_of(self.since).astimezone(UTC).isoformat(),
        }


@jobs.command(name="list")
def list_jobs(
    *,
    filters: Filters = Filters(),
    limit: int = 50,
    cursor: str | None = None,
    as_json: AsJson = False,
    target: Target = Target(),
) -> None:
    """List jobs, newest first."""
    options = filters.options(limit, cursor)
    with target.client() as client:
        page = client.jobs(**options)
    if as_json:
        print_json(page)
        return
    console = Terminal()
    console.print_line(_line("job", "status", "created", "done", "error", "workflow"))
    for job in page["jobs"]:
        done, created = f"{job['progress']} %", job["created_at"][:19]
        error, workflow = job["error_code"] or "", job["workflow_name"] or ""
        console.print_line(_line(job["job_id"], job["status"], created, done, error, workflow))
    if page["next_cursor"]:
        # With a filter, a page ends where the API has looked at as many jobs as one request may.
        searched = "" if len(page["jobs"]) >= limit else "older jobs have not been searched yet; "
        console.print_line(f"{searched}more: --cursor {page['next_cursor']}")


def _line(job: str, status: str, created: str, done: str, error: str, workflow: str) -> str:
    return f"{job:36}  {status:9}  {created:19}  {done:>5}  {error:18}  {workflow}".rstrip()


@jobs.command
def show(job_id: str, *, as_json: AsJson = False, target: Target = Target()) -> None:
    """Show one job: how far it is, what it made, why it failed."""
    with target.client() as client:
        job = client.job(job_id)
    print_json(job) if as_json else _print_job(job)


@jobs.command
def wait(
    *job_ids: Annotated[str, Parameter(help="The jobs, of which all are waited for.")],
    timeout: Annotated[float | None, Parameter(help="end with 1 after so many seconds, while the jobs go on")] = None,
    as_json: AsJson = False,
    target: Target = Target(),
) -> int:
    """Wait until jobs have ended. Ctrl-C ends the command, and the jobs go on."""
    if not job_ids:
        raise Refused("name the jobs: `comfyui-modal jobs wait JOB_ID…`")
    console, end = Terminal(stderr=as_json), None if timeout is None else time.monotonic() + timeout
    ended = []
    with target.client() as client:
        for job_id in job_ids:
            left = None if end is None else max(0.0, end - time.monotonic())
            if len(job_ids) == 1:
                job = follow(client, job_id, console, timeout_s=left)
            else:
                job = client.wait(job_id, timeout_s=left)
                console.print_line(f"{job_id}  {job['status']}")
            print_error(console, job)
            ended.append(job)
    if as_json:
        print_json(ended)
    return exit_code(ended)


@jobs.command
def watch(job_id: str, *, as_json: AsJson = False, target: Target = Target()) -> int:
    """Print what happens to a job, until it has ended. Ctrl-C ends the command, and the job goes on."""
    console, status = Terminal(), ""
    with target.client() as client:
        for event in client.events(job_id):
            if as_json:
                sys.stdout.write(json.dumps({"event": event.name, "data": event.data}) + "\n")
                sys.stdout.flush()
            else:
                print_event(console, event)
            status = event.data.get("status", status)
    return FAILED if status == "failed" else 0


@jobs.command
def download(
    *job_ids: Annotated[str, Parameter(help="The jobs.")],
    out: Out = Path("outputs"),
    urls: ShowUrls = False,
    target: Target = Target(),
) -> None:
    """Download the outputs that jobs have so far. A file that is there already is left as it is."""
    if not job_ids:
        raise Refused("name the jobs: `comfyui-modal jobs download JOB_ID…`")
    console = Terminal()
    usable_folder(out)
    with target.client() as client:
        for job_id in job_ids:
            job = client.job(job_id)
            if not job["outputs"]:
                console.print_line(f"{job_id} has no outputs: it is {job['status']}")
            print_files(console, download_outputs(client, job, out), urls=urls)


@jobs.command
def cancel(job_id: str, *, target: Target = Target()) -> None:
    """Cancel a job; a finished one is left as it is."""
    with target.client() as client:
        _print_job(client.cancel(job_id))


@jobs.command
def logs(
    job_id: str,
    *,
    attempt: Annotated[int | None, Parameter(help="of which attempt; the current one unless given")] = None,
    target: Target = Target(),
) -> None:
    """Print what the engine said while the job ran."""
    with target.client() as client:
        sys.stdout.write(printable(client.logs(job_id, attempt)))


@jobs.command
def remove(job_id: str, *, target: Target = Target()) -> None:
    """Remove a job and its files now; one that still runs is stopped, and removed then."""
    with target.client() as client:
        left = client.remove(job_id)
    if left is None:
        Terminal().print_line(f"removed {job_id}")
    else:
        _print_job(left)


@jobs.command
def cost(
    *,
    since: Annotated[str, Parameter(help="a span (7d, 12h, 30m), or a date")] = "7d",
    as_json: AsJson = False,
    target: Target = Target(),
) -> None:
    """Sum what jobs have cost, by GPU, workflow and status."""
    with target.client() as client:
        print_costs(client, since, as_json=as_json)


def _print_job(job: Mapping[str, Any]) -> None:
    console = Terminal()
    for name in ("job_id", "status", "progress", "created_at", "started_at", "completed_at", "error"):
        if job[name] is not None:
            console.print_line(f"{name:13}{job[name]}")
    if job["error_detail"]:
        detail = {key: value for key, value in job["error_detail"].items() if value is not None}
        console.print_line(f"{'error_detail':13}{json.dumps(detail)}")
    print_warnings(console, job["warnings"])
    for output in job["outputs"]:
        console.print_line(f"{'output':13}{output['filename']}  {output['size_bytes']} bytes")
        console.print_line(f"{'':13}{output['url']}")
