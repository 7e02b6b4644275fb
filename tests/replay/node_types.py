"""The unit tests' declarations of the shipped workflows' nodes: names, types and choices, without display texts.

`make replay-image` writes it from the engine that it has built, so it matches the commits in infra/nodes.toml.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflows.library import shipped

FIXTURE = Path(__file__).parents[1] / "unit" / "workflows" / "node_types.json"
_WORDS = frozenset({"tooltip", "description", "placeholder", "display_name", "search_aliases"})
_KEPT = ("input", "output", "output_node", "python_module")


def node_types(info: Mapping[str, Any]) -> str:
    """Return the classes of the shipped workflows; `info` is the engine's object_info."""
    used = sorted({node["class_type"] for workflow in shipped().values() for node in workflow.graph.values()})
    classes = {name: {key: _plain(info[name][key]) for key in _KEPT} for name in used}
    custom = {name: one for name, one in classes.items() if one["python_module"].startswith("custom_nodes.")}
    core = {name: one for name, one in classes.items() if name not in custom}
    return json.dumps({"core": core, "custom": custom}, separators=(",", ":"), ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in _WORDS}
    return [_plain(one) for one in value] if isinstance(value, list) else value
