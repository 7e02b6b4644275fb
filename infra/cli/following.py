"""What commands print of a job: its progress while it runs, how it ended, and its files."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from comfyui_modal_client import (
    Client,
    Downloaded,
    Job,
    JobEvent,
    NodeWarning,
    NotFound,
    Output,
    TooManyRequests,
)
from infra.cli.output import FAILED, Terminal, printable
from infra.cli.watching import print_preview


def follow(client: Client, job_id: str, console: Terminal, *, timeout_s: float | None = None) -> Job:
    """Wait for the job with a progress bar and previews on a terminal, or with a line for each change elsewhere."""
    if not console.is_terminal:
        return client.wait(job_id, lambda job: console.print_line(_progress(job)), timeout_s=timeout_s)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[node]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("queued", total=100, node="")
        if timeout_s is None:
            try:
                for event in client.events(job_id):
                    _show(bar, task, event)
                return client.job(job_id)
            except (TooManyRequests, NotFound):
                pass  # no stream is free, or the API is older: its state is polled, without previews
        return client.wait(
            job_id,
            # The bar prints its columns itself, so `Terminal` does not see these texts.
            lambda job: bar.update(
                task, completed=job["progress"], description=printable(job["status"]), node=printable(_where(job))
            ),
            timeout_s=timeout_s,
        )


def _show(bar: Progress, task: TaskID, event: JobEvent) -> None:
    """Show what an event says in the progress bar, or a preview above it."""
    match event.name:
        case "status":
            bar.update(task, description=printable(event.data["status"]))
        case "progress":
            bar.update(task, completed=event.data["progress"], node=printable(_where(event.data)))
        case "preview":
            bar.stop()
            print_preview(bar.console, event)
            bar.start()


def exit_code(jobs: Iterable[Job]) -> int:
    """Return 0 if all jobs have completed, else 1."""
    return 0 if all(job["status"] == "completed" for job in jobs) else FAILED


def download(client: Client, job: Job, out: Path) -> Iterator[tuple[Output, Downloaded]]:
    """Download the job's outputs, and yield each with what was done."""
    for output in job["outputs"]:
        yield output, client.download(output, out)


def print_error(console: Terminal, job: Job) -> None:
    """Print why the job failed, if it did."""
    if job["error"]:
        detail = job["error_detail"]
        where = f" at node {detail['node_id']} ({detail['class_type']})" if detail and detail["node_id"] else ""
        console.print_line(f"failed{where}: {job['error']}", style="red")


def print_files(console: Terminal, saved: Iterable[tuple[Output, Downloaded]], *, urls: bool) -> None:
    """Print a line for each downloaded output, and its presigned URL if `urls`."""
    for output, file in saved:
        size = f"{output['width']}×{output['height']}, " if output["width"] else ""
        folder = f", from folder {output['subfolder']}" if output["subfolder"] else ""
        preview = ", preview" if output["is_preview"] else ""
        console.print_line(f"{file.path}  {size}{output['size_bytes']} bytes{folder}{preview}{_state(file, output)}")
        if urls:
            console.print_line(f"  {output['url']}", style="dim")


def print_warnings(console: Terminal, warnings: Mapping[str, NodeWarning]) -> None:
    """Print why some outputs do not run."""
    for warning in warnings.values():
        outputs = ", ".join(warning["dependent_outputs"])
        hint = f" ({warning['hint']})" if warning["hint"] else ""
        console.print_line(
            f"warning: {warning['detail']}{hint}; so these outputs do not run: {outputs}", style="yellow"
        )


def _state(file: Downloaded, output: Output) -> str:
    match file.state:
        case "new":
            return ""
        case "already there":
            return " (already there)"
        case "renamed":
            return f" (another {Path(output['filename']).name} is there, and was left as it is)"


def _progress(job: Job) -> str:
    return f"{job['status']:9} {job['progress']:3} %  {_where(job)}".rstrip()


def _where(job: Job | Mapping[str, Any]) -> str:
    details = job["progress_details"]
    node = f"node {details['current_node']}" if details["current_node"] else ""
    step = f"step {details['step']}" if details["step"] else ""
    return " ".join(part for part in (node, step) if part)
