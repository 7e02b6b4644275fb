"""Turns the arguments of commands into a submission: a file's graph, or a workflow by its name."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from comfyui_modal_client import AcceptedJob, Client, Json
from infra.cli.output import Refused

Media = Annotated[list[str] | None, Parameter(help="NAME=FILE or NAME=URL, may be repeated", negative="")]

_LOADER = "LoadImage"
_WITH_WORKFLOW = (".png", ".webp", ".flac", ".mp4")
_MEDIA = ("image", "video", "audio")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class JobFlags:
    """The flags of every command that submits jobs: how a job is run, whatever it computes."""

    priority: Annotated[int, Parameter(help="a job with a higher one runs first")] = 0
    timeout: Annotated[int | None, Parameter(help="longest run time of each job in seconds")] = None
    queue_timeout: Annotated[int | None, Parameter(help="longest wait of each job for a worker in seconds")] = None
    retain_days: Annotated[float | None, Parameter(help="how long each job and its files stay after its end")] = None
    gpu: Annotated[str | None, Parameter(help="the deployment's GPU pool that runs each job, such as h100")] = None
    metadata: Annotated[
        tuple[str, ...],
        Parameter(help="KEY=VALUE, a label that each job gets; may be repeated", negative="", show_default=False),
    ] = ()
    webhook: Annotated[str | None, Parameter(help="URL that receives an event when a job has ended")] = None
    strict: Annotated[
        bool, Parameter(help="refuse a job if an output cannot run, instead of running the others", negative="")
    ] = False

    def options(self) -> Json:
        """Return the members of a request. Raises `Refused` for a label that is not KEY=VALUE."""
        given: Json = {
            "priority": self.priority,
            "timeout_s": self.timeout,
            "queue_timeout_s": self.queue_timeout,
            "retain_days": self.retain_days,
            "gpu": self.gpu,
            "metadata": dict(label(text) for text in self.metadata) or None,
            "webhook_url": self.webhook,
            "strict": self.strict or None,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The unparsed arguments of `run` and `batch`. `values` are those of --set."""

    workflow: str
    values: tuple[str, ...]
    flags: JobFlags
    image: Path | None = None
    media: tuple[str, ...] = ()
    idempotency_key: str | None = None


def submit(client: Client, arguments: RunArguments) -> AcceptedJob:
    """Upload the files, submit the job, and return it as it was accepted. Raises `ApiProblem` or `Refused`."""
    options = arguments.flags.options()  # before a file is uploaded
    files = Files(client, arguments.idempotency_key)
    if is_file(arguments.workflow):
        return _submit_graph(files, arguments, load(Path(arguments.workflow)), options)
    # NODE.FIELD addresses the graph itself, so with it a named workflow is submitted as a graph.
    named = client.workflow(arguments.workflow)
    if any("." in text.partition("=")[0] for text in arguments.values):
        return _submit_graph(files, arguments, named["workflow"], options)
    _check_given(arguments, named["inputs"])
    inputs = _inputs(files, arguments, named["inputs"])
    return client.submit_named(arguments.workflow, inputs, idempotency_key=arguments.idempotency_key, **options)


@dataclass(frozen=True, slots=True)
class Files:
    """Uploads of one submission."""

    client: Client
    idempotency_key: str | None = None

    def upload(self, path: Path) -> str:
        """Upload a file. Raises `Refused` if it does not exist or cannot be read."""
        if not path.is_file():
            raise refusal(f"{path} is not a file")
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise refusal(f"{path} cannot be read: {error.strerror}") from None
        return self.client.upload(path, idempotency_key=self._key_of(path))

    def medium(self, text: str) -> Json:
        """Return the entry of `media` for NAME=FILE, which is uploaded, or NAME=URL."""
        name, equals, source = text.partition("=")
        if not (equals and name and source):
            raise refusal(f"--media {text}: expected NAME=FILE or NAME=URL")
        if source.startswith(("http://", "https://")):
            return {"name": name, "url": source}
        return {"name": name, "upload_id": self.upload(Path(source))}

    def _key_of(self, path: Path) -> str | None:
        """Return the upload's own key: the same file of the same submission is one upload."""
        # Otherwise the repeated submission would name another upload, and so be refused as another request.
        if self.idempotency_key is None:
            return None
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(f"{self.idempotency_key}/{path.name}/{content}".encode()).hexdigest()


def _submit_graph(files: Files, arguments: RunArguments, workflow: Json, options: Json) -> AcceptedJob:
    inputs = [_value(text) for text in arguments.values]
    media = [files.medium(text) for text in arguments.media]
    if arguments.image is not None:
        node = _only_loader(workflow)
        inputs.append({"node": node, "field": "image", "value": arguments.image.name})
        media.append({"name": arguments.image.name, "upload_id": files.upload(arguments.image)})
    return files.client.submit(
        workflow, inputs=inputs, media=media, idempotency_key=arguments.idempotency_key, **options
    )


