"""`comfyui-modal run` and `batch`: submit a workflow, follow its jobs, download their outputs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comfyui_modal_client import AcceptedJob, ApiProblem, Client
from infra.cli.arguments import AsJson, Out, ShowUrls, Target
from infra.cli.following import download, exit_code, follow, print_error, print_files, print_warnings
from infra.cli.output import INTERRUPTED, Refused, Terminal, print_json, usable_folder
from infra.cli.submission import JobFlags, Media, RunArguments, submit

Workflow = Annotated[
    str,
    Parameter(
        help="A file of ComfyUI's editor or in API format, a picture with its workflow, or the name of a workflow "
        "(see `workflows list`)."
    ),
]
Values = Annotated[
    list[str] | None, Parameter(name="--set", help="NAME=VALUE or NODE.FIELD=VALUE, may be repeated", negative="")
]


def run(  # noqa: PLR0913  one a flag
    workflow: Workflow,
    *,
    image: Annotated[Path | None, Parameter(help="the picture, where the workflow takes one")] = None,
    media: Media = None,
    values: Values = None,
    out: Out = Path("outputs"),
    flags: JobFlags = JobFlags(),
    idempotency_key: Annotated[
        str | None, Parameter(help="repeating the command with the same key and arguments makes no second job")
    ] = None,
    detach: Annotated[bool, Parameter(help="print the job's id and end, while the job runs", negative="")] = False,
    urls: ShowUrls = False,
    as_json: AsJson = False,
    target: Target = Target(),
) -> int:
    arguments = RunArguments(workflow, tuple(values or ()), flags, image, tuple(media or ()), idempotency_key)
    console = Terminal(stderr=as_json)
    if not detach:
        usable_folder(out)  # before the job is submitted
    with target.client() as client:
        # Outside the `try`: until the job has an id, Ctrl-C has nothing to cancel.
        accepted = submit(client, arguments)
        job_id = accepted["job_id"]
        if detach:
            return _detached(accepted, as_json=as_json)
        try:
            console.print_line(f"job {job_id}")
            print_warnings(console, accepted["warnings"])
            job = follow(client, job_id, console)
        except KeyboardInterrupt:
            client.cancel(job_id)
            console.print_line("cancelled", style="yellow")
            return INTERRUPTED
        saved = list(download(client, job, out))
    if as_json:
        print_json(job)
    else:
        if job["warnings"] != accepted["warnings"]:  # those of the submission are printed already
            print_warnings(console, job["warnings"])
        print_error(console, job)
        print_files(console, saved, urls=urls)
    return exit_code([job])


def batch(
    workflow: Workflow,
    *images: Annotated[Path, Parameter(help="The pictures, a job for each.")],
    values: Values = None,
    out: Out = Path("outputs"),
    flags: JobFlags = JobFlags(),
    urls: ShowUrls = False,
    as_json: AsJson = False,
    target: Target = Target(),
) -> int:
    if not images:
        raise Refused("name the pictures: `comfyui-modal batch WORKFLOW PICTURE…`")
    arguments = RunArguments(workflow, tuple(values or ()), flags)
    console = Terminal(stderr=as_json)
    accepted: list[str] = []
    usable_folder(out)
    with target.client() as client:
        try:
            # The deployment decides how many of the jobs run at once.
            for number, picture in enumerate(images, 1):
                accepted.append(submit(client, replace(arguments, image=picture))["job_id"])
                console.print_line(f"{number}/{len(images)} {picture.name}: job {accepted[-1]}")
            jobs = []
            for job_id, picture in zip(accepted, images, strict=True):
                jobs.append(client.wait(job_id))
                console.print_line(f"{picture.name}: {jobs[-1]['status']}")
                print_error(console, jobs[-1])
                print_files(console, download(client, jobs[-1], out), urls=urls)
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
    console.print_line(f"{sum(job['status'] == 'completed' for job in jobs)} of {len(jobs)} completed")
    return exit_code(jobs)


def _detached(accepted: AcceptedJob, *, as_json: bool) -> int:
    """Print the job that goes on without this command."""
    if as_json:
        print_json(accepted)
        return 0
    job_id, errors = accepted["job_id"], Terminal(stderr=True)
    Terminal().print_line(job_id)  # alone, for JOB=$(…)
    print_warnings(errors, accepted["warnings"])
    errors.print_line(f"its end: comfyui-modal jobs wait {job_id}\nits files: comfyui-modal jobs download {job_id}")
    return 0


def _cancel(client: Client, accepted: Sequence[str]) -> None:
    """Cancel the jobs. The API leaves a finished job unchanged."""
    for job_id in accepted:
        client.cancel(job_id)
