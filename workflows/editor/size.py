"""The number of nodes that a file becomes when its subgraphs are put in place, without doing it.

A file of a few kilobytes may hold subgraphs of subgraphs, each many times. So a limit on the nodes of a graph is
checked before the conversion.
"""

from workflows.editor.document import BYPASS, NEVER, Document, EditorGraph, parse_document
from workflows.editor.flatten import DEEPEST, VIRTUAL


def placed_nodes(raw: object) -> int:
    """Return at most the number of nodes in the converted graph. Raises `BadEditorFile`.

    Muted, bypassed and virtual nodes do not count. A subgraph inside itself, which no conversion takes, counts once.
    """
    document = parse_document(raw)
    return _count(document.root, document, {}, 0)


def _count(graph: EditorGraph, document: Document, counted: dict[str, int], depth: int) -> int:
    total = 0
    for node in graph.nodes.values():
        if node.mode in (NEVER, BYPASS) or node.kind in VIRTUAL:
            continue
        definition = document.definitions.get(node.kind)
        total += 1 if definition is None else _inside(node.kind, definition, document, counted, depth)
    return total


def _inside(kind: str, definition: EditorGraph, document: Document, counted: dict[str, int], depth: int) -> int:
    if kind not in counted:
        counted[kind] = 1  # for a definition that is inside itself
        if depth < DEEPEST:
            counted[kind] = _count(definition, document, counted, depth + 1)
    return counted[kind]
