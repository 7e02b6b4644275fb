"""`comfyui-modal workflows add`: a named workflow from an editor's file, as a graph and a manifest to edit."""

import json
import re
import shlex
import unicodedata
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from infra.cli.arguments import Target
from infra.cli.conversion import EditorFile, ObjectInfo, converted_by
from infra.cli.inspection import inspected_by
from infra.cli.output import FAILED, Json, Refused, Terminal, usable_folder
from infra.cli.submission import load, refusal

FOLDER_VARIABLE = "COMFYUI_MODAL_WORKFLOWS_DIR"
DEFAULT_FOLDER = Path("my-workflows")
LONGEST_NAME = 64


def add(
    file: EditorFile,
    *,
    name: Annotated[str | None, Parameter(help="The workflow's name; default: that of the file.")] = None,
    out: Annotated[Path, Parameter(help="The folder of your workflows.", env_var=FOLDER_VARIABLE)] = DEFAULT_FOLDER,
    object_info: ObjectInfo = None,
    target: Target = Target(),
) -> int | None:
    """Make a workflow that can be run by name: NAME.json, the graph, and NAME.toml, the manifest to edit.

    The inputs are those that the file's author chose for App mode; otherwise its files, prompts, sizes and seeds, and
    what its primitive nodes, subgraphs and titles show. All other values stand in the manifest as comments.
    """
    named = _checked_name(name, file)
    manifest, graph = out / f"{named}.toml", out / f"{named}.json"
    for path in (manifest, graph):
        if path.exists():
            raise refusal(f"{path} exists, and is not overwritten", "choose another name with --name, or remove it")
    document = load(file, prefer="workflow")
    converted = converted_by(document, object_info, target)
    if converted["workflow"] is None:
        return FAILED
    found = inspected_by(document, object_info, target)
    text = _manifest(named, file, found, converted["workflow"])
    usable_folder(out)
    _write(graph, json.dumps(converted["workflow"], indent=1) + "\n")
    _write(manifest, text)
    _print_next_step(named, manifest, found)
    return None


def _checked_name(name: str | None, file: Path) -> str:
    """Return the workflow's name. Raises `Refused` for one that no workflow can have."""
    from workflows.library import shipped
    from workflows.manifest import NAME

    plain = unicodedata.normalize("NFKD", file.stem).encode("ascii", "ignore").decode().lower()
    named = re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")[:LONGEST_NAME] if name is None else name
    if not re.fullmatch(NAME, named):
        raise refusal(f"{named!r} is no name of a workflow", "give one of small letters, digits, - and _ with --name")
    if named in shipped():
        raise refusal(f"{named} is the name of a shipped workflow", "choose another name with --name")
    return named


def _manifest(name: str, file: Path, found: Json, workflow: Json) -> str:
    """Return the manifest, which is checked as the API does when it starts. Raises `Refused`."""
    from workflows.manifest import BadWorkflow, NamedInput, named_workflow, parse_manifest
    from workflows.manifest_text import manifest_text
    from workflows.needs import CORE
    from workflows.proposals import ProposedInput

    members = ("type", "places", "description", "min", "max", "choices")
    inputs = [
        ProposedInput(
            one["name"],
            one["source"],
            one["origin"],
            NamedInput(**{member: _tupled(one[member]) for member in members}),
            one["default"],
        )
        for one in found["inputs"]
    ]
    models = [f"{one['folder']}/{one['file']}" for one in found["models"] if one["folder"]]
    packs = [_pack_name(one) for one in found["packs"] if one["registry_id"] != CORE]
    title = file.stem.replace("_", " ")
    text = manifest_text(name, title, file.name, inputs, models, [pack for pack in packs if pack])
    try:
        named_workflow(name, parse_manifest(name, text), json.dumps(workflow))
    except BadWorkflow as error:
        raise refusal(f"no manifest can be written for {file}: {error}", "this is a defect: please report it") from None
    return text


def _pack_name(pack: Json) -> str:
    """Return the name that a pack has in a manifest of nodes: that of its repository, if the file names it."""
    return (pack["repository"] or "").rpartition("/")[2] or pack["registry_id"] or ""


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Refused(f"refused: {path} cannot be written: {error.strerror}") from None


def _print_next_step(name: str, manifest: Path, found: Json) -> None:
    console = Terminal()
    console.print_line(f"written: {manifest} and {manifest.with_suffix('.json')}")
    proposed = [one for one in found["inputs"] if one["source"] != "other"]
    for one in proposed:
        console.print_line(f"  {one['name']} ({one['type']}): {one['origin']}")
    for what in (*found["missing_classes"], *found["missing_models"]):
        console.print_line(f"missing: {what}", style="yellow")
    console.print_line(f"→ read and edit {manifest}: its comments say how")
    folder = shlex.quote(str(manifest.parent.absolute()))
    console.print_line(f"→ start the API anew with {FOLDER_VARIABLE}={folder}, then:")
    console.print_line(f"  comfyui-modal run {name}{_flags(proposed)}")


def _flags(proposed: list[Json]) -> str:
    """Return the flags that a run needs, and one that it may have."""
    files = [one for one in proposed if one["type"] in ("image", "video", "audio")]
    pictures = [one["name"] for one in files if one["type"] == "image"]
    flags = [" --image FILE" if pictures == [one["name"]] else f" --media {one['name']}=FILE" for one in files]
    texts = [one["name"] for one in proposed if one["type"] == "string"]
    flags += [f' --set {name}="…"' for name in texts[:1]]
    return "".join(flags)
