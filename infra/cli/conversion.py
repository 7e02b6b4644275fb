"""`comfyui-modal workflows convert`: a file of ComfyUI's editor in API format, without or with a deployment.

The file may be a picture, sound or film that ComfyUI made: it has the workflow in it.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from infra.cli.arguments import Target
from infra.cli.output import FAILED, Json, Refused, Terminal, print_json
from infra.cli.submission import load, read_json, refusal

if TYPE_CHECKING:  # imported when a command runs, so that its `--help` stays fast
    from workflows.catalogue import Catalogue


EditorFile = Annotated[Path, Parameter(help="What the editor saved, or a picture, sound or film that ComfyUI made.")]
ObjectInfo = Annotated[
    Path | None, Parameter(help="A recorded answer of ComfyUI's GET /object_info, to need no deployment.")
]
_RECORD = "record it with: curl COMFYUI/object_info"


def convert(
    file: EditorFile,
    *,
    object_info: ObjectInfo = None,
    out: Annotated[Path | None, Parameter(help="Where to write the graph; default: standard output.")] = None,
    target: Target = Target(),
) -> int | None:
    """Convert a workflow of ComfyUI's editor to the API format, as the editor's own export does it.

    Nodes that are left out are listed on standard error. A node that cannot be converted exactly is refused by its id
    and title.
    """
    document = load(file, prefer="workflow")
    converted = converted_by(document, object_info, target)
    workflow = converted["workflow"]
    if workflow is None:
        return FAILED
    _write(workflow, out)
    return None


def converted_by(document: Json, object_info: Path | None, target: Target) -> Json:
    """Convert by a recorded object_info or the deployment, and print the notes. Raises `Refused`.

    `workflow` of what is returned is None if classes are unknown, which have been printed then.
    """
    if object_info is not None:
        converted = _offline(document, catalogue_of(object_info))
    else:
        with target.client() as client:
            converted = client.convert_workflow(document)
    console = Terminal(stderr=True)
    for note in converted["notes"]:
        console.print_line(f"node {note['node']} ({note['title']}): {note['message']}")
    for name in converted["unknown_classes"]:
        console.print_line(f"unknown class: {name}")
    if converted["workflow"] is None:
        console.print_line("  → install the custom nodes that provide these classes, or remove the nodes")
    return converted


def catalogue_of(path: Path) -> "Catalogue":
    """Read a recorded object_info. Raises `Refused`."""
    from workflows.catalogue import Catalogue

    object_info = read_json(path, _RECORD)
    if not isinstance(object_info, dict):
        raise refusal("--object-info is not a JSON object", _RECORD)
    return Catalogue(object_info)


def _offline(document: Json, catalogue: "Catalogue") -> Json:
    """Convert without a deployment, with the members of the API's answer. Raises `Refused`."""
    from workflows.editor import convert as convert_document
    from workflows.editor import unknown_nodes, unknown_notes
    from workflows.errors import WorkflowError
    from workflows.graph import is_editor_file

    if not is_editor_file(document):
        return {"workflow": document, "notes": [], "unknown_classes": []}
    try:
        unknown = unknown_nodes(document, catalogue)
        conversion = None if unknown else convert_document(document, catalogue)
    except WorkflowError as error:
        raise refusal(error.message, error.hint) from None
    notes = conversion.notes if conversion else unknown_notes(unknown)
    return {
        "workflow": conversion.workflow if conversion else None,
        "notes": [{"node": note.node_id, "title": note.title, "message": note.message} for note in notes],
        "unknown_classes": sorted({node.kind for node in unknown}),
    }


def _write(workflow: Json, out: Path | None) -> None:
    if out is None:
        print_json(workflow)
        return
    try:
        out.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise Refused(f"refused: {out} cannot be written: {error.strerror}") from None
    sys.stderr.write(f"written: {out}\n")
