"""The lite engine's nodes declare what ComfyUI's nodes of the same names declare."""

import json
from typing import Any

from tests.conformance.declarations import declared
from tests.conformance.expectations import FOLDER, REFERENCE
from workers.lite.nodes import node_classes

NEWER_THAN_LITE = {"CreateVideo": {"bit_depth"}}
"""Optional inputs that the lite engine ignores like all unknown inputs."""


def test_declarations_match_real_comfyui() -> None:
    """Types, defaults, ranges and outputs equal ComfyUI's; video formats and codecs may have fewer choices."""
    recorded = json.loads((FOLDER / REFERENCE / "declarations.json").read_text())
    classes = node_classes()
    assert set(classes) - set(recorded) == {"LiteSlowSteps"}
    for name, wanted in recorded.items():
        found = declared(json.loads(json.dumps(classes[name].object_info())))
        assert _comparable(found, wanted, name) == wanted, name


def _comparable(found: dict[str, Any], wanted: dict[str, Any], name: str) -> dict[str, Any]:
    """Drop the flattened keys of choices with inputs, and accept fewer choices than recorded."""
    known = {**wanted["required"], **wanted["optional"]}
    for group in ("required", "optional"):
        found[group] = {
            key: _widened(value, known.get(key, {})) for key, value in found[group].items() if "." not in key
        }
    ignored = {key: value for key, value in wanted["optional"].items() if key in NEWER_THAN_LITE.get(name, ())}
    return {**found, "optional": {**found["optional"], **ignored}}


def _widened(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    if set(found.get("choices", ())) < set(wanted.get("choices", ())):
        return {**found, "choices": wanted["choices"]}
    return found
