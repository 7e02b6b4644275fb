"""Bounds ComfyUI's `node_errors`, which a job's record and an API's answer repeat. Pure."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

from workflows.json_weight import weight
from workflows.messages import LONGEST_NAME, is_id

MOST_NODES = 200
"""Maximum nodes of a graph whose errors are kept."""
LONGEST_ERRORS = 256 * 1024
"""Maximum weight of these errors as JSON, since each may repeat a value or the choices of an input."""
LONGEST_DEPENDENTS = 64 * 1024
"""Maximum characters of all output names that are kept. Without the limit, 200 nodes could name 2,000 outputs of 256
characters each."""
MOST_DEPENDENTS = 1_000
"""Maximum number of output names that are kept. A parsed name takes 50 bytes and more, however short it is."""


def bounded(node_errors: Mapping[str, Any]) -> dict[str, Any]:
    """Return {node id: {errors, dependent_outputs, class_type}} with what is within the limits above.

    The first nodes and outputs are kept; an error that is too long keeps only its type.
    """
    found: dict[str, Any] = {}
    names_left, characters_left, errors_left = MOST_DEPENDENTS, LONGEST_DEPENDENTS, LONGEST_ERRORS
    for node_id, error in islice(node_errors.items(), MOST_NODES):
        if not is_id(node_id) or not isinstance(error, Mapping):
            continue
        outputs: list[str] = []
        reasons = []
        for output in filter(is_id, listed(error, "dependent_outputs")):
            characters_left -= len(str(output))
            if characters_left < 0 or len(outputs) == names_left:
                break
            outputs.append(str(output))
        names_left -= len(outputs)
        for reason in listed(error, "errors")[:MOST_NODES]:
            if isinstance(reason, Mapping):
                kept = reason
                if (size := _weight(reason)) > errors_left:
                    kept = {"type": str(reason.get("type"))[:100]}
                    size = _weight(kept)
                errors_left -= size
                if errors_left < 0:
                    break
                reasons.append(kept)
        known = {"errors": reasons, "dependent_outputs": outputs, "class_type": class_of(error)}
        found[node_id] = {name: value for name, value in known.items() if name in error}
    return found


def _weight(reason: Mapping[str, Any]) -> int:
    return weight(json.dumps(reason, default=str).encode())


def class_of(error: object) -> str | None:
    found = error.get("class_type") if isinstance(error, Mapping) else None
    return found[:LONGEST_NAME] if isinstance(found, str) else None


def listed(error: Mapping[str, Any], name: str) -> list[Any]:
    found = error.get(name)
    return found if isinstance(found, list) else []
