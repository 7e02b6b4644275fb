"""The graph that is really submitted: every output node is made to run, and to save, for this job alone.

ComfyUI answers an identical graph from its cache: it then names the old file and writes none. The cache's key
covers every input that the prompt gives to a node, also one that the node does not know and never receives.
So each output node gets an unknown input with the job's token: it runs again, while all before it may be cached.

What a class does not declare (`workflows.extras`), what ComfyUI fills itself, and what it does not need of a node, is
left out: `is_changed` would tell its cache, and `override_display_id` its messages, what the author of the graph likes.
"""

from collections.abc import Mapping
from typing import Any

from workflows.catalogue import Catalogue
from workflows.declarations import unwrapped
from workflows.graph import Graph, Node

TOKEN_INPUT = "_job"  # noqa: S105  a field's name
PREFIX_INPUT = "filename_prefix"


def for_execution(graph: Graph, catalogue: Catalogue, token: str) -> dict[str, Any]:
    """The document for POST /prompt. `token` is unique to the attempt, and a safe folder name.

    Files land in a folder of that name: their names stay as the author chose, and saving never has to
    look through the files of other jobs.
    """
    graph = catalogue.reaching(graph)
    values: list[tuple[str, str, Any]] = []
    for node_id in catalogue.output_nodes(graph):
        values.append((node_id, TOKEN_INPUT, token))
        prefix = unwrapped(graph.nodes[node_id].inputs.get(PREFIX_INPUT))
        if isinstance(prefix, str):
            values.append((node_id, PREFIX_INPUT, f"{token}/{prefix}"))
    prepared = graph.with_values(values)
    return {node_id: _as_executed(node) for node_id, node in prepared.nodes.items()}


def _as_executed(node: Node) -> dict[str, Any]:
    """Its title stays: ComfyUI names the node by it in errors."""
    meta = node.rest.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return {
        "class_type": node.class_type,
        "inputs": dict(node.inputs),
        **({"_meta": {"title": title}} if isinstance(title, str) else {}),
    }
