"""Turns the arguments of `run` and `batch` into a submission: a file's graph, or a workflow by its name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyui_modal_client import Client, Json
from infra.cli.output import Refused

_LOADER = "LoadImage"
_MEDIA = ("image", "video", "audio")


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The unparsed arguments of `run` and `batch`. `values` are those of --set."""

    workflow: str
    values: tuple[str, ...]
    priority: int
    timeout: int | None
    image: Path | None = None
    media: tuple[str, ...] = ()
    webhook: str | None = None
    strict: bool = False


def submit(client: Client, arguments: RunArguments) -> Json:
    """Upload the files, submit the job, and return it as it was accepted. Raises `ApiProblem` or `Refused`."""
    if _is_file(arguments.workflow):
        return _submit_graph(client, arguments, _load(Path(arguments.workflow)))
    # NODE.FIELD addresses the graph itself, so with it a named workflow is submitted as a graph.
    named = client.workflow(arguments.workflow)
    if any("." in text.partition("=")[0] for text in arguments.values):
        return _submit_graph(client, arguments, named["workflow"])
    return client.submit_named(arguments.workflow, _inputs(client, arguments, named["inputs"]), **_options(arguments))


def _submit_graph(client: Client, arguments: RunArguments, workflow: Json) -> Json:
    inputs = [_value(text) for text in arguments.values]
    media = [_input_file(client, text) for text in arguments.media]
    if arguments.image is not None:
        node = _only_loader(workflow)
        inputs.append({"node": node, "field": "image", "value": arguments.image.name})
        media.append(client.input_file(_existing(arguments.image)))
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
        file = _input_file(client, text)
        inputs[file.pop("name")] = file
    if arguments.image is not None:
        pictures = [name for name, kind in types.items() if kind == "image"]
        if len(pictures) != 1:
            raise _refusal(f"--image needs a workflow with one picture, this one has {len(pictures)}", _known(types))
        path = _existing(arguments.image)
        inputs[pictures[0]] = {"upload_id": client.upload(path), "filename": path.name}
    return inputs


def _known(types: Json) -> str:
    return "its inputs are " + ", ".join(f"{name} ({kind})" for name, kind in types.items())


def _is_file(name: str) -> bool:
    """Report whether the argument is a file. Raises `Refused` for a missing file."""
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


def _input_file(client: Client, text: str) -> Json:
    name, equals, source = text.partition("=")
    if not (equals and name and source):
        raise _refusal(f"--media {text}: expected NAME=FILE or NAME=URL")
    if source.startswith(("http://", "https://")):
        return {"name": name, "url": source}
    return client.input_file(_existing(Path(source)), name)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise _refusal(f"{path} is not a file")
    return path


def _refusal(detail: str, hint: str = "") -> Refused:
    """Return the error of an invalid argument, in the form in which refusals of the API are printed."""
    return Refused(f"refused: {detail}\n  → {hint}" if hint else f"refused: {detail}")
