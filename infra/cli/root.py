"""The root of the command line: its commands, and the conversion of errors to messages and exit codes."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from app import __version__
from infra.cli.arguments import DEFAULT_DATA, NoConnection, Target
from infra.cli.output import FAILED, REFUSED, UNREACHABLE, Terminal, refuse

if TYPE_CHECKING:  # commands import their modules when they run, which keeps `--help` fast
    from infra.cli.client import ApiProblem

cli = App(
    name="comfyui-modal",
    help="Run ComfyUI workflows on your own Modal account and bucket.",
    version=__version__,
    result_action="return_value",
)
jobs = App(name="jobs", help="Show, cancel and remove jobs.")
webhooks = App(name="webhooks", help="Try receivers, and see how deliveries went.")
workflows = App(name="workflows", help="Show the workflows that can be run by name.")
SecretFolder = Annotated[Path, Parameter(help="the folder of a running `comfyui-modal up`, whose secret is used")]

cli.command(jobs)
cli.command(workflows)
cli.command(webhooks)


def ends_well(command: Callable[..., int]) -> Callable[..., int]:
    """Convert an error of a command to a message and an exit code instead of a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **options: Any) -> int:
        from infra.cli.client import ApiProblem, ApiUnreachable, DownloadFailed

        errors = Terminal(stderr=True)
        try:
            return command(*args, **options)
        except ApiProblem as problem:
            _print_problem(problem, errors)
            return REFUSED
        except (NoConnection, ApiUnreachable) as error:
            errors.print(str(error), style="red", highlight=False, markup=False)
            return UNREACHABLE
        except DownloadFailed as error:
            errors.print(str(error), style="red", highlight=False, markup=False)
            return FAILED

    return wrapped


def _print_problem(problem: "ApiProblem", errors: Terminal) -> None:
    """Print each fault, followed by its hint."""
    errors.print(f"refused: {problem}", style="red", highlight=False, markup=False)
    faults = [
        (None, problem.hint),
        *((f"{one['pointer']}: {one['detail']}", one.get("hint")) for one in problem.errors[1:]),
    ]
    for words, hint in faults:
        if words:
            errors.print(words, highlight=False, markup=False)
        if hint and not problem.type.endswith("/validation-error"):  # its hint refers to `errors`, which are printed
            errors.print(f"  → {hint}", highlight=False, markup=False)


