"""`comfyui-modal run`: one workflow from a file to files."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.cli.exit_codes import FAILED, INTERRUPTED
from app.client import ApiProblem, Client, Json
from workflows import examples

_LOADER = "LoadImage"


@dataclass(frozen=True, slots=True)
class Wishes:
    """The command's arguments, as they were typed."""

    workflow: str
    image: Path | None
    media: tuple[str, ...]
    values: tuple[str, ...]
    out: Path
    priority: int
    timeout: int | None
    webhook: str | None = None


def run_workflow(wishes: Wishes, api: tuple[str, str], *, as_json: bool) -> int:
    console = Console(stderr=as_json)
    workflow = _load(wishes.workflow)
    inputs = [_value(text) for text in wishes.values]
    with Client(*api) as client:
        media = [_medium(client, text) for text in wishes.media]
        if wishes.image is not None:
            node = _only_loader(workflow)
            inputs.append({"node": node, "field": "image", "value": wishes.image.name})
            media.append(client.medium(_existing(wishes.image)))
        fields: Json = {"inputs": inputs, "media": media, "priority": wishes.priority}
        if wishes.timeout is not None:
            fields["timeout_s"] = wishes.timeout
        if wishes.webhook is not None:
            fields["webhook_url"] = wishes.webhook
        accepted = client.submit(workflow, **fields)
        console.print(f"job {accepted['job_id']}", highlight=False)
        try:
            job = _follow(client, accepted["job_id"], console)
        except KeyboardInterrupt:
            client.cancel(accepted["job_id"])
            console.print("cancelled", style="yellow")
            return INTERRUPTED
        paths = [(output, client.download(output, wishes.out)) for output in job["outputs"]]
    if as_json:
        sys.stdout.write(json.dumps(job, indent=1) + "\n")
    else:
        _tell(console, job, paths)
    return 0 if job["status"] == "completed" else FAILED


def _follow(client: Client, job_id: str, console: Console) -> Json:
    """A bar on a terminal; a line a change elsewhere."""
    if not console.is_terminal:
        return client.wait(job_id, lambda job: console.print(_line(job), highlight=False, markup=False))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[node]}"),
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
    return " ".join(part for part in (node, step) if part)


def _tell(console: Console, job: Json, paths: list[tuple[Json, Path]]) -> None:
    if job["error"]:
        detail = job["error_detail"] or {}
        where = f" at node {detail['node_id']} ({detail['class_type']})" if detail.get("node_id") else ""
        console.print(f"failed{where}: {job['error']}", style="red", highlight=False, markup=False)
    for output, path in paths:
        size = f"{output['width']}×{output['height']}, " if output["width"] else ""
        console.print(f"{path}  {size}{output['size_bytes']} bytes", highlight=False, markup=False)
        console.print(f"  {output['url']}", style="dim", highlight=False, markup=False, soft_wrap=True)


def _load(name: str) -> Json:
    if name in examples.names():
        return examples.load(name)
    path = Path(name)
    if not path.is_file():
        shipped = ", ".join(examples.names())
        raise _refusal(f"{name} is neither a file nor a shipped example ({shipped})")
    try:
        document: Json = json.loads(path.read_text())
    except ValueError as error:
        raise _refusal(f"{name} is not JSON: {error}") from None
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
    """NODE.FIELD=VALUE; the value is JSON where it parses as such, a string otherwise."""
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
    """An argument that cannot be meant is refused as the API would refuse it."""
    return ApiProblem(0, {"detail": detail, "hint": hint})
