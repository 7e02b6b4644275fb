"""The graphs of a folder in ComfyUI's API format, plain or wrapped as {"prompt": …} or {"workflow": …}."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NamedGraph:
    name: str
    document: Document

    def nodes(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Return the class and inputs of each node."""
        return {
            node_id: (str(node.get("class_type")), node["inputs"])
            for node_id, node in self.document.items()
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        }


def graphs_in(folder: Path) -> list[NamedGraph]:
    """Return the graphs by name. Files that are not JSON objects, or are in the editor's format, are left out."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            document = json.loads(path.read_bytes())
        except ValueError:
            continue
        for wrapper in ("prompt", "workflow"):
            if isinstance(document, dict) and isinstance(document.get(wrapper), dict):
                document = document[wrapper]
        if isinstance(document, dict) and document and not isinstance(document.get("nodes"), list):
            found.append(NamedGraph(str(path.relative_to(folder)), document))
    return found


def changes(
    submitted: Document, sent: Mapping[str, Any], outputs: int, files: Collection[str] = frozenset()
) -> list[str]:
    """Return the differences in the document that reached the engine, except for one added field per output.

    One more field is allowed for each node with ComfyUI's `is_changed`, and for each node that names one of the job's
    `files`, because the cache would answer these nodes with another job's result.
    """
    found = [f"node {node_id} was added" for node_id in sent if node_id not in submitted]
    added = 0
    for node_id, node in submitted.items():
        if node_id not in sent:
            found.append(f"node {node_id} was removed")
            continue
        if {**node, "inputs": None} != {**sent[node_id], "inputs": None}:
            found.append(f"node {node_id}: fields next to its inputs were changed")
        before, after = node.get("inputs", {}), sent[node_id]["inputs"]
        added += len(after.keys() - before.keys())
        found += [f"node {node_id}: {name} was removed" for name in before if name not in after]
        found += [
            f"node {node_id}: {name} was changed"
            for name in before
            if name in after and _differ(before[name], after[name])
        ]
    allowed = outputs + sum("is_changed" in node or _names(node, files) for node in submitted.values())
    if added > allowed:
        found.append(f"{added} fields were added for {outputs} outputs")
    return found


def _names(node: Any, files: Collection[str]) -> bool:
    """Return whether a literal value of the node contains a file name, or a part of its path."""
    text = json.dumps(list(node.get("inputs", {}).values()), ensure_ascii=False)
    return any(json.dumps(part, ensure_ascii=False)[1:-1] in text for name in files for part in name.split("/"))


def _differ(before: Any, after: Any) -> bool:
    """Compare as JSON: 1, 1.0 and True differ, and NaN equals itself."""
    return json.dumps(before) != json.dumps(after)
