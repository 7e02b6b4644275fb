"""The graphs of a folder: ComfyUI's API format, as it is or wrapped as {"prompt": …} or {"workflow": …}."""

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
        """Class and inputs of whatever is a node."""
        return {
            node_id: (str(node.get("class_type")), node["inputs"])
            for node_id, node in self.document.items()
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        }


def graphs_in(folder: Path) -> list[NamedGraph]:
    """By name. A file that is no JSON object, or is in the editor's format, is left out."""
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
    """What differs in the document that reached the engine, but for one more field for each of so many outputs.

    One more is allowed for each node that has a note of ComfyUI's cache, and for each that names one of the job's
    `files`: the cache would serve such nodes with another job's result.
    """
    found = [f"node {node_id} was added" for node_id in sent if node_id not in submitted]
    added = 0
    for node_id, node in submitted.items():
        if node_id not in sent:
            found.append(f"node {node_id} was removed")
            continue
        if {**node, "inputs": None} != {**sent[node_id], "inputs": None}:
            found.append(f"node {node_id}: what stands beside its inputs")
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
    """Whether a literal value of the node contains the name of a file, or a part of its path."""
    text = json.dumps(list(node.get("inputs", {}).values()), ensure_ascii=False)
    return any(json.dumps(part, ensure_ascii=False)[1:-1] in text for name in files for part in name.split("/"))


def _differ(before: Any, after: Any) -> bool:
    """1, 1.0 and True are different inputs; NaN is itself."""
    return json.dumps(before) != json.dumps(after)
