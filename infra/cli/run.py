"""`comfyui-modal run` and `batch`: submit a workflow, follow its jobs, download their outputs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from comfyui_modal_client import ApiProblem, Client, Downloaded, Json
from infra.cli.arguments import AsJson, Target
from infra.cli.output import FAILED, INTERRUPTED, Refused, Terminal, print_json, printable
from infra.cli.submission import RunArguments, submit

Workflow = Annotated[
    str, Parameter(help="A file in ComfyUI's API format, or the name of a workflow (see `workflows list`).")
]
Values = Annotated[
    list[str] | None, Parameter(name="--set", help="NAME=VALUE or NODE.FIELD=VALUE, may be repeated", negative="")
]
Out = Annotated[Path, Parameter(help="folder for the outputs")]
Timeout = Annotated[int | None, Parameter(help="longest run time of each job in seconds")]


def run(  # noqa: PLR0913  one a flag
    workflow: Workflow,
    *,
    image: Annotated[Path | None, Parameter(help="the picture, where the workflow takes one")] = None,
    media: Annotated[list[str] | None, Parameter(help="NAME=FILE or NAME=URL, may be repeated", negative="")] = None,
    values: Values = None,
    out: Out = Path("outputs"),
    priority: int = 0,
    timeout: Timeout = None,
    webhook: Annotated[str | None, Parameter(help="URL that receives an event when the job has ended")] = None,
    strict: Annotated[
        bool, Parameter(help="refuse the job if an output cannot run, instead of running the others", negative="")
    ] = False,
    as_json: AsJson = False,
    target: Target = Target(),
) -> int:
    arguments = RunArguments(
        workflow, tuple(values or ()), priority, timeout, image, tuple(media or ()), webhook, strict
    )
    console = Terminal(stderr=as_json)
    with target.client() as client:
        # Outside the `try`: until the job has an id, Ctrl-C has nothing to cancel.
        accepted = submit(client, arguments)
        try:
            console.print_line(f"job {accepted['job_id']}")
            _warn(console, accepted["warnings"])
            job = _follow(client, accepted["job_id"], console)
        except KeyboardInterrupt:
            client.cancel(accepted["job_id"])
            console.print_line("cancelled", style="yellow")
            return INTERRUPTED
        saved = [(output, client.download(output, out)) for output in job["outputs"]]
    if as_json:
        print_json(job)
    else:
        if job["warnings"] != accepted["warnings"]:  # those of the submission are printed already
            _warn(console, job["warnings"])
        _print_result(console, job, saved)
    return 0 if job["status"] == "completed" else FAILED


def batch(
    workflow: Workflow,
    *images: Annotated[Path, Parameter(help="The pictures, a job for each.")],
    values: Values = None,
    out: Out = Path("outputs"),
    priority: int = 0,
    timeout: Timeout = None,
    as_json: AsJson = False,
    target: Target = Target(),
) -> int:
    if not images:
        raise Refused("name the pictures: `comfyui-modal batch WORKFLOW PICTURE…`")
    arguments = RunArguments(workflow, tuple(values or ()), priority, timeout)
    console = Terminal(stderr=as_json)
    accepted: list[str] = []
    with target.client() as client:
        try:
            # The deployment decides how many of the jobs run at once.
            for number, picture in enumerate(images, 1):
                accepted.append(submit(client, replace(arguments, image=picture))["job_id"])
                console.print_line(f"{number}/{len(images)} {picture.name}: job {accepted[-1]}")
            jobs = [_ended(client, *pair, out, console) for pair in zip(accepted, images, strict=True)]
        except KeyboardInterrupt:
            _cancel(client, accepted)
            console.print_line("cancelled", style="yellow")
            return INTERRUPTED
        except (ApiProblem, Refused):
            # One refused picture cancels the others, so that the command does not leave half of its jobs running.
            _cancel(client, accepted)
            raise
    if as_json:
        print_json(jobs)
    done = sum(job["status"] == "completed" for job in jobs)
    console.print_line(f"{done} of {len(jobs)} completed")
    return 0 if done == len(jobs) else FAILED


def _ended(client: Client, job_id: str, picture: Path, out: Path, console: Terminal) -> Json:
    job = client.wait(job_id)
    console.print_line(f"{picture.name}: {job['status']}")
    _print_result(console, job, [(output, client.download(output, out)) for output in job["outputs"]])
    return job


def _cancel(client: Client, accepted: Sequence[str]) -> None:
    """Cancel the jobs. The API leaves a finished job unchanged."""
    for job_id in accepted:
        client.cancel(job_id)


def _follow(client: Client, job_id: str, console: Terminal) -> Json:
    """Wait for the job with a progress bar on a terminal, or with a line for each change elsewhere."""
    if not console.is_terminal:
        return client.wait(job_id, lambda job: console.print_line(_progress(job)))
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[node]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("queued", total=100, node="")
        return client.wait(
            job_id,
            lambda job: bar.update(task, completed=job["progress"], description=job["status"], node=_where(job)),
        )


def _progress(job: Json) -> str:
    return f"{job['status']:9} {job['progress']:3} %  {_where(job)}".rstrip()


def _where(job: Json) -> str:
    details = job["progress_details"]
    node = f"node {details['current_node']}" if details["current_node"] else ""
    step = f"step {details['step']}" if details["step"] else ""
    # The progress bar prints its columns itself, so `Terminal` does not see this text.
    return printable(" ".join(part for part in (node, step) if part))


def _warn(console: Terminal, warnings: Json) -> None:
    for warning in warnings.values():
        outputs = ", ".join(warning["dependent_outputs"])
        hint = f" ({warning['hint']})" if warning["hint"] else ""
        console.print_line(
            f"warning: {warning['detail']}{hint}; so these outputs do not run: {outputs}", style="yellow"
        )


def _print_result(console: Terminal, job: Json, saved: Sequence[tuple[Json, Downloaded]]) -> None:
    if job["error"]:
        detail = job["error_detail"] or {}
        where = f" at node {detail['node_id']} ({detail['class_type']})" if detail.get("node_id") else ""
        console.print_line(f"failed{where}: {job['error']}", style="red")
    for output, file in saved:
        size = f"{output['width']}×{output['height']}, " if output["width"] else ""
        folder = f", from folder {output['subfolder']}" if output["subfolder"] else ""
        preview = ", preview" if output["is_preview"] else ""
        state = "" if file.state == "new" else f", {file.state}"
        console.print_line(f"{file.path}  {size}{output['size_bytes']} bytes{folder}{preview}{state}")
        console.print_line(f"  {output['url']}", style="dim")
