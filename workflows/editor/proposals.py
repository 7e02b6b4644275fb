"""What else an editor's file says: classes that are not installed, and inputs that its author chose for App mode."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.catalogue import Catalogue
from workflows.editor.convert import Note
from workflows.editor.document import BYPASS, NEVER, EditorNode, parse_document
from workflows.editor.flatten import VIRTUAL

MOST_INPUTS = 200
"""Inputs that are proposed for one file."""
LONGEST_TITLE = 200
"""Characters of a title that are repeated for each input of its node."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An input of the graph, by the id of its node and its name there."""

    node: str
    field: str
    title: str
    value: Any


def unknown_nodes(raw: object, catalogue: Catalogue) -> list[EditorNode]:
    """Return the document's active nodes whose class the catalogue lacks. Raises `BadEditorFile`."""
    document = parse_document(raw)
    return [
        node
        for graph in document.graphs()
        for node in graph.nodes.values()
        if node.mode not in (NEVER, BYPASS)
        and node.kind not in VIRTUAL
        and node.kind not in document.definitions
        and node.kind not in catalogue
    ]


def unknown_notes(nodes: Iterable[EditorNode]) -> list[Note]:
    """Return a note for each of these nodes, whose class is not installed."""
    message = "is of the class {!r}, which is not installed"
    return [Note(node.id, node.title or node.kind, message.format(node.kind[:80])) for node in nodes]


def proposed_inputs(raw: object, workflow: Mapping[str, Any]) -> list[Proposal]:
    """Return the inputs of an editor's file that its `extra.linearData` names, in the author's order.

    `workflow` is the file's converted graph; what is no value there is left out.
    """
    extra = raw.get("extra") if isinstance(raw, Mapping) else None
    chosen = extra.get("linearData") if isinstance(extra, Mapping) else None
    listed = chosen.get("inputs") if isinstance(chosen, Mapping) else None
    found: dict[tuple[str, str], Proposal] = {}
    for entry in listed[:MOST_INPUTS] if isinstance(listed, list) else ():
        if isinstance(entry, list) and len(entry) >= 2:
            node_id, name = str(entry[0]), str(entry[1])
            node = workflow.get(node_id)
            if node is not None and name in node["inputs"] and not isinstance(node["inputs"][name], list):
                title = node["_meta"]["title"][:LONGEST_TITLE]
                # Once each, since the values of a file that names one input often could be more than the file.
                found[node_id, name] = Proposal(node_id, name, title, node["inputs"][name])
    return list(found.values())
