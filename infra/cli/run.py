"""`comfyui-modal run` and `batch`: submit a workflow, follow its jobs and download their outputs.

`batch` submits the workflow once for each picture.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from infra.cli.client import ApiProblem, Client, Json
from infra.cli.output import FAILED, INTERRUPTED, Terminal, print_json, printable

_LOADER = "LoadImage"
_MEDIA = ("image", "video", "audio")


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The unparsed arguments of `run` and `batch`."""

    workflow: str
    image: Path | None
    media: tuple[str, ...]
    values: tuple[str, ...]
    out: Path
    priority: int
    timeout: int | None
    webhook: str | None = None
    strict: bool = False


def run_workflow(arguments: RunArguments, api: tuple[str, str], *, as_json: bool) -> int:
    console = Terminal(stderr=as_json)
    with Client(*api) as client:
        accepted = submitted(client, arguments)
        try:
            console.print(f"job {accepted['job_id']}", highlight=False)
            _warn(console, accepted["warnings"])
            job = _follow(client, accepted["job_id"], console)
        except KeyboardInterrupt:
            client.cancel(accepted["job_id"])
            console.print("cancelled", style="yellow")
            return INTERRUPTED
        paths = [(output, client.download(output, arguments.out)) for output in job["outputs"]]
    if as_json:
        print_json(job)
    else:
        if job["warnings"] != accepted["warnings"]:
            _warn(console, job["warnings"])
        print_result(console, job, paths)
    return 0 if job["status"] == "completed" else FAILED


def submitted(client: Client, arguments: RunArguments) -> Json:
    """Submit the graph of a file, or a named workflow. Returns the accepted job."""
    if _is_file(arguments.workflow):
        return _submit_graph(client, arguments, _load(Path(arguments.workflow)))
    # NODE.FIELD addresses the graph itself, so with it a named workflow is submitted as a graph.
    named = client.workflow(arguments.workflow)
    if any("." in text.partition("=")[0] for text in arguments.values):
        return _submit_graph(client, arguments, named["workflow"])
    return client.submit_named(arguments.workflow, _inputs(client, arguments, named["inputs"]), **_options(arguments))


def _submit_graph(client: Client, arguments: RunArguments, workflow: Json) -> Json:
    inputs = [_value(text) for text in arguments.values]
    media = [_medium(client, text) for text in arguments.media]
    if arguments.image is not None:
        node = _only_loader(workflow)
        inputs.append({"node": node, "field": "image", "value": arguments.image.name})
        media.append(client.medium(_existing(arguments.image)))
    return client.submit(workflow, inputs=inputs, media=media, **_options(arguments))


def _options(arguments: RunArguments) -> Json:
    given = {"priority": arguments.priority, "timeout_s": arguments.timeout, "webhook_url": arguments.webhook}
    given |= {"strict": True} if arguments.strict else {}
    return {name: value for name, value in given.items() if value is not None}


def _inputs(client: Client, arguments: RunArguments, declared: list[Json]) -> Json:
    """Convert the arguments to the named workflow's inputs. The API validates the values."""
    types = {one["name"]: one["type"] for one in declared}
    inputs: Json = {}
    for text in arguments.values:
        name, equals, value = text.partition("=")
        if not equals:
            raise _refusal(f"--set {text}: expected NAME=VALUE or NODE.FIELD=VALUE", _known(types))
        if name not in types:
            raise _refusal(f"--set {text}: {arguments.workflow} has no input {name}", _known(types))
        inputs[name] = value if types[name] in ("string", "choice") else _json_or_text(value)
    for text in arguments.media:
        name = text.partition("=")[0]
        if types.get(name) not in _MEDIA:  # before a file is uploaded
            raise _refusal(f"--media {text}: {name} takes no file", _known(types))
        medium = _medium(client, text)
        inputs[medium.pop("name")] = medium
    if arguments.image is not None:
        pictures = [name for name, kind in types.items() if kind == "image"]
        if len(pictures) != 1:
            raise _refusal(f"--image needs a workflow with one picture, this one has {len(pictures)}", _known(types))
        path = _existing(arguments.image)
        inputs[pictures[0]] = {"upload_id": client.upload(path), "filename": path.name}
    return inputs