@cli.command
@ends_well
def run(  # noqa: PLR0913  one a flag
    workflow: str,
    *,
    image: Annotated[Path | None, Parameter(help="the picture, where the workflow takes one")] = None,
    media: Annotated[list[str] | None, Parameter(help="NAME=FILE or NAME=URL, may be repeated", negative="")] = None,
    set_: Annotated[
        list[str] | None, Parameter(name="--set", help="NAME=VALUE or NODE.FIELD=VALUE, may be repeated", negative="")
    ] = None,
    out: Annotated[Path, Parameter(help="folder for the outputs")] = Path("outputs"),
    priority: int = 0,
    timeout: Annotated[int | None, Parameter(help="longest run time in seconds")] = None,
    webhook: Annotated[str | None, Parameter(help="URL that receives an event when the job has ended")] = None,
    strict: Annotated[
        bool, Parameter(help="refuse the job if an output cannot run, instead of running the others", negative="")
    ] = False,
    json: Annotated[bool, Parameter(help="print the finished job as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """Submit a workflow, follow it, download what it makes.

    Parameters
    ----------
    workflow
        A file in ComfyUI's API format, or the name of a workflow (see `workflows list`).
    """
    from infra.cli.run import RunArguments, run_workflow

    arguments = RunArguments(
        workflow, image, tuple(media or ()), tuple(set_ or ()), out, priority, timeout, webhook, strict
    )
    return run_workflow(arguments, (target or Target()).resolve(), as_json=json)


@cli.command
@ends_well
def batch(
    workflow: str,
    *images: Path,
    set_: Annotated[
        list[str] | None, Parameter(name="--set", help="NAME=VALUE or NODE.FIELD=VALUE, may be repeated", negative="")
    ] = None,
    out: Annotated[Path, Parameter(help="folder for the outputs")] = Path("outputs"),
    priority: int = 0,
    timeout: Annotated[int | None, Parameter(help="longest run time of each job in seconds")] = None,
    json: Annotated[bool, Parameter(help="print the finished jobs as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """Submit a workflow once for each picture, wait for all, download what they make.

    Parameters
    ----------
    workflow
        A file in ComfyUI's API format, or the name of a workflow (see `workflows list`). It takes one picture.
    images
        The pictures, a job for each.
    """
    from infra.cli.run import RunArguments, run_batch

    if not images:
        return refuse("name the pictures: `comfyui-modal batch WORKFLOW PICTURE…`")
    arguments = RunArguments(workflow, None, (), tuple(set_ or ()), out, priority, timeout)
    return run_batch(arguments, images, (target or Target()).resolve(), as_json=json)


@workflows.command(name="list")
@ends_well
def list_workflows(
    *,
    json: Annotated[bool, Parameter(help="print the answer as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """List the workflows that can be run by name."""
    from infra.cli.workflows import list_all

    return list_all((target or Target()).resolve(), as_json=json)


@workflows.command(name="show")
@ends_well
def show_workflow(
    name: str,
    *,
    json: Annotated[bool, Parameter(help="print the answer as JSON, with the graph", negative="")] = False,
    target: Target | None = None,
) -> int:
    """Show a workflow: its inputs, what it needs, whether it can run."""
    from infra.cli.workflows import show_one

    return show_one((target or Target()).resolve(), name, as_json=json)


@jobs.command(name="list")
@ends_well
def list_jobs(
    *,
    status: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
    json: Annotated[bool, Parameter(help="print the answer as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """List jobs, newest first."""
    from infra.cli.jobs import list_page

    return list_page((target or Target()).resolve(), status, limit, cursor, as_json=json)


@jobs.command
@ends_well
def show(
    job_id: str,
    *,
    json: Annotated[bool, Parameter(help="print the job as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """Show one job: how far it is, what it made, why it failed."""
    from infra.cli.jobs import show_job

    return show_job((target or Target()).resolve(), job_id, as_json=json)


@jobs.command
@ends_well
def cancel(job_id: str, *, target: Target | None = None) -> int:
    """Cancel a job; a finished one is left as it is."""
    from infra.cli.jobs import cancel_job

    return cancel_job((target or Target()).resolve(), job_id)


@cli.command
@jobs.command
@ends_well
def logs(
    job_id: str,
    *,
    attempt: Annotated[int | None, Parameter(help="of which attempt; the current one unless given")] = None,
    target: Target | None = None,
) -> int:
    """Print what the engine said while the job ran."""
    from infra.cli.jobs import print_logs

    return print_logs((target or Target()).resolve(), job_id, attempt)


@jobs.command
@ends_well
def remove(job_id: str, *, target: Target | None = None) -> int:
    """Remove a job and its files now; one that still runs is stopped, and removed then."""
    from infra.cli.jobs import remove_job

    return remove_job((target or Target()).resolve(), job_id)


@jobs.command
@ends_well
def cost(
    *,
    since: Annotated[str, Parameter(help="a span (7d, 12h, 30m), or a date")] = "7d",
    json: Annotated[bool, Parameter(help="print the sums as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """Sum what jobs have cost, by GPU, workflow and status."""
    from infra.cli.cost import show_costs

    return show_costs((target or Target()).resolve(), since, as_json=json)


@cli.command
@ends_well
def system(
    *,
    json: Annotated[bool, Parameter(help="print the answer as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """Show what runs there: versions, and the GPU and attention of each pool's last worker."""
    from infra.cli.system import show_system

    return show_system((target or Target()).resolve(), as_json=json)


@webhooks.command(name="test")
@ends_well
def try_receiver(
    url: str,
    *,
    json: Annotated[bool, Parameter(help="print the answer as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """Send a signed test event to a receiver, and say what came of it."""
    from infra.cli.webhooks import test_receiver

    return test_receiver((target or Target()).resolve(), url, as_json=json)


@webhooks.command
@ends_well
def deliveries(
    job_id: str,
    *,
    json: Annotated[bool, Parameter(help="print the answer as JSON", negative="")] = False,
    target: Target | None = None,
) -> int:
    """Show how the delivery of a job's events went, attempt by attempt."""
    from infra.cli.webhooks import list_deliveries

    return list_deliveries((target or Target()).resolve(), job_id, as_json=json)


@webhooks.command
@ends_well
def redeliver(job_id: str, event_id: str, *, target: Target | None = None) -> int:
    """Send one of a job's events once more, with the same id."""
    from infra.cli.webhooks import redeliver as send_again

    return send_again((target or Target()).resolve(), job_id, event_id)


@webhooks.command(name="secret")
@ends_well
def show_secret(
    *,
    tenant: Annotated[str, Parameter(help="whose events it signs")],
    secret: Annotated[
        str | None,
        Parameter(env_var="COMFYUI_MODAL_WEBHOOK_SECRET", help="the deployment's, whsec_…", show_default=False),
    ] = None,
    data: SecretFolder = DEFAULT_DATA,
) -> int:
    """Print the secret that signs a tenant's events, the newest first while secrets rotate."""
    from infra.cli.arguments import webhook_secret_of
    from infra.cli.webhooks import print_secrets

    return print_secrets(secret or webhook_secret_of(data), tenant)


@cli.command
@ends_well
def listen(
    *,
    port: Annotated[int, Parameter(help="0 chooses a free one")] = 9000,
    secret: Annotated[
        str | None, Parameter(env_var="COMFYUI_MODAL_WEBHOOK_SECRET", help="whsec_…", show_default=False)
    ] = None,
    answer: Annotated[int, Parameter(help="the status that each event is answered")] = 204,
    count: Annotated[int | None, Parameter(help="end after so many events")] = None,
    json: Annotated[bool, Parameter(help="print each event as a line of JSON", negative="")] = False,
    data: SecretFolder = DEFAULT_DATA,
) -> int:
    """Receive webhooks on this machine: each event is verified and shown. For development."""
    from infra.cli.arguments import webhook_secret_of
    from infra.cli.webhooks import Listening

    return Listening(port, secret or webhook_secret_of(data), answer, count, json).serve()


@cli.command
def openapi(*, out: Annotated[Path | None, Parameter(help="file to write; standard output otherwise")] = None) -> int:
    """Print the API's OpenAPI document."""
    import json

    from app.openapi import document

    text = json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)
    return 0