def _inputs(files: Files, arguments: RunArguments, declared: list[Json]) -> Json:
    """Convert the arguments to the named workflow's inputs. The API validates the values."""
    types = {one["name"]: one["type"] for one in declared}
    inputs: Json = {}
    for text in arguments.values:
        name, equals, value = text.partition("=")
        if not equals:
            raise refusal(f"--set {text}: expected NAME=VALUE or NODE.FIELD=VALUE", _known(types))
        if name not in types:
            raise refusal(f"--set {text}: {arguments.workflow} has no input {name}", _known(types))
        inputs[name] = value if types[name] in ("string", "choice") else _json_or_text(value)
    for text in arguments.media:
        name = text.partition("=")[0]
        if types.get(name) not in _MEDIA:  # before a file is uploaded
            raise refusal(f"--media {text}: {name} takes no file", _known(types))
        file = files.medium(text)
        inputs[file.pop("name")] = file
    if arguments.image is not None:
        pictures = [name for name, kind in types.items() if kind == "image"]
        if len(pictures) != 1:
            raise refusal(f"--image needs a workflow with one picture, this one has {len(pictures)}", _known(types))
        inputs[pictures[0]] = {"upload_id": files.upload(arguments.image), "filename": arguments.image.name}
    return inputs


def _check_given(arguments: RunArguments, declared: list[Json]) -> None:
    """Refuse a submission without a required input, by the flag that gives it, before a file is uploaded."""
    given = {text.partition("=")[0] for text in (*arguments.values, *arguments.media)}
    pictures = [one["name"] for one in declared if one["type"] == "image"]
    if arguments.image is not None:
        given |= set(pictures)
    types = {one["name"]: one["type"] for one in declared}
    missing = [one for one in declared if one["required"] and one["name"] not in given]
    # An unknown name comes first: it is most likely the missing one, misspelt.
    if missing and given <= types.keys():
        flags = " and ".join(_flag(one, is_only_picture=pictures == [one["name"]]) for one in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise refusal(f"{flags} {verb} needed", _known(types))


def _flag(declared: Json, *, is_only_picture: bool) -> str:
    if is_only_picture:
        return "--image FILE"
    name = declared["name"]
    return f"--media {name}=FILE" if declared["type"] in _MEDIA else f"--set {name}=VALUE"


def _known(types: Json) -> str:
    return "its inputs are " + ", ".join(f"{name} ({kind})" for name, kind in types.items())


def is_file(name: str) -> bool:
    """Report whether the argument is a file. Raises `Refused` for a missing file."""
    path = Path(name)
    if path.is_file():
        return True
    if path.is_dir():
        raise refusal(f"{name} is a folder", "name the file of a workflow in it")
    if path.suffix or len(path.parts) > 1:  # names of workflows contain no dots or slashes
        raise refusal(f"{name} is not a file", "workflows by name: `comfyui-modal workflows list`")
    return False


def load(path: Path, *, prefer: Literal["prompt", "workflow"] = "prompt") -> Json:
    """Read a workflow. Raises `Refused` for a file that is not a JSON object.

    Of a picture, sound or film that ComfyUI made, the workflow in it is read: `prompt` is the graph that made it,
    `workflow` the editor's file. The other one is taken if the preferred one is missing.
    """
    document = _embedded(path, prefer) if path.suffix.lower() in _WITH_WORKFLOW else read_json(path)
    if not isinstance(document, dict):
        raise refusal(f"{path} is not a graph, which is a JSON object", "export it from ComfyUI with Export (API)")
    return document


def _embedded(path: Path, prefer: str) -> Any:
    from workflows.editor.embedded import embedded_workflows

    try:
        found = embedded_workflows(path.read_bytes())
    except OSError as error:
        raise refusal(f"{path} cannot be read: {error.strerror}") from None
    if not found:
        raise refusal(
            f"{path} has no workflow in it", "ComfyUI writes one into what it saves; other programs remove it"
        )
    return found.get(prefer) or next(iter(found.values()))


def read_json(path: Path, hint: str = "") -> Any:
    """Read a JSON file, or standard input for `-`. Raises `Refused` with the hint if it is not JSON."""
    try:
        return json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise refusal(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise refusal(f"{path} is not JSON: {error}", hint) from None


def _only_loader(workflow: Json) -> str:
    nodes = {node_id: node for node_id, node in workflow.items() if isinstance(node, dict)}
    if isinstance(listed := workflow.get("nodes"), list):  # the editor's file, whose nodes keep their ids
        nodes = {str(node.get("id")): node for node in listed if isinstance(node, dict) and not node.get("mode")}
    loaders = [node_id for node_id, node in nodes.items() if _LOADER in (node.get("class_type"), node.get("type"))]
    if len(loaders) != 1:
        raise refusal(
            f"--image needs exactly one {_LOADER} node, this workflow has {len(loaders)}",
            "use --media NAME=FILE with --set NODE.image=NAME",
        )
    return loaders[0]


def _value(text: str) -> Json:
    """Parse NODE.FIELD=VALUE. The value is JSON if it parses as JSON, and a string otherwise."""
    place, equals, value = text.partition("=")
    node, dot, field = place.partition(".")
    if not (equals and dot and node and field):
        raise refusal(f"--set {text}: expected NODE.FIELD=VALUE")
    return {"node": node, "field": field, "value": _json_or_text(value)}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def label(text: str) -> tuple[str, str]:
    """Parse one `--metadata`. Raises `Refused`."""
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise refusal(f"--metadata {text}: expected KEY=VALUE")
    return key, value


def refusal(detail: str, hint: str = "") -> Refused:
    """Return the error of an invalid argument, in the form in which refusals of the API are printed."""
    return Refused(f"refused: {detail}\n  → {hint}" if hint else f"refused: {detail}")