def _known(types: Json) -> str:
    return "its inputs are " + ", ".join(f"{name} ({kind})" for name, kind in types.items())


def _follow(client: Client, job_id: str, console: Terminal) -> Json:
    """Wait for the job with a progress bar on a terminal, or with a line for each change elsewhere."""
    if not console.is_terminal:
        return client.wait(job_id, lambda job: console.print(_line(job), highlight=False, markup=False))
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


def _line(job: Json) -> str:
    return f"{job['status']:9} {job['progress']:3} %  {_where(job)}".rstrip()


def _where(job: Json) -> str:
    details = job["progress_details"]
    node = f"node {details['current_node']}" if details["current_node"] else ""
    step = f"step {details['step']}" if details["step"] else ""
    return printable(" ".join(part for part in (node, step) if part))


def _warn(console: Terminal, warnings: Json) -> None:
    for warning in warnings.values():
        outputs = ", ".join(warning["dependent_outputs"])
        hint = f" ({warning['hint']})" if warning["hint"] else ""
        text = f"warning: {warning['detail']}{hint}; so these outputs do not run: {outputs}"
        console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def print_result(console: Terminal, job: Json, paths: list[tuple[Json, Path]]) -> None:
    if job["error"]:
        detail = job["error_detail"] or {}
        where = f" at node {detail['node_id']} ({detail['class_type']})" if detail.get("node_id") else ""
        console.print(f"failed{where}: {job['error']}", style="red", highlight=False, markup=False)
    for output, path in paths:
        size = f"{output['width']}×{output['height']}, " if output["width"] else ""
        folder = f", from folder {output['subfolder']}" if output["subfolder"] else ""
        preview = ", preview" if output["is_preview"] else ""
        console.print(f"{path}  {size}{output['size_bytes']} bytes{folder}{preview}", highlight=False, markup=False)
        console.print(f"  {output['url']}", style="dim", highlight=False, markup=False, soft_wrap=True)


def _is_file(name: str) -> bool:
    """Report whether the argument is a file. Raises `ApiProblem` for a missing file."""
    path = Path(name)
    if path.is_file():
        return True
    if path.suffix or len(path.parts) > 1:  # names of workflows contain no dots or slashes
        raise _refusal(f"{name} is not a file", "workflows by name: `comfyui-modal workflows list`")
    return False


def _load(path: Path) -> Json:
    try:
        document: Json = json.loads(path.read_text())
    except ValueError as error:
        raise _refusal(f"{path} is not JSON: {error}") from None
    return document


def _only_loader(workflow: Json) -> str:
    loaders = [
        node_id for node_id, node in workflow.items() if isinstance(node, dict) and node.get("class_type") == _LOADER
    ]
    if len(loaders) != 1:
        raise _refusal(
            f"--image needs exactly one {_LOADER} node, this workflow has {len(loaders)}",
            "use --media NAME=FILE with --set NODE.image=NAME",
        )
    return loaders[0]


def _value(text: str) -> Json:
    """Parse NODE.FIELD=VALUE. The value is JSON if it parses as JSON, and a string otherwise."""
    place, equals, value = text.partition("=")
    node, dot, field = place.partition(".")
    if not (equals and dot and node and field):
        raise _refusal(f"--set {text}: expected NODE.FIELD=VALUE")
    return {"node": node, "field": field, "value": _json_or_text(value)}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _medium(client: Client, text: str) -> Json:
    name, equals, source = text.partition("=")
    if not (equals and name and source):
        raise _refusal(f"--media {text}: expected NAME=FILE or NAME=URL")
    if source.startswith(("http://", "https://")):
        return {"name": name, "url": source}
    return client.medium(_existing(Path(source)), name)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise _refusal(f"{path} is not a file")
    return path


def _refusal(detail: str, hint: str = "") -> ApiProblem:
    """Return the error of an invalid argument, in the form of the API's refusals."""
    return ApiProblem(0, {"detail": detail, "hint": hint})


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
