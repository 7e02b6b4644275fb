"""`comfyui-modal batch`: submits a workflow once for each picture and downloads all outputs to a folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.cli.exit_codes import FAILED, INTERRUPTED
from app.cli.output import Terminal, print_json
from app.cli.run import RunArguments, print_result, submitted
from app.client import ApiProblem, Client, Json


def run_batch(arguments: RunArguments, pictures: Sequence[Path], api: tuple[str, str], *, as_json: bool) -> int:
    """Submit one job for each picture, all with `arguments`. The deployment decides how many run at once."""
    console = Terminal(stderr=as_json)
    with Client(*api) as client:
        accepted: list[str] = []
        try:
            for number, picture in enumerate(pictures, 1):
                accepted.append(submitted(client, replace(arguments, image=picture))["job_id"])
                console.print(
                    f"{number}/{len(pictures)} {picture.name}: job {accepted[-1]}", highlight=False, markup=False
                )
            pairs = zip(accepted, pictures, strict=True)
            jobs = [_ended(client, job_id, picture, arguments.out, console) for job_id, picture in pairs]
        except KeyboardInterrupt:
            _cancel(client, accepted)
            console.print("cancelled", style="yellow")
            return INTERRUPTED
        except ApiProblem:
            # One refused picture cancels the others, so that the command does not leave half of its jobs running.
            _cancel(client, accepted)
            raise
    if as_json:
        print_json(jobs)
    done = sum(job["status"] == "completed" for job in jobs)
    console.print(f"{done} of {len(jobs)} completed", highlight=False)
    return 0 if done == len(jobs) else FAILED


def _ended(client: Client, job_id: str, picture: Path, out: Path, console: Terminal) -> Json:
    job = client.wait(job_id, lambda _: None)
    console.print(f"{picture.name}: {job['status']}", highlight=False, markup=False)
    print_result(console, job, [(output, client.download(output, out)) for output in job["outputs"]])
    return job


def _cancel(client: Client, accepted: Sequence[str]) -> None:
    """Cancel the jobs. The API leaves a finished job unchanged."""
    for job_id in accepted:
        client.cancel(job_id)
