"""`comfyui-modal batches`: many jobs of one workflow in one request, accepted together or not at all."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from comfyui_modal_client import Batch, BatchRow, Client, Job, Json
from infra.cli.arguments import AsJson, Out, ShowUrls, Target
from infra.cli.following import download, print_error, print_files, print_warnings
from infra.cli.output import FAILED, INTERRUPTED, Terminal, print_json, usable_folder
from infra.cli.submission import Files, JobFlags, Media, is_file, load, read_json, refusal

batches = App(name="batches")

_EXPECTED = 'expected a JSON array with an object for each job, such as [{"3.seed": 1}, {"3.seed": 2}]'


@batches.command(name="submit")
def submit_batch(  # noqa: PLR0913  one a flag
    workflow: Annotated[str, Parameter(help="A file in ComfyUI's API format, or the name of a workflow.")],
    inputs: Annotated[
        Path,
        Parameter(
            help="A JSON array: for each job an object with its values, {NODE.FIELD: VALUE}. - reads it.",
            allow_leading_hyphen=True,
        ),
    ],
    *,
    media: Media = None,
    out: Out = Path("outputs"),
    flags: JobFlags = JobFlags(),
    idempotency_key: Annotated[
        str | None, Parameter(help="repeating the command with the same key and arguments makes no second batch")
    ] = None,
    detach: Annotated[bool, Parameter(help="print the batch's id and end, while its jobs run", negative="")] = False,
    urls: ShowUrls = False,
    as_json: AsJson = False,
    target: Target = Target(),
) -> int:
    """Submit a job for each set of values, wait for all, download what they make. Ctrl-C cancels them."""
    sets, options = _input_sets(inputs), flags.options()
    console = Terminal(stderr=as_json)
    if not detach:
        usable_folder(out)
    with target.client() as client:
        graph = load(Path(workflow)) if is_file(workflow) else client.workflow(workflow)["workflow"]
        files = Files(client, idempotency_key)
        batch = client.submit_batch(
            workflow=graph,
            input_sets=sets,
            media=[files.medium(text) for text in media or ()],
            idempotency_key=idempotency_key,
            **options,
        )
        if as_json and detach:
            print_json(batch)
        else:
            console.print_line(f"batch {batch['batch_id']}: {batch['total']} jobs")
        if detach:
            return 0
        try:
            jobs = _downloaded(client, batch["batch_id"], out, console, urls=urls)
        except KeyboardInterrupt:
            client.cancel_batch(batch["batch_id"])
            console.print_line("cancelled", style="yellow")
            return INTERRUPTED
        batch = client.batch(batch["batch_id"])
    if as_json:
        print_json(batch | {"jobs": jobs})
    console.print_line(_counts(batch))
    return 0 if batch["counts"]["completed"] == batch["total"] else FAILED


@batches.command(name="list")
def list_batches(
    *, limit: int = 20, cursor: str | None = None, as_json: AsJson = False, target: Target = Target()
) -> None:
    """List batches, newest first."""
    with target.client() as client:
        page = client.batches(limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    console = Terminal()
    for batch in page["batches"]:
        created = batch["created_at"][:19]
        console.print_line(f"{batch['batch_id']}  {batch['status']:8}  {created}  {_counts(batch)}")
    if page["next_cursor"]:
        console.print_line(f"more: --cursor {page['next_cursor']}")


@batches.command
def show(batch_id: str, *, as_json: AsJson = False, target: Target = Target()) -> None:
    """Show a batch: how many of its jobs have ended, and each job's state."""
    with target.client() as client:
        _print(client.batch(batch_id), as_json=as_json)


@batches.command
def cancel(batch_id: str, *, as_json: AsJson = False, target: Target = Target()) -> None:
    """Cancel every job of a batch that has not ended."""
    with target.client() as client:
        _print(client.cancel_batch(batch_id), as_json=as_json)


def _downloaded(client: Client, batch_id: str, out: Path, console: Terminal, *, urls: bool) -> list[Job]:
    """Wait for the jobs of a batch in their order, and download the outputs of each as soon as it has ended."""
    jobs = []
    for row in client.batch(batch_id)["jobs"]:
        job = client.wait(row["job_id"])
        console.print_line(f"job {job['job_id']}: {job['status']}")
        print_warnings(console, job["warnings"])
        print_error(console, job)
        print_files(console, download(client, job, out), urls=urls)
        jobs.append(job)
    return jobs


def _input_sets(path: Path) -> list[list[Json]]:
    """Read the sets of values. Raises `Refused` for another form, before anything is uploaded."""
    sets = read_json(path, _EXPECTED)
    if not isinstance(sets, list) or not sets:
        raise refusal(f"{path} has no sets of values", _EXPECTED)
    return [_input_set(number, values, path) for number, values in enumerate(sets, 1)]


def _input_set(number: int, values: Any, path: Path) -> list[Json]:
    if not isinstance(values, dict):
        raise refusal(f"set {number} in {path} is not a JSON object", _EXPECTED)
    inputs = []
    for name, value in values.items():
        node, dot, field = name.partition(".")
        if not (node and dot and field):
            raise refusal(f"set {number} in {path}: {name} is not NODE.FIELD", _EXPECTED)
        inputs.append({"node": node, "field": field, "value": value})
    return inputs


def _print(batch: Batch, *, as_json: bool) -> None:
    if as_json:
        print_json(batch)
        return
    console = Terminal()
    console.print_line(f"batch {batch['batch_id']}: {batch['status']}, {_counts(batch)}")
    for job in batch["jobs"]:
        console.print_line(f"  {job['job_id']}  {job['status']}")


def _counts(batch: BatchRow) -> str:
    return ", ".join(f"{count} {status}" for status, count in batch["counts"].items() if count)
